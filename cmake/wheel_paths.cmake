# Given to CMake (CMAKE_PROJECT_INCLUDE) when the ROS packages come from PyPI: they
# export include folders of the machine that built them, and CMake refuses folders
# that do not exist. They are dropped once every package has been found.
function(drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(kept "")
    foreach(dir IN LISTS dirs)
      if(EXISTS "${dir}" OR dir MATCHES "\\$<")
        list(APPEND kept "${dir}")
      endif()
    endforeach()
    if(dirs)
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL drop_missing_includes)

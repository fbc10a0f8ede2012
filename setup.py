"""Build with pip (colcon uses CMakeLists.txt alone).

Without ROS this is a plain Python package. When the environment holds the rosidl
generators from PyPI (requirements/ros-jazzy.txt), the same CMakeLists.txt that
colcon uses is run and the messages it builds go into the wheel; editable installs
included. tf2_msgs is not on PyPI, so it is built too where nobody else provides it.
"""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

HERE = Path(__file__).resolve().parent
PREFIX = Path(sys.prefix)
SITE = Path(sysconfig.get_path("purelib"))
WITH_MESSAGES = (PREFIX / "share" / "rosidl_default_generators").is_dir()


def provided_by_others(package: str) -> bool:
    """True if another distribution than ours installed this Python package."""
    spec = util.find_spec(package)
    if spec is None:
        return False
    try:
        ours = {str(file.locate()) for file in metadata.files("kapture_ros") or []}
    except metadata.PackageNotFoundError:
        ours = set()
    return spec.origin not in ours


def build_messages(source: Path, build: Path) -> Path:
    """Build one interface package with CMake; return the folder it is staged in."""
    stage = build / "stage"
    build.mkdir(parents=True, exist_ok=True)
    # CMake refuses include folders below the source folder, and an environment often
    # lies there (.venv): the source is given under another name.
    alias = build / "source"
    if not alias.is_symlink():
        alias.symlink_to(source, target_is_directory=True)
    libraries = [str(PREFIX / "lib"), *map(str, SITE.glob("ros_*.libs"))]
    env = dict(os.environ, AMENT_PREFIX_PATH=sys.prefix, LD_LIBRARY_PATH=":".join(libraries))
    env["PATH"] = f"{PREFIX / 'bin'}:{env['PATH']}"
    env.pop("PYTHONPATH", None)  # pip's build isolation would hide the generators
    configure = ["cmake", "-G", "Ninja", "-S", str(alias), "-B", str(build / "cmake")]
    configure += [f"-DCMAKE_INSTALL_PREFIX={stage}", f"-DCMAKE_PREFIX_PATH={PREFIX}"]
    configure += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    configure += ["-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DCMAKE_PROJECT_INCLUDE={HERE / 'cmake' / 'wheel_paths.cmake'}"]
    install = ["cmake", "--build", str(build / "cmake"), "--target", "install"]
    for command in (configure, install):
        if subprocess.run(command, env=env).returncode:
            # Not an Exception: setuptools would go on without the messages.
            raise SystemExit(f"building the messages of {source.name} failed; see above")
    return stage


def staged_files(stage: Path, package: str) -> list[tuple[str, list[str]]]:
    """What a staged interface package adds to the environment, as setuptools' data_files."""
    site = SITE.relative_to(PREFIX)
    (staged_site,) = stage.glob("lib/python3*/site-packages")
    found: dict[str, list[str]] = {}
    for file in sorted(path for path in stage.rglob("*") if path.is_file()):
        if file.is_relative_to(staged_site / package):
            # The Python modules of the package itself are setuptools' business.
            generated = (
                "msg" in file.parts or "_s__rosidl_" in file.name or package != "kapture_ros"
            )
            if not generated or file.suffix in {".c", ".pyc"}:
                continue
            target = site / file.parent.relative_to(staged_site)
        elif file.is_relative_to(staged_site):
            continue
        else:
            target = file.parent.relative_to(stage)
            if target.parts[0] not in {"lib", "share"}:
                continue
        found.setdefault(str(target), []).append(str(file))
    return list(found.items())


class BuildPy(build_py):
    """Adds the built messages to the distribution's data files."""

    def run(self) -> None:
        super().run()
        if not WITH_MESSAGES:
            return
        packages = {"kapture_ros": HERE}
        if not provided_by_others("tf2_msgs"):
            packages["tf2_msgs"] = HERE / "interfaces" / "tf2_msgs"
        temporary = Path(self.get_finalized_command("build").build_temp).resolve()
        data = self.distribution.data_files = self.distribution.data_files or []
        for package, source in packages.items():
            stage = build_messages(source, temporary / package)
            data.extend(staged_files(stage, package))


class PlatformDistribution(Distribution):
    """Built messages are binaries: the wheel is of this platform only."""

    def has_data(self) -> bool:
        """Asked by editable installs, under this name, before they add data files."""
        return bool(self.data_files)

    def has_ext_modules(self) -> bool:
        return WITH_MESSAGES


setup(cmdclass={"build_py": BuildPy}, distclass=PlatformDistribution)

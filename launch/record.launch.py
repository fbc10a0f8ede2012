"""Record topics to kapture datasets.

ros2 launch kapture_ros record.launch.py output:=~/drives
ros2 launch kapture_ros record.launch.py output:=~/drives params:=my_record.yaml
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description() -> LaunchDescription:
    defaults = Path(get_package_share_directory("kapture_ros")) / "config" / "record.yaml"
    arguments = {
        "output": ("recordings", "folder that gets a new dataset for each start"),
        "name": ("drive", "first part of the datasets' names; the time follows"),
        "autostart": ("true", "record at once; else wait for lifecycle transitions and ~/start"),
        "params": (str(defaults), "parameter file: topics, queues, splitting, …"),
        "namespace": ("", "namespace of the node"),
        "use_sim_time": ("false", "take the time from /clock"),
    }
    given = {name: LaunchConfiguration(name) for name in arguments}
    recorder = LifecycleNode(
        package="kapture_ros",
        executable="recorder",
        name="recorder",
        namespace=given["namespace"],
        parameters=[
            given["params"],
            {
                "output": ParameterValue(given["output"], value_type=str),
                "name": ParameterValue(given["name"], value_type=str),
                "autostart": ParameterValue(given["autostart"], value_type=bool),
                "use_sim_time": ParameterValue(given["use_sim_time"], value_type=bool),
            },
        ],
        output="screen",
        # Answering what waits and closing the dataset may take longer than launch's default.
        sigterm_timeout="30",
    )
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text)
        for name, (value, text) in arguments.items()
    ]
    return LaunchDescription([*declared, recorder])

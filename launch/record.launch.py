"""Record topics to kapture datasets.

ros2 launch kapture_ros record.launch.py output:=~/drives
ros2 launch kapture_ros record.launch.py output:=~/drives params:=my_record.yaml
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import LifecycleNode

from kapture_ros.nodes.launch_arguments import BOOLEAN, declared, file_of, is_true, values_of

SHARE = Path(get_package_share_directory("kapture_ros"))
ARGUMENTS = {
    "output": ("recordings", "folder that gets a new dataset for each start"),
    "name": ("drive", "first part of the datasets' names; the time follows"),
    "autostart": ("true", "record at once; else wait for lifecycle transitions and ~/start"),
    "params": (str(SHARE / "config" / "record.yaml"), "parameter file: topics, queues, …"),
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("false", "take the time from /clock"),
}
CHOICES = dict.fromkeys(("autostart", "use_sim_time"), BOOLEAN)


def recorder(context: LaunchContext) -> list[LifecycleNode]:
    """The node for the arguments as given."""
    given = values_of(context, ARGUMENTS)
    params = file_of("params", given["params"])
    said: dict[str, str | bool] = {name: given[name] for name in ("output", "name")}
    said |= {name: is_true(given[name]) for name in CHOICES}
    return [
        LifecycleNode(
            package="kapture_ros",
            executable="recorder",
            name="recorder",
            namespace=given["namespace"],
            parameters=[params, said],
            output="screen",
            # Answering what waits and closing the dataset may take longer than launch's default.
            sigterm_timeout="30",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS, CHOICES), OpaqueFunction(function=recorder)])

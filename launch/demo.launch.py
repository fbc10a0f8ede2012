"""Localize a recorded drive as if it were live: play a bag, localize, show.

ros2 launch kapture_ros demo.launch.py                          # what `make demo` made
ros2 launch kapture_ros demo.launch.py map:=~/maps/city bag:=drive.mcap \
    image_topic:=/camera/image_raw rviz:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from kapture_ros.nodes.launch_arguments import BOOLEAN, declared, is_true, values_of

ARGUMENTS = {
    "demo": ("out/demo", "folder that `make demo` made"),
    "map": ("", "folder of the visual map; empty: DEMO/map"),
    "bag": ("", "bag to play, ROS 1 or ROS 2; empty: DEMO/drive/lap2"),
    "image_topic": (
        "/camera/front/image_raw/compressed",
        "image topic; several separated by spaces",
    ),
    "odometry_topic": ("", "nav_msgs/Odometry; empty: TF"),
    "rate": ("1.0", "times as fast as the bag was recorded"),
    "loop": ("true", "begin again at the end; else everything ends with the bag"),
    "view": ("true", "show it in a browser, at http://127.0.0.1:8080/"),
    "rviz": ("false", "show it in RViz"),
}
CHOICES = dict.fromkeys(("loop", "view", "rviz"), BOOLEAN)


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The localizer, the player and the view, for the arguments as given."""
    given = values_of(context, ARGUMENTS)
    demo = Path(given["demo"]).expanduser()
    localize = {
        "map": given["map"] or str(demo / "map"),
        "image_topic": given["image_topic"],
        "odometry_topic": given["odometry_topic"],
        "rviz": given["rviz"],
        "use_sim_time": "true",
        "bag": "",  # played below, with rate and loop
    }
    bag = Path(given["bag"]).expanduser() if given["bag"] else demo / "drive" / "lap2"
    loop = is_true(given["loop"])
    folder = Path(get_package_share_directory("kapture_ros")) / "launch"
    started: list[LaunchDescriptionEntity] = [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(folder / "localize.launch.py")),
            launch_arguments=localize.items(),
        ),
        command(
            *("play", str(bag), "--rate", given["rate"], "--wait-seconds", "600", "--wait-for"),
            *given["image_topic"].split(),
            *(["--loop"] if loop else []),
            on_exit=[OpaqueFunction(function=end)],
        ),
    ]
    if is_true(given["view"]):
        started.append(command("view"))
    return started


def end(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The bag is over. (On Ctrl-C the player ends too, and a second shutdown is an error.)"""
    return [] if context.is_shutdown else [Shutdown(reason="the bag is over")]


def command(*words: str, on_exit: list[LaunchDescriptionEntity] | None = None) -> Node:
    """`kapture_ros WORDS…` beside the nodes."""
    return Node(
        package="kapture_ros",
        executable="kapture_ros",
        arguments=list(words),
        output="screen",
        on_exit=on_exit,
    )


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS, CHOICES), OpaqueFunction(function=entities)])

"""Localize in a visual map; with a bag, play it; with rviz, show it.

ros2 launch kapture_ros localize.launch.py map:=~/maps/city image_topic:=/camera/image_raw
ros2 launch kapture_ros localize.launch.py map:=~/maps/city config:=my_localize.yaml rviz:=true
ros2 launch kapture_ros localize.launch.py map:=~/maps/city bag:=drive.mcap use_sim_time:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import LifecycleNode, Node

from kapture_ros.nodes.launch_arguments import BOOLEAN, declared, file_of, is_true, values_of

SHARE = Path(get_package_share_directory("kapture_ros"))
ARGUMENTS = {
    "map": ("", "folder of the visual map (kapture_ros map)"),
    "image_topic": ("", "image topic; several separated by spaces; empty: as config says"),
    "config": (str(SHARE / "config" / "localize.yaml"), "parameter file"),
    "odometry_topic": ("", "nav_msgs/Odometry; empty: as config says"),
    "base_frame": ("", "frame whose pose is estimated; empty: as config says"),
    "publish_tf": ("", "which transform goes to /tf; empty: as config says"),
    "rviz": ("false", "show map, pose and images in RViz"),
    "bag": ("", "bag to play, for which the node waits with use_sim_time:=true"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "configure and activate at once; else wait for lifecycle"),
    "namespace": ("", "namespace of the node"),
}
CHOICES = {
    **dict.fromkeys(("rviz", "use_sim_time", "autostart"), BOOLEAN),
    "publish_tf": ("", "map_to_odom", "map_to_base", "none"),
}


def nodes(context: LaunchContext) -> list[Node]:
    """The nodes for the arguments as given."""
    given = values_of(context, ARGUMENTS)
    config = file_of("config", given["config"])
    sim_time = {"use_sim_time": is_true(given["use_sim_time"])}
    named = {name: given[name] for name in ("odometry_topic", "base_frame", "publish_tf")}
    parameters = {name: value for name, value in named.items() if value} | sim_time
    parameters["autostart"] = is_true(given["autostart"])
    if given["map"]:
        parameters["map"] = given["map"]
    if given["image_topic"]:
        parameters["image_topics"] = given["image_topic"].split()
    started: list[Node] = [
        LifecycleNode(
            package="kapture_ros",
            executable="localizer",
            name="localizer",
            namespace=given["namespace"],
            parameters=[config, parameters],
            output="screen",
            # The image that is being worked on is waited for.
            sigterm_timeout="15",
        )
    ]
    if given["bag"]:
        command = ["play", str(Path(given["bag"]).expanduser())]
        topics = parameters.get("image_topics", [])
        waited = ["--wait-for", *topics] if topics else []
        started.append(
            Node(
                package="kapture_ros",
                executable="kapture_ros",
                arguments=[*command, *waited],
                output="screen",
            )
        )
    if is_true(given["rviz"]):
        layout = str(SHARE / "config" / "localize.rviz")
        started.append(
            Node(
                package="rviz2", executable="rviz2", arguments=["-d", layout], parameters=[sim_time]
            )
        )
    return started


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS, CHOICES), OpaqueFunction(function=nodes)])

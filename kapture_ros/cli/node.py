"""`kapture_ros node localize`: the localizer node, without ros2 launch."""

from __future__ import annotations

import argparse

from kapture_ros.nodes.commands import add_ros_arguments, given_parameters, needs_ros
from kapture_ros.nodes.localizer_options import NODE_OPTIONS
from kapture_ros.options import add_arguments as add_options

HELP = "Run a ROS 2 node until Ctrl-C: localize."
EXAMPLES = """\
  kapture_ros node localize --map map/ --image-topics /camera/image_raw/compressed
  kapture_ros node localize --map map/ --odometry-topic /odom --gnss-topic /gnss/fix
  kapture_ros node localize --map map/ --ros-args -p use_sim_time:=true
  kapture_ros node localize --ros-args --params-file localize.yaml -p map:=map/

Every parameter, those of the core too, is in config/localize.yaml.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which node, and its own parameters as options."""
    parser.add_argument("node", choices=("localize",), help="which node")
    for cls in NODE_OPTIONS:
        add_options(parser, cls)
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the node until a signal."""
    with needs_ros("the node"):
        from rclpy.parameter import Parameter

        from kapture_ros.nodes.localizer_node import LocalizerNode
        from kapture_ros.nodes.localizer_node import run as run_node
    overrides = [
        Parameter(name, value=value) for name, value in given_parameters(NODE_OPTIONS, args)
    ]
    return run_node(lambda: LocalizerNode(overrides), ["--ros-args", *args.ros_args])

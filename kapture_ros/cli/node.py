"""`kapture_ros node localize`: the localizer node, without ros2 launch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from kapture_ros.errors import MissingDependencyError
from kapture_ros.nodes.localizer_options import NODE_OPTIONS
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import describe, from_arguments

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
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        help="the rest of the line goes to ROS: remappings, parameters",
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until a signal."""
    try:
        from rclpy.parameter import Parameter

        from kapture_ros.nodes.localizer_node import LocalizerNode
        from kapture_ros.nodes.localizer_node import run as run_node
    except ImportError as error:
        raise MissingDependencyError(
            f"the node needs ROS 2 and {error.name} is not installed; source a ROS installation, "
            "or pip install -r requirements/ros-jazzy.txt"
        ) from error
    overrides = [Parameter(name, value=value) for name, value in _given(args)]
    return run_node(lambda: LocalizerNode(overrides), ["--ros-args", *args.ros_args])


def _given(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Names and checked values of the options on the command line."""
    for cls in NODE_OPTIONS:
        options = from_arguments(cls, args)
        for info in describe(cls):
            if getattr(args, info.name) is not None:
                value = getattr(options, info.name)
                yield info.name, list(value) if info.many else value

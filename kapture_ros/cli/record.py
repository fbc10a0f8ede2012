"""`kapture_ros record`: the recorder node, without ros2 launch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kapture_ros.errors import MissingDependencyError
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import describe, from_arguments, load_yaml

HELP = "Record topics to a kapture dataset until Ctrl-C."
EXAMPLES = """\
  kapture_ros record                                        all topics that are understood
  kapture_ros record --output drives --name city
  kapture_ros record --topics '/camera/*' /gnss/fix /tf /tf_static
  kapture_ros record --config rig.yaml --split-megabytes 4000
  kapture_ros record --ros-args -r __ns:=/car -p use_sim_time:=true

Services of the node: ~/start, ~/stop (std_srvs/Trigger), ~/pause (std_srvs/SetBool).
"""


def _option_classes() -> tuple[type[Any], ...]:
    """The dataclasses behind the node's parameters; importing them needs no ROS."""
    from kapture_ros.dataset.filequeue import WriterOptions
    from kapture_ros.dataset.splitting import SplitOptions
    from kapture_ros.recording.config import RecordingOptions
    from kapture_ros.recording.health import HealthOptions
    from kapture_ros.recording.recorder import RecorderOptions

    return RecorderOptions, RecordingOptions, WriterOptions, SplitOptions, HealthOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The node's parameters as options."""
    for cls in _option_classes():
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

        from kapture_ros.nodes.recorder_node import RecorderNode
        from kapture_ros.nodes.recorder_node import run as run_node
    except ImportError as error:
        raise MissingDependencyError(
            f"recording needs ROS 2 and {error.name} is not installed; source a ROS installation, "
            "or pip install -r requirements/ros-jazzy.txt"
        ) from error
    if args.config:
        load_yaml(Path(args.config))  # a bad file is told here, in one line
    overrides = [Parameter(name, value=value) for name, value in _given(args)]
    return run_node(lambda: RecorderNode(overrides), ["--ros-args", *args.ros_args])


def _given(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Names and checked values of the options on the command line."""
    for cls in _option_classes():
        options = from_arguments(cls, args)
        for info in describe(cls):
            if getattr(args, info.name) is not None:
                value = getattr(options, info.name)
                yield info.name, list(value) if info.many else value

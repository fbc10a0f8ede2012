"""`kapture_ros record`: the recorder node, without ros2 launch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kapture_ros.nodes.commands import add_ros_arguments, given_parameters, needs_ros
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import load_yaml

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
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the node until a signal."""
    with needs_ros("recording"):
        from rclpy.parameter import Parameter

        from kapture_ros.nodes.recorder_node import RecorderNode
        from kapture_ros.nodes.recorder_node import run as run_node
    if args.config:
        load_yaml(Path(args.config))  # a bad file is told here, in one line
    overrides = [
        Parameter(name, value=value) for name, value in given_parameters(_option_classes(), args)
    ]
    return run_node(lambda: RecorderNode(overrides), ["--ros-args", *args.ros_args])

"""`kapture_ros play`: a bag of any kind on ROS 2 topics, with /clock."""

from __future__ import annotations

import argparse
from pathlib import Path

from kapture_ros.nodes.commands import add_ros_arguments, needs_ros
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import from_arguments

HELP = "Play a bag (ROS 1 or ROS 2) on ROS 2 topics, with /clock."
EXAMPLES = """\
  kapture_ros play drive.mcap
  kapture_ros play ros1_drive.bag --rate 0.5 --start 30
  kapture_ros play drive_bag/ --loop --topics '/camera/*' /tf /tf_static
  kapture_ros play drive.mcap --remap /cam0/image:=/camera/image_raw
  kapture_ros play drive.mcap --wait-for '/camera/*'      begin when the localizer listens

Nodes that listen need use_sim_time:=true. Ctrl-C ends it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bags and how to play them."""
    from kapture_ros.recording.playback import PlayOptions

    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bag files or folders")
    parser.add_argument(
        "--remap",
        nargs="+",
        default=[],
        metavar="FROM:=TO",
        help="publish a topic under another name",
    )
    add_options(parser, PlayOptions)
    add_ros_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Play until the end or a signal."""
    from kapture_ros.recording.bag import Bag
    from kapture_ros.recording.playback import PlayOptions

    with needs_ros("playing"):
        from kapture_ros.nodes.bag_player import run as run_player
    remappings = [word for rule in args.remap for word in ("-r", rule)]
    with Bag(args.bags) as bag:
        run_player(bag, from_arguments(PlayOptions, args), [*remappings, *args.ros_args])

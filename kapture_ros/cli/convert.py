"""`kapture_ros convert`: ROS 1 and ROS 2 bags to a kapture dataset, without ROS."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from kapture_ros.errors import OptionError, OutputError
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import describe, from_arguments

HELP = "Convert bags (ROS 1 or ROS 2, whole or broken) to a kapture dataset."
EXAMPLES = """\
  kapture_ros convert drive.mcap --dry-run            show what would become of each topic
  kapture_ros convert drive.mcap dataset
  kapture_ros convert part1.bag part2.bag dataset --trajectory /odometry/filtered
  kapture_ros convert drive_bag/ dataset --config convert.yaml --start-s 10 --every 2

exit codes: 0 all of it is converted; 1 nothing is (the reason is shown); 3 the dataset is
whole but parts of a bag were damaged (they are named); 130 interrupted: go on with --resume
"""

EXIT_DAMAGED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a conversion."""
    from kapture_ros.dataset.filequeue import WriterOptions
    from kapture_ros.recording.config import RecordingOptions
    from kapture_ros.recording.convert import WindowOptions
    from kapture_ros.recording.health import HealthOptions

    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="bag files or folders, or NMEA logs; the last one is the dataset to write",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show the plan; no output")
    parser.add_argument("--config", type=Path, help="YAML file with options, topics, extrinsics")
    parser.add_argument(
        "--definitions",
        type=Path,
        nargs="+",
        default=[],
        metavar="MSG",
        help=".msg files or folders of them, for types that a bag does not define",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    again.add_argument("--resume", action="store_true", help="go on where it was interrupted")
    for options in (RecordingOptions, WindowOptions, WriterOptions, HealthOptions):
        add_options(parser, options)


def run(args: argparse.Namespace) -> int:
    """Convert, or show the plan."""
    from kapture_ros.recording.bag import Bag
    from kapture_ros.recording.convert import convert
    from kapture_ros.recording.plan import plan

    conversion = _conversion(args)
    bags, output = _split(args.paths, dry_run=args.dry_run)
    if output is not None and output.exists() and not (args.overwrite or args.resume):
        raise OutputError(
            f"{output} exists already; choose another name, pass --overwrite, or --resume "
            "to go on with an interrupted conversion"
        )
    with Bag(bags, args.definitions) as bag:
        if output is None:
            sys.stdout.write(plan(bag, conversion))
            return 0
        converted = convert(bag, output, conversion, resume=args.resume, overwrite=args.overwrite)
    sys.stdout.write(converted.report)
    for problem in converted.problems:
        print(f"damaged: {problem}", file=sys.stderr)
    return EXIT_DAMAGED if converted.problems else 0


def _split(paths: list[Path], *, dry_run: bool) -> tuple[list[Path], Path | None]:
    """The bags and the output; a dry run needs none."""
    from kapture_ros.recording.bag import is_bag

    if dry_run and is_bag(paths[-1]):
        return paths, None
    if len(paths) < 2:
        raise OptionError("name the dataset to write after the bags (or pass --dry-run)")
    if is_bag(paths[-1]):
        raise OptionError(f"{paths[-1]} is a bag; the last name is that of the dataset to write")
    return paths[:-1], None if dry_run else paths[-1]


def _conversion(args: argparse.Namespace) -> Any:
    from kapture_ros.dataset.filequeue import WriterOptions
    from kapture_ros.recording.config import RecordingOptions, load_config
    from kapture_ros.recording.convert import Conversion, WindowOptions
    from kapture_ros.recording.health import HealthOptions

    names = [info.name for info in describe(RecordingOptions)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    writer = from_arguments(WriterOptions, args)
    if args.workers is None:
        writer = dataclasses.replace(writer, workers=_default_workers())
    return Conversion(
        load_config(args.config, given),
        from_arguments(WindowOptions, args),
        writer,
        from_arguments(HealthOptions, args),
    )


def _default_workers() -> int:
    """As many threads as there are processors: encoding images releases Python's lock."""

    return max(2, os.cpu_count() or 2)

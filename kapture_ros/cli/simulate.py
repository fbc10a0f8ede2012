"""`kapture_ros simulate OUT`: bags of a simulated drive with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from kapture_ros import options
from kapture_ros.simulation.options import DriveOptions, QueryOptions, StreetOptions

HELP = "Render a drive through a made-up street: two laps as bags, with ground truth."
EXAMPLES = """\
  kapture_ros simulate drive                     two laps of 60 s, front camera, mcap
  kapture_ros simulate quick --duration 10 --rate 5
  kapture_ros simulate rig --cameras front left right --formats mcap ros1
  kapture_ros simulate night --light night --exposure 15
  kapture_ros simulate elsewhere --street 7      a place that is not on the map of street 1
"""
_PARTS = (StreetOptions, DriveOptions, QueryOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Output folder and the options of street, drive and second lap."""
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    for part in _PARTS:
        options.add_arguments(parser, part)


def run(args: argparse.Namespace) -> None:
    """Simulate and say what was written."""
    from kapture_ros.simulation.drive import write_drive

    street = options.from_arguments(StreetOptions, args)
    drive = options.from_arguments(DriveOptions, args)
    query = options.from_arguments(QueryOptions, args)
    write_drive(args.output, street, drive, query, overwrite=args.overwrite)
    print(f"{args.output}: lap1, lap2 ({', '.join(drive.formats)}) and drive.yaml")

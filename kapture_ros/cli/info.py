"""`kapture_ros info`: what a dataset holds, how healthy it is, and pictures of it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Show what a dataset holds and how healthy its recording was."
EXAMPLES = """\
  kapture_ros info dataset
  kapture_ros info dataset --plot plots        trajectory.png and rates.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("dataset", type=Path, help="folder of a kapture dataset")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write pictures into this folder")


def run(args: argparse.Namespace) -> None:
    """Print the summary and the health report."""
    from kapture_ros.dataset.reader import open_dataset
    from kapture_ros.recording.report import read_report, render, summary

    dataset = open_dataset(args.dataset)
    if dataset.repaired is not None:
        print(f"repaired: {dataset.repaired}\n")
    print(summary(dataset))
    sessions = read_report(args.dataset)
    print(render(sessions) if sessions else "There is no health report (report.json).")
    if args.plot:
        from kapture_ros.recording.plots import write_plots

        for path in write_plots(dataset, args.plot):
            print(f"wrote {path}")

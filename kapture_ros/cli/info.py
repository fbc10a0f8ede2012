"""`kapture_ros info`: what a dataset or map holds, how healthy it is, and pictures of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from kapture_ros.errors import InputError

HELP = "Show what a dataset (and how healthy its recording was) or a map holds."
EXAMPLES = """\
  kapture_ros info dataset
  kapture_ros info dataset --plot plots        trajectory.png and rates.png
  kapture_ros info map --plot plots            map.png: cameras, points, GNSS from above
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("dataset", type=Path, help="folder of a kapture dataset or a map")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write pictures into this folder")


def run(args: argparse.Namespace) -> None:
    """Print the summary of a map, or that of a dataset and its health report."""
    from kapture_ros.mapping.manifest import FILE_NAME

    if (args.dataset / FILE_NAME).is_file():
        _show_map(args.dataset, args.plot)
    else:
        _show_dataset(args)


def _show_map(path: Path, plots: Path | None) -> None:
    from kapture_ros.mapping.report import plot_map, summary

    print(summary(path))
    if plots:
        plot_map(path, plots / "map.png")
        print(f"wrote {plots / 'map.png'}")


def _show_dataset(args: argparse.Namespace) -> None:
    from kapture_ros.dataset.reader import open_dataset
    from kapture_ros.recording.bag import is_bag
    from kapture_ros.recording.report import read_report, render, summary

    if is_bag(args.dataset) and not (args.dataset / "sensors").is_dir():
        raise InputError(
            f"{args.dataset} is a bag: `kapture_ros convert {args.dataset} --dry-run` shows what "
            "is in it"
        )
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

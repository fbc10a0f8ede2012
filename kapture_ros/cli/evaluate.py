"""`kapture_ros evaluate`: estimated poses against reference poses, as tables and a page."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kapture_ros.evaluation.options import EvaluationInputs, EvaluationOptions
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import from_arguments

log = logging.getLogger(__name__)

HELP = "compare estimated poses with reference poses: recall, calibration, plots"
EXAMPLES = """\
  kapture_ros evaluate localized/ lap2/ report/ --map lap1_map/ --map-images lap1/
  kapture_ros evaluate localized/estimates.csv lap2/ report/ --thresholds 0.1,1 1,5
  kapture_ros evaluate hloc_result/ query/ report/ --pairs pairs.txt --map mapping/ --up=-y
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "estimates",
        type=Path,
        help="output of `kapture_ros localize`, or a kapture dataset with estimated trajectories",
    )
    parser.add_argument("reference", type=Path, help="kapture dataset with the true poses")
    parser.add_argument("out", type=Path, help="new folder for evaluation.html, .md and .json")
    parser.add_argument("--map", type=Path, help="the map: shows where its images are")
    parser.add_argument(
        "--map-images", type=Path, nargs="+", default=[], metavar="DRIVE",
        help="drives that the map was made of: their images are drawn beside the queries",
    )  # fmt: skip
    parser.add_argument(
        "--query", type=Path, help="query dataset, where the reference holds no images"
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        help="retrieved pairs (query, map image, score): retrieval recall "
        "(default: those that `kapture_ros localize` left)",
    )
    parser.add_argument("--config", type=Path, help="YAML file with the options below")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    add_options(parser, EvaluationOptions)


def run(args: argparse.Namespace) -> None:
    """Evaluate, write the report, print the tables."""
    # Here, since NAVER's kapture takes a second to import.
    from kapture_ros.evaluation.evaluate import evaluate
    from kapture_ros.evaluation.report import to_markdown, write_report
    from kapture_ros.mapping.pose_report import pose_frame

    inputs = EvaluationInputs(
        args.estimates, args.reference, args.map, args.query, args.pairs, tuple(args.map_images)
    )
    options = from_arguments(EvaluationOptions, args, args.config)
    evaluation = evaluate(inputs, options)
    if pose_frame(args.reference) == "odom":  # REP-105: it drifts, and is not the map's
        log.warning(
            "the poses of %s are odometry, not the truth in the map's frame: of what follows only "
            "the trajectory errors after alignment say something about the localizer",
            args.reference,
        )
    write_report(evaluation, inputs, options, args.out, overwrite=args.overwrite)
    print(to_markdown(evaluation))
    print(f"report: {args.out / 'evaluation.html'}")

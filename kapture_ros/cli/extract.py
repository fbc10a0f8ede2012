"""`kapture_ros extract`: local and global features of a dataset's images."""

from __future__ import annotations

import argparse
from pathlib import Path

from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import from_arguments

HELP = "Extract local (R2D2) and global (AP-GeM) features of a dataset's images."
EXAMPLES = """\
  kapture_ros extract drive/                          the bundled networks
  kapture_ros extract drive/ --local r2d2_WASF_N16    installed weights, by name
  kapture_ros extract drive/ --local my/model.pt --global none
  kapture_ros extract drive/ --masks masks/           one CAMERA.png a camera, 0 = no keypoint
  kapture_ros extract drive/ --pyramid --max-size 1600 --device cuda

Interrupted, the same command goes on where it was.

exit codes: 0 all images are done; 1 an error; 3 done, except for images that cannot be
decoded (they are named); 130 interrupted
"""
EXIT_UNREADABLE = 3
NONE = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The dataset, the networks and their options."""
    from kapture_ros.features.options import (
        DEFAULT_GLOBAL,
        DEFAULT_LOCAL,
        ApGemOptions,
        R2D2Options,
        RuntimeOptions,
    )

    parser.add_argument("dataset", type=Path, help="kapture dataset; features are added to it")
    what = f"weights: an installed name, a file, or {NONE}"
    parser.add_argument(
        "--local", default=DEFAULT_LOCAL, metavar="WEIGHTS", help=f"R2D2 {what} (%(default)s)"
    )
    parser.add_argument(
        "--global",
        default=DEFAULT_GLOBAL,
        metavar="WEIGHTS",
        dest="global_",
        help=f"AP-GeM {what} (%(default)s)",
    )
    parser.add_argument("--masks", type=Path, help="folder of CAMERA.png: no keypoint where 0")
    parser.add_argument("--overwrite", action="store_true", help="do all images again")
    for options in (R2D2Options, ApGemOptions, RuntimeOptions):
        add_options(parser, options)


def run(args: argparse.Namespace) -> int:
    """Extract and say what ran."""
    from kapture_ros.features.extraction import ExtractionSettings, extract_dataset
    from kapture_ros.features.options import ApGemOptions, R2D2Options, RuntimeOptions

    settings = ExtractionSettings(
        local="" if args.local == NONE else args.local,
        global_="" if args.global_ == NONE else args.global_,
        r2d2=from_arguments(R2D2Options, args),
        apgem=from_arguments(ApGemOptions, args),
        runtime=from_arguments(RuntimeOptions, args),
        masks=args.masks,
    )
    done = extract_dataset(args.dataset, settings, overwrite=args.overwrite)
    print(done)
    return EXIT_UNREADABLE if done.unreadable else 0

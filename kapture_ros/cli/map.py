"""`kapture_ros map`: build, extend, import, export, prune and judge visual maps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from kapture_ros.errors import OptionError
from kapture_ros.mapping.options import (
    MAP_OPTIONS,
    CoverageOptions,
    PruneOptions,
    options_from,
    settings_from,
)
from kapture_ros.options import add_arguments as add_options

HELP = "Build a visual map from drives; extend, import, export, prune and judge maps."
EXAMPLES = """\
  kapture_ros map lap1/ map/                        drive to map; features too, if it has none
  kapture_ros map monday/ friday/ map/              several drives, one map
  kapture_ros map drive/ map/ --poses none          structure from motion, scale by GNSS
  kapture_ros map mapping/ map/ --local-features local_features/r2d2_500 \\
      --global-features global_features/AP-GeM-LM18
  kapture_ros map add map/ night/                   extend a map by a drive
  kapture_ros map prune map/ --max-images 500
  kapture_ros map coverage map/ report/             where will localization be weak?
  kapture_ros map measure map/                      how wrong, what twice? for maps of old versions
  kapture_ros map import reconstruction/ map/       a kapture or COLMAP reconstruction
  kapture_ros map export map/ colmap/               COLMAP model, and points as PLY
"""
WORDS = {
    "add": "MAP DATASET",
    "prune": "MAP",
    "coverage": "MAP OUT",
    "measure": "MAP",
    "import": "SOURCE MAP",
    "export": "MAP OUT",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    others = " | ".join(f"{word} {wanted}" for word, wanted in WORDS.items())
    parser.add_argument(
        "arguments", nargs="+", metavar="ARGUMENT", help=f"DATASET [DATASET …] MAP | {others}"
    )
    parser.add_argument("--config", type=Path, help="YAML file with the options below")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--local-features", type=Path, help="folder with keypoints/ and descriptors/ of all drives"
    )
    parser.add_argument(
        "--global-features", type=Path, help="folder with global_features/ of all drives"
    )
    for options in MAP_OPTIONS:
        add_options(parser, options)


def run(args: argparse.Namespace) -> None:
    """Build a map, or do what the first word says.

    Raises:
        OptionError: if too few or too many paths are given.
    """
    word, *rest = args.arguments
    if word not in WORDS:
        paths = [Path(name) for name in args.arguments]
        if len(paths) < 2:
            raise OptionError("`kapture_ros map` wants at least DATASET and MAP")
        _build(args, paths[:-1], paths[-1])
        return
    if len(rest) != len(WORDS[word].split()):
        raise OptionError(f"`kapture_ros map {word}` wants {WORDS[word]}")
    handlers: dict[str, Callable[..., None]] = {
        "add": _add,
        "prune": _prune,
        "coverage": _coverage,
        "measure": _measure,
        "import": _import,
        "export": _export,
    }
    handlers[word](args, *(Path(name) for name in rest))


# COLMAP, torch and FAISS take seconds to import: only when they are used.


def _build(args: argparse.Namespace, datasets: list[Path], map_dir: Path) -> None:
    from kapture_ros.mapping.pipeline import build_map
    from kapture_ros.mapping.report import summary

    build_map(datasets, map_dir, settings_from(args), overwrite=args.overwrite)
    print(summary(map_dir))


def _add(args: argparse.Namespace, map_dir: Path, dataset: Path) -> None:
    from kapture_ros.mapping.extend import extend_map
    from kapture_ros.mapping.report import summary

    extend_map(map_dir, dataset, settings_from(args))
    print(summary(map_dir))


def _prune(args: argparse.Namespace, map_dir: Path) -> None:
    from kapture_ros.mapping.prune import prune_map
    from kapture_ros.mapping.report import summary

    prune_map(map_dir, options_from(PruneOptions, args))
    print(summary(map_dir))


def _coverage(args: argparse.Namespace, map_dir: Path, out: Path) -> None:
    from kapture_ros.mapping.coverage import write_coverage

    print(write_coverage(map_dir, out, options_from(CoverageOptions, args), args.overwrite))


def _measure(args: argparse.Namespace, map_dir: Path) -> None:
    from kapture_ros.mapping.held_out import measure_map
    from kapture_ros.mapping.report import summary

    measure_map(map_dir, settings_from(args).reconstruct.held_out)
    print(summary(map_dir))


def _import(args: argparse.Namespace, source: Path, map_dir: Path) -> None:
    from kapture_ros.mapping.exchange import import_map
    from kapture_ros.mapping.report import summary

    import_map(source, map_dir, settings_from(args), overwrite=args.overwrite)
    print(summary(map_dir))


def _export(args: argparse.Namespace, map_dir: Path, out: Path) -> None:
    from kapture_ros.mapping.exchange import export_map

    export_map(map_dir, out, overwrite=args.overwrite)
    print(f"{out}: COLMAP model and points.ply")

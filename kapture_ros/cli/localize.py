"""`kapture_ros localize`: poses of a whole query dataset in a map."""

from __future__ import annotations

import argparse
from pathlib import Path

from kapture_ros.localization.options import (
    GROUPS,
    BatchOptions,
    load_preset,
    localizer_options,
    preset_names,
)
from kapture_ros.options import add_arguments as add_options
from kapture_ros.options import describe, from_arguments, load_yaml

HELP = "localize a query dataset in a map: poses, covariances, diagnostics"
EXAMPLES = """\
  kapture_ros localize lap1_map/ lap2/ localized/           features are made if there are none
  kapture_ros localize map/ drive/ localized/ --sequence
  kapture_ros localize map/ query/ localized/ --preset naver --no-rigs
  kapture_ros localize map/ query/ localized/ --preset naver_local_sfm --no-rigs
  kapture_ros localize map/ query/ localized/ --local-features local_features/r2d2_500 \\
      --global-features global_features/AP-GeM-LM18
  kapture_ros localize map/ query/ coarse/ --pipeline approximation --approximation bdi
  kapture_ros evaluate localized/ lap2/ report/ --map lap1_map/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("map", type=Path, help="visual map (`kapture_ros map`)")
    parser.add_argument("query", type=Path, help="kapture dataset with images or features")
    parser.add_argument(
        "out", type=Path, help="folder for the results; an interrupted run goes on there"
    )
    parser.add_argument("--local-features", type=Path, help="folder with keypoints/, descriptors/")
    parser.add_argument("--global-features", type=Path, help="folder with global_features/")
    parser.add_argument("--preset", choices=preset_names(), help="start from these settings")
    parser.add_argument("--config", type=Path, help="YAML file with options of the localizer")
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    add_options(parser, BatchOptions)
    for group in GROUPS.values():
        add_options(parser, group)


def run(args: argparse.Namespace) -> None:
    """Localize every query, write the results, print what became of them."""
    # COLMAP, torch and FAISS take seconds to import: only when they are used.
    from kapture_ros.features.options import RuntimeOptions
    from kapture_ros.localization.batch import localize_all
    from kapture_ros.localization.extractor import extractor_for
    from kapture_ros.localization.local_sfm import LocalSfm
    from kapture_ros.localization.localizer import Localizer
    from kapture_ros.localization.query_set import QuerySet
    from kapture_ros.mapping.sessions import FeatureSource
    from kapture_ros.mapping.visual_map import VisualMap

    options = None
    if args.preset:
        options, pipeline = load_preset(args.preset)
        args.pipeline = args.pipeline or pipeline
    if args.config:
        options = localizer_options(load_yaml(args.config), str(args.config), options)
    given = {
        info.name: getattr(args, info.name)
        for group in GROUPS.values()
        for info in describe(group)
        if getattr(args, info.name) is not None
    }
    options = localizer_options(given, "command line", options)
    batch = from_arguments(BatchOptions, args)
    visual_map = VisualMap.load(args.map)
    source = FeatureSource(args.local_features, args.global_features)
    queries = QuerySet(
        args.query, source, visual_map.feature_types, rigs=batch.rigs, slop_s=batch.rig_slop
    )
    extractor = None
    if not queries.has_features:
        runtime = RuntimeOptions(device=options.matching.device)
        extractor = extractor_for(visual_map.feature_types, runtime=runtime)
    kind = LocalSfm if batch.pipeline == "local_sfm" else Localizer
    localizer = kind(visual_map, options, extractor)
    print(localize_all(localizer, queries, args.out, batch, overwrite=args.overwrite))
    print(f"results: {args.out}")

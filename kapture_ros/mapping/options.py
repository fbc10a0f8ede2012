"""The settings of mapping: light to import, since every command line loads them."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kapture_ros.errors import OptionError
from kapture_ros.options import describe, from_arguments, from_mapping, load_yaml, option

T = TypeVar("T")


@dataclass(frozen=True)
class PairOptions:
    """Which images are matched with which."""

    retrieval_top_k: int = option(20, "most similar images of an image, in time apart", minimum=0)
    retrieval_distance: float = option(
        80.0, "of such images at most, by GNSS: no camera sees further", unit="m", minimum=0
    )
    sequence_neighbours: int = option(
        5, "next images of the same camera in time; then every second power", minimum=0
    )
    pose_top_k: int = option(10, "nearest images that look the same way", minimum=0)
    pose_distance: float = option(25.0, "of nearest images at most", unit="m", minimum=0)
    pose_angle: float = option(
        60.0, "between the viewing directions at most", unit="deg", minimum=0, maximum=180
    )
    gnss_distance: float = option(
        15.0, "between GNSS positions, where there are no poses", unit="m", minimum=0
    )


@dataclass(frozen=True)
class MatchOptions:
    """How keypoints are matched."""

    ratio: float | None = option(
        None, "best to second-best distance at most (Lowe); none: mutual is enough",
        minimum=0.1, maximum=1.0,
    )  # fmt: skip
    min_similarity: float = option(
        0.0, "cosine similarity of a match at least", minimum=-1.0, maximum=1.0
    )
    device: str = option("auto", "where to match", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True)
class VerifyOptions:
    """Which matches are believed."""

    max_error: float = option(4.0, "epipolar error of an inlier at most", unit="px", minimum=0.1)
    min_inliers: int = option(15, "inliers of a pair at least", minimum=5)
    min_ratio: float = option(
        0.25, "share of the matches at least, where a motion is estimated: any two images "
        "have some matches that fit some motion", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    min_ratio_alone: float = option(
        0.33, "the same where no poses are used: nothing else tells places that look alike apart",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    seed: int = option(0, "of the random sampling", minimum=0)


@dataclass(frozen=True)
class PoseOptions:
    """How far the poses and fixes of the drive are believed."""

    poses: str = option(
        "auto", "given poses: keep them, correct their drift, or do without; auto measures",
        choices=("auto", "fixed", "refine", "none"),
    )  # fmt: skip
    pose_sigma: float | None = option(
        None, "standard deviation of given positions (an INS), as priors; none: odometry",
        unit="m", minimum=0.001,
    )  # fmt: skip
    drift_metres: float = option(0.02, "odometry's deviation per metre", unit="m", minimum=1e-5)
    drift_degrees: float = option(0.1, "odometry's turn per metre", unit="deg", minimum=1e-4)
    gnss_sigma: float = option(
        2.0, "horizontal deviation of fixes that come without one", unit="m", minimum=0.001
    )
    gnss_correlation: float = option(
        30.0, "time over which errors of fixes persist", unit="s", minimum=0
    )
    correct_mounting: bool = option(
        False, "turn cameras against poses that are kept, as their images tell"
    )
    incremental: bool = option(False, "without poses: incremental instead of global mapping")


@dataclass(frozen=True)
class ReconstructOptions:
    """How points and poses are computed."""

    max_reprojection: float = option(
        2.4, "reprojection error of an observation at most", unit="px", minimum=0.1
    )
    min_angle: float = option(
        1.0, "between two rays of a point at least", unit="deg", minimum=0.01, maximum=45
    )
    refine_intrinsics: bool = option(False, "let bundle adjustment change the calibration")
    refine_extrinsics: bool = option(False, "let bundle adjustment move cameras in their rig")
    iterations: int = option(50, "of one bundle adjustment at most", minimum=1)
    threads: int = option(-1, "of COLMAP; -1: one a core")
    held_out: int = option(
        120,
        "instants localized in the map without themselves, which tells how wrong it is; 0: none",
        minimum=0,
    )


@dataclass(frozen=True)
class CoverageOptions:
    """How a map is judged."""

    every: int = option(10, "hold out every n-th instant", minimum=2)
    stretch: float = option(25.0, "length of a row of the table", unit="m", minimum=1)


@dataclass(frozen=True)
class PruneOptions:
    """What may go."""

    min_gain: float = option(
        0.2, "share of an image's points that few other images see, to keep it",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    redundancy: int = option(5, "images that must see a point besides", minimum=1)
    max_images: int | None = option(None, "images at most", minimum=2)
    max_points: int | None = option(None, "points at most", minimum=10)


@dataclass(frozen=True)
class InputOptions:
    """What of the datasets is used, and what is missing in them."""

    estimate_intrinsics: bool = option(
        False, "guess the focal length of uncalibrated cameras and refine it"
    )
    local_type: str = option("", "keypoints and descriptors used, if datasets hold several types")
    global_type: str = option("", "global features used, if datasets hold several types")


MAP_OPTIONS: tuple[type[Any], ...] = (
    PairOptions, MatchOptions, VerifyOptions, PoseOptions, ReconstructOptions, InputOptions,
    CoverageOptions, PruneOptions,
)  # fmt: skip


@dataclass(frozen=True)
class MapSettings:
    """Everything that decides what a map becomes.

    Attributes:
        local_features, global_features: folders of the features of all drives as NAVER ships
            them; None: each dataset's own.
    """

    pairs: PairOptions = field(default_factory=PairOptions)
    match: MatchOptions = field(default_factory=MatchOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    poses: PoseOptions = field(default_factory=PoseOptions)
    reconstruct: ReconstructOptions = field(default_factory=ReconstructOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    local_features: Path | None = None
    global_features: Path | None = None


def settings_from(args: argparse.Namespace) -> MapSettings:
    """Settings from the command line over its YAML file over the defaults.

    Raises:
        OptionError: on an unknown key or a bad value.
    """
    return MapSettings(
        pairs=options_from(PairOptions, args),
        match=options_from(MatchOptions, args),
        verify=options_from(VerifyOptions, args),
        poses=options_from(PoseOptions, args),
        reconstruct=options_from(ReconstructOptions, args),
        inputs=options_from(InputOptions, args),
        local_features=args.local_features,
        global_features=args.global_features,
    )


def options_from(cls: type[T], args: argparse.Namespace) -> T:
    """One group of options; the YAML file may hold those of the other groups too.

    Raises:
        OptionError: on a key that no group has, or a bad value.
    """
    values = load_yaml(args.config) if args.config else {}
    for key in values:
        if not any(key == info.name for group in MAP_OPTIONS for info in describe(group)):
            raise OptionError(f"{args.config}: unknown option '{key}'")
    own = {info.name for info in describe(cls)}
    of_file = from_mapping(cls, {k: v for k, v in values.items() if k in own}, str(args.config))
    given = from_arguments(cls, args)
    named = {name for name in own if getattr(args, name, None) is not None}
    return dataclasses.replace(  # type: ignore[type-var]
        of_file, **{name: getattr(given, name) for name in named}
    )

"""The settings of localization: light to import, since every command line loads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from kapture_ros.errors import OptionError
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.options import describe, from_mapping, option

PIPELINES = ("global_map", "local_sfm", "approximation")
APPROXIMATIONS = ("ewb", "bdi", "csi")


@dataclass(frozen=True)
class RetrievalOptions:
    """How candidates are found."""

    top_k: int = option(20, "map images to match each query image against", minimum=1)
    fusion: str = option(
        "mean",
        "how the scores of several retrievers become one",
        choices=("mean", "power", "max", "min", "round_robin"),
    )
    gate_margin: float = option(
        50.0,
        "how far from the place of a GNSS fix, Wi-Fi scan or prior (3 σ) a map image may be",
        unit="m",
        minimum=0,
    )
    gnss_gate: bool = option(True, "search only near the GNSS fix, if there is one")
    wifi_gate: bool = option(True, "search only near the place of the Wi-Fi scan, if it is heard")
    prior_gate: bool = option(True, "search only near the predicted pose, if there is one")


@dataclass(frozen=True)
class PoseOptions:
    """How a pose is estimated from matches."""

    max_error: float = option(12.0, "reprojection error of an inlier", unit="px", minimum=0.1)
    max_iterations: int = option(4000, "RANSAC samples at most", minimum=1)
    min_iterations: int = option(100, "RANSAC samples at least", minimum=1)
    confidence: float = option(
        0.9999, "stop when a better pose is less likely than 1 minus this", minimum=0, maximum=1
    )
    seed: int = option(0, "of the random samples", minimum=0)


@dataclass(frozen=True)
class AcceptanceOptions:
    """What a pose needs to be accepted."""

    min_inliers: int = option(25, "keypoints that agree with the pose", minimum=4)
    min_ratio: float = option(0.06, "inliers per keypoint with a match", minimum=0, maximum=1)
    min_seen: float = option(
        0.08,
        "share that agrees, to a third of the error, of the map's points that should be seen there",
        minimum=0,
        maximum=1,
    )
    min_agreeing: float = option(
        0.15,
        "or, instead, of the keypoints that match such points, 20 at least; twice the share where "
        "nothing tells that the map's given poses fit its images",
        minimum=0,
        maximum=1,
    )
    min_coverage: float = option(
        0.08, "share of an 8 × 8 grid over the image with inliers", minimum=0, maximum=1
    )
    min_depth_spread: float = option(
        0.02, "10 to 90 percentile of the inliers' distances over their median", minimum=0
    )
    max_second: float = option(0.5, "inliers of a second pose elsewhere, per inlier", minimum=0)
    max_position_sigma: float = option(
        1.0, "standard deviation of the position", unit="m", minimum=0
    )
    max_rotation_sigma: float = option(
        2.0, "standard deviation of the orientation", unit="deg", minimum=0
    )
    max_gnss_sigmas: float = option(5.0, "Mahalanobis distance to the GNSS fix", minimum=0)
    max_prior_sigmas: float = option(5.0, "Mahalanobis distance to the prior", minimum=0)


@dataclass(frozen=True)
class AnswerOptions:
    """What goes into the answer."""

    min_matches: int = option(10, "keypoints with a match, to try for a pose", minimum=4)
    map_sigma: float | None = option(
        None,
        "one sigma of the map's own error, added to every pose: neighbouring points share it, "
        "so more matches do not make it smaller; none: as measured when the map was made, in "
        "maps that do not tell 0.05",
        unit="m",
        minimum=0,
    )
    map_sigma_degrees: float | None = option(
        None, "the same of its orientation; none: as measured, or 0.1", unit="deg", minimum=0
    )
    fuse_gnss: bool = option(True, "mix the GNSS position into the pose, by its covariance")
    approximation: str = option(
        "csi", "weights of the coarse pose from retrieval", choices=(*APPROXIMATIONS, "none")
    )
    approximation_k: int = option(3, "map images in the coarse pose", minimum=1)


@dataclass(frozen=True)
class LocalizerOptions:
    """Settings of a localizer, by step."""

    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    matching: MatchOptions = field(default_factory=MatchOptions)
    pose: PoseOptions = field(default_factory=PoseOptions)
    acceptance: AcceptanceOptions = field(default_factory=AcceptanceOptions)
    answer: AnswerOptions = field(default_factory=AnswerOptions)


@dataclass(frozen=True)
class BatchOptions:
    """How a whole query set is localized and written."""

    pipeline: str = option(
        "global_map",
        "match against the map's points, make points of the images found for each query, or "
        "average the poses of these (coarse); the preset's, if there is one",
        choices=PIPELINES,
    )
    rigs: bool = option(True, "localize the images of a rig's instant together")
    rig_slop: float = option(
        0.005,
        "images of a rig so soon after another belong to its instant; the vehicle is taken to "
        "stand still meanwhile",
        unit="s",
        minimum=0,
    )
    sequence: bool = option(
        False, "localize the queries as drives: motion helps, and the trajectory is smoothed"
    )
    sequence_motion: str = option(
        "given",
        "what links the instants of a drive: the dataset's own trajectory where it has one "
        "(odometry, or the relative poses of a benchmark), or the images alone",
        choices=("given", "images"),
    )
    matches: bool = option(False, "keep what is needed to draw each query's matches")
    ltvl_names: str = option(
        "path",
        "image names for visuallocalization.net: path in the dataset, file, or camera/file",
        choices=("path", "file", "camera"),
    )


GROUPS: dict[str, type[Any]] = {
    "retrieval": RetrievalOptions,
    "matching": MatchOptions,
    "pose": PoseOptions,
    "acceptance": AcceptanceOptions,
    "answer": AnswerOptions,
}


def localizer_options(
    values: Mapping[str, Any], where: str, base: LocalizerOptions | None = None
) -> LocalizerOptions:
    """Options of all groups from one flat mapping: a YAML file, a preset, a node's parameters.

    Args:
        where: what the values came from, for the error message.
        base: what is not named stays as it is there; None: the defaults.

    Raises:
        OptionError: on a key that no group has, or a bad value.
    """
    known = {info.name: group for group, cls in GROUPS.items() for info in describe(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise OptionError(f"{where}: unknown option '{unknown[0]}'; known: {', '.join(known)}")
    groups = {}
    for group, cls in GROUPS.items():
        own = {key: value for key, value in values.items() if known[key] == group}
        checked = from_mapping(cls, own, where)
        changes = {key: getattr(checked, key) for key in own}
        groups[group] = dataclasses.replace(getattr(base or LocalizerOptions(), group), **changes)
    return LocalizerOptions(**groups)


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("kapture_ros.localization") / "presets"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())


def load_preset(name: str) -> tuple[LocalizerOptions, str]:
    """A preset of the package, a flat YAML file: its options and its pipeline.

    Raises:
        OptionError: if there is none of that name.
    """
    if name not in preset_names():
        raise OptionError(f"no preset '{name}'; known: {', '.join(preset_names())}")
    folder = resources.files("kapture_ros.localization") / "presets"
    values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    pipeline = values.pop("pipeline", PIPELINES[0])
    return localizer_options(values, f"preset {name}"), pipeline

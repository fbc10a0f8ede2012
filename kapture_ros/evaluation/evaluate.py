"""From files to an evaluation: reads estimates and reference, computes every figure.

`kapture_ros evaluate` runs it and hands the result to `report`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kapture_ros.errors import InputError
from kapture_ros.evaluation import estimates, metrics
from kapture_ros.evaluation.comparison import Comparison, compare, rows_from_trajectory
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.metrics import Threshold
from kapture_ros.evaluation.poses import PoseTable, read_images, read_poses
from kapture_ros.evaluation.retrieval import RetrievalRecall, read_pairs, retrieval_recall
from kapture_ros.evaluation.trajectory import AbsoluteError, RelativeError, trajectory_errors
from kapture_ros.options import option
from kapture_ros.transforms.se3 import Transform

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure and how to show it."""

    thresholds: tuple[str, ...] = option(
        ("0.25,2", "0.5,5", "5,10"), "recall within metres,degrees; the widest last"
    )
    max_gap: float = option(
        0.0,
        "interpolate the reference between poses at most this far apart; 0: equal stamps only",
        unit="s",
        minimum=0,
    )
    relative_distance: float = option(
        10.0, "path over which relative pose errors are taken", unit="m", minimum=0
    )
    retrieval_within: str = option(
        "5,45", "a retrieved map image counts within metres,degrees of the query"
    )
    retrieval_at: tuple[int, ...] = option(
        (1, 5, 10, 20), "numbers of retrieved images to give the recall for", minimum=1
    )
    worst: int = option(8, "worst queries to show", minimum=0)
    up: str = option(
        "z",
        "the axis of the map that is up in the map from above; z (REP-103) for our own maps",
        choices=("x", "y", "z", "-x", "-y", "-z"),
    )


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Which files to compare.

    Attributes:
        estimates: output folder of `kapture_ros localize`, an `estimates.csv`, or a kapture
            dataset with the trajectories of any localizer.
        reference: kapture dataset with the true poses.
        map: map, for its images and their poses; None: not shown.
        query: query dataset, if the reference holds no images.
        pairs: retrieval result (query image, map image, score), for the retrieval recall.
    """

    estimates: Path
    reference: Path
    map: Path | None = None
    query: Path | None = None
    pairs: Path | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every figure of one evaluation; see the functions that make them."""

    thresholds: tuple[Threshold, ...]
    comparison: Comparison
    without_reference: int
    accuracy: metrics.Accuracy
    conditions: Mapping[str, metrics.Accuracy]
    honesty: metrics.Honesty
    calibration: tuple[metrics.Calibration, ...]
    absolute: tuple[AbsoluteError, ...]
    relative: tuple[RelativeError, ...]
    retrieval: RetrievalRecall | None
    latency: Mapping[str, metrics.Statistics]
    world_from_map_image: Mapping[str, Transform]
    query_images: Mapping[str, tuple[int, str]]


def evaluate(inputs: EvaluationInputs, options: EvaluationOptions) -> Evaluation:
    """Compare estimates with a reference.

    Raises:
        InputError: if an input is missing or damaged, or nothing can be compared.
        OptionError: if a threshold is none.
    """
    thresholds = tuple(Threshold.parse(text) for text in options.thresholds)
    within = Threshold.parse(options.retrieval_within)
    reference = read_poses(inputs.reference)
    if inputs.query is not None:
        images = {**read_images(inputs.query), **reference.images}
        reference = replace(reference, images=images)
    rows = _read_rows(inputs.estimates, reference)
    comparison = compare(rows, reference, round(options.max_gap * 1e9))
    world_from_map_image = read_poses(inputs.map).image_poses() if inputs.map else {}
    retrieval = None
    if inputs.pairs is not None:
        if inputs.map is None:
            raise InputError(f"{inputs.pairs}: retrieval recall needs the map's poses: pass --map")
        retrieval = retrieval_recall(
            read_pairs(inputs.pairs),
            reference.image_poses(),
            world_from_map_image,
            within,
            options.retrieval_at,
        )
    absolute, relative = trajectory_errors(comparison, options.relative_distance)
    return Evaluation(
        thresholds=thresholds,
        comparison=comparison,
        without_reference=int((~comparison.known).sum()),
        accuracy=metrics.accuracy(comparison, thresholds),
        conditions=metrics.accuracy_by_condition(comparison, thresholds),
        honesty=metrics.honesty(comparison, thresholds[-1]),
        calibration=metrics.calibration(comparison),
        absolute=absolute,
        relative=relative,
        retrieval=retrieval,
        latency=metrics.latency(comparison),
        world_from_map_image=world_from_map_image,
        query_images=reference.images,
    )


def _read_rows(path: Path, reference: PoseTable) -> list[EstimateRow]:
    table = path / estimates.FILE_NAME if path.is_dir() else path
    if table.is_file():
        return estimates.read_estimates(table)
    if (path / "sensors" / "trajectories.txt").is_file():
        log.info("%s has no %s: comparing trajectories only", path, estimates.FILE_NAME)
        return rows_from_trajectory(read_poses(path), reference)
    raise InputError(
        f"{path} holds no estimates: expected {estimates.FILE_NAME} of `kapture_ros localize` "
        "or a kapture dataset with sensors/trajectories.txt"
    )

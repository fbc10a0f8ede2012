"""From files to an evaluation: reads estimates and reference, computes every figure.

`kapture_ros evaluate` runs it and hands the result to `report`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kapture_ros.errors import InputError, OptionError
from kapture_ros.evaluation import estimates, metrics
from kapture_ros.evaluation.comparison import Comparison, compare, rows_from_trajectory
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.metrics import Threshold
from kapture_ros.evaluation.options import EvaluationInputs, EvaluationOptions
from kapture_ros.evaluation.poses import PoseTable, read_images, read_poses
from kapture_ros.evaluation.retrieval import RetrievalRecall, read_pairs, retrieval_recall
from kapture_ros.evaluation.trajectory import AbsoluteError, RelativeError, trajectory_errors
from kapture_ros.transforms.se3 import Transform

log = logging.getLogger(__name__)


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
    thresholds = tuple(sorted(Threshold.parse(text) for text in options.thresholds))
    if not thresholds:
        raise OptionError("'thresholds' is empty; give at least one metres,degrees")
    within = Threshold.parse(options.retrieval_within)
    for dataset in (inputs.query, *inputs.map_images):
        if dataset is not None and not (dataset / "sensors").is_dir():
            raise InputError(f"{dataset} is no kapture dataset: there is no folder sensors/ in it")
    reference = read_poses(inputs.reference)
    if inputs.query is not None:
        images = {**read_images(inputs.query), **reference.images}
        reference = replace(reference, images=images)
    rows = _read_rows(inputs.estimates, reference)
    comparison = compare(rows, reference, round(options.max_gap * 1e9))
    world_from_map_image = read_poses(inputs.map).image_poses() if inputs.map else {}
    retrieval = None
    pairs = _pairs_path(inputs)
    if pairs is not None:
        retrieval = retrieval_recall(
            read_pairs(pairs),
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


def _pairs_path(inputs: EvaluationInputs) -> Path | None:
    """The retrieval result to look at: the one given, else the localizer's own."""
    if inputs.map is None:
        if inputs.pairs is not None:
            raise InputError(f"{inputs.pairs}: retrieval recall needs the map's poses: pass --map")
        return None
    left = inputs.estimates / estimates.PAIRS_FILE_NAME
    if inputs.pairs is not None or not left.is_file():
        return inputs.pairs
    # Of rigs there are none: which image found which is not known.
    rows = left.read_text(encoding="utf-8").splitlines()
    return left if any(row and not row.startswith("#") for row in rows) else None


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

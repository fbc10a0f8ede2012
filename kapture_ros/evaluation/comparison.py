"""Estimates beside their references: which query was how wrong.

Made from `estimates.csv` (or the trajectories of any localizer) and a kapture dataset with
reference poses; every figure of the evaluation is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.poses import PoseTable
from kapture_ros.transforms.se3 import Array, Transform, difference

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Comparison:
    """N queries in the order of time.

    Attributes:
        devices: whose pose each query asks for (images stand for their cameras).
        references: the true map_from_base; None where unknown.
        errors: (N, 6) `transforms.se3.difference` of each estimate, accepted or not, to its
            reference: the error that the covariance speaks of; NaN where one is missing.
    """

    rows: tuple[EstimateRow, ...]
    devices: tuple[str, ...]
    references: tuple[Transform | None, ...]
    errors: Array

    @property
    def known(self) -> Mask:
        """(N,) which queries have a reference."""
        return np.array([reference is not None for reference in self.references])

    @property
    def accepted(self) -> Mask:
        """(N,) which queries were answered."""
        return np.array([row.accepted for row in self.rows])

    @property
    def metres(self) -> Array:
        """(N,) distances between estimated and true position; NaN where unknown."""
        return np.asarray(np.linalg.norm(self.errors[:, :3], axis=1))

    @property
    def degrees(self) -> Array:
        """(N,) angles between estimated and true orientation; NaN where unknown."""
        return np.asarray(np.rad2deg(np.linalg.norm(self.errors[:, 3:], axis=1)))


def compare(rows: Iterable[EstimateRow], reference: PoseTable, max_gap_ns: int = 0) -> Comparison:
    """Look up the reference of every estimate.

    Args:
        max_gap_ns: references are interpolated between two poses at most this far apart.

    Raises:
        InputError: if no query has a reference.
    """
    ordered = sorted(rows, key=lambda row: (row.stamp_ns, row.query))
    devices = [reference.device(row.query) for row in ordered]
    tracks = {device: reference.track(device) for device in set(devices)}
    references = [
        tracks[device].at(row.stamp_ns, max_gap_ns)
        for row, device in zip(ordered, devices, strict=True)
    ]
    if not any(references):
        _refuse(ordered, reference)
    errors = np.full((len(ordered), 6), np.nan)
    for index, (row, true) in enumerate(zip(ordered, references, strict=True)):
        if row.map_from_base is not None and true is not None:
            errors[index] = difference(row.map_from_base, true)
    return Comparison(tuple(ordered), tuple(devices), tuple(references), errors)


def _refuse(rows: Sequence[EstimateRow], reference: PoseTable) -> None:
    if not rows:
        raise InputError("there is nothing to evaluate: no queries")
    first, last = rows[0], rows[-1]
    raise InputError(
        f"no query has a reference pose: queries are '{first.query}', … at stamps "
        f"{first.stamp_ns} to {last.stamp_ns}; the reference has {reference.span()}. "
        "If only the stamps lie between each other, pass --max-gap"
    )


def rows_from_trajectory(estimate: PoseTable, reference: PoseTable) -> list[EstimateRow]:
    """Estimates of a localizer that wrote trajectories only: a query without a pose failed.

    The queries are the images of the reference, or its poses if it has no images.
    """
    queries = [(stamp, name, sensor) for name, (stamp, sensor) in reference.images.items()]
    if not queries:
        queries = [
            (stamp, device, device) for device, series in reference.rows.items() for stamp in series
        ]
    tracks = {device: estimate.track(device) for device in {query[2] for query in queries}}
    rows = []
    for stamp, name, device in queries:
        pose = tracks[device].at(stamp)
        reason = "" if pose else "no pose"
        rows.append(EstimateRow(stamp, name, pose is not None, reason=reason, map_from_base=pose))
    return rows

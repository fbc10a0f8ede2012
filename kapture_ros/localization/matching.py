"""From a query image's descriptors to 2D-3D matches with its candidates' map points.

Only descriptors of triangulated keypoints are compared: mutual nearest neighbours with
each candidate, the candidates' common points merged. Consumed by `pose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from kapture_ros.localization.query import Candidate, QueryFeatures
from kapture_ros.localization.refinement import Matches
from kapture_ros.mapping.matching import (
    JointMatches,
    chosen_device,
    mutual_matches_with_each,
    padding,
    start_padded,
)
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array

Descriptors: TypeAlias = npt.NDArray[np.floating]
Compare: TypeAlias = Callable[[Descriptors], Callable[[], JointMatches]]
MAX_POINT_VARIANCE = 100.0  # m²; points of imported maps may be of a single ray


@dataclass(frozen=True, slots=True)
class ImageMatches:
    """Matches of one query image: M rows, sorted by keypoint and point, each pair once.

    Attributes:
        keypoint: (M,) rows of the query's keypoints.
        point: (M,) rows of the map's points.
        candidate: (M,) the candidate where this match is most similar.
        similarity: (M,) there.
    """

    keypoint: npt.NDArray[np.int32]
    point: npt.NDArray[np.int32]
    candidate: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]

    def select(self, rows: npt.NDArray[np.bool_]) -> ImageMatches:
        """A part of the matches; `rows` (M,) bool."""
        return ImageMatches(
            self.keypoint[rows], self.point[rows], self.candidate[rows], self.similarity[rows]
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """The candidates of one query image, ready to be matched.

    Attributes:
        candidate: (F,) those that have points.
        starts: (F,) where each begins in `points`.
        points: rows of the map's points, candidate after candidate.
        compare: see `comparison`.
    """

    candidate: npt.NDArray[np.int32]
    starts: npt.NDArray[np.intp]
    points: npt.NDArray[np.int32]
    compare: Compare

    def start(self, features: QueryFeatures) -> Callable[[], ImageMatches]:
        """Begin to match the query image; what is returned ends it. A GPU is at work meanwhile."""
        if len(self.points) == 0 or len(features.descriptors) == 0:
            empty = np.empty(0, np.int32)
            return lambda: ImageMatches(empty, empty, empty, np.empty(0, np.float32))
        compared = self.compare(features.descriptors)

        def finish() -> ImageMatches:
            found = compared()
            point = self.points[self.starts[found.other] + found.partner]
            rows = _most_similar(found.keypoint << 32 | point, found.similarity)
            keypoint = found.keypoint[rows].astype(np.int32)
            candidate = self.candidate[found.other[rows]]
            return ImageMatches(keypoint, point[rows], candidate, found.similarity[rows])

        return finish


def offer(visual_map: VisualMap, candidates: Sequence[Candidate], options: MatchOptions) -> Offer:
    """Make the candidates of one query image, best first, ready to be matched."""
    blocks = [visual_map.features(candidate.image) for candidate in candidates]
    filled = [number for number, block in enumerate(blocks) if len(block.points)]
    points = [np.empty(0, np.int32), *(blocks[number].points for number in filled)]
    starts = np.cumsum([len(part) for part in points])[:-1]
    compare = comparison([blocks[number].descriptors for number in filled], options)
    return Offer(np.array(filled, np.int32), starts, np.concatenate(points), compare)


def comparison(known: Sequence[Descriptors], options: MatchOptions) -> Compare:
    """What finds mutual nearest neighbours of a query (n, D) with each of some images (k, D).

    A GPU has got the images before it is asked.

    Returns:
        What begins with a query's descriptors; what that returns ends it.
    """
    device = chosen_device(options)
    if device.type == "cpu" or not known:

        def match(query: Descriptors) -> JointMatches:
            single = np.ascontiguousarray(query, np.float32)
            return JointMatches.join(mutual_matches_with_each(single, known, options))

        return lambda query: partial(match, query)
    # Half precision is what the map holds, and tensor cores are made for it.
    others = upload_padded(known, device, torch.float16)
    beyond = padding([len(other) for other in known], others)

    def start(query: Descriptors) -> Callable[[], JointMatches]:
        first = torch.from_numpy(query).to(device).to(others.dtype)
        return start_padded(first, others, beyond, options)

    return start


def upload_padded(
    known: Sequence[Descriptors], device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Descriptors of several images on a device, (count, width, D): what is padded is undefined.

    Copied side by side into page-locked memory, then sent at once.
    """
    shape = len(known), max(len(other) for other in known), known[0].shape[1]
    staged = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    rows = staged.numpy()
    for place, other in zip(rows, known, strict=True):
        place[: len(other)] = other
    return staged.to(device, non_blocking=True)


def _most_similar(
    keys: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.intp]:
    """The row of the largest value of each key, in the order of the keys; the first of equals."""
    # The keys come in ascending runs, which a stable sort merges.
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(keys)))
    sorted_values = values[order]
    largest = np.flatnonzero(sorted_values == np.maximum.reduceat(sorted_values, starts)[group])
    return order[largest[np.flatnonzero(np.diff(group[largest], prepend=-1))]]


def gather(
    visual_map: VisualMap, features: Sequence[QueryFeatures], found: Sequence[ImageMatches]
) -> Matches:
    """The matches of all images of an instant with what a pose solver needs of the map's points."""
    point = np.concatenate([m.point for m in found])
    covariance = _covariances(visual_map, point) if visual_map.weighs_points else None
    xyz = np.asarray(visual_map.points.xyz[point], dtype=float)
    return with_points(features, found, xyz, covariance)


def with_points(
    features: Sequence[QueryFeatures],
    found: Sequence[ImageMatches],
    points_map: Array,
    point_covariance: Array | None,
) -> Matches:
    """The matches (N in all) of all images of an instant with their points.

    Args:
        points_map: (N, 3) metres; point_covariance: (N, 6), as `Matches` has them.
    """
    pixels = [f.keypoints[m.keypoint, :2] for f, m in zip(features, found, strict=True)]
    return Matches(
        np.concatenate(pixels).astype(float),
        points_map,
        np.repeat(np.arange(len(found), dtype=np.int32), [len(m.keypoint) for m in found]),
        np.concatenate([m.keypoint for m in found]),
        np.concatenate([m.point for m in found]),
        point_covariance,
        np.concatenate([m.similarity for m in found]),
    )


def _covariances(visual_map: VisualMap, point: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    covariance = np.asarray(visual_map.points.covariance[point], dtype=float)
    # Of a point seen by one ray nothing but the direction is known.
    lone = ~np.isfinite(covariance).all(axis=1)
    covariance[lone] = MAX_POINT_VARIANCE * np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    return covariance

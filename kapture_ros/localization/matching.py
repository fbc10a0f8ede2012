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
    chosen_device,
    mutual_matches_with_each,
    start_padded,
)
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.mapping.visual_map import VisualMap

Descriptors: TypeAlias = npt.NDArray[np.floating]
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


def start_matching(
    visual_map: VisualMap,
    features: QueryFeatures,
    candidates: Sequence[Candidate],
    options: MatchOptions,
) -> Callable[[], ImageMatches]:
    """Begin to match one query image with its candidates, best first; what is returned ends it.

    Meanwhile a GPU is at work.
    """
    blocks = [visual_map.features(candidate.image) for candidate in candidates]
    filled = [number for number, block in enumerate(blocks) if len(block.points)]
    if not filled or len(features.descriptors) == 0:
        empty = np.empty(0, np.int32)
        return lambda: ImageMatches(empty, empty, empty, np.empty(0, np.float32))
    known = [blocks[number].descriptors for number in filled]
    compared = start_mutual(features.descriptors, known, options)

    def finish() -> ImageMatches:
        found = compared()
        keypoint = np.concatenate([pairs[:, 0] for pairs, _ in found])
        point = np.concatenate(
            [blocks[n].points[pairs[:, 1]] for n, (pairs, _) in zip(filled, found, strict=True)]
        )
        candidate = np.repeat(np.array(filled, np.int32), [len(pairs) for pairs, _ in found])
        similarity = np.concatenate([values for _, values in found])
        rows = _most_similar(keypoint.astype(np.int64) << 32 | point, similarity)
        return ImageMatches(keypoint[rows], point[rows], candidate[rows], similarity[rows])

    return finish


def start_mutual(
    query: Descriptors, known: Sequence[Descriptors], options: MatchOptions
) -> Callable[[], list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]]:
    """Begin to find mutual nearest neighbours of a query (n, D) with each of some images (k, D).

    Returns:
        What ends it: matches (m, 2) with their similarities (m,), by image.
    """
    device = chosen_device(options)
    if device.type == "cpu":
        single = np.ascontiguousarray(query, np.float32)
        return partial(mutual_matches_with_each, single, known, options)
    # Half precision is what the map holds, and tensor cores are made for it.
    others = upload_padded(known, device, torch.float16)
    first = torch.from_numpy(query).to(device).to(others.dtype)
    return start_padded(first, others, [len(other) for other in known], options)


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
    """The matches of all images of an instant with what a pose solver needs."""
    camera = np.repeat(np.arange(len(found), dtype=np.int32), [len(m.keypoint) for m in found])
    keypoint = np.concatenate([m.keypoint for m in found])
    point = np.concatenate([m.point for m in found])
    pixels = np.concatenate(
        [f.keypoints[m.keypoint, :2] for f, m in zip(features, found, strict=True)]
    )
    covariance = np.asarray(visual_map.points.covariance[point], dtype=float)
    # Of a point seen by one ray nothing but the direction is known.
    lone = ~np.isfinite(covariance).all(axis=1)
    covariance[lone] = MAX_POINT_VARIANCE * np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    xyz = np.asarray(visual_map.points.xyz[point], dtype=float)
    similarity = np.concatenate([m.similarity for m in found])
    return Matches(pixels.astype(float), xyz, camera, keypoint, point, covariance, similarity)

"""From a query image's descriptors to 2D-3D matches with its candidates' map points.

Only descriptors of triangulated keypoints are compared: mutual nearest neighbours with
each candidate, the candidates' common points merged. Consumed by `pose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from kapture_ros.localization.query import Candidate, QueryFeatures
from kapture_ros.localization.refinement import Matches
from kapture_ros.mapping.matching import (
    chosen_device,
    mutual_matches,
    mutual_matches_on_gpu,
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


def match_candidates(
    visual_map: VisualMap,
    features: QueryFeatures,
    candidates: Sequence[Candidate],
    options: MatchOptions,
) -> ImageMatches:
    """Match one query image with its candidates, best first."""
    blocks = [visual_map.features(candidate.image) for candidate in candidates]
    filled = [number for number, block in enumerate(blocks) if len(block.points)]
    if not filled or len(features.descriptors) == 0:
        empty = np.empty(0, np.int32)
        return ImageMatches(empty, empty, empty, np.empty(0, np.float32))
    known = [blocks[number].descriptors for number in filled]
    found = mutual_with_each(features.descriptors, known, options)
    keypoint = np.concatenate([pairs[:, 0] for pairs, _ in found])
    point = np.concatenate(
        [blocks[n].points[pairs[:, 1]] for n, (pairs, _) in zip(filled, found, strict=True)]
    )
    candidate = np.repeat(np.array(filled, np.int32), [len(pairs) for pairs, _ in found])
    similarity = np.concatenate([values for _, values in found])
    order = np.lexsort((-similarity, point, keypoint))
    key = keypoint[order].astype(np.int64) << 32 | point[order]
    rows = order[np.flatnonzero(np.diff(key, prepend=-1))]
    return ImageMatches(keypoint[rows], point[rows], candidate[rows], similarity[rows])


def mutual_with_each(
    query: Descriptors, known: Sequence[Descriptors], options: MatchOptions
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Mutual nearest neighbours (m, 2) of a query (n, D) with each of several images (k, D).

    Returns:
        Matches with their similarities (m,), by image.
    """
    device = chosen_device(options)
    if device.type == "cpu":
        first = np.ascontiguousarray(query, np.float32)
        return [mutual_matches(first, _single(other), options) for other in known]
    # Half precision is what the map holds, and tensor cores are made for it.
    half = torch.from_numpy(query).to(device, torch.float16)
    joined = torch.from_numpy(np.concatenate(known)).to(device, torch.float16)
    others = torch.split(joined, [len(other) for other in known])
    return mutual_matches_on_gpu(half, others, options)


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


def _single(descriptors: Descriptors) -> npt.NDArray[np.float32]:
    """Half to single precision by torch, which has the processor's instruction for it."""
    # Copied: torch refuses the read-only pages of the map.
    single: npt.NDArray[np.float32] = torch.from_numpy(np.array(descriptors)).float().numpy()
    return single

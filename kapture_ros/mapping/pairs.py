"""Which images are worth matching: the union of what retrieval, time, poses and rigs say.

Each source is one function from the image table to pairs of rows; `write_pairs` stores
them as a kapture pairsfile. A pair is (i, j) with i < j, and is listed once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from kapture_ros.errors import InputError
from kapture_ros.files import write_atomically
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.options import PairOptions
from kapture_ros.transforms.se3 import Array

Pairs = npt.NDArray[np.int64]
"""(K, 2) rows of the image table, first < second, sorted, without duplicates."""

BLOCK = 1024  # images compared with all others at once


def choose_pairs(
    images: ImageTable,
    descriptors: npt.NDArray[Any],
    positions: Array | None,
    options: PairOptions,
) -> Pairs:
    """The union of all sources.

    Args:
        descriptors: (N, D) global descriptors of unit length.
        positions: (N, 3) by GNSS; NaN where unknown, None if there are none.
    """
    sequence = sequence_pairs(images, options.sequence_neighbours)
    alike = retrieval_pairs(descriptors, options.retrieval_top_k, apart_from=sequence)
    if positions is not None:
        alike = alike[~farther_than(positions, alike, options.retrieval_distance)]
    sources = [sequence, rig_pairs(images), alike]
    if images.posed.any():
        directions = images.view_directions()
        sources.append(near_pairs(images.centers(), directions, options.pose_distance, options))
    elif positions is not None:
        sources.append(near_pairs(positions, None, options.gnss_distance, options))
    return union(*sources)


def union(*sources: Pairs) -> Pairs:
    """All pairs of all sources, each once."""
    stacked = np.concatenate([np.empty((0, 2), np.int64), *sources])
    stacked = np.sort(stacked[stacked[:, 0] != stacked[:, 1]], axis=1)
    return np.unique(stacked, axis=0).astype(np.int64)


def retrieval_pairs(
    descriptors: npt.NDArray[Any], top_k: int, apart_from: Pairs | None = None
) -> Pairs:
    """Every image with its `top_k` most similar ones, not counting pairs known already.

    Neighbours in time are the most similar images of a drive; leaving them out lets
    retrieval find the other passes: the loops.
    """
    count = len(descriptors)
    k = min(top_k, count - 1)
    if k <= 0:
        return np.empty((0, 2), np.int64)
    known = union(apart_from) if apart_from is not None else np.empty((0, 2), np.int64)
    both = np.concatenate([known, known[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    found = []
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        scores = np.asarray(descriptors[rows], np.float32) @ np.asarray(descriptors.T, np.float32)
        scores[rows - start, rows] = -np.inf
        first, last = np.searchsorted(both[:, 0], [rows[0], rows[-1] + 1])
        scores[both[first:last, 0] - start, both[first:last, 1]] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        pair = np.stack([np.repeat(rows, k), best.ravel()], axis=1)
        found.append(pair[np.isfinite(np.take_along_axis(scores, best, axis=1).ravel())])
    return union(*found)


def farther_than(positions: Array, pairs: Pairs, distance: float) -> npt.NDArray[np.bool_]:
    """Which pairs (K,) are known to be farther apart than a distance in metres."""
    apart = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(apart > distance)


def sequence_pairs(images: ImageTable, neighbours: int) -> Pairs:
    """Every image with the next ones of its camera, and those 2, 4, 8, … times further.

    The powers of two up to `neighbours` squared give long tracks at few pairs.
    """
    steps = set(range(1, neighbours + 1))
    steps |= {2**power for power in range(32) if 2**power <= neighbours**2}
    found = []
    for camera in np.unique(images.camera):
        rows = np.flatnonzero(images.camera == camera)
        rows = rows[np.argsort(images.stamps[rows], kind="stable")]
        found += [np.stack([rows[:-s], rows[s:]], axis=1) for s in steps if s < len(rows)]
    return union(*found)


def rig_pairs(images: ImageTable) -> Pairs:
    """All pairs of images that a rig took at one instant."""
    order = np.argsort(images.frames, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(images.frames[order])) + 1)
    found = []
    for group in groups:
        first, second = np.triu_indices(len(group), k=1)
        found.append(np.stack([group[first], group[second]], axis=1))
    return union(*found)


def near_pairs(
    positions: Array, directions: Array | None, distance: float, options: PairOptions
) -> Pairs:
    """Every image with its nearest ones within a distance that look a similar way.

    Args:
        positions: (N, 3) metres; NaN where unknown.
        directions: (N, 3) optical axes, or None: any way.
    """
    known = np.flatnonzero(np.isfinite(positions).all(axis=1))
    if len(known) < 2 or options.pose_top_k == 0:
        return np.empty((0, 2), np.int64)
    tree = cKDTree(positions[known])
    # More than asked for, since some look elsewhere.
    k = min(6 * options.pose_top_k + 1, len(known))
    metres, found = tree.query(positions[known], k=k, distance_upper_bound=distance)
    first = np.repeat(np.arange(len(known)), k)
    second = found.ravel()
    good = np.isfinite(metres.ravel()) & (first != second)
    first, second = known[first[good]], known[second[good]]
    if directions is not None:
        cosine = (directions[first] * directions[second]).sum(axis=1)
        alike = cosine >= np.cos(np.radians(options.pose_angle))
        first, second = first[alike], second[alike]
    # Rows come sorted by distance within each image: keep the first of each.
    rank = np.arange(len(first)) - np.searchsorted(first, first, side="left")
    kept = rank < options.pose_top_k
    return union(np.stack([first[kept], second[kept]], axis=1))


def write_pairs(path: Path, images: ImageTable, pairs: Pairs) -> None:
    """Write a kapture pairsfile (every score is 1: the sources have no common scale).

    Raises:
        OutputError: if it cannot be written.
    """
    lines = ["# kapture format: 1.1\n# query_image, map_image, score\n"]
    lines += [f"{images.names[i]}, {images.names[j]}, 1\n" for i, j in pairs]
    write_atomically(path, "".join(lines))


def read_pairs(path: Path, images: ImageTable) -> Pairs:
    """Read a kapture pairsfile; pairs with images that are not in the table are left out.

    Raises:
        InputError: if it is missing or a line has no two names.
    """
    row_of = images.rows_by_name()
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        names = [field.strip() for field in line.split(",")]
        if len(names) < 2:
            raise InputError(f"{path}, line {number}: expected 'image, image, score'")
        if names[0] in row_of and names[1] in row_of:
            found.append((row_of[names[0]], row_of[names[1]]))
    return union(np.array(found, np.int64).reshape(-1, 2))

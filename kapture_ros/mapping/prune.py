"""Make a map smaller: images that others replace, points beyond a budget."""

from __future__ import annotations

import heapq
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kapture_ros.files import new_output
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.index import build_index
from kapture_ros.mapping.options import PruneOptions
from kapture_ros.mapping.structure import Structure
from kapture_ros.mapping.subset import open_map, write_subset

log = logging.getLogger(__name__)

POINTS_PER_IMAGE = 50  # kept in every image before the budget is spent by track length

Mask = npt.NDArray[np.bool_]


def prune_map(map_dir: Path, options: PruneOptions) -> None:
    """Replace a map by a smaller one; matches and other by-products go, too.

    Raises:
        InputError: if it is no map.
        OutputError: if it cannot be written.
    """
    source = open_map(map_dir)
    kept = kept_images(source.structure, options)
    points = kept_points(source.structure, kept, options)
    log.info(
        "prune: %d of %d images and %d of %d points stay",
        kept.sum(), len(kept), points.sum(), len(points),
    )  # fmt: skip
    with new_output(map_dir, overwrite=True) as partial:
        write_subset(source, partial, np.flatnonzero(kept), points)
        build_index(partial)
        measure_map(partial)


def kept_images(structure: Structure, options: PruneOptions) -> Mask:
    """Which images (N,) stay: greedily, the one with the smallest gain goes first.

    The gain of an image is the share of its points that at most `redundancy` other images
    see. Images go while the smallest gain is below `min_gain`, and on until `max_images`.
    """
    count = len(structure.offsets) - 1
    kept = np.ones(count, bool)
    seen = np.bincount(structure.points, minlength=len(structure.xyz))

    def gain(image: int) -> float:
        own = structure.points[structure.offsets[image] : structure.offsets[image + 1]]
        return float(np.mean(seen[own] - 1 <= options.redundancy)) if len(own) else 0.0

    queue = [(gain(image), image) for image in range(count)]
    heapq.heapify(queue)
    left = count
    while queue and left > 2:
        known, image = heapq.heappop(queue)
        now = gain(image)
        # Gains only grow as images go: a stale entry goes back with its present value.
        if now > known:
            heapq.heappush(queue, (now, image))
            continue
        over_budget = options.max_images is not None and left > options.max_images
        if now >= options.min_gain and not over_budget:
            break
        kept[image] = False
        left -= 1
        seen[structure.points[structure.offsets[image] : structure.offsets[image + 1]]] -= 1
    return kept


def kept_points(structure: Structure, images: Mask, options: PruneOptions) -> Mask:
    """Which points (P,) stay: those of the longest tracks, some in every image."""
    in_kept = images[structure.images]
    length = np.bincount(structure.points[in_kept], minlength=len(structure.xyz))
    kept = length >= 2
    if options.max_points is None or kept.sum() <= options.max_points:
        return np.asarray(kept)
    chosen = np.zeros(len(kept), bool)
    for image in np.flatnonzero(images):
        own = structure.points[structure.offsets[image] : structure.offsets[image + 1]]
        own = own[kept[own]]
        best = own[np.argsort(-length[own], kind="stable")]
        chosen[best[:POINTS_PER_IMAGE]] = True
    order = np.argsort(np.where(chosen, -np.inf, -length.astype(float)), kind="stable")
    budget = np.zeros(len(kept), bool)
    budget[order[: options.max_points]] = True
    return np.asarray(budget & kept)

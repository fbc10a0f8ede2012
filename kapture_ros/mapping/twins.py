"""Which points of a map look like others elsewhere in it? Its images localized where they are not.

A façade that was built twice, the floors of a car park: of one image nothing tells such places
apart, but the map has both. An image is localized among those that share no point with it;
where that succeeds, its points and those it was matched with are twins. Written beside
`map.yaml` as `twins.csv`, a row a pair; the localizer counts the twins of what agrees with a
pose as evidence for another place (`localization.ambiguity`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kapture_ros.localization.ambiguity import is_same_place
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.query import Reason
from kapture_ros.localization.retrieval import MIN_SHARED
from kapture_ros.mapping.relocate import query_of
from kapture_ros.mapping.subset import OpenMap
from kapture_ros.mapping.visual_map import VisualMap

Pairs = npt.NDArray[np.int32]
FOUND = (Reason.ACCEPTED, Reason.AMBIGUOUS)  # the latter at two places elsewhere


def find_twins(source: OpenMap, localizer: Localizer, images: Iterable[int]) -> Pairs:
    """Pairs of points (T, 2) that look alike at two places, both ways, sorted.

    Args:
        images: rows of the map's images to try; where one has twins, its neighbours are tried
            as well.
    """
    visual_map, rows = localizer.map, source.images.rows_by_name()
    waiting = deque(dict.fromkeys(images))
    seen, found = set(waiting), [np.empty((0, 2), np.int32)]
    with tqdm(total=len(waiting), desc="twins", disable=None) as progress:
        while waiting:
            image = waiting.popleft()
            near = _sharing(visual_map, image)
            row = rows[visual_map.image_names[image]]
            pairs = _pairs(source, row, localizer, image, near)
            progress.update()
            if len(pairs) == 0:
                continue
            found += [pairs, pairs[:, ::-1]]
            fresh = [row for row in np.flatnonzero(near).tolist() if row not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
            progress.total = len(seen)
    return np.unique(np.concatenate(found), axis=0)


def _sharing(visual_map: VisualMap, image: int) -> npt.NDArray[np.bool_]:
    """The images (N,) that see the place of an image: they share points with it."""
    points = visual_map.features(image).points
    rows = [visual_map.point_observations(point) for point in points.tolist()]
    images = visual_map.observing_images(np.concatenate([np.empty(0, np.int64), *rows]))
    return np.bincount(images, minlength=len(visual_map)) >= MIN_SHARED


def _pairs(
    source: OpenMap, row: int, localizer: Localizer, image: int, near: npt.NDArray[np.bool_]
) -> Pairs:
    """Points (T, 2) of an image and those it is taken for elsewhere; none where it is not.

    Args:
        row, image: the image's rows in the source and in the localizer's map.
    """
    visual_map, images = localizer.map, source.images
    query = query_of(images, [row], images.names, source.folders, source.manifest.features)
    estimate = localizer.localize(query, np.flatnonzero(~near))
    nothing, evidence = np.empty((0, 2), np.int32), estimate.evidence
    if estimate.reason not in FOUND or estimate.map_from_base is None:
        return nothing
    pose = visual_map.cam_from_map(image).inverse() @ query.images[0].cam_from_base
    if is_same_place(estimate.map_from_base, pose):
        return nothing
    assert evidence.matches is not None
    assert evidence.inliers is not None
    matches = evidence.matches.select(evidence.inliers)
    part = slice(*source.structure.offsets[row : row + 2])
    _, own, there = np.intersect1d(
        source.structure.keypoints[part], matches.keypoint, return_indices=True
    )
    return np.stack([source.structure.points[part][own], matches.point[there]], axis=1)

"""Which points of the map a pose sees about as the images that saw them.

From another side, from far away or from very near, a point looks another: `guided` does not seek
it there, and the localizer does not miss it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.mapping.visual_map import Points
from kapture_ros.transforms.se3 import Array, Transform

Mask = npt.NDArray[np.bool_]


def seen_as_mapped(
    points: Points,
    rows: npt.NDArray[np.integer],
    position: Array,
    min_cosine: float,
    max_zoom: float,
) -> Mask:
    """Which points (n,), by their rows, a position (3,) sees about as the map did.

    Args:
        min_cosine: between the ray to a point and its mean viewing direction.
        max_zoom: how much nearer or farther than in the map.
    """
    ray = points.xyz[rows] - position
    distance = np.maximum(np.linalg.norm(ray, axis=1), 1e-9)
    zoom = distance / np.maximum(points.distance[rows], 1e-9)
    alike: Mask = np.einsum("ni,ni->n", ray, points.direction[rows]) > min_cosine * distance
    alike &= (zoom < max_zoom) & (zoom > 1 / max_zoom)
    return alike


def in_images(xyz: Array, cameras: Sequence[MountedCamera], pose: Transform) -> Mask:
    """Which points (n, 3) lie in the image of any camera."""
    inside = np.zeros(len(xyz), bool)
    for camera in cameras:
        cam_from_map = camera.cam_from_base @ pose.inverse()
        pixels = camera.project(cam_from_map.apply(xyz))
        size = camera.camera.width, camera.camera.height
        with np.errstate(invalid="ignore"):  # NaN behind the camera
            inside |= ((pixels > 0) & (pixels < size)).all(axis=1)
    return inside

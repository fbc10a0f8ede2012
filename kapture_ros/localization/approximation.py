"""A coarse pose from retrieval alone: the candidates' poses, averaged.

Three ways to weight them (Pion et al., 3DV 2020): equal weights (EWB), the barycentric
coordinates of the query's global descriptor among the candidates' (BDI), and powers of
their cosine similarities (CSI).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.query import Candidate, CoarsePose
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, Transform

CSI_POWER = 8.0
RIDGE = 1e-6  # two candidates with one descriptor share their weight


def approximate_pose(
    visual_map: VisualMap,
    candidates: Sequence[Candidate],
    descriptor: npt.NDArray[np.float32],
    cam_from_base: Transform,
    method: str,
) -> CoarsePose:
    """The weighted mean pose of at least one candidate.

    Args:
        descriptor: (G,) the query image's global descriptor, of the map's type.
        method: ewb, bdi or csi.
    """
    images = [candidate.image for candidate in candidates]
    weights = _weights(visual_map, candidates, descriptor, method)
    poses = [visual_map.cam_from_map(image).inverse() for image in images]
    center = weights @ np.array([pose.translation for pose in poses])
    # A mean rotation knows no negative weights (BDI extrapolates).
    turns = np.array([pose.quaternion for pose in poses])
    spread = (np.maximum(weights, 1e-9)[:, None] * turns).T @ turns
    # The mean that is nearest to all, whichever sign they have (Markley et al., 2007).
    map_from_cam = Transform.from_quaternion(np.linalg.eigh(spread)[1][:, -1], center)
    return CoarsePose(map_from_cam @ cam_from_base, method)


def _weights(
    visual_map: VisualMap,
    candidates: Sequence[Candidate],
    descriptor: npt.NDArray[np.float32],
    method: str,
) -> Array:
    rows = np.array([candidate.image for candidate in candidates])
    if method == "ewb":
        return np.full(len(rows), 1 / len(rows))
    unit = np.asarray(descriptor, dtype=float)
    unit = unit / max(float(np.linalg.norm(unit)), 1e-12)
    known = np.asarray(visual_map.retrieval.descriptors[rows], dtype=float)
    if method == "csi":
        weights = np.maximum(known @ unit, 1e-6) ** CSI_POWER
        return np.asarray(weights / weights.sum())
    # min |q - Σ w d|² with Σ w = 1: with G the Gram matrix of q - d, w is G⁻¹ 1, scaled.
    offsets = unit - known
    gram = offsets @ offsets.T
    gram += np.eye(len(rows)) * (RIDGE + RIDGE * np.trace(gram))
    weights = np.linalg.solve(gram, np.ones(len(rows)))
    return np.asarray(weights / weights.sum())

"""Do the given poses fit the images? Measured on a sample of pairs before they are trusted.

Neighbouring images of one camera tell whether its extrinsics and calibration fit; pairs far
apart along the way tell whether the trajectory drifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.matching import MatchStore
from kapture_ros.mapping.options import VerifyOptions
from kapture_ros.mapping.pairs import Pairs
from kapture_ros.mapping.verification import (
    Rays,
    epipolar_error,
    known_motion,
    verify_pairs,
)
from kapture_ros.transforms.se3 import Array

Rows = npt.NDArray[np.int64]

SAMPLE = 16  # pairs of each kind; more do not change the verdict
MIN_INLIERS = 30  # a pair must be sure of its own geometry to be a witness
FITS = 0.9  # of what neighbouring images show, at least, where poses do not drift
MISFIT = 0.5
FAR = 20.0  # metres driven between images that tell of drift; in a room a quarter of the way


@dataclass(frozen=True, slots=True)
class PoseCheck:
    """Median share of verified matches that obey the given poses.

    Attributes:
        near: of neighbouring images, by camera id; cameras without witnesses are missing.
        far: of pairs far apart along the way; None without witnesses.
    """

    near: Mapping[str, float]
    far: float | None

    @property
    def misfits(self) -> list[str]:
        """Cameras whose own neighbouring images contradict the poses."""
        return sorted(camera for camera, share in self.near.items() if share < MISFIT)

    @property
    def drifts(self) -> bool:
        """Whether places seen again fit the poses clearly worse than neighbours do."""
        return self.far is not None and self.far < FITS * max(self.near.values(), default=1.0)

    @property
    def fits(self) -> bool:
        """Whether places seen again were there to tell, and they and all cameras fit."""
        return self.far is not None and not self.drifts and not self.misfits


def check_poses(
    images: ImageTable,
    pairs: Pairs,
    keypoints: FeatureFolder,
    store: MatchStore,
    options: VerifyOptions,
) -> PoseCheck:
    """Measure how well poses and images fit, on a sample of the pairs."""
    near, far = _near_pairs(images, pairs), _far_pairs(images, pairs)
    chosen = np.concatenate([*near.values(), far]).astype(int)
    unknown = np.zeros(len(chosen), bool)
    found = list(verify_pairs(images, pairs[chosen], keypoints, store, unknown, options))
    rays = Rays(images, keypoints)
    shares = {}
    for at, pair in zip(chosen.tolist(), found, strict=True):
        if len(pair.matches) < MIN_INLIERS:
            continue
        first = rays.plane(pair.first, pair.matches[:, 0])
        second = rays.plane(pair.second, pair.matches[:, 1])
        error = epipolar_error(known_motion(images, pair.first, pair.second), first, second)
        focal = rays.camera(pair.second).mean_focal_length()
        shares[at] = float(np.mean(error * focal <= options.max_error))

    def median(rows: Rows) -> float | None:
        known = [shares[row] for row in rows.tolist() if row in shares]
        return float(np.median(known)) if known else None

    by_camera = {camera: median(rows) for camera, rows in near.items()}
    return PoseCheck({c: s for c, s in by_camera.items() if s is not None}, median(far))


def _near_pairs(images: ImageTable, pairs: Pairs) -> dict[str, Rows]:
    """By camera, pairs of one camera with the shortest way between them that do show motion.

    By the way driven: after a kilometre of drift, what is near by the poses need not be.
    """
    centers = images.centers()
    posed = images.posed[pairs].all(axis=1)
    same = images.camera[pairs[:, 0]] == images.camera[pairs[:, 1]]
    apart = np.linalg.norm(centers[pairs[:, 0]] - centers[pairs[:, 1]], axis=1)
    way = way_driven(images)
    between = np.abs(way[pairs[:, 0]] - way[pairs[:, 1]])
    found = {}
    for camera in np.unique(images.camera):
        rows = np.flatnonzero(
            posed & same & (images.camera[pairs[:, 0]] == camera) & (apart > 0.05)
        )
        nearest = rows[np.argsort(between[rows], kind="stable")][: 8 * SAMPLE]
        found[images.cameras[camera].sensor_id] = evenly(np.sort(nearest), SAMPLE)
    return found


def _far_pairs(images: ImageTable, pairs: Pairs) -> Rows:
    """Pairs with the longest way between them, compared with how near they are in space."""
    posed = images.posed[pairs].all(axis=1)
    way = way_driven(images)
    between = np.abs(way[pairs[:, 0]] - way[pairs[:, 1]])
    centers = images.centers()
    apart = np.linalg.norm(centers[pairs[:, 0]] - centers[pairs[:, 1]], axis=1)
    far = min(FAR, float(way.max(initial=0.0)) / 4)
    rows = np.flatnonzero(posed & (between > far) & (between > 3.0 * apart))
    return evenly(rows, SAMPLE)


def way_driven(images: ImageTable) -> Array:
    """Metres driven until each image (N,), by camera and stamp."""
    way = np.zeros(len(images))
    centers = images.centers()
    for camera in np.unique(images.camera):
        rows = np.flatnonzero((images.camera == camera) & images.posed)
        rows = rows[np.argsort(images.stamps[rows], kind="stable")]
        steps = np.linalg.norm(np.diff(centers[rows], axis=0), axis=1)
        way[rows] = np.concatenate([[0.0], np.cumsum(steps)])[: len(rows)]
    return way


def evenly(rows: Rows, count: int) -> Rows:
    """So many of the rows at most, from the first to the last."""
    if len(rows) <= count:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])

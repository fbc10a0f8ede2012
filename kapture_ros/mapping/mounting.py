"""Are cameras turned as their poses say? The images of a camera in motion tell.

Poses reach a camera through extrinsics, which are often measured by hand, or are those of a model
of the vehicle. A camera that is turned against them sees all of the world move towards a wrong
point, by the same turn all along the drive, and a map made so contradicts itself. The turn with
which matches between images of one camera fit the poses best is found by least squares. How sure it
is tell stretches of the drive, each left out in turn (the jackknife; Künsch, Annals of Statistics
1989): poses that err by themselves have another turn in every stretch. Where the camera sits does
not show so, and a wrong principal point looks like a turn. A roll of a camera that looks and goes
straight ahead changes next to nothing of what it sees: such axes are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from kapture_ros.localization.refinement import cauchy_weight
from kapture_ros.mapping.consistency import evenly, way_driven
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.matching import MatchStore
from kapture_ros.mapping.pairs import Pairs
from kapture_ros.mapping.verification import (
    Rays,
    epipolar_error,
    essential_matrix,
    known_motion,
    on_plane,
    sampson,
)
from kapture_ros.transforms.se3 import Array, Transform

PAIRS = 120  # of a camera at most, evenly over the drive
ENOUGH = 20  # fewer do not tell
MATCHES = 100  # of a pair at most
APART = (0.25, 10.0)  # metres between the images of a pair
STRAIGHT = 1.2  # metres driven between them, a metre apart, at most
WAY = 40.0  # metres driven at least: poses err alike over some of them
STRETCHES = 8  # of the way
NEAR = 12.0  # pixels off the epipolar line by the poses as they are: further is a wrong match
LEAST = np.radians(0.1)  # a turn that matters
SURE = 4.0  # standard errors
SEEN = 0.03  # of the information about the axis that is seen best: with less an axis is left out
STEP = 1e-5  # radians, of the derivatives


@dataclass(frozen=True, slots=True)
class Mounting:
    """How a camera is turned.

    Attributes:
        sensor_id: of the camera.
        found: (3,) radians, the turn as a rotation vector; right, down, ahead of the camera. Zero
            about axes of which the images do not tell.
        sigma: (3,) radians, of it; infinite about those.
        turn: given_from_true camera frame, only about the axes for which it is certain.
        before, after: pixels, median epipolar error with the poses as given and so turned.
    """

    sensor_id: str
    found: Array
    sigma: Array
    turn: Rotation
    before: float
    after: float

    @property
    def is_off(self) -> bool:
        """Whether the camera is turned for certain, and by as much as matters."""
        return bool(self.turn.magnitude() > 0)

    def told(self) -> str:
        """In words and degrees: the turn, and what the images say of the other axes."""
        certain: list[str] = []
        others: list[str] = []
        for way, found, sigma, turn in zip(
            ("up", "right", "clockwise"), self.found, self.sigma, self.turn.as_rotvec(), strict=True
        ):
            angle = turn if turn else found
            if np.isfinite(sigma):
                said = f"{np.degrees(angle):.2f} ± {np.degrees(sigma):.2f}° {way}"
                (certain if turn else others).append(said)
        more = f" (left alone: {', '.join(others)})" if others else ""
        return ", ".join(certain) + more


@dataclass(frozen=True, slots=True)
class _Seen:
    """Matches between images of one camera.

    Attributes:
        essential: (p, 3, 3) of the pairs, by the poses as given.
        pair: (m,) of each match, ascending.
        first, second: (m, 3) on the planes z = 1.
        focal: pixels.
    """

    essential: Array
    pair: npt.NDArray[np.intp]
    first: Array
    second: Array
    focal: float

    def errors(self, turn: Rotation) -> Array:
        """(m,) signed epipolar errors in pixels, if the camera is turned so."""
        true_from_given = turn.inv().as_matrix()
        essential = (true_from_given @ self.essential @ true_from_given.T)[self.pair]
        line_2 = np.einsum("mij,mj->mi", essential, self.first)
        line_1 = np.einsum("mji,mj->mi", essential, self.second)
        return self.focal * sampson(self.second, line_2, line_1)

    def select(self, rows: npt.NDArray[np.bool_]) -> _Seen:
        """Some of the matches."""
        return replace(self, pair=self.pair[rows], first=self.first[rows], second=self.second[rows])


def mountings(
    images: ImageTable, pairs: Pairs, keypoints: FeatureFolder, store: MatchStore
) -> list[Mounting]:
    """The turn of every camera whose images tell it."""
    rays, way = Rays(images, keypoints), way_driven(images)
    found = []
    for number, camera in enumerate(images.cameras):
        seen = _seen(images, _moving_pairs(images, way, pairs, number), rays, store)
        if seen is not None:
            found.append(_turned(camera.sensor_id, seen))
    return found


def corrected(images: ImageTable, mounting: Mounting) -> ImageTable:
    """The images, and the camera in its rigs, turned as the images tell."""
    true_from_given = Transform(mounting.turn.inv())
    number = [camera.sensor_id for camera in images.cameras].index(mounting.sensor_id)
    rows = np.flatnonzero((images.camera == number) & images.posed)
    poses = [true_from_given @ images.cam_from_map(row) for row in rows.tolist()]
    rigs = {
        rig: {
            sensor: true_from_given @ pose if sensor == mounting.sensor_id else pose
            for sensor, pose in sensors.items()
        }
        for rig, sensors in images.rigs.items()
    }
    columns = np.array([[*pose.quaternion, *pose.translation] for pose in poses])
    return replace(images.with_poses(rows, columns), rigs=rigs)


def _moving_pairs(images: ImageTable, way: Array, pairs: Pairs, camera: int) -> Pairs:
    """Pairs of images of one camera, taken one soon after the other from elsewhere.

    No pair, if it did not go far.

    Args:
        way: (N,) metres driven until each image.
    """
    both = (images.camera[pairs] == camera).all(axis=1) & images.posed[pairs].all(axis=1)
    own = pairs[both]
    own = own[np.argsort(images.stamps[own].min(axis=1), kind="stable")]
    if len(own) == 0 or np.ptp(way[own]) < WAY:
        nothing: Pairs = own[:0]
        return nothing
    centers = images.centers()
    apart = np.linalg.norm(centers[own[:, 0]] - centers[own[:, 1]], axis=1)
    driven = np.abs(way[own[:, 0]] - way[own[:, 1]])
    good = np.flatnonzero((apart > APART[0]) & (apart < APART[1]) & (driven < STRAIGHT * apart))
    chosen: Pairs = own[evenly(good, PAIRS)]
    return chosen


def _seen(images: ImageTable, pairs: Pairs, rays: Rays, store: MatchStore) -> _Seen | None:
    """The matches of pairs of one camera; None if there are too few."""
    motions, counts, first, second = [], [], [], []
    for one, other in pairs.tolist():
        matches, _ = store.read(images.names[one], images.names[other])
        start, end = rays.plane(one, matches[:, 0]), rays.plane(other, matches[:, 1])
        motion, focal = known_motion(images, one, other), rays.camera(one).mean_focal_length()
        good = np.flatnonzero(epipolar_error(motion, start, end) * focal < NEAR)
        if len(good) < ENOUGH:
            continue
        good = evenly(good, MATCHES)
        motions.append(essential_matrix(motion))
        counts.append(len(good))
        first.append(on_plane(start[good]))
        second.append(on_plane(end[good]))
    if len(motions) < ENOUGH:
        return None
    pair = np.repeat(np.arange(len(motions)), counts)
    return _Seen(np.array(motions), pair, np.concatenate(first), np.concatenate(second), focal)


def _turned(sensor_id: str, seen: _Seen) -> Mounting:
    axes = _axes_seen(seen)
    found = _best_turn(seen, axes)
    stretch = seen.pair * STRETCHES // len(seen.essential)
    without = [_best_turn(seen.select(stretch != left_out), axes) for left_out in range(STRETCHES)]
    sigma = np.full(3, np.inf)
    sigma[axes] = np.sqrt((STRETCHES - 1) * np.var(without, axis=0))[axes]
    certain = (np.abs(found) > LEAST) & (np.abs(found) > SURE * sigma)
    turn = Rotation.from_rotvec(_best_turn(seen, np.flatnonzero(certain)))
    before, after = (
        float(np.median(np.abs(seen.errors(way)))) for way in (Rotation.identity(), turn)
    )
    return Mounting(sensor_id, found, sigma, turn, before, after)


def _axes_seen(seen: _Seen) -> npt.NDArray[np.intp]:
    """The axes of which the images tell, by the information about each beside the others."""
    slopes = [
        seen.errors(Rotation.from_rotvec(step)) - seen.errors(Rotation.from_rotvec(-step))
        for step in STEP * np.eye(3)
    ]
    slope = np.stack(slopes, axis=1) / (2 * STEP)
    weighed = slope * cauchy_weight(seen.errors(Rotation.identity()))[:, None]
    alone = 1 / np.diagonal(np.linalg.inv(weighed.T @ slope))
    axes: npt.NDArray[np.intp] = np.flatnonzero(alone > SEEN * alone.max())
    return axes


def _best_turn(seen: _Seen, axes: npt.NDArray[np.intp]) -> Array:
    """(3,) rotation vector about some of the axes.

    Cauchy's loss at one pixel, in which what is left of wrong matches counts little.
    """
    free = np.eye(3)[axes]
    if len(free) == 0:
        return np.zeros(3)

    def errors(angles: Array) -> Array:
        return seen.errors(Rotation.from_rotvec(angles @ free))

    start = np.zeros(len(free))
    found: Array = least_squares(errors, start, loss="cauchy", x_scale=LEAST).x @ free
    return found

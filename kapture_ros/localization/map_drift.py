"""A pose in a map whose own poses drift apart along the way they were driven.

Poses of an INS, of RTK or of odometry agree from one image to the next, and the less the further
two are apart: what was mapped from 30 m back lies elsewhere than what was mapped from here, by
more than pixels tell. Were all matches taken alike, distant stretches of the way would pull the
pose to where they are. So each stretch is off by a rigid motion of its own, and by the more the
further away it is: a random effect, estimated together with the pose (mixed model equations,
Henderson, Biometrics 1975). A point is off as the stretches are that saw it, each by its share of
the observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.refinement import (
    Int32,
    Matches,
    Priors,
    Refined,
    cauchy_weight,
    linearize,
    prior_equations,
    robust_sigma,
    variance_factor,
)
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, Transform, disturb

STRETCH = 0.25  # of the usual distance to points: what is seen is another view after that
MOST = 8  # stretches that matter to one instant
STEPS = 3  # from a pose that is refined already
PAUSE_NS = 10_000_000_000  # behind it another drive begins


@dataclass(frozen=True, slots=True)
class MapDrift:
    """The stretches of a map's drives, K knots with weights that change linearly between them.

    Attributes:
        rate: metres by which poses a metre apart are off each other (one sigma), and by
            as much in the image by turning.
        depth: metres, the usual distance of a point.
        place: (N,) of each image on the way, in knots.
        counted: (N,) bool, the images that the points are made of.
        knots: (K, 3) metres, where the images of each knot are.
    """

    map: VisualMap
    rate: float
    depth: float
    place: Array
    counted: npt.NDArray[np.bool_]
    knots: Array

    @classmethod
    def of(cls, visual_map: VisualMap, rate: float) -> MapDrift:
        """The stretches of a map that drifts at a rate."""
        depth = float(np.median(visual_map.points.distance))
        _, first, frame = np.unique(visual_map.image_frames, return_index=True, return_inverse=True)
        order = np.argsort(first)
        centers = np.asarray(visual_map.image_centers, float)
        # One camera of an instant stands for all: those of a rig are not a way to drive.
        step = np.linalg.norm(np.diff(centers[first[order]], axis=0), axis=1) / (STRETCH * depth)
        paused = np.diff(visual_map.image_stamps[first[order]]) > PAUSE_NS
        along = np.concatenate([[0.0], np.cumsum(np.where(paused, np.maximum(step, 2.0), step))])
        place = np.empty(len(order))
        place[order] = along
        place = place[frame]
        knot, share = _between(place)
        sums = [np.bincount(knot.ravel(), (share * centers[:, axis]).ravel()) for axis in range(3)]
        total = np.maximum(np.bincount(knot.ravel(), share.ravel()), 1e-9)
        everything = np.ones(len(place), bool)
        return cls(
            visual_map, rate, depth, place, everything, np.stack(sums, axis=1) / total[:, None]
        )

    def without(self, images: npt.NDArray[np.intp]) -> MapDrift:
        """Of the map as it would be without some of its images."""
        counted = self.counted.copy()
        counted[images] = False
        return replace(self, counted=counted)

    def stretches(self, points: Int32, position: Array) -> tuple[Array, Array]:
        """Those that matter to a pose at a position (3,): k of them.

        Args:
            points: (n,) rows of the map's points.

        Returns:
            Shares (n, k) of the observations of each point, and by how much a stretch is off: one
            sigma (k, 6) of (δp, δθ), a motion of its points as the pose is disturbed.
        """
        owner, observations = self.map.observations_of(points)
        images = self.map.observing_images(observations)
        kept = self.counted[images]
        owner, images = owner[kept], images[kept]
        knot, share = _between(self.place[images])
        knots, column = np.unique(knot, return_inverse=True)
        flat = (owner * len(knots) + column.reshape(knot.shape)).ravel()
        seen = np.bincount(flat, share.ravel(), len(points) * len(knots)).astype(float)
        seen = seen.reshape(len(points), len(knots))
        table = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1e-9)
        chosen = np.sort(np.argsort(-table.sum(axis=0), kind="stable")[:MOST])
        away = np.linalg.norm(self.knots[knots[chosen]] - position, axis=1)
        metres = self.rate * np.maximum(away, STRETCH * self.depth / 2)
        return table[:, chosen], np.repeat(np.stack([metres, metres / self.depth], 1), 3, axis=1)

    def refined(
        self,
        matches: Matches,
        cameras: Sequence[MountedCamera],
        start: Transform,
        priors: Priors,
    ) -> Refined | None:
        """The most probable pose, and what pixels and priors leave open of it.

        Args:
            matches: n inliers of `start`, which is refined already.

        Returns:
            None if they do not determine it.
        """
        share, sigma = self.stretches(matches.point, start.translation)
        count = 1 + share.shape[1]  # the pose, and what each stretch is off by
        # A stretch that moves with its points looks as if the pose moved the other way.
        signs = np.hstack([np.ones((len(share), 1)), -share])
        pairs = (signs[:, :, None] * signs[:, None, :]).reshape(len(share), count**2)
        precision = np.vstack([np.zeros(6), sigma**-2])
        pose, off = start, np.zeros_like(precision)  # the pose itself is not off
        for _ in range(STEPS):
            residual, jacobian = linearize(matches, cameras, pose)
            if len(residual) < len(matches):  # some are behind the camera now
                return None
            residual = residual + np.einsum("nab,nb->na", jacobian, signs @ off)
            length = np.linalg.norm(residual, axis=1)
            noise = robust_sigma(length)
            weight = cauchy_weight(length / noise)
            weighted = jacobian * (weight / noise**2)[:, None, None]
            square = np.matmul(weighted.transpose(0, 2, 1), jacobian).reshape(len(share), 36)
            visual = (pairs.T @ square).reshape(count, count, 6, 6)
            visual = visual.transpose(0, 2, 1, 3).reshape(6 * count, 6 * count)
            gradient = signs.T @ np.einsum("nab,na->nb", weighted, residual) + precision * off
            prior_information, prior_gradient, _ = prior_equations(priors, pose)
            gradient[0] += prior_gradient
            total = visual + np.diag(precision.ravel())
            total[:6, :6] += prior_information
            try:
                inverse = np.linalg.inv(total)
            except np.linalg.LinAlgError:
                return None
            step = -(inverse @ gradient.ravel()).reshape(count, 6)
            if not np.isfinite(step).all():
                return None
            pose = disturb(pose, step[0])
            off[1:] += step[1:]
        # What stretches are off by is the map's error, which is told apart from this.
        known = variance_factor(weight, length / noise) * visual
        known[:6, :6] += prior_information
        covariance = inverse[:6] @ known @ inverse[:, :6]
        return Refined(pose, (covariance + covariance.T) / 2, noise)


def _between(place: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """The two knots (2, n) around places (n,) on the way, and the share (2, n) of each."""
    before = np.floor(place)
    after = place - before
    knot = before.astype(np.int64)
    return np.stack([knot, knot + 1]), np.stack([1 - after, after])

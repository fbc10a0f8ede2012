"""Matches without retrieval: the map's points are projected from a predicted pose.

The prediction with its covariance comes from the motion filter, features from the localizer's
views; the 2D-3D matches go to `pose` like any others. A keypoint is compared only with the
points that may be there: within a radius that follows from the covariance, seen from about
the same direction and distance as when the map was made.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.map_drift import MapDrift
from kapture_ros.localization.matching import ImageMatches, gather
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.pose import PoseSolution, estimate_pose
from kapture_ros.localization.refinement import NO_PRIORS, Matches, PosePrior, Priors
from kapture_ros.localization.views import View
from kapture_ros.localization.visibility import seen_as_mapped
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.options import option
from kapture_ros.transforms.se3 import Array

SIGMAS = 3.0  # of the prediction in the search radius
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GuidedOptions:
    """How map points are searched around a predicted pose."""

    range: float = option(60.0, "how far from the vehicle map points are expected", unit="m")
    max_turn: float = option(
        50.0, "how far from its mean viewing direction a point is recognized", unit="deg"
    )
    max_zoom: float = option(2.5, "how much nearer or farther than in the map", minimum=1)
    max_points: int = option(2000, "points projected, those in most images first", minimum=10)
    max_error: float = option(4.0, "reprojection error of an inlier", unit="px", minimum=0.1)
    min_radius: float = option(
        20.0,
        "smallest search radius; a multiple of the error, so that chance agreement is rare",
        unit="px",
        minimum=1,
    )
    max_radius: float = option(
        80.0, "largest search radius; a worse prediction needs retrieval", unit="px", minimum=1
    )
    min_similarity: float = option(
        0.5, "cosine similarity of a match at least", minimum=-1, maximum=1
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """Map points that a camera should see: V points.

    Attributes:
        points: (V,) rows of the map's points.
        observations: (V,) rows of the map's observations, each from the nearest map image.
        pixels: (V, 2) where they should be.
        radius: (V,) pixels in which to search.
    """

    points: Rows
    observations: Rows
    pixels: Array
    radius: Array


def match_guided(
    visual_map: VisualMap, views: Sequence[View], prior: PosePrior, options: GuidedOptions
) -> Matches:
    """2D-3D matches of all views near where the prior says; `camera` counts the views."""
    found = []
    rows = _recognizable(visual_map, prior, options)
    for view in views:
        expected = expect(visual_map, rows, view.camera, prior, options)
        found.append(_match_view(visual_map, view, expected, options))
    return gather(visual_map, [view.features for view in views], found)


def solve_guided(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    prior: PosePrior,
    pose: PoseOptions,
    options: GuidedOptions,
    priors: Priors = NO_PRIORS,
    drift: MapDrift | None = None,
) -> PoseSolution | None:
    """PnP that begins at the prior; the prior itself is not mixed into the answer.

    Args:
        priors: these are (gravity).
        drift: of the map, if it is known to drift.
    """
    tight = replace(pose, max_error=options.max_error, max_iterations=1000)
    return estimate_pose(matches, cameras, tight, priors, prior.map_from_base, drift)


def expect(
    visual_map: VisualMap,
    rows: Rows,
    camera: MountedCamera,
    prior: PosePrior,
    options: GuidedOptions,
) -> Expected:
    """Project points (rows of the map) into a camera of the predicted pose."""
    xyz = visual_map.points.xyz[rows]
    pose = prior.map_from_base
    cam_from_map = camera.cam_from_base @ pose.inverse()
    pixels, by_point = camera.project_with_jacobian(cam_from_map.apply(xyz))
    # As in `refinement`: a point moves in the camera by R (-δp + arm × δθ).
    by_map = by_point @ cam_from_map.rotation_matrix()
    arm = xyz - pose.translation
    by_turn = np.cross(by_map, arm[:, None])  # g · (arm × δθ) = δθ · (g × arm)
    jacobian = np.concatenate([-by_map, by_turn], axis=2)
    spread = jacobian @ prior.covariance @ jacobian.transpose(0, 2, 1)
    sigma = np.sqrt(np.trace(spread, axis1=1, axis2=2))  # of both axes: never too small
    radius = np.clip(SIGMAS * sigma, options.min_radius, options.max_radius)
    size = np.array([camera.camera.width, camera.camera.height])
    with np.errstate(invalid="ignore"):  # NaN behind the camera
        near = ((pixels > -radius[:, None]) & (pixels < size + radius[:, None])).all(axis=1)
    near &= np.isfinite(radius) & (visual_map.points.track_length[rows] > 0)
    observations = _nearest_observations(visual_map, rows[near], pose.translation)
    return Expected(rows[near], observations, pixels[near], radius[near])


def _recognizable(visual_map: VisualMap, prior: PosePrior, options: GuidedOptions) -> Rows:
    """Points in range that were seen from about this direction and distance."""
    position = prior.map_from_base.translation
    rows = visual_map.point_grid.within(position, options.range)
    points, cosine = visual_map.points, float(np.cos(np.deg2rad(options.max_turn)))
    rows = rows[seen_as_mapped(points, rows, position, cosine, options.max_zoom)]
    if len(rows) > options.max_points:
        order = np.argsort(-points.track_length[rows], kind="stable")
        rows = np.sort(rows[order[: options.max_points]])
    return rows


def _nearest_observations(visual_map: VisualMap, rows: Rows, position: Array) -> Rows:
    """For each point the observation from the map image nearest to a position."""
    owner, observations = visual_map.observations_of(rows)
    centers = visual_map.image_centers[visual_map.observing_images(observations)]
    distance = ((centers - position) ** 2).sum(axis=1)
    order = np.lexsort((distance, owner))
    nearest: Rows = observations[order[np.flatnonzero(np.diff(owner, prepend=-1))]]
    return nearest


def _match_view(
    visual_map: VisualMap, view: View, expected: Expected, options: GuidedOptions
) -> ImageMatches:
    """Mutual nearest descriptors among the pairs that are near enough in the image."""
    keypoint, place = _near_pairs(view, expected)
    descriptors = view.features.descriptors[keypoint]
    known = visual_map.observation_descriptors[expected.observations].astype(np.float32)
    similarity = np.einsum("nd,nd->n", descriptors, known[place])
    best_of_keypoint = np.full(len(view.features.keypoints), -np.inf, np.float32)
    best_of_point = np.full(len(expected.points), -np.inf, np.float32)
    np.maximum.at(best_of_keypoint, keypoint, similarity)
    np.maximum.at(best_of_point, place, similarity)
    kept = (similarity >= best_of_keypoint[keypoint]) & (similarity >= best_of_point[place])
    kept &= similarity >= options.min_similarity
    keypoint, point, similarity = keypoint[kept], expected.points[place[kept]], similarity[kept]
    order = np.lexsort((point, keypoint))
    none = np.zeros(len(order), np.int32)
    keypoint, point = keypoint[order].astype(np.int32), point[order].astype(np.int32)
    return ImageMatches(keypoint, point, none, similarity[order])


def _near_pairs(view: View, expected: Expected) -> tuple[Rows, Rows]:
    """Rows of keypoints and of expected points that are within the points' radii."""
    if len(expected.points) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    tree = cKDTree(view.features.keypoints[:, :2])
    near = tree.query_ball_point(expected.pixels, expected.radius)
    counts = np.fromiter(map(len, near), np.int64, len(near))
    keypoint = np.fromiter(itertools.chain.from_iterable(near), np.int64, int(counts.sum()))
    return keypoint, np.repeat(np.arange(len(near)), counts)

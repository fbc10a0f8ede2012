"""Matches without retrieval: the map's points are projected from a predicted pose.

The prediction with its covariance comes from the motion filter, features from the localizer's
views; the 2D-3D matches go to `pose` like any others. A keypoint is compared only with the
points that may be there: within a radius that follows from the covariance, seen from about
the same direction and distance as when the map was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kapture_ros.compiled import compiled
from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.map_drift import MapDrift
from kapture_ros.localization.matching import ImageMatches, gather
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.pose import PoseSolution, estimate_pose
from kapture_ros.localization.refinement import NO_PRIORS, Matches, PosePrior, Priors
from kapture_ros.localization.views import View
from kapture_ros.localization.visibility import seen_as_mapped
from kapture_ros.mapping.matching import in_single
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.options import option
from kapture_ros.transforms.se3 import Array

SIGMAS = 3.0  # of the prediction in the search radius
VIEWPOINTS = 4  # map images whose descriptors of a point are compared, the nearest ones
ALIKE = 0.05  # similarity by which a keypoint's other points may be worse: a map has many twice
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GuidedOptions:
    """How map points are searched around a predicted pose."""

    range: float = option(
        50.0, "how far from the vehicle map images are whose points are expected", unit="m"
    )
    max_images: int = option(100, "of these, the nearest ones", minimum=1)
    max_turn: float = option(
        50.0, "how far from its mean viewing direction a point is recognized", unit="deg"
    )
    max_zoom: float = option(2.5, "how much nearer or farther than in the map", minimum=1)
    max_pairs: int = option(
        300_000,
        "keypoints and points compared in an image, points in most map images first",
        minimum=100,
    )
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
        pixels: (V, 2) where they should be.
        radius: (V,) pixels in which to search.
    """

    points: Rows
    pixels: Array
    radius: Array

    def select(self, rows: npt.NDArray[np.intp]) -> Expected:
        """Some of them."""
        return Expected(self.points[rows], self.pixels[rows], self.radius[rows])


def match_guided(
    visual_map: VisualMap,
    views: Sequence[View],
    prior: PosePrior,
    options: GuidedOptions,
    among: Rows | None = None,
) -> Matches:
    """2D-3D matches of all views near where the prior says; `camera` counts the views.

    Args:
        among: images of the map whose points and descriptors may be used; None: all.
    """
    found = []
    position = prior.map_from_base.translation
    rows = _recognizable(visual_map, position, options, among)
    for view in views:
        expected = expect(visual_map, rows, view.camera, prior, options)
        expected = _affordable(visual_map, view, expected, options.max_pairs)
        found.append(_match_view(visual_map, view, expected, position, options, among))
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
    tight = tightened(pose, options)
    return estimate_pose(matches, cameras, tight, priors, prior.map_from_base, drift)


def tightened(pose: PoseOptions, options: GuidedOptions) -> PoseOptions:
    """How a pose is estimated from guided matches."""
    return replace(pose, max_error=options.max_error, max_iterations=1000)


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
    near &= np.isfinite(radius)
    return Expected(rows[near], pixels[near], radius[near])


def _recognizable(
    visual_map: VisualMap, position: Array, options: GuidedOptions, among: Rows | None
) -> Rows:
    """Points of the images around that were seen from about this direction and distance."""
    images = visual_map.image_grid.within(position, options.range)
    if among is not None:
        images = np.intersect1d(images, among)
    away = ((visual_map.image_centers[images] - position) ** 2).sum(axis=1)
    nearest = images[np.argsort(away, kind="stable")[: options.max_images]]
    shown = [visual_map.features(int(image)).points for image in nearest]
    rows = np.unique(np.concatenate([np.empty(0, np.int32), *shown])).astype(np.int64)
    cosine = float(np.cos(np.deg2rad(options.max_turn)))
    return rows[seen_as_mapped(visual_map.points, rows, position, cosine, options.max_zoom)]


def _affordable(visual_map: VisualMap, view: View, expected: Expected, max_pairs: int) -> Expected:
    """Those in most images, as many as can be compared with the keypoints around them."""
    order = np.argsort(-visual_map.points.track_length[expected.points], kind="stable")
    size = view.camera.camera.width * view.camera.camera.height
    around = np.pi * expected.radius[order] ** 2 * len(view.features.keypoints) / size
    return expected.select(np.sort(order[np.cumsum(around) <= max_pairs]))


def near_observations(
    visual_map: VisualMap, points: Rows, position: Array, among: Rows | None = None
) -> tuple[Rows, Rows]:
    """Of each point the observations from the few map images (`among` these) nearest to a position.

    Returns:
        Where those of each point begin (n + 1,), and their rows (m,) in the map.
    """
    owner, observations = visual_map.observations_of(points)
    images = visual_map.observing_images(observations)
    if among is not None:
        kept = np.isin(images, among)
        owner, observations, images = owner[kept], observations[kept], images[kept]
    centers = visual_map.image_centers[images]
    order = np.lexsort((((centers - position) ** 2).sum(axis=1), owner))
    # Sorted by point, so the owners are in the same order as before.
    starts = np.searchsorted(owner, np.arange(len(points) + 1))
    few = np.arange(len(owner)) - starts[owner] < VIEWPOINTS
    counts = np.minimum(np.diff(starts), VIEWPOINTS)
    return np.concatenate([[0], np.cumsum(counts)]), observations[order[few]]


def _match_view(
    visual_map: VisualMap,
    view: View,
    expected: Expected,
    position: Array,
    options: GuidedOptions,
    among: Rows | None,
) -> ImageMatches:
    """For each point the most similar keypoint near enough, unless that is more like another."""
    features = view.features
    order = np.argsort(features.keypoints[:, 1], kind="stable")
    keypoints = features.keypoints[order, :2].astype(float)
    descriptors = in_single(features.descriptors[order])
    reach = expected.pixels[:, 1:] + expected.radius[:, None] * [-1.0, 1.0]
    starts, observations = near_observations(visual_map, expected.points, position, among)
    known = in_single(visual_map.observation_descriptors[observations])
    nearest, similarity = _most_similar(
        expected.pixels,
        expected.radius,
        np.searchsorted(keypoints[:, 1], reach),
        keypoints,
        descriptors,
        known,
        starts,
    )
    best = np.full(len(keypoints), options.min_similarity + ALIKE, np.float32)
    np.maximum.at(best, nearest, similarity)
    found = np.flatnonzero(similarity >= best[nearest] - ALIKE)
    keypoint, point = order[nearest[found]].astype(np.int32), expected.points[found]
    rows = np.lexsort((point, keypoint))
    none = np.zeros(len(rows), np.int32)
    return ImageMatches(keypoint[rows], point[rows].astype(np.int32), none, similarity[found[rows]])


@compiled(
    "Tuple((i8[::1], f4[::1]))"
    "(f8[:,::1], f8[::1], i8[:,::1], f8[:,::1], f4[:,::1], f4[:,::1], i8[::1])",
    fastmath={"reassoc", "contract"},
)
def _most_similar(
    pixels: Array,
    radius: Array,
    reach: Rows,
    keypoints: Array,
    descriptors: Floats,
    known: Floats,
    starts: Rows,
) -> tuple[Rows, Floats]:
    """The keypoint most similar to any observation of each point, and how similar; -inf: none.

    Args:
        pixels, radius: (V, 2) and (V,), where to look for each point.
        reach: (V, 2) from which to which row of the keypoints.
        keypoints, descriptors: (n, 2) and (n, D), downwards in the image.
        known: (m, D) of the observations; those of each point begin at `starts` (V + 1,).
    """
    nearest = np.zeros(len(pixels), np.int64)
    similarity = np.full(len(pixels), -np.inf, np.float32)
    for point in range(len(pixels)):
        for keypoint in range(reach[point, 0], reach[point, 1]):
            across = keypoints[keypoint, 0] - pixels[point, 0]
            down = keypoints[keypoint, 1] - pixels[point, 1]
            if not across * across + down * down <= radius[point] * radius[point]:  # or NaN
                continue
            ours = descriptors[keypoint]
            for observation in range(starts[point], starts[point + 1]):
                theirs = known[observation]
                product = np.float32(0)
                for c in range(len(ours)):
                    product += ours[c] * theirs[c]
                if product > similarity[point]:
                    nearest[point], similarity[point] = keypoint, product
    return nearest, similarity

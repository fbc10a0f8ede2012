"""Localization without points of the map: those that a query needs are made of its candidates.

NAVER's local SfM (Humenberger et al., 2020). Each keypoint of the query is matched with all
keypoints of the candidates, whose poses are known; one that three of them see becomes a
point. Slower than the map's own points, and better where the map has few or bad ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.cameras import MountedCamera, closest_approach
from kapture_ros.localization.extractor import Extractor
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.matching import ImageMatches, comparison, with_points
from kapture_ros.localization.options import AcceptanceOptions, LocalizerOptions
from kapture_ros.localization.pose import PoseSolution
from kapture_ros.localization.query import Candidate, Scores
from kapture_ros.localization.retrieval import Retriever, covisibility_clusters
from kapture_ros.localization.views import Candidates, Correspondences, Offers, View
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array

MIN_VIEWS = 3  # candidates that must agree about a point, as in NAVER's
MIN_ANGLE = np.deg2rad(1.0)  # between two rays that propose a point
NO_POINT = -1  # the row of a point that the map does not hold


class LocalSfm(Localizer):
    """A localizer that makes its points for each query; the map needs poses and features.

    Raises:
        InputError: if the map does not hold the features of its images.
    """

    def __init__(
        self,
        visual_map: VisualMap,
        options: LocalizerOptions | None = None,
        extractor: Extractor | None = None,
        retrievers: Mapping[str, Retriever] | None = None,
    ):
        super().__init__(visual_map, options, extractor, retrievers)
        self.drift = None  # which stretches saw a point is known of the map's own
        types = visual_map.feature_types
        path = visual_map.path
        self._keypoints = FeatureFolder.in_dataset(path, "keypoints", types.keypoints)
        self._descriptors = FeatureFolder.in_dataset(path, "descriptors", types.descriptors)

    def prepare(self, candidates: Sequence[Candidates]) -> Offers:
        """What the candidates show; their points are made when they are matched."""
        return Offers(tuple(candidates), (), self.shown(candidates))

    def match(self, views: Sequence[View], offers: Offers) -> Correspondences:
        """2D-3D matches of all views with points made of their candidates.

        Raises:
            Rejected: if too few keypoints have one.
        """
        made = [self._make(v, c) for v, c in zip(views, offers.candidates, strict=True)]
        found = tuple(points.found for points in made)
        self.require_matches(found)
        xyz = np.concatenate([points.xyz for points in made])
        covariance = np.concatenate([points.covariance for points in made])
        matches = with_points([view.features for view in views], found, xyz, covariance)
        places = covisibility_clusters(offers.shown)
        return Correspondences(
            tuple(views), offers.candidates, found, matches, offers.shown, places
        )

    def expect(self, scores: Scores, known: Correspondences, solution: PoseSolution) -> Scores:
        """Nothing is known of what should be seen: the map's own points are not used."""
        return scores

    def limits(self, seen: float) -> AcceptanceOptions:
        """Those of the options, as in NAVER's."""
        return self.options.acceptance

    def _make(self, view: View, candidates: Sequence[Candidate]) -> _Made:
        """The points of one view."""
        images = [candidate.image for candidate in candidates]
        names = [self.map.image_names[image] for image in images]
        known = [unit_rows(self._descriptors.read(name)) for name in names]
        joint = comparison(known, self.options.matching)(view.features.descriptors)()
        pairs = joint.split(len(known))
        count = len(view.features.keypoints)
        rays = np.full((count, len(images), 3), np.nan)
        similarity = np.full((count, len(images)), -1.0, np.float32)
        for number, (rows, values) in enumerate(pairs):
            camera = MountedCamera(self.map.camera(images[number]))
            pixels = self._keypoints.read(names[number])[rows[:, 1], :2]
            map_from_cam = self.map.cam_from_map(images[number]).inverse()
            rays[rows[:, 0], number] = map_from_cam.rotation.apply(camera.rays(pixels))
            similarity[rows[:, 0], number] = values
        centers = np.asarray(self.map.image_centers[images], float)
        focals = np.array([MountedCamera(self.map.camera(image)).focal for image in images])
        keypoint = np.flatnonzero(np.isfinite(rays[..., 0]).sum(axis=1) >= MIN_VIEWS)
        points = triangulate(rays[keypoint], centers, focals, self.options.pose.max_error)
        keypoint, similarity = keypoint[points.rows], similarity[keypoint[points.rows]]
        best = similarity.argmax(axis=1).astype(np.int32)
        none = np.full(len(keypoint), NO_POINT, np.int32)
        found = ImageMatches(keypoint.astype(np.int32), none, best, similarity.max(axis=1))
        return _Made(found, points.xyz, points.covariance)


@dataclass(frozen=True, slots=True)
class _Made:
    """Points of one view: its matches with their positions (M, 3) and covariances (M, 6)."""

    found: ImageMatches
    xyz: Array
    covariance: Array


@dataclass(frozen=True, slots=True)
class Triangulated:
    """Points from rays of known cameras.

    Attributes:
        rows: (M,) the tracks that became points.
        xyz: (M, 3) metres, map frame.
        covariance: (M, 6) square metres for 1 px of noise: xx, xy, xz, yy, yz, zz.
    """

    rows: npt.NDArray[np.intp]
    xyz: Array
    covariance: Array


def triangulate(rays: Array, centers: Array, focals: Array, max_error: float) -> Triangulated:
    """Tracks with wrong observations to points that at least three views agree about.

    Every pair of views proposes a point; the one that most views agree with is refined.

    Args:
        rays: (T, C, 3) unit vectors in the map frame; NaN where a view does not see the track.
        centers: (C, 3) of the views; focals: (C,) pixels.
        max_error: pixels.
    """
    agree = np.zeros(rays.shape[:2], bool)
    for i, j in combinations(range(len(centers)), 2):
        point = _midpoint(rays[:, i], rays[:, j], centers[i], centers[j])
        near = _errors(point, rays, centers, focals) < max_error
        better = near.sum(axis=1) > agree.sum(axis=1)
        agree[better] = near[better]
    kept = np.flatnonzero(agree.sum(axis=1) >= MIN_VIEWS)
    rays, agree = rays[kept], agree[kept]
    xyz, information = _intersect(rays, centers, agree * focals**2)
    # Near rays weigh more, which needs a first position.
    distance = np.linalg.norm(xyz[:, None] - centers, axis=2)
    xyz, information = _intersect(rays, centers, agree * (focals / np.maximum(distance, 1e-9)) ** 2)
    near = (_errors(xyz, rays, centers, focals) < max_error) & agree
    good = near.sum(axis=1) >= MIN_VIEWS
    covariance = np.linalg.inv(information[good])
    rows, columns = np.triu_indices(3)
    return Triangulated(kept[good], xyz[good], covariance[:, rows, columns])


def _midpoint(first: Array, second: Array, start: Array, end: Array) -> Array:
    """The points (T, 3) nearest to both of two rays (T, 3); NaN where they are parallel."""
    near, far, sine2 = closest_approach(first, second, end - start)
    point: Array = (start + near[:, None] * first + end + far[:, None] * second) / 2
    point[~(sine2 > np.sin(MIN_ANGLE) ** 2)] = np.nan
    return point


def _errors(points: Array, rays: Array, centers: Array, focals: Array) -> Array:
    """Pixels (T, C) between points (T, 3) and rays; infinite behind a view or without a ray."""
    seen = points[:, None] - centers
    distance = np.linalg.norm(seen, axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (seen * rays).sum(axis=2) / distance
        error = np.sqrt(np.maximum(1 - cosine**2, 0)) / cosine * focals
    return np.where(cosine > 0, error, np.inf)


def _intersect(rays: Array, centers: Array, weights: Array) -> tuple[Array, Array]:
    """The points (T, 3) nearest to weighted rays, and their information (T, 3, 3)."""
    used = np.where(weights[..., None] > 0, rays, 0.0)
    across = np.eye(3) - used[..., :, None] * used[..., None, :]
    across *= weights[..., None, None]
    information = across.sum(axis=1)
    target = (across @ centers[:, :, None]).sum(axis=1)
    return np.linalg.solve(information, target)[..., 0], information

"""Guided matching: what the prediction promises is found, and nothing where it is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from street_world import CAMERA, FRONT_FROM_BASE, Conditions, along, make_query, make_world

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.guided import (
    VIEWPOINTS,
    GuidedOptions,
    expect,
    match_guided,
    near_observations,
    solve_guided,
)
from kapture_ros.localization.local_search import LocalSearch
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.query import Reason
from kapture_ros.localization.refinement import PosePrior, residuals
from kapture_ros.localization.views import View
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference, disturb

SIGMA = np.array([0.4, 0.4, 0.4, 0.02, 0.02, 0.02])
OPTIONS = GuidedOptions()
MOUNTED = MountedCamera(CAMERA, FRONT_FROM_BASE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Without the map's common error: it is not in a solution's covariance."""
    return make_world(tmp_path_factory.mktemp("straight") / "map", wrong="nothing")


def look(world, base, rng, conditions=Conditions()):  # noqa: B008
    query = make_query(world, base, 1, rng, conditions)
    return [View(0, MOUNTED, query.images[0].features)]


def disturbed(base: Transform, rng: np.random.Generator) -> PosePrior:
    return PosePrior(disturb(base, rng.normal(0, SIGMA)), np.diag(SIGMA**2))


def solve(world, views, prior):
    matches = match_guided(world.map, views, prior, OPTIONS)
    return matches, solve_guided(matches, [MOUNTED], prior, PoseOptions(), OPTIONS)


def test_a_pose_from_guided_matches_is_accurate_and_honest(world):
    rng = np.random.default_rng(0)
    errors, nees, share = [], [], []
    for metres in np.linspace(5, 340, 30):
        base = along(metres, 0.7)
        matches, solution = solve(world, look(world, base, rng), disturbed(base, rng))
        assert solution is not None
        share.append(solution.count / len(matches))
        errors.append(solution.map_from_base.distance_to(base)[0])
        error = difference(solution.map_from_base, base)
        nees.append(error @ np.linalg.solve(solution.covariance, error))
    assert np.median(errors) < 0.05
    assert np.median(share) > 0.95
    assert 3.5 < np.mean(nees) < 9.5


@pytest.fixture(scope="module")
def near(world):
    return LocalSearch(Localizer(world.map), OPTIONS, MotionOptions(), 12, 1000)


def sure_of(base: Transform) -> PosePrior:
    return PosePrior(base, np.diag(np.repeat([0.05, 0.002], 3) ** 2))


def anywhere(count: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels (count, 2) from the middle of the circle that is searched."""
    angle, away = rng.uniform(0, 2 * np.pi, count), OPTIONS.min_radius * np.sqrt(rng.random(count))
    return away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_matches_agree_with_a_prediction_only_where_more_do_than_by_chance(world, near):
    """Five true ones do; forty wrong ones somewhere in the search radius do not."""
    rng = np.random.default_rng(8)
    base = along(60, 0.7)
    prior = sure_of(base)
    views = look(world, base, rng, Conditions(true_count=5))
    assert near.agrees(views, near.match(views, prior), prior)
    views = look(world, base, rng)
    matches = near.match(views, prior).select(np.arange(40))
    wrong = replace(matches, pixels=matches.pixels + anywhere(40, rng))
    assert not near.agrees(views, wrong, prior)
    assert not near.agrees(views, matches.select(np.arange(0)), prior)


def test_matches_of_nothing_are_support_in_one_image_of_hundreds_at_most(world, near):
    rng = np.random.default_rng(9)
    prior = PosePrior(along(60, 0.7), np.diag(SIGMA**2))
    views = look(world, prior.map_from_base, rng)
    matches = near.match(views, prior)
    matches = matches.select(np.arange(min(39, len(matches))))
    centers = MOUNTED.project(
        (FRONT_FROM_BASE @ prior.map_from_base.inverse()).apply(matches.points_map)
    )
    claims = 0
    for _ in range(1500):
        pixels = centers + anywhere(len(matches), rng)
        claims += near.agrees(views, replace(matches, pixels=pixels), prior)
    assert claims <= 5


def test_where_the_prediction_is_wrong_almost_nothing_matches(world):
    rng = np.random.default_rng(1)
    for metres in (20, 90, 250, 330):
        views = look(world, along(metres), rng)
        matches, solution = solve(world, views, disturbed(along(metres - 50), rng))
        assert len(matches) < 5
        assert solution is None or solution.count < 5


def test_the_search_radius_follows_the_covariance_within_its_limits(world):
    rows = np.arange(len(world.points))
    base = along(60)
    radius = {}
    for factor in (1e-3, 0.25, 0.5, 100.0):
        prior = PosePrior(base, factor**2 * np.diag(SIGMA**2))
        expected = expect(world.map, rows, MOUNTED, prior, OPTIONS)
        radius[factor] = dict(zip(expected.points, expected.radius, strict=True))
    assert set(radius[1e-3].values()) == {OPTIONS.min_radius}
    assert set(radius[100.0].values()) == {OPTIONS.max_radius}
    free = [p for p, r in radius[0.25].items()
            if OPTIONS.min_radius < r and radius[0.5][p] < OPTIONS.max_radius]  # fmt: skip
    assert free
    np.testing.assert_allclose(
        [radius[0.5][p] for p in free], [2 * radius[0.25][p] for p in free], rtol=1e-6
    )


def test_the_radius_covers_the_error_of_the_prediction(world):
    """True projections lie within three sigma of where the prediction puts them."""
    rng = np.random.default_rng(2)
    wide = replace(OPTIONS, min_radius=1.0, max_radius=1e6)
    inside = []
    for metres in np.linspace(10, 300, 20):
        base = along(metres)
        expected = expect(
            world.map, np.arange(len(world.points)), MOUNTED, disturbed(base, rng), wide
        )
        local = (FRONT_FROM_BASE @ base.inverse()).apply(world.map.points.xyz[expected.points])
        ahead = local[:, 2] > 2
        true = MOUNTED.project(local[ahead])
        off = np.linalg.norm(true - expected.pixels[ahead], axis=1)
        inside.append((off < expected.radius[ahead]).mean())
    assert np.mean(inside) > 0.97


def test_points_are_expected_only_from_the_side_they_were_mapped_from(world):
    rng = np.random.default_rng(3)
    base = along(150)
    there = look(world, base, rng)
    back = base @ Transform.exp([0, 0, 0, 0, 0, np.pi])
    assert len(match_guided(world.map, there, PosePrior(base, np.diag(SIGMA**2)), OPTIONS)) > 50
    assert len(match_guided(world.map, there, PosePrior(back, np.diag(SIGMA**2)), OPTIONS)) == 0


def test_off_the_map_there_is_nothing_and_no_error(world):
    rng = np.random.default_rng(4)
    views = look(world, along(50), rng)
    nowhere = PosePrior(Transform(translation=np.array([0, -5000.0, 0])), np.diag(SIGMA**2))
    matches, solution = solve(world, views, nowhere)
    assert len(matches) == 0
    assert solution is None


def test_the_nearest_map_images_describe_a_point(world):
    position = along(100).translation
    points = np.flatnonzero(world.map.points.track_length > 0)[:300]
    starts, rows = near_observations(world.map, points, position)
    assert starts[-1] == len(rows)
    for number, point in enumerate(points):
        chosen = rows[starts[number] : starts[number + 1]]
        known = world.map.point_observations(point)
        away = world.map.image_centers[world.map.observing_images(known)] - position
        nearest = known[np.argsort(np.linalg.norm(away, axis=1), kind="stable")][:VIEWPOINTS]
        assert set(chosen) == set(nearest)


def test_a_wide_search_is_bounded_and_keeps_the_points_of_most_images(world):
    rng = np.random.default_rng(5)
    base = along(100)
    views, prior = look(world, base, rng), PosePrior(base, np.diag(SIGMA**2))
    length = world.map.points.track_length
    every = match_guided(world.map, views, prior, OPTIONS)
    few = match_guided(world.map, views, prior, replace(OPTIONS, max_pairs=300))
    assert 10 < len(few) < len(every) / 2
    assert set(few.point) <= set(every.point)
    left_out = np.setdiff1d(every.point, few.point)
    assert length[few.point].min() >= np.median(length[left_out])
    assert length[few.point].mean() > length[left_out].mean()


def test_points_that_look_the_same_match_one_keypoint_and_others_do_not(world):
    """A map has many points twice: which of the two is the right one, the pose tells."""
    base = along(100)
    prior = PosePrior(base, np.diag(np.repeat([0.02, 0.001], 3) ** 2))
    view = look(world, base, np.random.default_rng(6))[0]
    seen = np.unique(match_guided(world.map, [view], prior, OPTIONS).point)
    place = expect(world.map, seen, MOUNTED, prior, OPTIONS)
    off = np.linalg.norm(place.pixels[:, None] - place.pixels, axis=2) + 1e6 * np.eye(len(seen))
    first, second = np.unravel_index(np.argmin(off), off.shape)
    assert off[first, second] < OPTIONS.min_radius  # both are sought where either is
    starts, rows = near_observations(world.map, place.points[[first, second]], base.translation)
    known = world.map.observation_descriptors[rows[starts[:2]]].astype(float)
    ours, theirs = known / np.linalg.norm(known, axis=1, keepdims=True)

    def matched(share: float) -> set[int]:
        """Points that match one keypoint, which looks like the first and less like the second."""
        mixed = ours + share * theirs
        features = replace(
            view.features,
            keypoints=place.pixels[[first]].astype(np.float32),
            descriptors=(mixed / np.linalg.norm(mixed))[None].astype(np.float32),
        )
        one = View(0, MOUNTED, features)
        return set(match_guided(world.map, [one], prior, OPTIONS).point)

    assert matched(0.98) == {place.points[first], place.points[second]}
    assert matched(0.8) == {place.points[first]}


def test_a_keypoint_that_many_points_claim_is_support_once(world, near):
    """Ten accidents of one keypoint are one accident."""
    base = along(60, 0.7)
    prior = sure_of(base)
    views = look(world, base, np.random.default_rng(8))
    matches = near.match(views, prior)
    off = np.linalg.norm(residuals(matches, [MOUNTED], base), axis=1)
    right = matches.select(np.argsort(off)[:10])
    assert near.agrees(views, right, prior)
    assert not near.agrees(views, replace(right, keypoint=np.full(10, right.keypoint[0])), prior)


def test_points_are_expected_of_the_nearest_map_images(world):
    base = along(100)
    views = look(world, base, np.random.default_rng(7))
    prior = PosePrior(base, np.diag(SIGMA**2))
    away = np.linalg.norm(world.map.image_centers - base.translation, axis=1)
    three = np.argsort(away, kind="stable")[:3]
    seen = np.concatenate([world.map.features(image).points for image in three])
    few = match_guided(world.map, views, prior, replace(OPTIONS, max_images=3))
    every = match_guided(world.map, views, prior, OPTIONS)
    assert set(few.point) == set(every.point) & set(seen)
    assert 30 < len(few) < len(every)
    assert len(match_guided(world.map, views, prior, replace(OPTIONS, range=0.01))) == 0


def test_images_that_are_left_out_offer_neither_points_nor_descriptors(world):
    base = along(100)
    views = look(world, base, np.random.default_rng(7))
    prior = PosePrior(base, np.diag(SIGMA**2))
    away = np.linalg.norm(world.map.image_centers - base.translation, axis=1)
    among = np.sort(np.argsort(away, kind="stable")[3:6])
    seen = np.concatenate([world.map.features(image).points for image in among])
    every = match_guided(world.map, views, prior, OPTIONS)
    others = match_guided(world.map, views, prior, OPTIONS, among)
    assert 30 < len(others) < len(every)
    assert set(others.point) <= set(seen)
    points = others.point.astype(np.int64)
    starts, rows = near_observations(world.map, points, base.translation, among)
    assert (np.diff(starts) > 0).all(), "each has a descriptor of its own there"
    assert set(world.map.observing_images(rows)) <= set(among)


def test_keypoints_and_descriptors_that_are_no_numbers_match_nothing(world):
    base = along(100)
    prior = PosePrior(base, np.diag(SIGMA**2))
    features = look(world, base, np.random.default_rng(7))[0].features
    keypoints, descriptors = features.keypoints.copy(), features.descriptors.copy()
    keypoints[::3, 0], descriptors[1::3] = np.nan, np.nan
    broken = View(0, MOUNTED, replace(features, keypoints=keypoints, descriptors=descriptors))
    found = match_guided(world.map, [broken], prior, OPTIONS)
    assert len(found) > 20
    assert set(found.keypoint % 3) == {2}


def test_a_pose_that_chance_may_give_neither_is_believed_nor_contradicts_the_prediction(
    world, near
):
    """Of hundreds of wrong matches around a prediction some dozens agree with some pose."""
    rng = np.random.default_rng(10)
    base = along(60, 0.7)
    prior = sure_of(base)
    query = make_query(world, base, 1, rng)
    views = [View(0, MOUNTED, query.images[0].features)]
    right = near.match(views, prior)
    many = right.select(np.tile(np.arange(len(right)), 4))
    inliers = []
    for _ in range(10):
        pixels = many.pixels + anywhere(len(many), rng)
        wrong = replace(many, pixels=pixels, keypoint=np.arange(len(many), dtype=np.int32))
        answer = near.solve(query, views, wrong, prior)
        inliers.append(answer.scores.inliers)
        assert answer.reason not in (Reason.ACCEPTED, Reason.PRIOR_DISAGREES)
    assert np.median(inliers) > near.min_inliers

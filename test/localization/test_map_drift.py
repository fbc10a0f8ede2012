"""Maps whose poses drift apart along the way: noticed, and allowed for in every pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigvalsh
from street_world import CAMERA, FRONT_FROM_BASE, along, make_query, make_world, project

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.local_sfm import LocalSfm
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.map_drift import MOST, STRETCH, MapDrift
from kapture_ros.localization.options import AnswerOptions, LocalizerOptions
from kapture_ros.localization.refinement import NO_PRIORS, Matches, refine_pose
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.report import summary
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import difference, disturb

RATE = 0.01
EXACT = LocalizerOptions(answer=AnswerOptions(map_sigma=0.0, map_sigma_degrees=0.0))
MOUNTED = MountedCamera(CAMERA, FRONT_FROM_BASE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The street, mapped by images that drift; measured."""
    made = make_world(tmp_path_factory.mktemp("drift") / "map", wrong="drift")
    measure_map(made.map.path, instants=45)
    return replace(made, map=VisualMap.load(made.map.path))


def of_map(world, metres):
    """Where a vehicle at so many metres of the street is by the images next to it."""
    before = int(metres // 2)
    errors = []
    for image in (before, before + 1):
        map_from_base = world.map.cam_from_map(image).inverse() @ FRONT_FROM_BASE
        errors.append(difference(map_from_base, along(2.0 * image)))
    share = metres / 2 - before
    return disturb(along(metres), (1 - share) * errors[0] + share * errors[1])


def errors_of(localizer, world):
    rng = np.random.default_rng(5)
    found = []
    for metres in np.arange(21.0, 371.0, 10.0):
        estimate = localizer.localize(make_query(world, along(metres), 0, rng))
        if estimate.accepted:
            found.append(difference(estimate.map_from_base, of_map(world, metres)))
    assert len(found) > 25
    return np.abs(found).reshape(-1, 2, 3).mean(axis=(0, 2))


def test_poses_are_nearer_to_the_images_around_them_where_drift_is_allowed_for(world):
    localizer = Localizer(world.map, EXACT)
    assert localizer.drift is not None
    allowed = errors_of(localizer, world)
    localizer.drift = None
    assert (allowed < 0.75 * errors_of(localizer, world)).all()


def test_measuring_tells_that_a_map_drifts(world):
    # 0.02 m of every axis from one image to the next, 2 m apart.
    assert 0.002 <= world.map.drift_rate <= 0.02
    assert f"drift by {100 * world.map.drift_rate:g} % of the way" in summary(world.map.path)


def test_a_stretch_is_off_by_the_more_the_further_away_it_is(world):
    drift = MapDrift.of(world.map, RATE)
    position = along(100.0).translation
    seen, _ = project(along(100.0), world.points)
    share, sigma = drift.stretches(seen.astype(np.int32), position)
    assert 3 <= share.shape[1] <= MOST
    assert share.min() >= 0
    assert share.sum(axis=1) == pytest.approx(1, abs=0.5)
    assert share.sum(axis=1).max() == pytest.approx(1)
    metres = sigma[:, 0] / RATE
    assert metres.min() >= STRETCH * drift.depth / 2
    assert metres.max() > 15, "points are seen from 35 m"
    assert sigma[:, 3:] == pytest.approx(sigma[:, :3] / drift.depth)
    assert (share[:, np.argmin(metres)].mean()) > share[:, np.argmax(metres)].mean()


def test_images_that_are_left_out_tell_nothing_of_a_stretch(world):
    drift = MapDrift.of(world.map, RATE)
    position = along(100.0).translation
    near = np.flatnonzero(np.linalg.norm(world.map.image_centers - position, axis=1) < 12)
    seen, _ = project(along(100.0), world.points)
    _, sigma = drift.without(near).stretches(seen.astype(np.int32), position)
    assert sigma[:, 0].min() > RATE * (12 - 2 * STRETCH * drift.depth)


def test_of_a_drift_that_is_next_to_nothing_nothing_is_to_be_seen(world):
    matches, truth = exact_matches(world, np.random.default_rng(0))
    plain = refine_pose(matches, [MOUNTED], truth)
    allowed = MapDrift.of(world.map, 1e-9).refined(
        matches, [MOUNTED], plain.map_from_base, NO_PRIORS
    )
    apart = difference(allowed.map_from_base, plain.map_from_base)
    # The plain one ends a tenth of a third of sigma before its optimum.
    assert apart @ np.linalg.solve(plain.covariance, apart) < 0.1**2
    assert eigvalsh(allowed.covariance, plain.covariance) == pytest.approx(1, abs=0.1)


def test_the_covariance_is_that_of_pixels(world):
    drift = MapDrift.of(world.map, RATE)
    squares = []
    for seed in range(60):
        matches, truth = exact_matches(world, np.random.default_rng(seed))
        plain = refine_pose(matches, [MOUNTED], truth)
        found = drift.refined(matches, [MOUNTED], plain.map_from_base, NO_PRIORS)
        error = difference(found.map_from_base, truth)
        squares.append(error @ np.linalg.solve(found.covariance, error))
    assert 4.9 < np.mean(squares) < 7.1  # 95 % of means of 60 with 6 degrees of freedom, and some


def test_points_made_for_a_query_have_no_stretches_of_the_map(world):
    rng = np.random.default_rng(5)
    estimate = LocalSfm(world.map, EXACT).localize(make_query(world, along(101.0), 0, rng))
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(of_map(world, 101.0))[0] < 0.3


def test_points_behind_the_camera_leave_the_pose_as_it_is(world):
    matches, truth = exact_matches(world, np.random.default_rng(0))
    behind = replace(matches, points_map=2 * truth.translation - matches.points_map)
    assert MapDrift.of(world.map, RATE).refined(behind, [MOUNTED], truth, NO_PRIORS) is None


def exact_matches(world, rng):
    """What is seen from 100 m along the street, with 1 px of noise; points are where they are."""
    truth = along(100.0)
    seen, pixels = project(truth, world.points)
    none = np.zeros(len(seen), np.int32)
    number = np.arange(len(seen), dtype=np.int32)
    noisy = pixels + rng.normal(size=pixels.shape)
    return Matches(noisy, world.points[seen], none, number, seen.astype(np.int32)), truth

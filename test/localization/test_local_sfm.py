"""Points made for each query: right ones, wrong observations left out, poses as good."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_map import CAM_FROM_BASE, base_at, make_query_dataset, make_world

from kapture_ros.cli.main import main
from kapture_ros.evaluation.estimates import read_estimates
from kapture_ros.localization.cameras import closest_approach
from kapture_ros.localization.local_sfm import MIN_VIEWS, triangulate

TRUTH = [base_at(x, street, side) for x, street, side in ((9, 0, 0.5), (21, 0, 0), (30, 1, -0.5))]
FOCAL = 500.0


@pytest.fixture(scope="module")
def tracks():
    """Rays (T, C, 3) of points 5 to 20 m away, noisy by 1 px, a quarter of them wrong."""
    rng = np.random.default_rng(1)
    centers = np.column_stack([np.linspace(-3, 3, 8), rng.normal(0, 0.3, (8, 2))])
    points = np.column_stack([rng.uniform(-4, 4, (300, 2)), rng.uniform(5, 20, 300)])
    rays = points[:, None] - centers
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    rays += rng.normal(0, 1 / FOCAL, rays.shape)
    wrong = rng.random((300, 8)) < 0.25
    rays[wrong] = np.array([0, 0, 1]) + rng.normal(0, 0.3, (wrong.sum(), 3))
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    rays[rng.random((300, 8)) < 0.2] = np.nan
    return points, rays, centers


def test_points_are_where_their_covariance_says(tracks) -> None:
    points, rays, centers = tracks
    found = triangulate(rays, centers, np.full(8, FOCAL), 8.0)
    assert len(found.rows) > 250
    errors = found.xyz - points[found.rows]
    xx, xy, xz, yy, yz, zz = found.covariance.T
    full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).transpose(2, 0, 1)
    nees = np.einsum("ni,ni->n", errors, np.linalg.solve(full, errors[..., None])[..., 0])
    assert np.median(nees) == pytest.approx(2.37, abs=0.6)  # of χ² with 3 degrees of freedom


def test_rays_come_nearest_where_they_are_perpendicular_to_what_is_between() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 50, 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    base = np.array([2.0, -1.0, 0.5])
    near, far, sine2 = closest_approach(first, second, base)
    between = base + far[:, None] * second - near[:, None] * first
    assert np.abs(np.einsum("ni,ni->n", between, first)).max() < 1e-9
    assert np.abs(np.einsum("ni,ni->n", between, second)).max() < 1e-9
    np.testing.assert_allclose(sine2, np.linalg.norm(np.cross(first, second), axis=1) ** 2)


def test_two_views_make_no_point(tracks) -> None:
    _, rays, centers = tracks
    few = MIN_VIEWS - 1
    assert len(triangulate(rays[:, :few], centers[:few], np.full(few, FOCAL), 8.0).rows) == 0


def test_a_query_set_is_localized_with_points_of_its_own(tmp_path) -> None:
    world = make_world(tmp_path / "map")
    query = tmp_path / "query"
    make_query_dataset(query, world, TRUTH)
    out = tmp_path / "out"
    arguments = ["localize", str(world.map.path), str(query), str(out), "--no-rigs", "--matches"]
    assert main([*arguments, "--preset", "naver_local_sfm"]) == 0
    rows = {row.query: row for row in read_estimates(out / "estimates.csv")}
    for number, truth in enumerate(TRUTH):
        row = rows[f"front/{number:03d}.jpg"]
        assert row.accepted, row.reason
        center = truth @ CAM_FROM_BASE.inverse()
        assert row.map_from_base.distance_to(center)[0] < 0.15

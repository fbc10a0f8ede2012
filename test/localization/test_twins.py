"""Places that a map has twice: it finds them when it is made, and no pose there is sure."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from synthetic_map import STREETS, World, base_at, gnss_at, make_world

from kapture_ros.errors import InputError
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.query import Reason
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.visual_map import TWIN_COLUMNS, TWINS, VisualMap, write_table


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("alike") / "map", alike=True)


@pytest.fixture(scope="module")
def measured(alike: World, tmp_path_factory) -> VisualMap:
    """The same map, which knows its twins."""
    copy = shutil.copytree(alike.map.path, tmp_path_factory.mktemp("measured") / "map")
    measure_map(copy)
    return VisualMap.load(copy)


def of_street(visual_map: VisualMap, street: int) -> np.ndarray:
    return np.flatnonzero(abs(visual_map.image_centers[:, 1] - STREETS[street]) < 10)


def test_a_map_finds_the_points_that_it_has_twice(measured: VisualMap) -> None:
    moved = np.diff(measured.points.xyz[measured.twins], axis=1)[:, 0]
    right = np.linalg.norm(np.abs(moved) - [0, STREETS[1], 0], axis=1) < 1e-6
    assert right.mean() > 0.95
    assert len(np.unique(measured.twins[right, 0])) > 0.7 * len(measured.points)
    both_ways = {tuple(pair) for pair in measured.twins.tolist()}
    assert both_ways == {(b, a) for a, b in both_ways}


def test_streets_that_differ_have_no_twins(tmp_path) -> None:
    world = make_world(tmp_path / "map")
    measure_map(world.map.path)
    assert len(VisualMap.load(world.map.path).twins) == 0


def test_a_pose_is_ambiguous_though_retrieval_saw_one_of_the_places_only(
    alike: World, measured: VisualMap
) -> None:
    query, wrong = alike.query(base_at(20.0, street=1)), of_street(alike.map, 0)
    unaware = Localizer(alike.map).localize(query, wrong)
    assert unaware.accepted, "nothing in the query speaks against it"
    assert unaware.map_from_base.translation[1] < 10
    aware = Localizer(measured).localize(query, wrong)
    assert aware.reason is Reason.AMBIGUOUS
    assert aware.scores.second > 0.7 * aware.scores.inliers


def test_a_fix_excludes_the_twin(alike: World, measured: VisualMap) -> None:
    truth = base_at(20.0, street=1)
    query = replace(alike.query(truth), gnss=gnss_at(truth.translation.copy(), 3.0))
    estimate = Localizer(measured).localize(query)
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(truth)[0] < 0.05


def test_points_of_a_large_map_are_told_to_the_last_digit(tmp_path) -> None:
    path = tmp_path / TWINS
    write_table(path, TWIN_COLUMNS, np.array([[1_234_567, 2**31 - 1]], np.int32))
    assert path.read_text().splitlines() == ["point,twin", "1234567,2147483647"]


@pytest.mark.parametrize("rows", ["1,two\n", "1,10000000\n"])
def test_a_table_that_is_damaged_or_of_another_map_is_refused(measured, tmp_path, rows) -> None:
    copy = shutil.copytree(measured.path, tmp_path / "map")
    (copy / TWINS).write_text("point,twin\n" + rows)
    with pytest.raises(InputError, match=TWINS):
        Localizer(VisualMap.load(copy))

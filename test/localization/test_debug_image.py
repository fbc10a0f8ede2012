"""The debug image: drawn for every answer, green for a pose, red for a refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_map import CAM_FROM_BASE, SIDE_FROM_BASE, base_at, make_world

from kapture_ros.localization.debug_image import GREEN, RED, draw_estimate
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.query import Query


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("map") / "map")


def test_a_pose_is_drawn_beside_its_map_image(world) -> None:
    query = world.query(base_at(20.0), cameras=(CAM_FROM_BASE, SIDE_FROM_BASE))
    estimate = Localizer(world.map).localize(query)
    picture = draw_estimate(world.map, query, estimate)
    assert picture.shape == (480 + 28, 640 + 640, 3)
    assert tuple(picture[2, 2]) == GREEN
    left, right = picture[28:, :640], picture[28:, 640:]
    for part in (left, right):
        assert (part == GREEN).all(axis=2).sum() > 100


def test_the_images_shine_through(world) -> None:
    query = world.query(base_at(20.0))
    estimate = Localizer(world.map).localize(query)
    pixels = np.full((480, 640), 7, np.uint8)
    query = replace(query, images=(replace(query.images[0], pixels=pixels),))
    picture = draw_estimate(world.map, query, estimate, np.full((240, 320, 3), 9, np.uint8))
    assert (picture[28:, :640] == 7).all(axis=2).any()
    assert (picture[28:, 640:] == 9).all(axis=2).any()


def test_refusals_are_drawn_too(world) -> None:
    localizer = Localizer(world.map)
    nothing = Query(0, ())
    picture = draw_estimate(world.map, nothing, localizer.localize(nothing))
    assert tuple(picture[2, 2]) == RED
    query = world.query(base_at(20.0))
    black = replace(query.images[0], features=None, pixels=np.zeros((480, 640), np.uint8))
    query = replace(query, images=(black,))
    picture = draw_estimate(world.map, query, localizer.localize(query))
    assert picture.shape == (480 + 28, 640, 3)
    assert tuple(picture[2, 2]) == RED

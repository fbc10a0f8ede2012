"""The place filter: the sequence tells what single images cannot."""

from __future__ import annotations

import numpy as np
import pytest
from street_world import (
    FRONT_FROM_BASE,
    START,
    TWIN,
    Conditions,
    Trip,
    along,
    make_drive,
    make_query,
)

from kapture_ros.localization.global_search import GlobalSearch
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import RetrievalOptions
from kapture_ros.localization.place_filter import PlaceFilter, PlaceOptions
from kapture_ros.localization.query import Candidate
from kapture_ros.localization.retrieval import retrieve
from kapture_ros.transforms import Transform


def follow(world, trip: Trip, noise: float, seed: int = 0):
    """Belief in the truth and the believed place's error by frame, 5 m apart; top-1 hits."""
    rng = np.random.default_rng(seed)
    drive = make_drive(rng, trip)
    odom = {sample.stamp_ns: sample.odom_from_base for sample in drive.odometry}
    places, before = PlaceFilter(world.map), None
    truth, believed, top = [], [], []
    for stamp in drive.frames[::5]:
        query = make_query(world, drive.truth[stamp], stamp, rng, Conditions(place_noise=noise))
        described = query.images[0].features.global_descriptors
        index = {"fakeplace": world.map.retrieval}
        candidates = retrieve(index, described, None, RetrievalOptions())
        motion = None if before is None else before.inverse() @ odom[stamp]
        places.update(candidates, FRONT_FROM_BASE, motion)
        before = odom[stamp]
        position = drive.truth[stamp].translation
        truth.append(places.near(position))
        centers = world.map.image_centers
        top.append(np.linalg.norm(centers[candidates[0].image] - position) < 10)
        rows = places.believed()
        believed.append(None if rows is None else np.linalg.norm(centers[rows[0]] - position))
    return truth, believed, top


def test_a_place_is_believed_after_a_few_images_not_after_one(world):
    _, believed, _ = follow(world, Trip(start=20, end=80), noise=0.3)
    assert believed[0] is None
    assert all(error is not None and error < 12 for error in believed[3:])


def test_images_whose_retrieval_often_fails_alone_agree_as_a_sequence(world):
    hits, ends = [], []
    for seed in range(5):
        truth, believed, top = follow(world, Trip(start=230, end=330), noise=5.0, seed=seed)
        hits.append(np.mean(top))
        ends.append(truth[-1])
        assert all(error is None or error < 15 for error in believed)
    assert np.mean(hits) < 0.85
    assert np.median(ends) > 0.9


def test_between_look_alike_streets_nothing_is_believed_until_they_differ(world):
    truth, believed, _ = follow(world, Trip(start=TWIN[0] + 8, end=TWIN[1] + 50), noise=0.3)
    inside = int((TWIN[1] - TWIN[0] - 20) / 5)
    assert believed[:inside] == [None] * inside
    assert 0.2 < truth[inside // 2] < 0.8
    assert believed[-1] is not None
    assert believed[-1] < 12
    assert truth[-1] > 0.95


def test_a_map_of_one_place_is_believed_but_no_image_has_told_it(world):
    everywhere = PlaceFilter(world.map, PlaceOptions(radius=1e4))
    usual = PlaceFilter(world.map)
    assert not everywhere.is_told() and not usual.is_told()
    for _ in range(6):
        for places in (everywhere, usual):
            places.update([Candidate(20, 0.9), Candidate(100, 0.2)], FRONT_FROM_BASE, None)
    assert everywhere.believed() is not None and not everywhere.is_told()
    assert usual.is_told()


def test_one_instant_tells_only_so_much(world):
    """A single confident image elsewhere does not overturn a belief."""
    places = PlaceFilter(world.map)
    here = [Candidate(20, 0.9), Candidate(100, 0.2)]
    for _ in range(6):
        places.update(here, FRONT_FROM_BASE, None)
    assert places.believed() is not None
    before = places.near(world.map.image_centers[20])
    places.update([Candidate(180, 0.9), Candidate(100, 0.2)], FRONT_FROM_BASE, None)
    assert places.near(world.map.image_centers[20]) > 0.5 * before


def test_what_lies_along_the_street_is_no_rival_and_a_look_alike_is(world):
    places = PlaceFilter(world.map)
    centers = world.map.image_centers
    twin = int(np.flatnonzero(centers[:, 1] > 500)[10])
    same = int(np.argmin(np.linalg.norm(centers - centers[twin] + [0, 900, 0], axis=1)))
    near = [Candidate(same + n, 0.9 - 0.005 * abs(n)) for n in range(-6, 7)]
    elsewhere = [Candidate(5 * n, 0.8) for n in range(4)]
    assert places.rival(near, centers[same]) == 0.0
    assert places.rival([*near, *elsewhere], centers[same]) < 0.1
    alike = [Candidate(twin + n, 0.88 - 0.005 * abs(n)) for n in range(-6, 7)]
    assert 0.5 < places.rival([*near, *alike], centers[same]) < 1.0
    assert places.rival(near, centers[5]) > 10.0


def test_nothing_retrieved_changes_nothing(world):
    places = PlaceFilter(world.map)
    before = places.probability.copy()
    places.update([], FRONT_FROM_BASE, None)
    np.testing.assert_array_equal(places.probability, before)


def test_forgetting_makes_all_places_alike(world):
    places = PlaceFilter(world.map)
    places.update([Candidate(20, 0.9), Candidate(9, 0.1)], FRONT_FROM_BASE, None)
    assert np.ptp(places.probability) > 0
    places.forget()
    assert np.ptp(places.probability) == 0
    assert places.probability.sum() == pytest.approx(1.0)


def test_what_was_forgotten_is_not_moved_by_another_odometry(world):
    """Its frame is another one: where the old one was says nothing of the motion."""
    localizer, rng = Localizer(world.map), np.random.default_rng(3)
    again, fresh = (GlobalSearch(localizer, PlaceOptions()) for _ in range(2))
    first, then = (make_query(world, along(metres), START, rng) for metres in (30, 60))
    again.localize(first, Transform())
    again.forget()
    for search in (again, fresh):
        search.localize(then, Transform(translation=[150.0, 0, 0]))
    np.testing.assert_array_equal(again._places.probability, fresh._places.probability)

"""Images of several cameras become instants, whatever fails, lags or jitters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.nodes.synchronizer import FIRST_SLOP_NS, SILENT_AFTER, Synchronizer

MS = 1_000_000


def cameras_of(instants):
    return [sorted(instant.images) for instant in instants]


def test_one_camera_passes_at_once():
    sync = Synchronizer(1)
    for number in range(5):
        (instant,) = sync.add(0, number * 100 * MS, "image")
        assert instant.stamp_ns == number * 100 * MS


def test_images_of_one_moment_are_one_instant_with_their_own_stamps():
    sync = Synchronizer(2)
    assert sync.add(0, 1000 * MS, "a") == []
    (instant,) = sync.add(1, 1008 * MS, "b")
    assert instant.images == {0: (1000 * MS, "a"), 1: (1008 * MS, "b")}
    assert instant.spread_ns == 8 * MS
    assert list(sync.spreads_ns) == [8 * MS]


def test_the_slop_follows_the_intervals_that_are_measured():
    sync = Synchronizer(2)
    for number in range(5):
        assert sync.slop_ns == FIRST_SLOP_NS
        sync.add(0, number * 200 * MS, "")
        sync.add(1, number * 200 * MS + 60 * MS, "")
    assert sync.slop_ns == 90 * MS
    assert Synchronizer(2, slop_ns=7 * MS).slop_ns == 7 * MS


def test_images_too_far_apart_are_two_instants():
    sync = Synchronizer(2, slop_ns=10 * MS)
    handed = [*sync.add(0, 0, ""), *sync.add(1, 30 * MS, ""), *sync.add(0, 100 * MS, "")]
    assert cameras_of(handed) == [[0]]


def test_a_camera_that_fails_is_waited_for_only_a_few_times():
    sync = Synchronizer(2)
    for number in range(3):
        sync.add(0, number * 100 * MS, "")
        assert cameras_of(sync.add(1, number * 100 * MS, "")) == [[0, 1]]
    handed = [sync.add(0, number * 100 * MS, "") for number in range(3, 30)]
    assert sync.silent == (1,)
    assert all(cameras_of(now) == [[0]] for now in handed[SILENT_AFTER + 3 :])
    assert sum(map(len, handed)) == 27, "none of its images is lost"


def test_it_joins_in_again_when_it_comes_back():
    sync = Synchronizer(2)
    for number in range(20):
        sync.add(0, number * 100 * MS, "")
    sync.add(1, 2000 * MS, "")
    assert sync.silent == ()
    assert cameras_of(sync.add(0, 2000 * MS, "")) == [[0, 1]]


def test_a_camera_whose_images_arrive_a_period_late_is_still_used():
    sync = Synchronizer(2)
    handed = []
    for number in range(20):
        handed += sync.add(0, number * 100 * MS, "")
        if number:
            handed += sync.add(1, (number - 1) * 100 * MS, "")
    assert cameras_of(handed[1:]) == [[0, 1]] * len(handed[1:])


def test_repeated_and_overtaken_images_are_left_out():
    sync = Synchronizer(1)
    sync.add(0, 200 * MS, "")
    assert sync.add(0, 200 * MS, "") == []
    assert sync.add(0, 100 * MS, "") == []


def instants_of(jitter, lost, cameras):
    """What is made of 60 images, and the images; those that are lost are not among them."""
    sync = Synchronizer(cameras)
    given_images, handed = set(), []
    for number in range(60 // cameras):
        for camera in range(cameras):
            place = number * cameras + camera
            if place not in lost:
                stamp = number * 100 * MS + jitter[place] * MS
                given_images.add((camera, stamp))
                handed += sync.add(camera, stamp, "")
    return handed, given_images


JITTER = st.lists(st.integers(0, 15), min_size=60, max_size=60)
CAMERAS = st.integers(1, 3)


@given(jitter=JITTER, lost=st.sets(st.integers(0, 59)), cameras=CAMERAS)
def test_instants_are_in_order_and_no_image_is_in_two(jitter, lost, cameras):
    handed, given_images = instants_of(jitter, lost, cameras)
    stamps = [instant.stamp_ns for instant in handed]
    assert stamps == sorted(stamps)
    used = [(c, stamp) for instant in handed for c, (stamp, _) in instant.images.items()]
    assert len(used) == len(set(used))
    assert set(used) <= given_images


@given(jitter=JITTER, lost=st.sets(st.integers(0, 59), max_size=3), cameras=CAMERAS)
def test_a_few_lost_images_never_join_those_of_two_moments(jitter, lost, cameras):
    handed, _ = instants_of(jitter, lost, cameras)
    assert all(instant.spread_ns <= 15 * MS for instant in handed)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_nor_do_many(share):
    for seed in range(200):
        chance = random.Random(seed)
        jitter = [chance.randint(0, 15) for _ in range(60)]
        lost = {place for place in range(60) if chance.random() < share}
        handed, _ = instants_of(jitter, lost, 2)
        assert all(instant.spread_ns <= 15 * MS for instant in handed), seed

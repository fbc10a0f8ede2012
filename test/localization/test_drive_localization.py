"""Whole drives afterwards: every instant gets the pose that all others together tell."""

from __future__ import annotations

import numpy as np
from street_world import Conditions, Trip, make_drive, make_query, measure_inertially
from synthetic_map import base_at, make_query_dataset
from synthetic_map import make_world as make_synthetic_map

from kapture_ros.cli.main import main
from kapture_ros.evaluation.estimates import read_estimates
from kapture_ros.localization.drives import Drive, localize_drive
from kapture_ros.localization.query import Reason

GOOD, WEAK, DARK = Conditions(), Conditions(true_count=6), Conditions(true_count=0)


def drive_through(world, seed, metres, conditions):
    """Truth and queries of a drive, conditions by frame, and its odometry."""
    rng = np.random.default_rng(seed)
    drive = make_drive(rng, Trip(start=20, end=20 + metres))
    queries = [
        make_query(world, drive.truth[stamp], stamp, rng, conditions(number))
        for number, stamp in enumerate(drive.frames)
    ]
    return [drive.truth[stamp] for stamp in drive.frames], queries, tuple(drive.odometry)


def errors(estimates, truth):
    return [
        e.map_from_base.distance_to(t)[0] if e.accepted else np.inf
        for e, t in zip(estimates, truth, strict=True)
    ]


def test_instants_before_the_first_fix_and_without_one_are_localized(world, localizer):
    """Two weak frames, good ones, eight that show nothing, good ones."""

    def conditions(n):
        return WEAK if n < 2 else DARK if 6 <= n < 14 else GOOD

    truth, queries, odometry = drive_through(world, 1, 18, conditions)
    drive = Drive(tuple(range(len(queries))), odometry)
    found = localize_drive(localizer, queries, drive)
    assert max(errors(found, truth)) < 0.4
    assert np.median(errors(found, truth)) < 0.1
    assert all("smoothed" in estimate.reason_text for estimate in found)


def test_the_gyro_of_a_drive_makes_its_dark_stretch_surer(world, localizer):
    """Four seconds of fixes, twelve of darkness at the end."""
    rng = np.random.default_rng(6)
    drive = make_drive(rng, Trip(start=20, end=100))
    queries = [
        make_query(world, drive.truth[stamp], stamp, rng, GOOD if number < 20 else DARK)
        for number, stamp in enumerate(drive.frames)
    ]
    measured = measure_inertially(drive, rng)
    imu = tuple(sample for stamp in sorted(measured) for sample in measured[stamp])
    numbers, odometry = tuple(range(len(queries))), tuple(drive.odometry)
    found, without = (
        localize_drive(localizer, queries, Drive(numbers, odometry, samples))[-1]
        for samples in (imu, ())
    )
    assert found.accepted
    assert found.scores.rotation_sigma < without.scores.rotation_sigma / 2
    metres, radians = found.map_from_base.distance_to(drive.truth[drive.frames[-1]])
    assert metres < 3 * np.sqrt(np.trace(found.covariance[:3, :3]))
    assert radians < 3 * np.sqrt(np.trace(found.covariance[3:, 3:]))


def test_images_link_a_drive_that_has_no_odometry(world, localizer):
    truth, queries, _ = drive_through(world, 2, 10, lambda n: GOOD)
    found = localize_drive(localizer, queries, Drive(tuple(range(len(queries)))))
    assert max(errors(found, truth)) < 0.3


def test_a_short_sequence_of_given_relative_poses(world, localizer):
    """One image that is localized carries the three that are not."""
    truth, queries, odometry = drive_through(world, 3, 4, lambda n: GOOD if n == 3 else WEAK)
    found = localize_drive(localizer, queries, Drive((0, 1, 2, 3), odometry))
    assert max(errors(found, truth)) < 0.4


def test_a_vehicle_that_was_moved_on_the_way_is_localized_before_and_after(world, localizer):
    """Odometry leads from one place to the next, where the vehicle is not."""
    rng = np.random.default_rng(5)
    drive = make_drive(rng, Trip(start=20, end=30, jump=(25, 290)))
    queries = [make_query(world, drive.truth[stamp], stamp, rng) for stamp in drive.frames]
    found = localize_drive(
        localizer, queries, Drive(tuple(range(len(queries))), tuple(drive.odometry))
    )
    assert max(errors(found, [drive.truth[stamp] for stamp in drive.frames])) < 0.3
    assert all("smoothed" in estimate.reason_text for estimate in found)


def test_a_drive_elsewhere_is_not_localized(world, localizer):
    _, queries, odometry = drive_through(world, 4, 4, lambda n: DARK)
    found = localize_drive(localizer, queries, Drive((0, 1, 2, 3), odometry))
    assert not any(estimate.accepted for estimate in found)
    assert Reason.ACCEPTED not in {estimate.reason for estimate in found}


def test_the_command_localizes_drives(tmp_path):
    world = make_synthetic_map(tmp_path / "map")
    truth = [base_at(9 + 0.5 * n, 0, 0.2) for n in range(4)]
    make_query_dataset(tmp_path / "query", world, truth)
    out = tmp_path / "out"
    arguments = ["localize", str(world.map.path), str(tmp_path / "query"), str(out)]
    arguments += ["--sequence", "--sequence-motion", "images"]
    assert main(arguments) == 0
    first = (out / "estimates.csv").read_text()
    for row, true in zip(read_estimates(out / "estimates.csv"), truth, strict=True):
        assert row.accepted
        assert row.map_from_base.distance_to(true)[0] < 0.1
    assert main(arguments) == 0, "nothing is left to do"
    assert (out / "estimates.csv").read_text() == first
    assert main([*arguments, "--pipeline", "approximation"]) == 1

"""The sequence localizer on simulated drives: never lost for long, never jumping, honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2
from sequence_run import run
from street_world import (
    NOISE,
    SPEED,
    START,
    TWIN,
    Conditions,
    Trip,
    along,
    gnss,
    make_drive,
    make_query,
    make_world,
    told,
)

from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import Innovation
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import Query, QueryImage, Reason
from kapture_ros.localization.refinement import PosePrior
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import (
    SelfCheck,
    SequenceOptions,
    State,
    TrackingOptions,
)
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference

MAPS = 6
NORMAL, WEAK, DARK = Conditions(), Conditions(true_count=5), Conditions(true_count=0)


def drive_through(world, localizer, trip, conditions=NORMAL, seed=0, options=None, noise=NOISE):
    rng = np.random.default_rng(seed)
    drive = make_drive(rng, trip, noise)
    sequence = SequenceLocalizer(localizer, options)
    return run(world, sequence, drive, rng, conditions), sequence


def test_a_normal_drive_is_tracked_smoothly_and_to_centimetres(world, localizer):
    result, _ = drive_through(world, localizer, Trip(start=0, end=60))
    assert result.answers[0].state is State.TRACKING, "one image beyond doubt is enough"
    assert result.recall(0.25, 2.0) == 1.0
    metres, degrees = result.largest_jump()
    assert metres < 0.5
    assert degrees < 2.0
    after = result.answers[5:]
    assert {pose.state for pose in after} == {State.TRACKING}
    assert all(pose.consistent for pose in after)
    retrieved = [pose for pose in after if pose.estimate.candidates]
    assert not retrieved, "guided matching needs no retrieval"
    odometry = {sample.stamp_ns: sample.odom_from_base for sample in result.drive.odometry}
    for pose in result.published:
        reached = pose.map_from_odom @ odometry[pose.stamp_ns]
        assert reached.distance_to(pose.map_from_base) == pytest.approx((0, 0), abs=1e-6)


def test_the_covariance_is_honest_over_drives(tmp_path):
    """Mean NEES against the truth: a map has one error, so each drive is on another one."""
    means = []
    for seed in range(MAPS):
        bent = make_world(tmp_path / str(seed), seed=seed)
        trip = Trip(start=55 + 10 * seed, end=75 + 10 * seed)
        result, _ = drive_through(bent, Localizer(bent.map, told()), trip, seed=seed)
        means.append(np.mean(result.nees()[3:]))
    low, high = chi2.ppf([0.025, 0.975], 6 * MAPS) / MAPS
    assert low < np.mean(means) < high


def test_weak_frames_are_carried_by_the_window(world, localizer):
    """Five true matches a frame: none gives a pose alone, the drive goes on."""
    result, _ = drive_through(
        world, localizer, Trip(start=10, end=45), lambda t: NORMAL if t < 1 else WEAK
    )
    weak = [pose for pose in result.answers if pose.stamp_ns > START + SECOND]
    windows = [p for p in weak if p.estimate.accepted]
    assert len(windows) > len(weak) / 8
    assert all(p.window_size > 1 for p in windows)
    assert result.recall(0.5, 5.0, after=6) == 1.0
    assert result.worst_accepted() < 0.5
    assert max(result.largest_jump()[0], 0) < 0.5


def test_half_a_minute_without_images_ends_in_tracking_again(world, localizer):
    silent = (4.0, 34.0)
    result, _ = drive_through(
        world,
        localizer,
        Trip(start=0, end=200),
        lambda t: None if silent[0] < t < silent[1] else NORMAL,
        seed=3,
    )
    first, last = (START + int(t * SECOND) for t in (silent[0] + 2, silent[1]))
    published = [pose for pose in result.published if first < pose.stamp_ns < last]
    assert {pose.state for pose in published} <= {State.COASTING, State.LOST}
    known = [p for p in published if p.map_from_base is not None]
    assert known
    assert max(result.error(pose)[0] for pose in known) < 5.0, "worse ones are not given"
    assert published[-1].state is State.LOST
    for pose in known[::50]:
        sigma = np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1])
        assert result.error(pose)[0] < 4 * sigma
    assert result.seconds_until(State.TRACKING, silent[1]) < 2.0
    assert result.worst_accepted() < 0.5


def test_a_kidnapped_vehicle_knows_within_two_seconds_and_recovers(world, localizer):
    trip = Trip(start=25, end=60, jump=(40, 290))
    result, _ = drive_through(world, localizer, trip)
    jump = (40 - 25) / SPEED
    lost = result.seconds_until(State.LOST, jump)
    assert lost < 2.0
    assert result.seconds_until(State.TRACKING, jump + lost) < 3.0
    given = [pose for pose in result.answers if pose.map_from_base is not None]
    assert max(result.error(pose)[0] for pose in given) < 0.5, "of any state"
    assert result.answers[-1].state is State.TRACKING


def test_a_pose_that_an_image_contradicts_is_as_uncertain_as_they_differ(world, localizer):
    """A camera that was turned by hand where it stood: too near to be LOST, and not right."""
    rng = np.random.default_rng(4)
    drive = make_drive(rng, Trip(start=30, end=45))
    last = drive.frames[-1]
    turned = drive.truth[last] @ Transform.exp([0.5, 0, 0, 0, 0, np.deg2rad(40)])
    by_hand = make_query(world, turned, last, rng)
    result = run(
        world,
        SequenceLocalizer(localizer),
        drive,
        rng,
        change=lambda query, stamp: by_hand if stamp == last else query,
    )
    before, answer = result.answers[-2:]
    assert before.state is State.TRACKING
    assert answer.state is State.COASTING
    error = difference(answer.map_from_base, turned)
    assert error @ np.linalg.solve(answer.covariance, error) < 3
    assert error @ np.linalg.solve(before.covariance, error) > 1000


def test_as_many_fixes_must_agree_as_are_asked_for(world, localizer):
    options = SequenceOptions(tracking=TrackingOptions(confirmations=4, lost_rejections=3))
    doubtful = Conditions(true_count=30)
    result, _ = drive_through(world, localizer, Trip(start=15, end=30), doubtful, options=options)
    assert all(pose.estimate.accepted for pose in result.answers[:4])
    states = [pose.state for pose in result.answers]
    assert State.TRACKING not in states[:3]
    assert states[3] is State.TRACKING


def test_between_look_alike_streets_no_pose_is_claimed_until_they_differ(world, localizer):
    trip = Trip(start=TWIN[0] + 5, end=TWIN[1] + 40, frame_every=10)
    result, _ = drive_through(world, localizer, trip, seed=1)
    assert result.worst_accepted() < 0.5
    inside = result.answers[:22]
    assert all(pose.map_from_base is None for pose in inside)
    assert {pose.state for pose in inside} <= {State.UNINITIALIZED, State.INITIALIZING}
    assert result.answers[-1].state is State.TRACKING


def test_driving_into_a_look_alike_street_the_track_is_kept(world, localizer):
    result, _ = drive_through(world, localizer, Trip(start=TWIN[0] - 30, end=TWIN[0] + 40))
    assert {p.state for p in result.answers} == {State.TRACKING}
    assert result.worst_accepted() < 0.5


def test_frames_that_come_late_and_out_of_order_are_fused_at_their_stamp(world, localizer):
    rng = np.random.default_rng(5)
    drive = make_drive(rng, Trip(start=20, end=45))
    sequence = SequenceLocalizer(localizer)
    queries = [make_query(world, drive.truth[s], s, rng) for s in drive.frames]
    order = np.arange(len(queries))
    for k in range(10, len(order) - 3, 3):
        order[k : k + 3] = rng.permutation(order[k : k + 3])
    samples = iter(drive.odometry)
    newest = 0
    for row in order:
        newest = max(newest, queries[row].stamp_ns)
        due = []
        for sample in samples:
            due.append(sample)
            if sample.stamp_ns >= newest + SECOND // 10:
                break
        answer = sequence.update(queries[row], due)
        if row > 10:
            assert answer.state is State.TRACKING
            error, _ = answer.map_from_base.distance_to(drive.truth[answer.stamp_ns])
            assert error < 0.25
    again = sequence.update(queries[-1])
    assert again.estimate.reason is Reason.LATE
    old = sequence.update(replace(queries[0], stamp_ns=START - 30 * SECOND))
    assert old.estimate.reason is Reason.LATE


def test_gnss_that_excludes_the_pose_raises_the_alarm_and_moves_nothing(world, localizer):
    rng = np.random.default_rng(8)
    drive = make_drive(rng, Trip(start=15, end=55))

    def change(query: Query, stamp: int) -> Query:
        off = 20.0 if stamp > START + 5 * SECOND else 0.0
        return replace(query, gnss=gnss(drive.truth[stamp], rng, off))

    result = run(world, SequenceLocalizer(localizer), drive, rng, NORMAL, change)
    before = [p for p in result.answers if p.stamp_ns < START + 5 * SECOND]
    after = [p for p in result.answers if p.stamp_ns > START + 6 * SECOND]
    assert not any(pose.gnss_disagrees for pose in before)
    assert all(pose.gnss_disagrees for pose in after)
    assert result.worst_accepted() < 0.5
    assert {p.state for p in after} == {State.TRACKING}


def test_odometry_worse_than_declared_is_noticed_and_the_covariance_inflated(world, localizer):
    noisy = MotionOptions(odometry_position_noise=0.08, odometry_rotation_noise=0.008)
    result, sequence = drive_through(world, localizer, Trip(start=215, end=275), noise=noisy)
    assert State.LOST not in {pose.state for pose in result.answers}, "it drifted: no other place"
    last = result.answers[-1]
    assert not last.consistent
    assert last.inflation > 1.2
    assert last.state is State.TRACKING
    told = np.sqrt(np.linalg.eigvalsh(last.covariance[:3, :3])[-1])
    for limit, state in ((1.01 * told, State.TRACKING), (0.99 * told, State.LOST)):
        tracking = replace(sequence.options.tracking, lost_sigma=limit)
        sequence.options = replace(sequence.options, tracking=tracking)
        assert sequence.pose_at(last.stamp_ns).state is state, "by the covariance that is told"


def test_an_image_that_shows_nothing_is_answered_with_its_reason(world, localizer):
    rng = np.random.default_rng(9)
    query = make_query(world, along(50), START, rng)
    dark = replace(query.images[0], features=None, pixels=np.zeros((480, 640), np.uint8))
    sequence = SequenceLocalizer(localizer)
    answer = sequence.update(replace(query, images=(dark,)), [OdometrySample(START, Transform())])
    assert answer.state is State.UNINITIALIZED
    assert answer.map_from_base is None
    assert answer.estimate.reason is Reason.BAD_INPUT
    none = sequence.update(Query(START + SECOND, ()))
    assert none.estimate.reason is Reason.BAD_INPUT


def test_one_bad_frame_does_not_end_a_drive_whatever_a_library_makes_of_it(
    world, localizer, monkeypatch
):
    rng = np.random.default_rng(12)
    drive = make_drive(rng, Trip(start=15, end=20))
    sequence = SequenceLocalizer(localizer)
    queries = [make_query(world, drive.truth[stamp], stamp, rng) for stamp in drive.frames[:3]]
    assert sequence.update(queries[0], drive.odometry[:1]).state is State.TRACKING

    def refuse(*_):
        raise np.linalg.LinAlgError("singular matrix")

    with monkeypatch.context() as patch:
        patch.setattr(localizer, "extract", refuse)
        bad = sequence.update(queries[1], drive.odometry[1:5]).estimate
    assert bad.reason is Reason.BAD_INPUT
    assert "LinAlgError: singular matrix" in bad.reason_text
    assert sequence.update(queries[2], drive.odometry[5:9]).state is State.TRACKING


def test_a_wrong_image_makes_no_tracking_claim(world, localizer):
    """One image of nothing that is expected: COASTING, and back with the next good one."""
    result, _ = drive_through(
        world, localizer, Trip(start=15, end=35), lambda t: DARK if 2.0 <= t < 2.15 else NORMAL
    )
    states = [pose.state for pose in result.answers]
    assert states[10] is State.COASTING
    assert states[12] is State.TRACKING


def test_the_self_check_is_chi_square():
    rng = np.random.default_rng(0)
    check = SelfCheck()
    for number in range(60):
        check.add(Innovation(number * SECOND, float(rng.chisquare(6)), True), 22.5)
    assert check.inflation == 1.0
    for number in range(60, 120):
        check.add(Innovation(number * SECOND, 2 * float(rng.chisquare(6)), True), 22.5)
    assert 1.5 < check.inflation < 2.2


def test_no_image_is_a_query_too(world, localizer):
    camera = make_query(world, along(50), START, np.random.default_rng(0)).images[0].camera
    answer = SequenceLocalizer(localizer).update(Query(START, (QueryImage(camera),)))
    assert answer.estimate.reason is Reason.BAD_INPUT


def test_a_hint_finds_the_place_among_look_alikes(world, localizer):
    """In the middle of the street that exists twice, a person says which of the two it is."""
    rng = np.random.default_rng(10)
    drive = make_drive(rng, Trip(start=TWIN[0] + 30, end=TWIN[0] + 34))
    sequence = SequenceLocalizer(localizer)
    sequence.relocalize(PosePrior(along(TWIN[0] + 36), np.diag([9.0, 9, 9, 0.1, 0.1, 0.1])))
    queries = [make_query(world, drive.truth[s], s, rng) for s in drive.frames]
    answers = [sequence.update(query, drive.odometry[:1]) for query in queries[:1]]
    assert answers[0].state is State.TRACKING
    error, _ = answers[0].map_from_base.distance_to(drive.truth[drive.frames[0]])
    assert error < 0.25
    sequence.relocalize()
    assert sequence.pose_at(drive.frames[0]).state is State.LOST
    sequence.reset()
    assert sequence.pose_at(drive.frames[0]).state is State.UNINITIALIZED


def test_dark_images_do_not_make_the_map_be_searched_each_time(world, localizer):
    """Ten seconds of nothing: a search at once, then ever more rarely."""
    result, _ = drive_through(
        world, localizer, Trip(start=15, end=70), lambda t: NORMAL if t < 1 else DARK
    )
    dark = [pose for pose in result.answers if pose.stamp_ns > START + SECOND]
    searched = [n for n, pose in enumerate(dark) if pose.estimate.candidates]
    assert searched[0] < 2
    assert 3 <= len(searched) <= 8

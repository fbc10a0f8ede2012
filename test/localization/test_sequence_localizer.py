"""The sequence localizer on simulated drives: never lost for long, never jumping, honest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2
from sequence_run import Run, run
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
    measure_inertially,
    told,
)

from kapture_ros.localization.guided import GuidedOptions
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
from kapture_ros.localization.visual_motion import MotionSource
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference

MAPS = 6
NORMAL, WEAK, DARK = Conditions(), Conditions(true_count=5), Conditions(true_count=0)


@pytest.fixture(scope="module")
def world(street):
    return street


@pytest.fixture(scope="module")
def localizer(world):
    return Localizer(world.map)


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


def test_without_odometry_the_images_tell_the_motion(world, localizer):
    rng = np.random.default_rng(6)
    drive = make_drive(rng, Trip(start=15, end=45))
    sequence = SequenceLocalizer(localizer)
    answers = [
        sequence.update(make_query(world, drive.truth[stamp], stamp, rng)) for stamp in drive.frames
    ]
    assert answers[0].state is State.COASTING, "a pose, but nothing is known of the motion"
    assert {pose.motion for pose in answers[8:]} == {MotionSource.VISION_MAP}
    assert all(pose.state is State.TRACKING for pose in answers[1:])
    errors = [p.map_from_base.distance_to(drive.truth[p.stamp_ns])[0] for p in answers[8:]]
    assert max(errors) < 0.25
    between = sequence.pose_at(drive.frames[-1] + SECOND // 20)
    truth = along(15 + SPEED * (drive.frames[-1] - START) / SECOND + SPEED / 20, 0.7)
    assert between.map_from_base.distance_to(truth)[0] < 0.25


def test_what_a_turn_between_rare_images_corrects_is_not_told_as_a_jump(world, localizer):
    rng = np.random.default_rng(6)
    straight = make_drive(rng, Trip(start=15, end=60, frame_every=10))
    swaying = {
        stamp: pose @ Transform.exp([0, 0, 0, 0, 0, 0.25 * np.sin(2 * (stamp - START) / SECOND)])
        for stamp, pose in straight.truth.items()
    }
    sequence, result = SequenceLocalizer(localizer), Run(replace(straight, truth=swaying))
    for stamp, pose in swaying.items():
        if stamp in straight.frames:
            result.answers.append(sequence.update(make_query(world, pose, stamp, rng)))
        result.published.append(sequence.pose_at(stamp))
    jumps = [a.map_from_base.distance_to(b.map_from_base)[1] for a, b in pairwise(result.published)]
    assert max(jumps) > np.deg2rad(3.0), "a constant velocity does not know the turns"
    metres, degrees = result.largest_jump()
    assert metres < 0.5
    assert degrees < 2.0
    states = [pose.state for pose in result.answers]
    assert states.count(State.TRACKING) > 0.3 * len(states)
    assert set(states) == {State.TRACKING, State.COASTING}


def test_odometry_that_appears_later_takes_over(world, localizer):
    rng = np.random.default_rng(7)
    drive = make_drive(rng, Trip(start=15, end=40))
    sequence = SequenceLocalizer(localizer)
    odometry = {sample.stamp_ns: sample for sample in drive.odometry}
    for number, stamp in enumerate(drive.frames):
        if number >= 8:
            sequence.add_odometry(odometry[stamp])
        answer = sequence.update(make_query(world, drive.truth[stamp], stamp, rng))
    assert answer.motion is MotionSource.ODOMETRY
    assert answer.state is State.TRACKING


def test_odometry_that_ends_is_replaced_by_the_images_until_it_is_back(world, localizer):
    rng = np.random.default_rng(19)
    drive = make_drive(rng, Trip(start=15, end=75))
    sequence, answers = SequenceLocalizer(localizer), []
    for sample in drive.odometry:
        second = (sample.stamp_ns - START) / SECOND
        if second < 3 or second > 9:
            sequence.add_odometry(sample)
        if sample.stamp_ns in drive.frames:
            query = make_query(world, drive.truth[sample.stamp_ns], sample.stamp_ns, rng)
            answers.append((second, sequence.update(query)))
    assert all(answer.motion is MotionSource.ODOMETRY for second, answer in answers if second < 3)
    assert all(a.motion is not MotionSource.ODOMETRY for second, a in answers if 6.5 < second < 9)
    for begin, end in ((1, 3.5), (7.5, 9), (10, 12)):
        assert {a.state for second, a in answers if begin < second < end} == {State.TRACKING}
    assert answers[-1][1].motion is MotionSource.ODOMETRY
    for _, answer in answers:
        if answer.map_from_base is not None:
            metres, _ = answer.map_from_base.distance_to(drive.truth[answer.stamp_ns])
            assert metres < 0.5


def test_images_do_not_inherit_the_errors_of_odometry_nor_odometry_theirs(world, localizer):
    """It is six percent too short; what was learned of that waits until it is back."""
    rng = np.random.default_rng(19)
    drive = make_drive(rng, Trip(start=15, end=90), scale=0.06)
    sequence, scales = SequenceLocalizer(localizer), {}
    for sample in drive.odometry:
        second = (sample.stamp_ns - START) / SECOND
        if second < 6 or second > 11:
            sequence.add_odometry(sample)
        if sample.stamp_ns in drive.frames:
            query = make_query(world, drive.truth[sample.stamp_ns], sample.stamp_ns, rng)
            answer = sequence.update(query)
            if answer.map_from_base is not None:
                found = sequence.motion.at(sample.stamp_ns).scale
                scales.setdefault(answer.motion, []).append((second, found))
    by_odometry = [scale for second, scale in scales[MotionSource.ODOMETRY] if second > 5]
    assert by_odometry == pytest.approx([0.06] * len(by_odometry), abs=0.01)
    by_images = [scale for _, scale in scales[MotionSource.VISION_MAP]]
    assert by_images == pytest.approx([0.0] * len(by_images), abs=0.02)


def test_after_a_pause_of_everything_the_drive_goes_on(world, localizer):
    """As where bags are played one after another; weak images on both sides."""
    rng = np.random.default_rng(19)
    drive = make_drive(rng, Trip(start=15, end=40))
    sequence, answers = SequenceLocalizer(localizer), []
    for sample in drive.odometry:
        second = (sample.stamp_ns - START) / SECOND
        pause = 30 * SECOND if second > 2 else 0
        sequence.add_odometry(replace(sample, stamp_ns=sample.stamp_ns + pause))
        if sample.stamp_ns in drive.frames:
            shown = WEAK if 1 < second < 3 else NORMAL
            query = make_query(world, drive.truth[sample.stamp_ns], sample.stamp_ns, rng, shown)
            answer = sequence.update(replace(query, stamp_ns=sample.stamp_ns + pause))
            answers.append((second, answer))
            if answer.map_from_base is not None:
                metres, _ = answer.map_from_base.distance_to(drive.truth[sample.stamp_ns])
                assert metres < 0.5
    assert all(answer.estimate.reason is not Reason.BAD_INPUT for _, answer in answers)
    assert {a.state for second, a in answers if second > 3.1} == {State.TRACKING}
    assert {a.motion for _, a in answers} == {MotionSource.ODOMETRY}


@pytest.mark.parametrize("asked", [False, True])
def test_a_pose_that_begins_behind_the_last_odometry_can_be_given_up(world, localizer, asked: bool):
    """Because a person asks for it, or since the odometry had ended just then."""
    rng = np.random.default_rng(19)
    drive = make_drive(rng, Trip(start=15, end=60))
    sequence = SequenceLocalizer(localizer)
    for sample in drive.odometry[:43]:
        sequence.add_odometry(sample)
    newest = drive.odometry[42].stamp_ns
    for stamp in (stamp for stamp in drive.frames if stamp > newest):
        answer = sequence.update(make_query(world, drive.truth[stamp], stamp, rng))
        if asked and stamp < newest + SECOND:
            assert answer.state is State.TRACKING
            sequence.relocalize()
            assert sequence.pose_at(stamp).state is State.LOST
    assert answer.state is State.TRACKING
    assert answer.motion is MotionSource.VISION_MAP


def test_one_stamp_ahead_does_not_end_the_odometry(world, localizer):
    rng = np.random.default_rng(20)
    drive = make_drive(rng, Trip(start=15, end=30))
    sequence = SequenceLocalizer(localizer)
    for sample in drive.odometry:
        sequence.add_odometry(sample)
        if sample.stamp_ns in drive.frames:
            query = make_query(world, drive.truth[sample.stamp_ns], sample.stamp_ns, rng)
            answer = sequence.update(query)
        if sample.stamp_ns == drive.frames[5]:
            wrong = make_query(world, drive.truth[START], sample.stamp_ns + 4 * SECOND, rng)
            assert sequence.update(wrong).estimate.reason is Reason.BAD_INPUT
    assert answer.motion is MotionSource.ODOMETRY
    assert answer.state is State.TRACKING


def test_a_gyro_beside_odometry_carries_further_through_the_dark(world, localizer):
    """Four seconds of fixes, and ten that show nothing."""
    rng = np.random.default_rng(17)
    drive = make_drive(rng, Trip(start=15, end=85))
    turns = measure_inertially(drive, rng)
    beside, alone = SequenceLocalizer(localizer), SequenceLocalizer(localizer)
    for sample in drive.odometry:
        for sequence in (beside, alone):
            sequence.add_odometry(sample)
        for measurement in turns[sample.stamp_ns]:
            beside.add_imu(measurement)
        if sample.stamp_ns in drive.frames:
            shown = NORMAL if sample.stamp_ns < START + 4 * SECOND else DARK
            query = make_query(world, drive.truth[sample.stamp_ns], sample.stamp_ns, rng, shown)
            answers = [sequence.update(query) for sequence in (beside, alone)]
    assert [a.motion for a in answers] == [MotionSource.ODOMETRY_GYRO, MotionSource.ODOMETRY]
    sigmas = [np.sqrt(np.trace(answer.covariance[3:, 3:])) for answer in answers]
    assert sigmas[0] < sigmas[1] / 2
    truth = drive.truth[answers[0].stamp_ns]
    error = difference(answers[0].map_from_base, truth)
    assert error @ np.linalg.solve(answers[0].covariance, error) < chi2.ppf(0.999, 6)


def test_no_search_for_an_instant_that_odometry_does_not_reach(world, localizer, monkeypatch):
    """It could not be used, and costs most of all."""
    rng = np.random.default_rng(18)
    drive = make_drive(rng, Trip(start=15, end=20))
    sequence = SequenceLocalizer(localizer)
    searched = []
    search = localizer.localize
    monkeypatch.setattr(localizer, "localize", lambda query: searched.append(1) or search(query))
    sequence.add_odometry(drive.odometry[0])
    late = drive.odometry[0].stamp_ns + 3 * SECOND
    answer = sequence.update(make_query(world, drive.truth[START], late, rng))
    assert answer.estimate.reason is Reason.BAD_INPUT
    assert "odometry ends" in answer.estimate.reason_text
    assert not searched


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


def test_images_carry_the_pose_while_the_map_is_not_recognized(world, localizer):
    """Without odometry, and with nothing that the map would recognize for two seconds."""
    rng = np.random.default_rng(11)
    drive = make_drive(rng, Trip(start=15, end=45))
    sequence = SequenceLocalizer(localizer)
    for number, stamp in enumerate(drive.frames):
        query = make_query(world, drive.truth[stamp], stamp, rng, Conditions(keypoints=400))
        if number > 8:
            sequence.options = SequenceOptions(guided=GuidedOptions(min_similarity=1.0))
            query = replace(query, images=(_nowhere(query.images[0]),))
        answer = sequence.update(query)
    assert answer.state is State.COASTING
    assert answer.motion is MotionSource.VISION_MAP
    sigma = np.sqrt(np.linalg.eigvalsh(answer.covariance[:3, :3])[-1])
    assert answer.map_from_base.distance_to(drive.truth[stamp])[0] < min(1.5, 3 * sigma)


def _nowhere(image: QueryImage) -> QueryImage:
    """Without what retrieval needs."""
    return replace(image, features=replace(image.features, global_descriptors={}))

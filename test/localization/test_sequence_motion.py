"""What carries a drive from fix to fix: odometry, a gyro beside it, images, or what is left."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2
from sequence_run import Run
from street_world import (
    SPEED,
    START,
    Conditions,
    Trip,
    along,
    make_drive,
    make_query,
    measure_inertially,
)

from kapture_ros.localization.guided import GuidedOptions
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import QueryImage, Reason
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import (
    SequenceOptions,
    State,
)
from kapture_ros.localization.visual_motion import MotionSource
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference

NORMAL, WEAK, DARK = Conditions(), Conditions(true_count=5), Conditions(true_count=0)


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

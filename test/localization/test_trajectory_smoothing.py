"""Smoothed trajectories: better than the fixes, honest, and not pulled by wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

from kapture_ros.localization.drives import whole_motion
from kapture_ros.localization.motion_filter import Fix
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.sequence_state import SequenceOptions
from kapture_ros.localization.smoothing import smooth
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference, disturb

STEP = Transform.exp([0.5, 0, 0, 0, 0, 0.03])
OPTIONS = MotionOptions(fix_correlation=0.0)
SIGMAS = np.repeat([0.1, 0.01], 3)


def make_drive(seed: int, count: int = 60, scale: float = 0.03, bias: float = 0.004):
    """Stamps, truth and odometry as the options describe it."""
    rng = np.random.default_rng(seed)
    stamps = [n * SECOND // 10 for n in range(count)]
    truth, odom = [Transform.exp([3, 4, 5, 0, 0, 1])], [Transform()]
    position, rotation = OPTIONS.variances(0.5, 0.03, 0.1)
    for _ in stamps[1:]:
        truth.append(truth[-1] @ STEP)
        noise = rng.normal(size=6) * np.repeat(np.sqrt([position, rotation]), 3)
        measured = Transform(STEP.rotation, STEP.translation / (1 + scale))
        turn = Transform.exp([0, 0, 0, 0, 0, -bias * 0.1])
        odom.append(odom[-1] @ disturb(measured @ turn, noise))
    samples = [OdometrySample(s, pose) for s, pose in zip(stamps, odom, strict=True)]
    return stamps, truth, samples, rng


def whole(samples, options=OPTIONS):
    return whole_motion(samples, (), SequenceOptions(motion=options)).reckoning


def fix_at(stamps, truth, n, rng) -> Fix:
    return Fix(stamps[n], disturb(truth[n], SIGMAS * rng.normal(size=6)), np.diag(SIGMAS**2))


def start_at(stamps, fixes):
    by_stamp = {fix.stamp_ns: fix.map_from_base for fix in fixes}
    return [by_stamp.get(stamp) for stamp in stamps]


def test_poses_between_fixes_are_better_than_the_fixes():
    stamps, truth, samples, rng = make_drive(1)
    fixes = [fix_at(stamps, truth, n, rng) for n in range(0, 60, 3)]
    found = smooth(stamps, whole(samples), fixes, start_at(stamps, fixes))
    errors = [p.map_from_base.distance_to(t)[0] for p, t in zip(found, truth, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1  # a fix is off by 0.17
    assert [pose.stamp_ns for pose in found] == stamps


def test_the_covariance_is_honest():
    """Mean normalized squared error over drives of independent noise: 6 expected."""
    means = []
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        scale, bias = rng.normal(0, [OPTIONS.odometry_scale, OPTIONS.odometry_yaw_bias])
        stamps, truth, samples, rng = make_drive(seed, 40, scale, bias)
        fixes = [fix_at(stamps, truth, n, rng) for n in range(5, 40, 9)]
        found = smooth(stamps, whole(samples), fixes, start_at(stamps, fixes))
        for pose, true in list(zip(found, truth, strict=True))[::13]:
            error = difference(pose.map_from_base, true)
            means.append(error @ np.linalg.solve(pose.covariance, error))
    assert 4.5 < np.mean(means) < 7.5


def test_instants_before_the_first_fix_are_reckoned_backwards():
    stamps, truth, samples, rng = make_drive(2)
    fixes = [fix_at(stamps, truth, n, rng) for n in range(30, 60)]
    found = smooth(stamps, whole(samples), fixes, start_at(stamps, fixes))
    metres, _ = found[0].map_from_base.distance_to(truth[0])
    sigma = np.sqrt(np.linalg.eigvalsh(found[0].covariance[:3, :3])[-1])
    assert metres < 3 * sigma
    assert sigma < 0.6
    inner = np.sqrt(np.linalg.eigvalsh(found[45].covariance[:3, :3])[-1])
    assert inner < sigma / 4


def test_wrong_fixes_do_not_pull():
    stamps, truth, samples, rng = make_drive(3)
    good = [fix_at(stamps, truth, n, rng) for n in range(0, 60, 2)]
    wrong = [
        Fix(stamps[n], truth[n] @ Transform(translation=[30, 8, 0]), np.diag(SIGMAS**2))
        for n in range(21, 40, 6)
    ]
    start = start_at(stamps, good)
    found = smooth(stamps, whole(samples), good + wrong, start)
    clean = smooth(stamps, whole(samples), good, start)
    for pose, other in zip(found, clean, strict=True):
        assert pose.map_from_base.distance_to(other.map_from_base)[0] < 0.1


def test_odometry_that_brings_its_covariance_is_believed_by_it():
    """The same odometry, said to be a hundred times better: the fixes hardly matter."""
    stamps, truth, samples, rng = make_drive(4, scale=0.0, bias=0.0)
    exact = np.eye(6) * 1e-8
    samples = [OdometrySample(s.stamp_ns, truth[n], exact) for n, s in enumerate(samples)]
    options = MotionOptions(odometry_scale=1e-6, odometry_yaw_bias=1e-6, fix_correlation=0.0)
    fixes = [fix_at(stamps, truth, n, rng) for n in range(60)]
    found = smooth(stamps, whole(samples, options), fixes, start_at(stamps, fixes))
    for n in (0, 30, 59):
        assert found[n].map_from_base.distance_to(truth[n])[0] < 0.1


def test_without_a_fix_there_is_no_trajectory():
    stamps, _, samples, _ = make_drive(5, 4)
    with pytest.raises(ValueError, match="needs a fix"):
        smooth(stamps, whole(samples), [], [None] * 4)

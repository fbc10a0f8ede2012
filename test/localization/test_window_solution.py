"""A window of keyframes: it succeeds where single frames fail, and says how sure it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2
from street_world import CAMERA, FRONT_FROM_BASE, Trip, make_drive, project, street

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.dead_reckoning import DeadReckoning
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.refinement import Matches
from kapture_ros.localization.window import (
    Keyframe,
    KeyframeWindow,
    WindowSolution,
    as_one_camera,
    significant,
    solve_window,
)
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference

MOUNTED = MountedCamera(CAMERA, FRONT_FROM_BASE)
MOTION, POSE = MotionOptions(), PoseOptions()
POINTS, _ = street(np.random.default_rng(7))
CHANCE = np.pi * POSE.max_error**2 / (640 * 480)


def keyframe(base: Transform, odom: Transform, stamp: int, rng, true: int, false: int) -> Keyframe:
    seen, pixels = project(base, POINTS)
    rows = rng.permutation(len(seen))[:true]
    pixels = np.concatenate(
        [
            pixels[rows] + rng.normal(size=(len(rows), 2)),
            rng.uniform((0, 0), (640, 480), (false, 2)),
        ]
    )
    point = np.concatenate([seen[rows], rng.choice(seen, false)]).astype(np.int32)
    number = np.arange(len(point), dtype=np.int32)
    matches = Matches(pixels, POINTS[point], np.zeros_like(number), number, point)
    return Keyframe(stamp, odom, (MOUNTED,), matches)


def window(seed: int, size: int, true: int = 5, false: int = 45, scale: float | None = None):
    """Keyframes one metre apart, and the truth of the newest."""
    rng = np.random.default_rng(seed)
    start = 20.0 + 3 * seed
    drive = make_drive(rng, Trip(start=start, end=start + size + 1), scale=scale)
    odom = {sample.stamp_ns: sample.odom_from_base for sample in drive.odometry}
    stamps = drive.frames[:size]
    frames = [keyframe(drive.truth[s], odom[s], s, rng, true, false) for s in stamps]
    return frames, drive.truth[stamps[-1]]


def solved(seeds: range, size: int) -> list[tuple[WindowSolution | None, Transform]]:
    cases = [window(seed, size) for seed in seeds]
    return [(solve_window(frames, MOTION, POSE), truth) for frames, truth in cases]


def recall(results, metres: float) -> float:
    near = [s is not None and s.map_from_base.distance_to(t)[0] < metres for s, t in results]
    return float(np.mean(near))


def test_five_weak_frames_together_succeed_where_each_alone_fails():
    """Five true matches among fifty a frame."""
    single, five = solved(range(25), 1), solved(range(25), 5)
    assert recall(single, 0.25) < 0.75
    assert recall(five, 0.25) > recall(single, 0.25) + 0.2
    assert recall(five, 5.0) >= 0.96


def test_weak_single_frames_are_never_significant_and_windows_are():
    assert not any(significant(s.count, s.matched, CHANCE) for s, _ in solved(range(10), 1) if s)
    assert all(s and significant(s.count, s.matched, CHANCE) for s, _ in solved(range(10), 5))


def test_nothing_but_wrong_matches_is_not_significant():
    for seed in range(8):
        frames, _ = window(seed, 5, true=0, false=50)
        solution = solve_window(frames, MOTION, POSE)
        assert solution is None or not significant(solution.count, solution.matched, CHANCE)


def test_the_covariance_is_honest_with_odometry_as_uncertain_as_it_says():
    """Mean NEES over 30 windows of odometry whose scale is 3 % off (1 sigma)."""
    nees = []
    for seed in range(30):
        frames, truth = window(seed, 5, true=15, false=10)
        solution = solve_window(frames, MOTION, POSE)
        error = difference(solution.map_from_base, truth)
        nees.append(error @ np.linalg.solve(solution.covariance, error))
    low, high = chi2.ppf([0.001, 0.999], 6 * len(nees)) / len(nees)
    assert low < np.mean(nees) < high


def test_odometry_that_is_ten_per_cent_off_is_refined_not_trusted():
    """The error stays far below what odometry is off over the window."""
    errors, trusting = [], []
    for seed in range(10):
        frames, truth = window(seed, 5, true=30, false=5, scale=-0.1)
        believed = MotionOptions(odometry_scale=0.1)
        solution = solve_window(frames, believed, POSE)
        errors.append(solution.map_from_base.distance_to(truth)[0])
        rigid = MotionOptions(
            odometry_scale=0.0,
            odometry_yaw_bias=0.0,
            odometry_position_noise=1e-4,
            odometry_rotation_noise=1e-5,
        )
        solution = solve_window(frames, rigid, POSE)
        trusting.append(solution.map_from_base.distance_to(truth)[0])
    assert np.median(errors) < 0.1
    assert np.median(errors) < np.median(trusting) / 2


def test_keyframes_are_newer_than_the_last_and_apart_from_it():
    frames, _ = window(0, 4)
    motion, kept = DeadReckoning(MOTION), KeyframeWindow(3)
    for frame in frames:
        motion.add(OdometrySample(frame.stamp_ns, frame.odom_from_base))

    def keep(frame: Keyframe) -> list[int]:
        kept.keep(frame.stamp_ns, frame.cameras, frame.matches, motion, (0.8, 5.0))
        return [found.stamp_ns for found in kept.ending_at(frame.stamp_ns)]

    first, second, third, newest = (frame.stamp_ns for frame in frames)
    assert keep(frames[0]) == [], "one is no window"
    assert keep(frames[1]) == [first, second]
    assert keep(frames[0]) == [], "it is older"
    standing = replace(frames[1], stamp_ns=second + 1)
    assert keep(standing) == [], "it is in the same place"
    assert keep(frames[2]) == [first, second, third]
    assert keep(frames[3]) == [second, third, newest]
    position, rotation = kept.ending_at(newest)[-1].drift
    metres, radians = frames[2].odom_from_base.distance_to(frames[3].odom_from_base)
    assert (position, rotation) == pytest.approx(MOTION.variances(metres, radians, 0.2), rel=0.05)
    kept.clear()
    assert kept.ending_at(newest) == []
    keep(frames[0])
    later = [newest + 40 * SECOND, newest + 41 * SECOND]
    for stamp in later:
        motion.add(OdometrySample(stamp, frames[3].odom_from_base))
    assert keep(replace(frames[3], stamp_ns=later[1])) == [], "odometry does not reach over a pause"


def test_as_one_camera_looks_from_where_odometry_says():
    frames, _ = window(0, 3)
    matches, cameras = as_one_camera(frames)
    assert len(cameras) == 3
    assert np.unique(matches.camera).tolist() == [0, 1, 2]
    first = cameras[0].cam_from_base.inverse().translation
    newest = cameras[2].cam_from_base.inverse().translation
    odom = [frame.odom_from_base @ FRONT_FROM_BASE.inverse() for frame in frames]
    travelled = np.linalg.norm(odom[2].translation - odom[0].translation)
    assert np.linalg.norm(newest - first) == pytest.approx(travelled)
    assert travelled > 1.5


def test_too_few_matches_have_no_solution():
    frames, _ = window(0, 2, true=1, false=0)
    assert solve_window(frames, MOTION, POSE) is None


@pytest.mark.parametrize(
    ("inliers", "matched", "chance", "expected"),
    [
        (4, 4, 0.001, False),  # four matches agree with any pose made from them
        (25, 250, 0.0015, True),
        (9, 750, 0.0015, False),
        (20, 150, 0.04, False),  # guided: one in 25 agrees by chance
        (40, 150, 0.04, True),
        (12, 12, 0.04, True),
    ],
)
def test_significance(inliers, matched, chance, expected):
    assert significant(inliers, matched, chance) is expected

"""Motion from images alone: its scale from the map or GNSS, and what goes on without sight."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from street_world import CAMERA, FRONT_FROM_BASE, TYPES, WIDTH, like

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Evidence, QueryFeatures
from kapture_ros.localization.refinement import Matches
from kapture_ros.localization.views import View
from kapture_ros.localization.visual_motion import MotionSource, VisualMotion
from kapture_ros.transforms import Transform

TICK = SECOND // 5
STEP = Transform.exp([0.8, 0, 0, 0, 0, 0.04])


class Hall:
    """Points around, seen by one camera."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.points = self.rng.uniform([-5, -15, -2], [45, 15, 6], (1500, 3))
        self.descriptors = like(self.rng.normal(size=(1500, WIDTH)) * 10, self.rng)

    def look(self, map_from_base: Transform) -> tuple[View, Evidence]:
        """What the camera sees, and the evidence of a pose that was found by it."""
        camera = MountedCamera(CAMERA, FRONT_FROM_BASE)
        local = (FRONT_FROM_BASE @ map_from_base.inverse()).apply(self.points)
        pixels = camera.project(local)
        with np.errstate(invalid="ignore"):
            inside = (pixels > 0).all(axis=1) & (pixels < [640, 480]).all(axis=1)
        rows = np.flatnonzero(inside & (local[:, 2] > 2))
        rows = rows[self.rng.random(len(rows)) < 0.7]  # of R2D2's keypoints come again
        seen = pixels[rows] + self.rng.normal(0, 0.5, (len(rows), 2))
        features = QueryFeatures(
            seen.astype(np.float32), like(self.descriptors[rows], self.rng), {}, TYPES
        )
        number = np.arange(len(rows), dtype=np.int32)
        matches = Matches(
            seen, self.points[rows], np.zeros(len(rows), np.int32), number, rows.astype(np.int32)
        )
        return View(0, camera, features), Evidence((), matches, np.ones(len(rows), bool), (0,))


def path(count: int) -> list[Transform]:
    poses = [Transform()]
    for _ in range(count - 1):
        poses.append(poses[-1] @ STEP)
    return poses


def test_the_maps_points_give_scale_and_motion():
    hall, motion = Hall(), VisualMotion(Inertial(), MotionOptions())
    poses = path(12)
    for n, pose in enumerate(poses):
        view, evidence = hall.look(pose)
        sample = motion.sample(n * TICK, [view])
        if n == 0:
            start = sample.odom_from_base
            motion.learn(0, pose, evidence)  # a single fix, none after it
    assert motion.source is MotionSource.VISION_MAP
    moved = start.inverse() @ sample.odom_from_base
    truth = poses[0].inverse() @ poses[-1]
    metres, radians = moved.distance_to(truth)
    assert metres < 0.05 * np.linalg.norm(truth.translation)
    assert radians < np.deg2rad(1)


def test_the_covariance_covers_the_error():
    squares = []
    for seed in range(6):
        hall, motion = Hall(seed), VisualMotion(Inertial(), MotionOptions())
        before = None
        for n, pose in enumerate(path(5)):
            view, evidence = hall.look(pose)
            sample = motion.sample(n * TICK, [view])
            motion.learn(n * TICK, pose, evidence)
            if before is not None:
                error = (before.inverse() @ sample.odom_from_base).translation - STEP.translation
                squares.append(error @ np.linalg.solve(sample.covariance[:3, :3], error))
            before = sample.odom_from_base
    assert np.mean(squares[1:]) < 3 * 1.5


def test_gnss_gives_the_scale_where_the_map_does_not():
    hall, motion = Hall(), VisualMotion(Inertial(), MotionOptions())
    sources, samples = [], []
    poses = path(16)
    for n, pose in enumerate(poses):
        samples.append(motion.sample(n * TICK, [hall.look(pose)[0]]).odom_from_base)
        motion.learn_position(pose.translation, 0.5)
        sources.append(motion.source)
    assert sources[1] is MotionSource.CONSTANT_VELOCITY
    assert sources[-1] is MotionSource.VISION_GNSS
    first = sources.index(MotionSource.VISION_GNSS)
    moved = np.linalg.norm((samples[first].inverse() @ samples[-1]).translation)
    truth = np.linalg.norm((poses[first].inverse() @ poses[-1]).translation)
    assert moved == pytest.approx(truth, rel=0.1)


def test_a_camera_that_stands_still_does_not_move():
    hall, motion = Hall(), VisualMotion(Inertial(), MotionOptions())
    for n in range(5):
        view, evidence = hall.look(Transform())
        sample = motion.sample(n * TICK, [view])
        motion.learn(n * TICK, Transform(), evidence)
    assert sample.odom_from_base.distance_to(Transform())[0] < 0.05


def test_without_sight_the_last_motion_goes_on_turned_by_the_gyro():
    inertial = Inertial()
    hall, motion = Hall(), VisualMotion(inertial, MotionOptions())
    for n in range(60):
        rate = 0.2 if n < 30 else 0.5
        inertial.add(ImuSample(n * TICK // 5, np.array([0, 0, rate]), np.array([0, 0, 9.81])))
    for n, pose in enumerate(path(5)):
        view, evidence = hall.look(pose)
        before = motion.sample(n * TICK, [view]).odom_from_base
        motion.learn(n * TICK, pose, evidence)
    blind = motion.sample(9 * TICK, [])
    assert motion.source is MotionSource.CONSTANT_VELOCITY
    moved = before.inverse() @ blind.odom_from_base
    turn = Rotation.from_rotvec([0, 0, 0.2 * 0.4 + 0.5 * 0.6])
    assert (moved.rotation.inv() * turn).magnitude() < 0.05
    assert np.linalg.norm(moved.translation) == pytest.approx(5 * 0.8, rel=0.1)
    assert blind.covariance[0, 0] > 20 * blind.covariance[5, 5]


def test_before_any_pose_nobody_knows_how_far_it_goes():
    motion = VisualMotion(Inertial(), MotionOptions())
    motion.sample(0, [])
    sample = motion.sample(SECOND, [])
    assert np.sqrt(sample.covariance[0, 0]) >= 5.0

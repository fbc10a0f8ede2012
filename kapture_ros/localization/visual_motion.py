"""Odometry for a vehicle that has none: from the images themselves, and from constant velocity.

Views come from `SequenceLocalizer`, samples like an odometry's go to its filter. Keypoints of
an image are matched with those of a reference image a moment ago; from their points in three
dimensions follows the motion (PnP), and from the motion new points. One camera does not see
how large the world is: that comes from the map's points that were recognized, or from GNSS.
Where an image shows nothing, the last motion goes on, turned as the gyro says.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import poselib
from scipy.spatial.transform import Rotation

from kapture_ros.localization.cameras import MountedCamera, closest_approach
from kapture_ros.localization.inertial import Inertial
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.pose import WIDEST, PoseSolution, estimate_pose
from kapture_ros.localization.query import Evidence
from kapture_ros.localization.refinement import Matches
from kapture_ros.localization.views import View
from kapture_ros.mapping.matching import mutual_matches
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, turned_covariance

MATCHING = MatchOptions(min_similarity=0.5, device="cpu")
POSE = PoseOptions(max_error=3.0, max_iterations=500, confidence=0.999)
MAX_KEYPOINTS = 1500  # of an image: more cost time and tell the same
ENOUGH = 12  # points for a motion, and
ENOUGH_PAIRS = 20  # matches for one without points
PARALLAX = np.deg2rad(1.0)  # at least, of a point
FORWARD = 0.1  # of the median distance of the points: then the image is a new reference
FEW = 40  # points still seen of a reference: a new one is due
WANDER = (0.5, 0.1)  # one sigma after a second without vision: a car that brakes or turns in
UNKNOWN = (10.0, 0.5)  # the same where no velocity is known: a vehicle
SCALE_SIGMA = 0.15  # one sigma of the length of a step, as on KITTI between map frames
FLOOR = (0.005, 0.0005)  # one sigma of a step at least: metres, radians
DIRECTION_SIGMA = (0.1, 0.01)  # of a step without points: of its length, and radians
BASELINE_NS = SECOND // 2  # of the velocity
GNSS_SIGMAS = 10.0  # between fixes that give the scale
Rows = npt.NDArray[np.int64]


class MotionSource(enum.Enum):
    """What carries the pose from fix to fix."""

    ODOMETRY = "odometry"
    ODOMETRY_GYRO = "odometry, turned by the gyro"
    VISION_MAP = "vision, scale from the map"
    VISION_GNSS = "vision, scale from GNSS"
    CONSTANT_VELOCITY = "constant velocity"


@dataclass(frozen=True, slots=True)
class _Reference:
    """An image that later ones are compared with; points (n, 3) in its base frame or NaN."""

    odom_from_base: Transform
    views: tuple[View, ...]
    points: tuple[Array, ...]

    @property
    def count(self) -> int:
        return sum(int(np.isfinite(points[:, 0]).sum()) for points in self.points)


@dataclass(frozen=True, slots=True)
class _Step:
    """What the images say about a motion: odom_from_base, and (6, 6) in its axes."""

    odom_from_base: Transform
    covariance: Array


class VisualMotion:
    """Samples of the motion, one an instant; the frame begins where the first one is.

    Attributes:
        source: what the newest sample is from.
    """

    def __init__(self, inertial: Inertial, options: MotionOptions) -> None:
        self.source = MotionSource.CONSTANT_VELOCITY
        self._inertial = inertial
        self._gyro_sigmas = options.gyro_noise, options.gyro_bias
        self._last: OdometrySample | None = None
        self._reference: _Reference | None = None
        self._scaled: MotionSource | None = None
        self._views: tuple[View, ...] = ()
        self._velocity = np.zeros(6)  # twist of the base, a second
        self._poses: deque[tuple[int, Transform]] = deque()  # believed, in the map
        self._gnss: list[tuple[Array, Array]] = []  # positions of path and GNSS, of one scale

    @property
    def velocity_known(self) -> bool:
        """Whether there is a motion that can go on: not before a second pose."""
        return bool(self._velocity.any())

    def sample(self, stamp_ns: int, views: Sequence[View]) -> OdometrySample:
        """Where the vehicle is after the motion that the images show, or the last one."""
        if self._last is None:
            self._last = OdometrySample(stamp_ns, Transform())
            self._renew(Transform(), views, [])
        elif stamp_ns > self._last.stamp_ns:
            self._last = self._move(self._last, stamp_ns, views)
        self._views = tuple(views)
        return self._last

    def learn(self, stamp_ns: int, map_from_base: Transform, evidence: Evidence) -> None:
        """Take a pose that was believed, and the map's points that it was made from, if known."""
        if self._poses and stamp_ns <= self._poses[-1][0]:
            return
        self._poses.append((stamp_ns, map_from_base))
        while len(self._poses) > 2 and stamp_ns - self._poses[1][0] >= BASELINE_NS:
            self._poses.popleft()
        if len(self._poses) > 1:
            (start, first), (end, last) = self._poses[0], self._poses[-1]
            self._velocity = (first.inverse() @ last).log() * SECOND / (end - start)
        if self._last is not None and stamp_ns == self._last.stamp_ns and len(self._views):
            self._recognize(self._last.odom_from_base, map_from_base, evidence)

    def learn_position(self, position: Array, sigma: float) -> None:
        """Take a GNSS position (3,) at the newest sample, metres: the scale where none is known."""
        if self._scaled is MotionSource.VISION_MAP or self._last is None:
            return
        self._gnss.append((self._last.odom_from_base.translation, position))
        (start, first), (end, last) = self._gnss[0], self._gnss[-1]
        metres, path = np.linalg.norm(last - first), np.linalg.norm(end - start)
        if metres > GNSS_SIGMAS * sigma and path > 0.1 * metres:
            self._rescale(float(metres / path))

    def forget(self) -> None:
        """The believed poses were wrong, and what followed from them."""
        self._poses.clear()
        self._velocity = np.zeros(6)
        self._unscale()

    def _move(self, before: OdometrySample, stamp_ns: int, views: Sequence[View]) -> OdometrySample:
        seconds = (stamp_ns - before.stamp_ns) / SECOND
        guess, noise = self._goes_on(before.stamp_ns, stamp_ns)
        step = self._see(before.odom_from_base @ guess, views)
        if step is None:
            self.source = MotionSource.CONSTANT_VELOCITY
            return OdometrySample(stamp_ns, before.odom_from_base @ guess, noise)
        motion = before.odom_from_base.inverse() @ step.odom_from_base
        base_from_odom = before.odom_from_base.rotation_matrix().T
        covariance = turned_covariance(step.covariance, base_from_odom)
        metres = float(np.linalg.norm(motion.translation))
        floor = np.array([(SCALE_SIGMA * metres) ** 2 + FLOOR[0] ** 2, FLOOR[1] ** 2])
        covariance += np.diag(np.repeat(floor, 3))
        if self._scaled is None:
            covariance[:3, :3] += noise[:3, :3]
        else:
            self._velocity = motion.log() / seconds
        self.source = self._scaled or MotionSource.CONSTANT_VELOCITY
        return OdometrySample(stamp_ns, step.odom_from_base, covariance)

    def _goes_on(self, start_ns: int, end_ns: int) -> tuple[Transform, Array]:
        """The last motion, turned as the gyro says, and its covariance."""
        seconds = (end_ns - start_ns) / SECOND
        motion = Transform.exp(seconds * self._velocity)
        turn = self._inertial.turn(start_ns, end_ns)
        position, rotation = WANDER if self._velocity.any() else UNKNOWN
        variances = seconds * np.array([position**2, rotation**2])
        if turn is not None:
            motion = Transform(translation=motion.translation) @ turn
            noise, bias = self._gyro_sigmas
            variances[1] = noise**2 * seconds + (bias * seconds) ** 2
        return motion, np.diag(np.repeat(variances, 3))

    def _see(self, guess: Transform, views: Sequence[View]) -> _Step | None:
        """odom_from_base of the views; None where they do not show it."""
        reference = self._reference
        if reference is None or not views:
            if views:
                self._renew(guess, views, [])
            return None
        pairs = [_pairs(reference, view) for view in views]
        expected = reference.odom_from_base.inverse() @ guess
        solution = _solve(reference, views, pairs, expected)
        if solution is not None:
            moved, covariance = solution.map_from_base, 4 * solution.covariance
            points = np.concatenate(reference.points)
            distance = np.nanmedian(np.linalg.norm(points, axis=1))
            far = np.linalg.norm(moved.translation) > FORWARD * distance
            due = bool(far) or solution.count < FEW
            enough = reference.count if solution.count > FEW else 0
        else:
            seen = _two_views(reference, views, pairs, expected)
            if reference.count:  # it was lost
                self._unscale()
            if seen is None:
                self._renew(guess, views, [])
                return None
            (moved, due), enough = seen, 0
            length = float(np.linalg.norm(moved.translation))
            sigma = np.array([DIRECTION_SIGMA[0] * length, DIRECTION_SIGMA[1]])
            covariance = np.diag(np.repeat(sigma**2, 3))
        odom_from_base = reference.odom_from_base @ moved
        if due:
            points_now = [
                _triangulate(reference, view, rows, moved)
                for view, rows in zip(views, pairs, strict=True)
            ]
            # What has more points will be recognized longer.
            if sum(int(np.isfinite(part[:, 0]).sum()) for part in points_now) > enough:
                self._renew(odom_from_base, views, points_now)
        axes = reference.odom_from_base.rotation_matrix()
        return _Step(odom_from_base, turned_covariance(covariance, axes))

    def _renew(
        self, odom_from_base: Transform, views: Sequence[View], points: Sequence[Array]
    ) -> None:
        """Make an image the reference."""
        if not points:
            points = [np.full((len(view.features.keypoints), 3), np.nan) for view in views]
        self._reference = _Reference(odom_from_base, tuple(views), tuple(points))

    def _recognize(
        self, odom_from_base: Transform, map_from_base: Transform, evidence: Evidence
    ) -> None:
        """The map's points that an image showed become points of the reference."""
        matches, inliers = evidence.matches, evidence.inliers
        if matches is None or inliers is None or inliers.sum() < ENOUGH:
            return
        known = matches.select(inliers)
        in_base = map_from_base.inverse().apply(known.points_map)
        points = [np.full((len(view.features.keypoints), 3), np.nan) for view in self._views]
        for number in range(len(self._views)):
            rows = known.camera == number
            points[number][known.keypoint[rows]] = in_base[rows]
        self._renew(odom_from_base, self._views, points)
        self._scaled, self._gnss = MotionSource.VISION_MAP, []

    def _rescale(self, scale: float) -> None:
        """The points of the reference are farther from the camera by a factor."""
        if self._reference is None:
            return
        points = [
            _scaled_about(view.camera, points, scale)
            for view, points in zip(self._reference.views, self._reference.points, strict=True)
        ]
        self._reference = replace(self._reference, points=tuple(points))
        self._scaled, self._gnss = MotionSource.VISION_GNSS, []

    def _unscale(self) -> None:
        self._scaled, self._gnss = None, []


def _kept(view: View) -> Rows:
    """Keypoints that are used, evenly from all."""
    count = len(view.features.keypoints)
    return np.unique(np.linspace(0, count - 1, min(count, MAX_KEYPOINTS)).astype(np.int64))


def _pixels(view: View, rows: Rows) -> Array:
    return view.features.keypoints[rows, :2].astype(float)


def _same(reference: _Reference, view: View) -> int | None:
    """The reference's view of the same camera."""
    numbers = [before.number for before in reference.views]
    return numbers.index(view.number) if view.number in numbers else None


def _pairs(reference: _Reference, view: View) -> Rows:
    """Rows (m, 2) of keypoints of the reference and of a view that match."""
    number = _same(reference, view)
    if number is None:
        return np.empty((0, 2), np.int64)
    before = reference.views[number]
    first, second = _kept(before), _kept(view)
    pairs, _ = mutual_matches(
        before.features.descriptors[first].astype(np.float32),
        view.features.descriptors[second].astype(np.float32),
        MATCHING,
    )
    return np.stack([first[pairs[:, 0]], second[pairs[:, 1]]], axis=1)


def _solve(
    reference: _Reference, views: Sequence[View], pairs: Sequence[Rows], expected: Transform
) -> PoseSolution | None:
    """reference_from_base of the views, from the reference's points."""
    parts = []
    for number, (view, rows) in enumerate(zip(views, pairs, strict=True)):
        before = _same(reference, view)
        if before is None:
            continue
        points = reference.points[before][rows[:, 0]]
        known = np.isfinite(points[:, 0])
        pixels = _pixels(view, rows[known, 1])
        camera = np.full(len(pixels), number, np.int32)
        keypoint = rows[known, 1].astype(np.int32)
        parts.append((pixels, points[known], camera, keypoint))
    if sum(len(pixels) for pixels, *_ in parts) < ENOUGH:
        return None
    joined = [np.concatenate(values) for values in zip(*parts, strict=True)]
    pixels, points, camera, keypoint = joined
    matches = Matches(pixels, points, camera, keypoint, keypoint)
    cameras = [view.camera for view in views]
    solution = estimate_pose(matches, cameras, POSE, predicted=expected)
    return solution if solution is not None and solution.count >= ENOUGH else None


def _two_views(
    reference: _Reference, views: Sequence[View], pairs: Sequence[Rows], expected: Transform
) -> tuple[Transform, bool] | None:
    """reference_from_base of the views without points: as long as expected, or 1 m.

    Returns:
        Also whether there is enough parallax for points; without, only the turn is seen.
    """
    best = int(np.argmax([len(rows) for rows in pairs]))
    view, rows = views[best], pairs[best]
    number = _same(reference, view)
    if number is None or len(rows) < ENOUGH_PAIRS:
        return None
    camera = reference.views[number].camera
    first = camera.rays(_pixels(reference.views[number], rows[:, 0]))
    second = view.camera.rays(_pixels(view, rows[:, 1]))
    ahead = (first[:, 2] > WIDEST) & (second[:, 2] > WIDEST)
    if ahead.sum() < ENOUGH_PAIRS:
        return None
    plane = {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [1.0, 0.0, 0.0]}
    ransac = {"max_epipolar_error": 2.0 / camera.focal, "max_iterations": 1000, "seed": 0}
    found, info = poselib.estimate_relative_pose(
        first[ahead, :2] / first[ahead, 2:], second[ahead, :2] / second[ahead, 2:],
        plane, plane, ransac,
    )  # fmt: skip
    inliers = np.asarray(info["inliers"], bool)
    rotation = np.asarray(found.R)
    if inliers.sum() < ENOUGH_PAIRS:
        return None
    turned = first[ahead][inliers] @ rotation.T
    cosine = np.einsum("ni,ni->n", turned, second[ahead][inliers])
    cam_from_base = view.camera.cam_from_base
    if np.median(np.arccos(np.clip(cosine, -1, 1))) < PARALLAX:
        turn = camera.cam_from_base.rotation.inv() * Rotation.from_matrix(rotation.T)
        return Transform(turn * cam_from_base.rotation, expected.translation), False
    length = float(np.linalg.norm(expected.translation)) or 1.0
    direction = np.asarray(found.t) / max(float(np.linalg.norm(found.t)), 1e-12)
    now_from_before = Transform(Rotation.from_matrix(rotation), length * direction)
    moved = camera.cam_from_base.inverse() @ now_from_before.inverse() @ cam_from_base
    return moved, True


def _triangulate(
    reference: _Reference, view: View, rows: Rows, reference_from_now: Transform
) -> Array:
    """Points (n, 3) of a view's keypoints in its base frame; NaN where they are not known.

    Midpoints of the rays; points of the reference that are seen again stay, so that the
    scale does.
    """
    points = np.full((len(view.features.keypoints), 3), np.nan)
    number = _same(reference, view)
    if number is None or len(rows) == 0:
        return points
    before = reference.views[number]
    now_from_reference = reference_from_now.inverse()
    first_to_base = now_from_reference @ before.camera.cam_from_base.inverse()
    second_to_base = view.camera.cam_from_base.inverse()
    pixels = _pixels(before, rows[:, 0]), _pixels(view, rows[:, 1])
    u = before.camera.rays(pixels[0]) @ first_to_base.rotation_matrix().T
    v = view.camera.rays(pixels[1]) @ second_to_base.rotation_matrix().T
    between = second_to_base.translation - first_to_base.translation
    s, t, sine2 = closest_approach(u, v, between)
    middle = (s[:, None] * u + first_to_base.translation) / 2
    middle += (t[:, None] * v + second_to_base.translation) / 2
    good = (s > 0) & (t > 0) & (sine2 > np.sin(PARALLAX) ** 2)
    old = now_from_reference.apply(reference.points[number][rows[:, 0]])
    known = np.isfinite(old[:, 0])
    chosen = np.where(known[:, None], old, middle)
    errors = _error(before.camera, now_from_reference.inverse(), chosen, pixels[0])
    errors = np.maximum(errors, _error(view.camera, Transform(), chosen, pixels[1]))
    with np.errstate(invalid="ignore"):
        good = (good | known) & (errors < POSE.max_error)
    points[rows[good, 1]] = chosen[good]
    return points


def _error(
    camera: MountedCamera, base_from_points: Transform, points: Array, pixels: Array
) -> Array:
    """Pixels (n,) between points and where they are seen; NaN behind the camera."""
    seen = camera.project((camera.cam_from_base @ base_from_points).apply(points))
    length: Array = np.linalg.norm(seen - pixels, axis=1)
    return length


def _scaled_about(camera: MountedCamera, points: Array, scale: float) -> Array:
    """Points in the base frame, farther from the camera or nearer."""
    center = camera.cam_from_base.inverse().translation
    return center + scale * (points - center)

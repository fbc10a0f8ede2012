"""How things move: the ring road as a curve, the vehicle's pose and its derivatives in time.

The vehicle's body rolls, pitches and bounces a little, so that poses have six degrees of
freedom. base_link is on the ground below the rear axle: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline, make_interp_spline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.layout import RING
from kapture_ros.transforms.se3 import Array, Transform

_STEP = 0.1  # metres between the samples of a path
_CORNER = 9.0  # metres, radius of the middle of the road in a corner
_START = 12.0  # metres along the southern road at which a path begins
_KNOTS_HZ = 20.0


@dataclass(frozen=True, slots=True)
class Path:
    """A closed curve: `points` (N, 2) and headings (N,), every `_STEP` metres or so."""

    points: Array
    headings: Array
    step: float

    @property
    def length(self) -> float:
        """Metres once around."""
        return self.step * len(self.points)

    def at(self, along: npt.ArrayLike) -> tuple[Array, Array]:
        """Positions (…, 2) and continuous headings (…,) at metres along the path."""
        place = np.asarray(along, float) / self.step
        rounds, place = np.divmod(place, len(self.points))
        grid = np.arange(len(self.points) + 1)
        closed = np.vstack([self.points, self.points[:1]])
        turned = np.append(self.headings, self.headings[0] + 2 * np.pi)
        x, y, heading = (np.interp(place, grid, v) for v in (*closed.T, turned))
        return np.stack([x, y], axis=-1), heading + 2 * np.pi * rounds


@lru_cache(maxsize=128)
def ring_path(offset: float) -> Path:
    """Counter-clockwise around the ring road, `offset` metres outwards of its middle."""
    x0, y0, x1, y1 = RING
    radius = _CORNER + offset
    straights = (x1 - x0 - 2 * _CORNER, y1 - y0 - 2 * _CORNER)
    pieces = [(straights[0] - _START, 0.0)]
    for straight in (straights[1], straights[0], straights[1], _START):
        pieces += [(np.pi / 2 * radius, 1.0 / radius), (straight, 0.0)]
    total = sum(length for length, _ in pieces)
    count = round(total / _STEP)
    step = total / count
    ends = np.concatenate([[0.0], np.cumsum([length for length, _ in pieces])])
    turned = np.concatenate([[0.0], np.cumsum([length * bend for length, bend in pieces])])
    curvature = np.diff(np.interp(np.arange(count + 1) * step, ends, turned)) / step
    # A steering wheel turns in finite time. Smoothing keeps the curve closed, since all
    # four corners change alike.
    curvature = gaussian_filter1d(curvature, 2.0 / step, mode="wrap")
    # Of the middle of each step, so that the steps are chords of the curve.
    headings = (np.cumsum(curvature) - curvature / 2) * step
    steps = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    start = np.array([x0 + _CORNER + _START, y0 - offset])
    points = start + np.cumsum(steps, axis=0) - steps / 2
    return Path(points, headings, step)


class Trajectory:
    """Where the vehicle is: a smooth function of time (seconds from the start).

    Args:
        speed: metres a second on straight road; corners are taken more slowly.
        lane: metres to the right of the middle of the road.
        seed: of the weaving and shaking.
        kidnap: seconds after which the vehicle is somewhere else, half a round further on.
    """

    def __init__(
        self, duration: float, speed: float, lane: float, seed: int, kidnap: float | None = None
    ):
        random = np.random.default_rng([seed, 31])
        path = ring_path(lane)
        margin = 1.0
        times = np.arange(-margin, duration + margin + 1 / _KNOTS_HZ, 1 / _KNOTS_HZ)
        along = _travelled(path, times, speed)
        weave = _smooth_noise(random, len(times), 2.0, 0.12)
        shake = np.stack(
            [_smooth_noise(random, len(times), 0.35, scale) for scale in (0.004, 0.005, 0.006)], -1
        )
        self._kidnap = kidnap
        self._legs = [
            _leg(path, times, along + jump, weave, shake) for jump in (0.0, path.length / 2)
        ]

    def _six(self, times: npt.ArrayLike, derivative: int) -> Array:
        """x, y, z, yaw, pitch, roll (N, 6), or their derivatives in time."""
        times = np.atleast_1d(np.asarray(times, float))
        six: Array = self._legs[0](times, derivative)
        if self._kidnap is not None:
            later = times >= self._kidnap
            six[later] = self._legs[1](times[later], derivative)
        return six

    def pose(self, time: float) -> Transform:
        """map_from_base."""
        (six,) = self._six(time, 0)
        return Transform(_rotation(six), six[:3])

    def twists(self, times: npt.ArrayLike) -> tuple[Array, Array]:
        """Linear and angular velocities (N, 3) in base_link."""
        six, rates = self._six(times, 0), self._six(times, 1)
        linear: Array = _rotation(six).inv().apply(rates[:, :3])
        return linear, _body_rates(six, rates)

    def specific_forces(self, times: npt.ArrayLike, lever: Array, gravity: float) -> Array:
        """What an accelerometer at `lever` (base_link) feels, in base_link: (N, 3) m/s²."""
        step = 1e-3
        six = self._six(times, 0)
        rate = _body_rates(six, self._six(times, 1))
        after = np.asarray(times, float) + step
        later = _body_rates(self._six(after, 0), self._six(after, 1))
        swing = np.cross((later - rate) / step, lever) + np.cross(rate, np.cross(rate, lever))
        pulled = self._six(times, 2)[:, :3] + np.array([0.0, 0.0, gravity])
        felt: Array = _rotation(six).inv().apply(pulled) + swing
        return felt


def _leg(path: Path, times: Array, along: Array, weave: Array, shake: Array) -> BSpline:
    """x, y, z, yaw, pitch, roll as splines of time, `along` metres along a path."""
    points, headings = path.at(along)
    points = points + weave[:, None] * np.stack([-np.sin(headings), np.cos(headings)], -1)
    moved = make_interp_spline(times, points, k=5)
    velocity, acceleration = moved(times, 1), moved(times, 2)
    yaw = np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0]))
    forward = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    pushed = np.sum(acceleration * forward, -1)
    sideways = acceleration[:, 1] * forward[:, 0] - acceleration[:, 0] * forward[:, 1]
    # Springs: the nose dips when braking, the body leans out of the curve.
    pitch = -0.004 * pushed + shake[:, 1]
    roll = 0.008 * sideways + shake[:, 0]
    return make_interp_spline(times, np.column_stack([points, shake[:, 2], yaw, pitch, roll]), k=5)


def _travelled(path: Path, times: Array, speed: float) -> Array:
    """Metres along the path at each time, 0 at time 0: slower in corners."""
    curvature = np.gradient(path.headings, path.step)
    limit = np.minimum(speed, np.sqrt(1.9 / np.maximum(np.abs(curvature), 1e-3)))
    pace = gaussian_filter1d(1.0 / limit, 5.0 / path.step, mode="wrap")
    elapsed = np.concatenate([[0.0], np.cumsum(pace) * path.step])
    rounds, rest = np.divmod(times, elapsed[-1])
    place = np.arange(len(elapsed)) * path.step
    travelled: Array = rounds * path.length + np.interp(rest, elapsed, place)
    return travelled


def _smooth_noise(random: np.random.Generator, count: int, seconds: float, size: float) -> Array:
    """Noise of standard deviation `size` that changes over `seconds`."""
    noise = gaussian_filter1d(random.normal(0, 1, count + 200), seconds * _KNOTS_HZ)[100:-100]
    result: Array = noise * size * np.sqrt(2 * np.sqrt(np.pi) * seconds * _KNOTS_HZ)
    return result


def _rotation(six: Array) -> Rotation:
    return Rotation.from_euler("ZYX", six[..., 3:])


def _body_rates(six: Array, rates: Array) -> Array:
    """Angular velocities (N, 3) in the body's axes from poses and their derivatives (N, 6)."""
    pitch, roll = six[:, 4], six[:, 5]
    yaw_rate, pitch_rate, roll_rate = rates[:, 3:].T
    return np.stack(
        [
            roll_rate - yaw_rate * np.sin(pitch),
            pitch_rate * np.cos(roll) + yaw_rate * np.cos(pitch) * np.sin(roll),
            -pitch_rate * np.sin(roll) + yaw_rate * np.cos(pitch) * np.cos(roll),
        ],
        axis=-1,
    )

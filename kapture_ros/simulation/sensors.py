"""Measurements of the vehicle's sensors other than cameras, with their errors.

Everything is drawn from generators that depend on the seed and the lap only. Times are
seconds from the start of the lap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.layout import RING
from kapture_ros.simulation.motion import Trajectory
from kapture_ros.simulation.vehicle import MOUNTS
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array, Transform

GRAVITY = 9.80665
IMU_HZ, ODOMETRY_HZ, GNSS_HZ = 100.0, 50.0, 5.0
WIFI_PERIOD, WIFI_SCAN = 2.5, 1.1  # seconds from scan to scan, and of one scan

GYRO_NOISE, GYRO_BIAS = 2e-3, 3e-3  # rad/s: of a sample, of the constant bias
ACCEL_NOISE, ACCEL_BIAS = 0.03, 0.04  # m/s²
SPEED_SCALE, SPEED_NOISE = 6e-3, 0.02  # wheel radius error (relative), m/s of a sample
TURN_BIAS, TURN_NOISE = 6e-4, 4e-3  # rad/s
GNSS_SECONDS, MULTIPATH_SECONDS = 40.0, 6.0  # correlation times
WIFI_FLOOR = -89.0  # dBm that a receiver still hears


@dataclass(frozen=True, slots=True)
class ImuSample:
    """Angular velocity (rad/s) and specific force (m/s²) in imu_link."""

    time: float
    angular_velocity: Array
    specific_force: Array


@dataclass(frozen=True, slots=True)
class OdometrySample:
    """Dead reckoning from the wheels; covariances (3, 3) of x, y, yaw and of the twist."""

    time: float
    odom_from_base: Transform
    speed: float
    turn: float
    covariance: Array


@dataclass(frozen=True, slots=True)
class Receiver:
    """How well a GNSS receiver does: horizontal standard deviations in metres.

    Attributes:
        bias: of the error that wanders slowly.
        noise: of each fix.
        multipath: of what reflections add between high walls.
    """

    bias: float
    noise: float
    multipath: float


RECEIVERS = {"single": Receiver(1.1, 0.25, 7.0), "rtk": Receiver(0.015, 0.01, 0.1)}


@dataclass(frozen=True, slots=True)
class GnssSample:
    """Degrees, degrees, metres; None without a fix. `sigma`: east, north, up in metres."""

    time: float
    position: tuple[float, float, float] | None
    sigma: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class HeardAccessPoint:
    """One access point in a scan."""

    index: int
    time: float
    rssi: int


def imu(trajectory: Trajectory, duration: float, seed: int) -> list[ImuSample]:
    """Samples with noise and a constant bias."""
    random = np.random.default_rng([seed, 51])
    lever = MOUNTS["imu_link"].translation
    turn_bias, force_bias = random.normal(0, GYRO_BIAS, 3), random.normal(0, ACCEL_BIAS, 3)
    times = np.arange(0.0013, duration, 1 / IMU_HZ)
    rates = trajectory.twists(times)[1] + turn_bias
    forces = trajectory.specific_forces(times, lever, GRAVITY) + force_bias
    rates += random.normal(0, GYRO_NOISE, rates.shape)
    forces += random.normal(0, ACCEL_NOISE, forces.shape)
    return [
        ImuSample(time, rate, force)
        for time, rate, force in zip(times.tolist(), rates, forces, strict=True)
    ]


def odometry(trajectory: Trajectory, duration: float, seed: int) -> list[OdometrySample]:
    """Integrated wheel speeds; the covariance is propagated from the same error model."""
    random = np.random.default_rng([seed, 52])
    scale, bias = 1 + random.normal(0, SPEED_SCALE), random.normal(0, TURN_BIAS)
    step = 1 / ODOMETRY_HZ
    x = y = yaw = 0.0
    # Of x, y, yaw and of the two constants that nobody knows: scale and bias.
    covariance = np.diag([1e-6, 1e-6, 1e-6, SPEED_SCALE**2, TURN_BIAS**2])
    times = np.arange(0.0, duration, step)
    linear, angular = trajectory.twists(times)
    speeds = scale * linear[:, 0] + random.normal(0, SPEED_NOISE, len(times))
    turns = angular[:, 2] + bias + random.normal(0, TURN_NOISE, len(times))
    samples = []
    for time, speed, turn in zip(times.tolist(), speeds.tolist(), turns.tolist(), strict=True):
        pose = Transform(Rotation.from_euler("z", yaw), np.array([x, y, 0.0]))
        samples.append(OdometrySample(time, pose, speed, turn, covariance[:3, :3].copy()))
        middle = yaw + turn * step / 2
        cos, sin = np.cos(middle), np.sin(middle)
        change = np.eye(5)
        change[0, 2], change[1, 2] = -speed * sin * step, speed * cos * step
        change[0, 3], change[1, 3] = speed * cos * step, speed * sin * step
        change[2, 4] = step
        covariance = change @ covariance @ change.T
        covariance[:2, :2] += (SPEED_NOISE * step) ** 2 * np.outer((cos, sin), (cos, sin))
        covariance[2, 2] += (TURN_NOISE * step) ** 2
        x, y, yaw = x + speed * cos * step, y + speed * sin * step, yaw + turn * step
    return samples


def gnss(
    trajectory: Trajectory,
    duration: float,
    seed: int,
    datum: Datum,
    receiver: Receiver = RECEIVERS["single"],
) -> list[GnssSample]:
    """Fixes with a slowly wandering bias; none below the bridge, reflections in the canyon."""
    random = np.random.default_rng([seed, 53])
    keep = np.exp(-1 / (GNSS_HZ * GNSS_SECONDS))
    keep_echo = np.exp(-1 / (GNSS_HZ * MULTIPATH_SECONDS))
    bias = random.normal(0, receiver.bias, 3)
    echo = random.normal(0, receiver.multipath, 3)
    vertical = np.array([1.0, 1.0, 2.0])
    samples = []
    for time in np.arange(0.07, duration, 1 / GNSS_HZ):
        bias = keep * bias + np.sqrt(1 - keep**2) * random.normal(0, receiver.bias, 3)
        echo = keep_echo * echo + np.sqrt(1 - keep_echo**2) * random.normal(
            0, receiver.multipath, 3
        )
        antenna = trajectory.pose(time).apply(MOUNTS["gnss_link"].translation)
        sigma = np.full(3, np.hypot(receiver.bias, receiver.noise))
        error = bias + random.normal(0, receiver.noise, 3)
        if in_canyon(antenna):
            sigma, error = np.hypot(sigma, receiver.multipath), error + echo
        if below_bridge(antenna):
            samples.append(GnssSample(float(time), None, (0.0, 0.0, 0.0)))
            continue
        latitude, longitude, altitude = datum.geodetic_from_map(antenna + error * vertical)
        position = (float(latitude[0]), float(longitude[0]), float(altitude[0]))
        east, north, up = sigma * vertical
        samples.append(GnssSample(float(time), position, (float(east), float(north), float(up))))
    return samples


def below_bridge(position: Array) -> bool:
    """Where no satellite is received: a stretch of the southern road."""
    return bool(abs(position[1] - RING[1]) < 9 and 62 < position[0] < 86)


def in_canyon(position: Array) -> bool:
    """Where walls reflect the satellites' signals: the eastern road."""
    return bool(abs(position[0] - RING[2]) < 9 and 12 < position[1] < 52)


def wifi(
    trajectory: Trajectory, duration: float, seed: int, access_points: Array
) -> list[tuple[float, list[HeardAccessPoint]]]:
    """Scans: when each ended and what was heard, each access point at its own moment."""
    random = np.random.default_rng([seed, 54])
    shadowing = _Shadowing(len(access_points))
    scans = []
    for end in np.arange(WIFI_SCAN + 0.02, duration, WIFI_PERIOD):
        heard = []
        for index, point in enumerate(access_points):
            time = float(end - random.uniform(0, WIFI_SCAN))
            antenna = trajectory.pose(time).apply(MOUNTS["wifi_link"].translation)
            fading = random.normal(0, 1.8)
            rssi = received_power(antenna, point) + shadowing(index, antenna) + fading
            missed = random.random() < 0.06
            if rssi >= WIFI_FLOOR and not missed:
                heard.append(HeardAccessPoint(index, time, round(rssi)))
        scans.append((float(end), heard))
    return scans


def received_power(antenna: Array, access_point: Array) -> float:
    """dBm by the log-distance model (ITU-R P.1238's form), one outer wall between."""
    distance = max(float(np.linalg.norm(antenna - access_point)), 1.0)
    return -38.0 - 10 * 2.9 * float(np.log10(distance)) - 6.0


class _Shadowing:
    """Decibels that houses and trees add or take, the same on every visit to a place."""

    def __init__(self, count: int):
        random = np.random.default_rng(55)
        self._waves = random.normal(0, 2 * np.pi / 25.0, (count, 12, 2))
        self._phases = random.uniform(0, 2 * np.pi, (count, 12))

    def __call__(self, index: int, position: Array) -> float:
        angles = self._waves[index] @ position[:2] + self._phases[index]
        return float(4.0 * np.sqrt(2 / 12) * np.cos(angles).sum())

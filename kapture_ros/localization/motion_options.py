"""How much odometry, gyro and fixes are believed, by all that weighs them against each other.

The motion filter does while the vehicle drives, smoothing afterwards, a window of keyframes
between its instants; the numbers of a vehicle are the same for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kapture_ros.options import option
from kapture_ros.transforms.se3 import Array


@dataclass(frozen=True)
class MotionOptions:
    """How much odometry and fixes are believed."""

    odometry_scale: float = option(
        0.03, "one sigma of the odometry's scale error", minimum=0, maximum=0.5
    )
    odometry_yaw_bias: float = option(
        0.005, "one sigma of its constant yaw-rate error", unit="rad/s", minimum=0
    )
    odometry_position_noise: float = option(
        0.02, "one sigma of its random error after one metre", unit="m", minimum=0
    )
    odometry_rotation_noise: float = option(
        0.002, "one sigma of its random turn after one metre", unit="rad", minimum=0
    )
    position_wander: float = option(
        0.0, "one sigma of its random error after one second", unit="m", minimum=0
    )
    rotation_wander: float = option(
        0.0, "one sigma of its random turn after one second", unit="rad", minimum=0
    )
    gyro_noise: float = option(
        0.0003, "one sigma of the gyro's random turn after one second", unit="rad", minimum=0
    )
    gyro_scale: float = option(0.005, "one sigma of the gyro's scale error", minimum=0)
    gyro_bias: float = option(
        0.02, "one sigma of the gyro's bias before any of it is learned", unit="rad/s", minimum=0
    )
    gyro_bias_wander: float = option(
        0.00005, "one sigma of its change after one second", unit="rad/s", minimum=0
    )
    gate: float = option(
        0.999, "probability that a right fix passes the gate", minimum=0.5, maximum=0.999999
    )
    fix_correlation: float = option(
        0.25,
        "time over which the errors of successive fixes are alike, since they see the same "
        "map points: more fixes in that time do not make the pose surer",
        unit="s",
        minimum=0,
    )
    map_correlation: float = option(
        20.0,
        "way over which the map's own error becomes another one, where instants held out of "
        "the map do not tell it, and in smoothing",
        unit="m",
        minimum=0.1,
    )
    history: float = option(
        10.0, "how late a fix may come and still be fused", unit="s", minimum=0.1
    )

    def variances(self, metres: float, turned: float, seconds: float) -> tuple[float, float]:
        """Of the random error of a piece of odometry, each axis of position and rotation."""
        position = self.odometry_position_noise**2 * metres + self.position_wander**2 * seconds
        # A turn on the spot is about as uncertain as the arc of a wheelbase of one metre.
        rotation = self.odometry_rotation_noise**2 * (metres + turned)
        return position, rotation + self.rotation_wander**2 * seconds

    def map_share(self, metres: float) -> float:
        """Correlation of the map's error between two places, where it was not measured."""
        return math.exp(-metres / self.map_correlation)

    @property
    def error_sigmas(self) -> Array:
        """(6,) of `MotionState.errors` before anything is known of them."""
        odometry = self.odometry_scale, self.odometry_yaw_bias
        return np.array([*odometry, *[self.gyro_bias] * 3, self.gyro_scale])

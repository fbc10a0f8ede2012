"""A drive through the street world given to a sequence localizer, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from street_world import START, Conditions, Drive, World, make_query

from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Query
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State, TrackedPose
from kapture_ros.transforms.se3 import difference


@dataclass
class Run:
    """Answers to the frames and, every 50 ms, what is published between them."""

    drive: Drive
    answers: list[TrackedPose] = field(default_factory=list)
    published: list[TrackedPose] = field(default_factory=list)

    def error(self, pose: TrackedPose) -> tuple[float, float]:
        """Metres and radians; infinite without a pose."""
        if pose.map_from_base is None:
            return np.inf, np.inf
        return pose.map_from_base.distance_to(self.drive.truth[pose.stamp_ns])

    def nees(self) -> np.ndarray:
        """Normalized errors squared of all answers with a pose."""
        values = []
        for pose in self.answers:
            if pose.map_from_base is not None:
                error = difference(pose.map_from_base, self.drive.truth[pose.stamp_ns])
                values.append(error @ np.linalg.solve(pose.covariance, error))
        return np.array(values)

    def recall(self, metres: float, degrees: float, after: int = 0) -> float:
        """Share of the frames, `after` the first of them, that are so near to the truth."""
        errors = np.array([self.error(pose) for pose in self.answers[after:]])
        return float(((errors[:, 0] <= metres) & (errors[:, 1] <= np.deg2rad(degrees))).mean())

    def worst_accepted(self) -> float:
        """Metres, of the answers that say TRACKING."""
        tracked = [p for p in self.answers if p.state is State.TRACKING]
        return max((self.error(pose)[0] for pose in tracked), default=0.0)

    def largest_jump(self) -> tuple[float, float]:
        """Metres and degrees beyond the true motion between outputs 50 ms apart."""
        metres = degrees = 0.0
        for a, b in zip(self.published, self.published[1:], strict=False):
            if a.state is b.state is State.TRACKING:
                truth = self.drive.truth
                moved = a.map_from_base.inverse() @ b.map_from_base
                true = truth[a.stamp_ns].inverse() @ truth[b.stamp_ns]
                jump = moved.distance_to(true)
                metres, degrees = max(metres, jump[0]), max(degrees, np.rad2deg(jump[1]))
        return metres, degrees

    def seconds_until(self, state: State, start: float = 0.0) -> float:
        """When, after `start` seconds of the drive, a frame was answered with a state."""
        for pose in self.answers:
            seconds = (pose.stamp_ns - START) / SECOND
            if seconds >= start and pose.state is state:
                return seconds - start
        return np.inf


def run(
    world: World,
    localizer: SequenceLocalizer,
    drive: Drive,
    rng: np.random.Generator,
    conditions: Conditions | Callable[[float], Conditions | None] = Conditions(),  # noqa: B008
    change: Callable[[Query, int], Query] = lambda query, _: query,
) -> Run:
    """Drive; `conditions` may depend on the seconds (None: the frame is dropped)."""
    result = Run(drive)
    frames = set(drive.frames)
    for sample in drive.odometry:
        stamp = sample.stamp_ns
        localizer.add_odometry(sample)
        now = conditions
        if not isinstance(conditions, Conditions):
            now = conditions((stamp - START) / SECOND)
        if stamp in frames and now is not None:
            query = make_query(world, drive.truth[stamp], stamp, rng, now)
            result.answers.append(localizer.update(change(query, stamp)))
        result.published.append(localizer.pose_at(stamp))
    return result

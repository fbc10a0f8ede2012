"""What benchmarks/sequence.py drives through, and under which conditions.

A scene is the street of the tests or images that were recorded; a case says what its frames
show, by seconds, and what else is wrong. benchmarks/sequence.py puts test/localization on the
path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from street_world import (
    NOISE,
    START,
    TWIN,
    Conditions,
    Drive,
    Trip,
    World,
    gnss,
    make_drive,
    make_query,
    make_world,
    measured,
    told,
)

from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import Query, QueryImage
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.mapping.sessions import FeatureSource
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform, interpolate

TICK = 0.05  # seconds between outputs
GOOD, DARK = Conditions(), Conditions(true_count=0)


@dataclass(frozen=True)
class Case:
    """A condition: what frames show by seconds, and what else is wrong.

    Attributes:
        jump: where the vehicle is moved from and to: metres of the street, shares of a
            recording.
    """

    name: str
    conditions: Callable[[float], Conditions | None] = lambda _: GOOD
    start: float = 20.0
    metres: float | None = None
    scale: float | None = None
    offset_ns: int = 0
    shuffle: bool = False
    multipath: bool = False
    jump: tuple[float, float] | None = None
    odometry: bool = True
    imu: bool = False


def common_cases() -> Iterator[Case]:
    """What can be done to any drive."""
    yield Case("60 % occluded", lambda _: Conditions(occluded=0.6))
    yield Case("odometry 3 % too long", scale=-0.03)
    yield Case("stamps 50 ms off", offset_ns=50_000_000)
    yield Case(
        "dropped and out of order", lambda t: None if int(t * 10) % 7 == 0 else GOOD, shuffle=True
    )
    yield Case("no odometry", odometry=False)
    yield Case("odometry and IMU", imu=True)


def street_cases() -> Iterator[Case]:
    yield Case("normal")
    yield Case("normal, 380 m", start=0.0, metres=380.0)
    yield Case("night-like: 15 % true", lambda _: Conditions(true_share=0.15))
    yield Case("night-like: 8 % true", lambda _: Conditions(true_share=0.08))
    yield Case("5 true matches a frame", lambda t: GOOD if t < 1 else Conditions(true_count=5))
    yield Case("every 5th frame usable", lambda t: GOOD if round(t * 20) // 4 % 5 == 0 else DARK)
    dark = lambda t: DARK if 4 < t < 34 else GOOD  # noqa: E731
    yield Case("30 s without a fix", dark, metres=195.0)
    yield Case("30 s without a fix, IMU", dark, metres=195.0, imu=True)
    yield Case("GNSS with 20 m multipath", multipath=True)
    yield Case("two look-alike streets", start=TWIN[0] - 20, metres=90.0)
    yield from common_cases()
    weak = lambda t: GOOD if t < 4 or t > 8 else DARK  # noqa: E731
    yield Case("no odometry, 4 s dark", weak, odometry=False)
    yield Case("no odometry but IMU, dark", weak, odometry=False, imu=True)
    yield Case("kidnapped", metres=80.0, jump=(60.0, 280.0))


def recording_cases() -> Iterator[Case]:
    """The share of true keypoints is of those that the image really has."""
    yield Case("normal")
    yield Case("15 % of the keypoints kept", lambda _: Conditions(true_share=0.15))
    yield Case("5 % of the keypoints kept", lambda _: Conditions(true_share=0.05))
    yield Case("every 5th frame usable", lambda t: GOOD if round(t / 0.2) % 5 == 0 else DARK)
    dark = lambda t: DARK if 4 < t < 12 else GOOD  # noqa: E731
    yield Case("8 s without a fix", dark)
    yield Case("8 s without a fix, IMU", dark, imu=True)
    yield from common_cases()
    yield Case("kidnapped", jump=(0.3, 0.7))


class Scene(Protocol):
    """Something to be driven through."""

    localizer: Localizer

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        """Truth and odometry at 20 Hz, and what the camera sees."""
        ...


class Street:
    """The street of the tests; each drive's map has an error of its own, of a size that is told."""

    def __init__(self, metres: float, folder: Path) -> None:
        self.metres, self.folder = metres, folder
        self.worlds: dict[int, World] = {}

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        if seed not in self.worlds:
            self.worlds[seed] = make_world(self.folder / str(seed), seed=seed)
        world = self.worlds[seed]
        self.localizer = Localizer(world.map, told())
        rng = np.random.default_rng(seed)
        end = case.start + (case.metres or self.metres)
        drive = make_drive(rng, Trip(case.start, end, case.jump), scale=case.scale)
        queries = []
        for stamp in drive.frames:
            conditions = case.conditions((stamp - START) / SECOND)
            if conditions is None:
                continue
            query = make_query(world, drive.truth[stamp], stamp, rng, conditions)
            if case.multipath:
                query = replace(query, gnss=gnss(drive.truth[stamp], rng, 20.0))
            queries.append(query)
        return drive, queries


class Recording:
    """Images that were recorded, with their true poses."""

    def __init__(self, map_path: Path, query_path: Path, frames: int | None) -> None:
        visual_map = VisualMap.load(map_path)
        self.localizer = Localizer(visual_map)
        self.queries = QuerySet(query_path, FeatureSource(), visual_map.feature_types)
        numbers = range(len(self.queries))
        self.numbers = [n for n in numbers if self.queries.given_pose(n) is not None][:frames]

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        rng = np.random.default_rng(seed)
        numbers, jump = self._numbers(case)
        infos, start = self.queries.infos, self.queries.infos[numbers[0]].stamp_ns
        step = infos[numbers[1]].stamp_ns - start
        skipped = infos[numbers[jump]].stamp_ns - infos[numbers[jump - 1]].stamp_ns - step
        stamps = [
            START + infos[n].stamp_ns - start - (skipped if k >= jump > 0 else 0)
            for k, n in enumerate(numbers)
        ]
        poses = [self.queries.given_pose(n) for n in numbers]
        drive = _linked(stamps, poses, jump, case.scale, rng)
        queries = []
        for number, stamp in zip(numbers, stamps, strict=True):
            conditions = case.conditions((stamp - START) / SECOND)
            if conditions is not None:
                query = replace(self.queries[number], stamp_ns=stamp)
                seen = tuple(_spoiled(image, conditions, rng) for image in query.images)
                queries.append(replace(query, images=seen))
        return drive, queries

    def _numbers(self, case: Case) -> tuple[list[int], int]:
        """The queries that are driven past, and before which of them the vehicle is moved."""
        if case.jump is None:
            return self.numbers, 0
        first, second = (int(share * len(self.numbers)) for share in case.jump)
        return self.numbers[:first] + self.numbers[second:], first


def _linked(
    stamps: Sequence[int],
    poses: Sequence[Transform],
    jump: int,
    scale: float | None,
    rng: np.random.Generator,
) -> Drive:
    """Truth every 50 ms between the images, and odometry of it that does not notice the jump."""
    scale = rng.normal(0, NOISE.odometry_scale) if scale is None else scale
    bias, odom = rng.normal(0, NOISE.odometry_yaw_bias), Transform()
    truth, samples = {stamps[0]: poses[0]}, [OdometrySample(stamps[0], odom)]
    for a, b in itertools.pairwise(range(len(stamps))):
        moved = b == jump
        end = poses[a] @ poses[a - 1].inverse() @ poses[a] if moved else poses[b]
        ticks = max(1, round((stamps[b] - stamps[a]) / SECOND / TICK))
        before = poses[a]
        for tick in range(1, ticks + 1):
            now = interpolate(poses[a], end, tick / ticks)
            stamp = stamps[a] + (stamps[b] - stamps[a]) * tick // ticks
            odom = odom @ measured(before.inverse() @ now, scale, bias, NOISE, rng)
            truth[stamp], before = now, now
            samples.append(OdometrySample(stamp, odom))
        truth[stamps[b]] = poses[b]
    return Drive(truth, samples, list(stamps), (scale, bias))


def _spoiled(image: QueryImage, conditions: Conditions, rng: np.random.Generator) -> QueryImage:
    """What an image shows under these conditions: some descriptors become those of nothing."""
    if conditions == GOOD or image.features is None:
        return image
    features = image.features
    hidden = features.keypoints[:, 0] < conditions.occluded * image.camera.width
    if conditions.true_count is not None:
        hidden |= np.cumsum(~hidden) > conditions.true_count
    elif conditions.true_share != GOOD.true_share:
        hidden |= rng.random(len(hidden)) >= conditions.true_share
    nothing = rng.normal(size=features.descriptors.shape)
    nothing /= np.linalg.norm(nothing, axis=1, keepdims=True)
    shown = np.where(hidden[:, None], nothing, features.descriptors).astype(np.float32)
    return replace(image, features=replace(features, descriptors=shown))

"""A street as a real map of random points, and drives through it whose truth is known.

The map is wrong as maps are: the street is bent in it smoothly, by MAP_SIGMA, but images, points
and keypoints agree with each other all the same; and each point is wrong by what triangulation
says. A descriptor belongs to a point, a global descriptor to a place along the street; images are
features without pixels. A stretch of the street exists twice (`TWIN`): a second street, far away,
that looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.dataset.tables import pose_row
from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import OdometrySample
from kapture_ros.localization.options import AnswerOptions, LocalizerOptions
from kapture_ros.localization.query import GnssFix, Query, QueryFeatures, QueryImage
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import Camera, read_images
from kapture_ros.mapping.manifest import FeatureTypes, Manifest, write_manifest
from kapture_ros.mapping.structure import Structure, point_geometry, write_structure
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import disturb

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
DATUM = Datum(45.18, 5.72, 212.0)
TYPES = FeatureTypes("fake", "fake", "fakeplace")
CAMERA = Camera("front", "PINHOLE", 640, 480, (400.0, 400.0, 320.0, 240.0))
FRONT_FROM_BASE = Transform.from_matrix([[0, -1, 0, 0], [0, 0, -1, 1.2], [1, 0, 0, -0.5]])
LENGTH = 420.0
TWIN = (120.0, 200.0)  # metres along the street
TWIN_OFFSET = np.array([0.0, 900.0, 0.0])
WIDTH = 64  # of descriptors
SPEED = 5.0
BENDS = (300.0, 600.0)  # metres in which the street swings in the map: long against what is seen
MAP_SIGMA = np.repeat([0.05, 0.05 * 2 * np.pi / np.sqrt(BENDS[0] * BENDS[1])], 3)  # metres, radians
POINTS_SIGMA = np.repeat([0.05, np.deg2rad(0.1)], 3)  # metres, radians, where points are wrong
DRIFT = np.repeat([0.02, 0.001], 3)  # metres, radians, from one image to the next
NOISE = MotionOptions()


def along(metres: float, side: float = 0.0) -> Transform:
    """map_from_base on the winding street; the base looks ahead."""
    x, y = metres, 25 * np.sin(metres / 60)
    yaw = np.arctan2(25 / 60 * np.cos(metres / 60), 1.0)
    z = 0.3 * np.sin(metres / 15)
    turn = Rotation.from_euler("z", yaw)
    return Transform(turn, np.array([x, y, z]) + turn.apply([0.0, side, 0.0]))


@dataclass(frozen=True)
class World:
    """The true points (P, 3), their descriptors (P, D) and the map made of them."""

    map: VisualMap
    points: np.ndarray
    descriptors: np.ndarray


def told() -> LocalizerOptions:
    """Options that say how wrong the map of the street is."""
    size, degrees = MAP_SIGMA[0], np.rad2deg(MAP_SIGMA[3])
    return LocalizerOptions(answer=AnswerOptions(map_sigma=size, map_sigma_degrees=degrees))


@dataclass(frozen=True)
class Conditions:
    """What a camera delivers.

    Attributes:
        true_share: of the points' keypoints, whose descriptor is like the map's.
        true_count: instead of a share, exactly so many keypoints are true.
        keypoints: at most so many in an image.
        occluded: share of the image, from the left, that shows something else.
        place_noise: of the global descriptor.
    """

    true_share: float = 0.7
    true_count: int | None = None
    keypoints: int = 150
    occluded: float = 0.0
    place_noise: float = 0.3


def make_world(
    path: Path,
    *,
    wrong: Literal["nothing", "street", "points", "drift"] = "street",
    seed: int = 11,
) -> World:
    """Write a map with points as uncertain as triangulation makes them, and load it.

    Args:
        wrong: the street is bent, with all that was seen of it, as in maps made of images;
            or the points alone, against images with exact poses, which holding images out shows;
            or the images drift apart on the way, as poses of odometry do.
        seed: of the bend. What there is to see does not depend on it.
    """
    rng = np.random.default_rng(7)
    points, descriptors = street(rng)
    bases = [along(s) for s in np.arange(0, LENGTH, 2.0)]
    bases += [_moved(along(s)) for s in np.arange(TWIN[0], TWIN[1] - 10, 2.0)]
    names = [f"front/{k:05d}.jpg" for k in range(len(bases))]
    errors = np.zeros((len(bases), 6))
    if wrong == "street":
        errors = bend(bases, seed)
    elif wrong == "drift":
        errors = np.cumsum(np.random.default_rng(seed).normal(size=errors.shape) * DRIFT, axis=0)
    _write_sensors(path, names, [disturb(b, e) for b, e in zip(bases, errors, strict=True)])
    folders = _feature_folders(path)
    image, point, keypoint = [], [], []
    moved = np.zeros_like(points)
    for row, (name, base, error) in enumerate(zip(names, bases, errors, strict=True)):
        seen, pixels = project(base, points)
        kept = rng.random(len(seen)) < 0.7
        seen, pixels = seen[kept], pixels[kept] + rng.normal(size=(kept.sum(), 2))
        folders["keypoints"].write(name, pixels.astype(np.float32))
        noisy = like(descriptors[seen], rng)
        folders["descriptors"].write(name, noisy)
        place = place_descriptor(base, rng, 0.1)
        folders["global_features"].write(name, place[None])
        moved[seen] += error[:3] + np.cross(error[3:], points[seen] - base.translation)
        image.append(np.full(len(seen), row, np.int32))
        point.append(seen.astype(np.int32))
        keypoint.append(np.arange(len(seen), dtype=np.int32))
    rows = [np.concatenate(values) for values in (image, point, keypoint)]
    rgb = np.zeros((len(points), 3), np.uint8)
    # Images that saw a point put it where they are wrong by themselves, on average.
    shown = np.maximum(np.bincount(rows[1], minlength=len(points)), 1)[:, None]
    structure = Structure.from_rows(points + moved / shown, rgb, *rows, len(bases))
    images = read_images(path)
    covariance = point_geometry(images, structure).covariance
    xyz = displaced(points) if wrong == "points" else structure.xyz
    structure = replace(structure, xyz=xyz + _noise(covariance, rng))
    write_structure(path, images, "fake", structure)
    write_manifest(path, Manifest(TYPES, datum=DATUM, sessions=("synthetic",)))
    return World(VisualMap.load(path), points, descriptors)


def street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    metres = rng.uniform(0, LENGTH + 40, 4200)
    side = rng.uniform(4, 9, len(metres)) * rng.choice([-1, 1], len(metres))
    height = rng.uniform(-0.5, 6, len(metres))
    points = np.array([along(m, s).translation for m, s in zip(metres, side, strict=True)])
    points[:, 2] += height
    descriptors = _unit(rng.normal(size=(len(points), WIDTH)))
    twin = (metres > TWIN[0]) & (metres < TWIN[1] + 25)
    points = np.concatenate([points, points[twin] + TWIN_OFFSET])
    return points, np.concatenate([descriptors, descriptors[twin]])


def bend(bases: list[Transform], seed: int) -> np.ndarray:
    """How wrong the poses of images are (N, 6), of MAP_SIGMA: twelve waves along the street."""
    rng = np.random.default_rng(seed)
    numbers = 2 * np.pi / rng.uniform(*BENDS, (6, 12))
    metres = np.array([base.translation[0] for base in bases])
    phase = metres[:, None, None] * numbers + rng.uniform(0, 2 * np.pi, (6, 12))
    size = MAP_SIGMA / np.sqrt(6)  # twelve of variance 1/2
    errors = np.cos(phase).sum(axis=2) * size
    # A street that leads aside is turned, by as much as MAP_SIGMA says.
    slope = -(np.sin(phase) * numbers).sum(axis=2) * size
    errors[:, 4], errors[:, 5] = -slope[:, 2], slope[:, 1]
    return errors


def displaced(points: np.ndarray) -> np.ndarray:
    """Points (P, 3) displaced together, differently every 20 to 60 m."""
    rng = np.random.default_rng(11)
    waves = 2 * np.pi / rng.uniform(60, 240, (6, 12))
    phase = rng.uniform(0, 2 * np.pi, (6, 12))
    error = np.cos(points[:, 0, None, None] * waves + phase).sum(axis=2)
    error *= POINTS_SIGMA / np.sqrt(6)  # twelve waves of variance 1/2
    place = np.array([along(x).translation for x in points[:, 0]])
    place[:, 1] += TWIN_OFFSET[1] * (points[:, 1] > TWIN_OFFSET[1] / 2)
    return points + error[:, :3] + np.cross(error[:, 3:], points - place)


def _moved(pose: Transform) -> Transform:
    return Transform(pose.rotation, pose.translation + TWIN_OFFSET)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def like(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same points seen again: a cosine of about 0.85."""
    return _unit(descriptors + rng.normal(size=descriptors.shape) * 0.6 / np.sqrt(WIDTH))


def place_descriptor(pose: Transform, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Random Fourier features of the place: similar within some ten metres, equal on twins."""
    basis = np.random.default_rng(3)
    frequencies = basis.normal(size=(64, 2)) / 10
    position = pose.translation
    if position[1] > TWIN_OFFSET[1] / 2:
        position = position - TWIN_OFFSET
    phase = frequencies @ position[:2]
    clean = np.concatenate([np.cos(phase), np.sin(phase)]) / 8
    return _unit(clean + rng.normal(size=128) * noise / np.sqrt(128))


def project(base: Transform, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and pixels of the points in view; farther than 35 m they are too small."""
    fx, fy, cx, cy = CAMERA.params
    local = (FRONT_FROM_BASE @ base.inverse()).apply(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = local[:, :2] / local[:, 2:] * [fx, fy] + [cx, cy]
    inside = (pixels > 0).all(axis=1) & (pixels < [CAMERA.width - 1, CAMERA.height - 1]).all(axis=1)
    seen = np.flatnonzero(inside & (local[:, 2] > 2.0) & (local[:, 2] < 35.0))
    return seen, pixels[seen]


def _noise(covariance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Errors (P, 3) of these covariances (P, 6); points that are not determined stay."""
    full = covariance[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]].astype(float)
    good = np.isfinite(full).all(axis=(1, 2))
    noise = np.zeros((len(full), 3))
    factor = np.linalg.cholesky(full[good] + 1e-9 * np.eye(3))
    noise[good] = np.einsum("nij,nj->ni", factor, rng.normal(size=(good.sum(), 3)))
    return noise


def _write_sensors(path: Path, names: list[str], bases: list[Transform]) -> None:
    folder = path / "sensors"
    folder.mkdir(parents=True)
    tables = {
        "sensors": [f"front, , camera, PINHOLE, 640, 480, {', '.join(map(str, CAMERA.params))}"],
        "rigs": ["car, front, " + ", ".join(pose_row(FRONT_FROM_BASE))],
        "records_camera": [f"{START + k}, front, {name}" for k, name in enumerate(names)],
        "trajectories": [
            f"{START + k}, car, " + ", ".join(pose_row(base.inverse()))
            for k, base in enumerate(bases)
        ],
    }
    for name, rows in tables.items():
        text = "# kapture format: 1.1\n" + "".join(f"{row}\n" for row in rows)
        (folder / f"{name}.txt").write_text(text)


def _feature_folders(path: Path) -> dict[str, FeatureFolder]:
    base = {"name": "fake", "dtype": "float32"}
    local = base | {"dsize": str(WIDTH), "keypoints_type": "fake", "metric_type": "L2"}
    wide = base | {"dsize": "128", "metric_type": "L2"}
    return {
        "keypoints": FeatureFolder.create(path, "keypoints", "fake", base | {"dsize": "2"}),
        "descriptors": FeatureFolder.create(path, "descriptors", "fake", local),
        "global_features": FeatureFolder.create(path, "global_features", "fakeplace", wide),
    }


def make_query(
    world: World,
    base: Transform,
    stamp_ns: int,
    rng: np.random.Generator,
    conditions: Conditions = Conditions(),
) -> Query:
    """What the camera sees of the world from a true pose."""
    seen, pixels = project(base, world.points)
    order = rng.permutation(len(seen))[: conditions.keypoints]
    seen, pixels = seen[order], pixels[order] + rng.normal(size=(len(order), 2))
    hidden = pixels[:, 0] < conditions.occluded * CAMERA.width
    if conditions.true_count is not None:
        true = np.cumsum(~hidden) <= conditions.true_count
    else:
        true = rng.random(len(seen)) < conditions.true_share
    true &= ~hidden
    descriptors = _unit(rng.normal(size=(len(seen), WIDTH)))
    descriptors[true] = like(world.descriptors[seen[true]], rng)
    place = place_descriptor(base, rng, conditions.place_noise)
    features = QueryFeatures(pixels.astype(np.float32), descriptors, {"fakeplace": place}, TYPES)
    return Query(stamp_ns, (QueryImage(CAMERA, FRONT_FROM_BASE, features=features),))


def gnss(base: Transform, rng: np.random.Generator, offset: float = 0.0) -> GnssFix:
    """A fix of 2 m sigma, `offset` metres off to the east."""
    position = base.translation + rng.normal(0, 2.0, 3) + [offset, 0.0, 0.0]
    latitude, longitude, altitude = DATUM.geodetic_from_map(position[None])
    return GnssFix(float(latitude[0]), float(longitude[0]), float(altitude[0]), 4.0 * np.eye(3))


@dataclass(frozen=True)
class Drive:
    """True poses at 20 Hz by stamp, the odometry of them, and which stamps have an image.

    Attributes:
        errors: the odometry's scale error and its yaw-rate error in rad/s.
    """

    truth: dict[int, Transform]
    odometry: list[OdometrySample]
    frames: list[int]
    errors: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Trip:
    """Where a drive goes: from metre to metre, `jump` = (at, to) metres of a kidnapping."""

    start: float = 0.0
    end: float = LENGTH - 40
    jump: tuple[float, float] | None = None
    side: float = 0.7
    frame_every: int = 4  # of the 20 Hz


def make_drive(
    rng: np.random.Generator,
    trip: Trip = Trip(),
    noise: MotionOptions = NOISE,
    scale: float | None = None,
) -> Drive:
    """A drive at 5 m/s with odometry as the options describe it; `scale`: its error, if given."""
    scale = rng.normal(0, noise.odometry_scale) if scale is None else scale
    bias = rng.normal(0, noise.odometry_yaw_bias)
    metre, odom = trip.start, Transform()
    truth, samples, frames = {}, [], []
    before = along(metre, trip.side)
    for tick in range(int((trip.end - trip.start) / SPEED * 20)):
        stamp = START + tick * SECOND // 20
        if trip.jump is not None and metre >= trip.jump[0] > metre - SPEED / 20:
            metre += trip.jump[1] - trip.jump[0]
            before = along(metre - SPEED / 20, trip.side)  # odometry does not notice
        now = along(metre, trip.side)
        if tick:
            odom = odom @ measured(before.inverse() @ now, scale, bias, noise, rng)
        truth[stamp], before = now, now
        samples.append(OdometrySample(stamp, odom))
        if tick % trip.frame_every == 0:
            frames.append(stamp)
        metre += SPEED / 20
    return Drive(truth, samples, frames, (scale, bias))


def measured(
    motion: Transform,
    scale: float,
    bias: float,
    noise: MotionOptions,
    rng: np.random.Generator,
) -> Transform:
    """What odometry says of a motion in a twentieth of a second."""
    metres = np.linalg.norm(motion.translation)
    turned = motion.rotation.magnitude()
    shift = rng.normal(0, noise.odometry_position_noise * np.sqrt(metres), 3)
    twist = rng.normal(0, noise.odometry_rotation_noise * np.sqrt(metres + turned), 3)
    turn = motion.rotation * Rotation.from_rotvec([0, 0, -bias / 20])
    return Transform(Rotation.from_rotvec(twist) * turn, motion.translation / (1 + scale) + shift)


def measure_inertially(drive: Drive, rng: np.random.Generator) -> dict[int, list[ImuSample]]:
    """What an IMU in the base measures 100 times a second, its gyro as the options say.

    By stamps of the truth: the samples since the one before.
    """
    stamps, rate = sorted(drive.truth), 100
    poses = [drive.truth[stamp] for stamp in stamps]
    seconds = (np.array(stamps) - stamps[0]) / SECOND
    bias, scale = rng.normal(0, NOISE.gyro_bias, 3), 1 + rng.normal(0, NOISE.gyro_scale, 3)
    position = np.array([pose.translation for pose in poses])
    velocity = np.gradient(position, seconds, axis=0)
    acceleration = np.gradient(velocity, seconds, axis=0)
    rates = [
        (a.rotation.inv() * b.rotation).as_rotvec() / step
        for (a, b), step in zip(pairwise(poses), np.diff(seconds), strict=True)
    ]
    samples: dict[int, list[ImuSample]] = {stamps[0]: []}
    for n, (start, end) in enumerate(pairwise(stamps)):
        after = rates[min(n + 1, len(rates) - 1)]
        felt = poses[n + 1].rotation.inv().apply(acceleration[n + 1] + [0, 0, 9.81])
        samples[end] = []
        for k in range(1, rate // 20 + 1):
            stamp = start + (end - start) * k * 20 // rate
            turn = (rates[n] + after) / 2 if stamp == end else rates[n]
            bias = bias + rng.normal(0, NOISE.gyro_bias_wander / np.sqrt(rate), 3)
            said = scale * turn + bias + rng.normal(0, NOISE.gyro_noise * np.sqrt(rate), 3)
            samples[end].append(ImuSample(stamp, said, felt + rng.normal(0, 0.2, 3)))
    return samples

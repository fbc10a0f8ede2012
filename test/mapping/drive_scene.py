"""A drive round a block as a kapture dataset with features but no pixels: exact truth, fast.

Points on house fronts are projected into the cameras; a descriptor belongs to a point, a
global descriptor to a place and a heading. Odometry drifts, GNSS is noisy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.tables import number, pose_row
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Transform

HEADER = "# kapture format: 1.1\n"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 200_000_000
DATUM = Datum(45.18, 5.72, 212.0)
WIDTH, HEIGHT = 640, 480
# x of the rig is ahead, y left, z up; a camera looks along its z.
FRONT_FROM_RIG = Transform.from_matrix([[0, -1, 0, 0.3], [0, 0, -1, 1.2], [1, 0, 0, -0.5]])
LEFT_FROM_RIG = Transform.from_matrix([[1, 0, 0, -0.2], [0, 0, -1, 1.2], [0, 1, 0, -0.4]])
CAMERAS = {"front": FRONT_FROM_RIG, "left": LEFT_FROM_RIG}
STEREO_FROM_RIG = Transform(translation=np.array([-0.6, 0.0, 0.0])) @ FRONT_FROM_RIG
ANTENNA_FROM_RIG = Transform(translation=np.array([0.5, 0.0, -1.6]))


@dataclass(frozen=True)
class DriveOptions:
    """What kind of drive."""

    frames: int = 50
    step: float = 4.0
    points: int = 1500
    width: int = 32  # of descriptors
    pixel_noise: float = 0.5
    gnss_sigma: float = 0.2
    poses: str = "odometry"  # or "truth", "none"
    gnss: bool = True
    rig: bool = True
    stereo: bool = False  # the second camera looks ahead, too
    side: float = 0.0  # metres to the left of the usual lane
    seed: int = 0
    wrong_extrinsics_deg: float = 0.0  # roll of the last camera
    mounting_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the first one, given_from_true
    focal: float = 320.0
    restart: int | None = None  # the frame at which odometry was started again
    laps: int = 1  # that the frames take at most; each is 0.4 m beside the one before

    @property
    def cameras(self) -> dict[str, Transform]:
        if not self.rig:
            return {"front": FRONT_FROM_RIG}
        return CAMERAS | ({"left": STEREO_FROM_RIG} if self.stereo else {})


@dataclass(frozen=True)
class Drive:
    path: Path
    truth: list[Transform]  # map_from_rig in the frame of DATUM
    odometry: list[Transform]
    points: np.ndarray
    cameras: dict[str, Transform]

    def true_center(self, image_name: str) -> np.ndarray:
        camera, frame = Path(image_name).parts[-2:]
        pose = self.truth[int(Path(frame).stem)] @ self.cameras[camera].inverse()
        return pose.translation


def make_drive(path: Path, options: DriveOptions = DriveOptions()) -> Drive:
    rng = np.random.default_rng(options.seed)
    world = np.random.default_rng(7)  # the same street for every drive
    truth = _lap(options)
    points, descriptors = _street(world, options.points, options.width)
    odometry = _drifting(truth, rng)
    if options.restart is not None:
        origin = odometry[options.restart].inverse()
        odometry[options.restart :] = [origin @ pose for pose in odometry[options.restart :]]
        _write_report(path, options.restart)
    given = {"odometry": odometry, "truth": truth, "none": []}[options.poses]
    _write_sensors(path, options, truth, given, rng)
    _write_features(path, options, truth, points, descriptors, rng)
    return Drive(path, truth, odometry, points, options.cameras)


CORNERS = np.array([(0, 0), (60, 0), (60, 40), (0, 40)], float)


def _lap(options: DriveOptions) -> list[Transform]:
    """Round the block with corners of 8 m radius, counter-clockwise; one lap is 186 m."""
    outline = []
    for corner, heading in zip(CORNERS, (0, 90, 180, 270), strict=True):
        angle = np.radians(np.arange(heading + 180, heading + 271, 3))
        inwards = np.array([30, 20]) - corner
        middle = corner + 8 * np.sign(inwards)
        outline.append(middle + 8 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    line = np.roll(np.concatenate(outline), -31, axis=0)
    line = np.concatenate([line] * (options.laps + 2))
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(options.frames) * options.step
    xy = np.stack([np.interp(at, along, line[:, k]) for k in (0, 1)], axis=1)
    ahead = np.stack([np.interp(at + 0.5, along, line[:, k]) for k in (0, 1)], axis=1) - xy
    yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
    left = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)
    lane = options.side + 0.4 * (at // 186)
    xy = xy + lane[:, None] * left
    z = 0.3 * np.sin(at / 15)
    return [
        Transform(Rotation.from_euler("z", y), np.array([p[0], p[1], h]))
        for p, y, h in zip(xy, yaw, z, strict=True)
    ]


def _street(rng: np.random.Generator, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the fronts of the block inside and of the houses across the street."""
    points = []
    for low, high in (((8, 8), (52, 32)), ((-9, -9), (69, 49))):
        size = np.array(high) - np.array(low)
        share = count * size.sum() // 128
        at = rng.uniform(0, 2 * size.sum(), int(share))
        x = np.clip(np.where(at < size.sum(), at, at - size.sum()), 0, size[0])
        y = np.clip(np.where(at < size.sum(), at, at - size.sum()) - size[0], 0, size[1])
        xy = np.stack([x, y], axis=1)
        xy = np.where((at < size.sum())[:, None], np.array(low) + xy, np.array(high) - xy)
        relief = rng.uniform(-0.8, 0.8, (len(xy), 2))
        points.append(np.column_stack([xy + relief, rng.uniform(-1.0, 8.0, len(xy))]))
    stacked = np.concatenate(points)
    descriptors = rng.normal(size=(len(stacked), width))
    return stacked, descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)


def _drifting(truth: list[Transform], rng: np.random.Generator) -> list[Transform]:
    """Odometry from the origin: 2 % too long, turning 0.04° a metre to the left."""
    poses = [Transform()]
    for before, after in pairwise(truth):
        step = before.inverse() @ after
        length = np.linalg.norm(step.translation)
        turn = Rotation.from_rotvec([0, 0, np.radians(0.04) * length + rng.normal(0, 2e-4)])
        moved = Transform(step.rotation * turn, step.translation * 1.02)
        poses.append(poses[-1] @ moved)
    return poses


def _write_sensors(path, options, truth, given, rng) -> None:
    folder = path / "sensors"
    folder.mkdir(parents=True)
    names = list(options.cameras)
    lens = f"{options.focal}, {options.focal}, {WIDTH / 2}, {HEIGHT / 2}"
    sensors = [f"{n}, , camera, PINHOLE, {WIDTH}, {HEIGHT}, {lens}" for n in names]
    rigs = [("car", name, options.cameras[name]) for name in names]
    if options.wrong_extrinsics_deg:
        turn = Transform(Rotation.from_euler("z", options.wrong_extrinsics_deg, degrees=True))
        rigs[-1] = ("car", rigs[-1][1], turn @ rigs[-1][2])
    turn = Rotation.from_rotvec(options.mounting_deg, degrees=True)
    rigs[0] = ("car", rigs[0][1], Transform(turn) @ rigs[0][2])
    if options.gnss:
        sensors.append("gps, , gnss, EPSG:4326")
        rigs.append(("car", "gps", ANTENNA_FROM_RIG))
    _table(folder / "sensors.txt", "# sensor_id, name, sensor_type", sensors)
    rows = [", ".join((rig, name, *pose_row(pose))) for rig, name, pose in rigs]
    _table(folder / "rigs.txt", "# rig_id, sensor_id", rows)
    stamps = [START_NS + k * STEP_NS for k in range(len(truth))]
    records = [f"{s}, {n}, {n}/{k:05d}.jpg" for k, s in enumerate(stamps) for n in names]
    _table(folder / "records_camera.txt", "# timestamp, device_id, image_path", records)
    if given:
        rows = [f"{s}, car, " + ", ".join(pose_row(pose.inverse()))
                for s, pose in zip(stamps, given, strict=True)]  # fmt: skip
        _table(folder / "trajectories.txt", "# timestamp, device_id", rows)
    if options.gnss:
        _write_gnss(path, options, truth, stamps, rng)


def _write_gnss(path, options, truth, stamps, rng) -> None:
    antenna = np.array([(pose @ ANTENNA_FROM_RIG.inverse()).translation for pose in truth])
    noise = rng.normal(size=antenna.shape) * options.gnss_sigma * [1, 1, 2]
    latitude, longitude, altitude = DATUM.geodetic_from_map(antenna + noise)
    rows = [f"{stamps[k]}, gps, {number(longitude[k])}, {number(latitude[k])}, "
            f"{number(altitude[k])}, {stamps[k] // 10**9}, 0"
            for k in range(len(truth))]  # fmt: skip
    _table(path / "sensors/records_gnss.txt", "# timestamp, device_id, x, y, z, utc, dop", rows)
    extra = path / sidecar.extra_path("gps")
    extra.parent.mkdir(parents=True)
    covariance = (np.diag([1.0, 1.0, 4.0]) * options.gnss_sigma**2).ravel().tolist()
    told = {"position_covariance": covariance, "position_covariance_type": 2}
    lines = [sidecar.encode({"stamp": stamps[k], "extra": told}) for k in range(len(truth))]
    extra.write_bytes(b"".join(lines))


def _write_report(path: Path, restart: int) -> None:
    """As the recorder would tell of it."""
    poses = {"world_frame": "odom", "restarts": [START_NS + restart * STEP_NS]}
    path.mkdir(parents=True)
    (path / "report.json").write_text(json.dumps({"sessions": [{"poses": poses}]}))


def _table(path: Path, header: str, rows: list[str]) -> None:
    path.write_text(HEADER + header + "\n" + "".join(f"{row}\n" for row in rows))


def _write_features(path, options, truth, points, descriptors, rng) -> None:
    base = {"name": "fake", "dtype": "float32"}
    keypoints = FeatureFolder.create(path, "keypoints", "fake", base | {"dsize": "2"})
    local = base | {"dsize": str(options.width), "keypoints_type": "fake", "metric_type": "L2"}
    described = FeatureFolder.create(path, "descriptors", "fake", local)
    wide = base | {"dsize": "64", "metric_type": "L2"}
    places = FeatureFolder.create(path, "global_features", "fakeplace", wide)
    for frame, map_from_rig in enumerate(truth):
        for name in options.cameras:
            camera_from_map = options.cameras[name] @ map_from_rig.inverse()
            seen, pixels = _project(camera_from_map, points, options.focal)
            image = f"{name}/{frame:05d}.jpg"
            noise = rng.normal(size=pixels.shape) * options.pixel_noise
            keypoints.write(image, pixels + noise)
            jitter = rng.normal(size=(len(seen), options.width)) * 0.03
            described.write(image, descriptors[seen] + jitter)
            places.write(image, _place(camera_from_map.inverse(), rng)[None])


def _project(
    camera_from_map: Transform, points: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    local = camera_from_map.apply(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = focal * local[:, :2] / local[:, 2:] + [WIDTH / 2, HEIGHT / 2]
    inside = (pixels > 0).all(axis=1) & (pixels < [WIDTH, HEIGHT]).all(axis=1)
    # Farther points would be seen through the houses.
    seen = np.flatnonzero(inside & (local[:, 2] > 1.0) & (local[:, 2] < 28.0))
    return seen, pixels[seen]


def _place(map_from_camera: Transform, rng: np.random.Generator) -> np.ndarray:
    """Random Fourier features of position and heading: similar places are similar."""
    basis = np.random.default_rng(3)
    frequencies = np.concatenate([basis.normal(size=(32, 2)) / 12, basis.normal(size=(32, 2))], 1)
    axis = map_from_camera.rotation.apply([0.0, 0.0, 1.0])
    phase = frequencies @ np.concatenate([map_from_camera.translation[:2], axis[:2]])
    return np.concatenate([np.cos(phase), np.sin(phase)]) + rng.normal(size=64) * 0.02

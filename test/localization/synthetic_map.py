"""A map made of known points, without pixels, and queries of which the truth is known.

Two parallel streets of house fronts, 300 m apart, driven along x. A descriptor belongs to a
point, a global descriptor to a place and a direction. With `alike`, both streets have the
same houses: only their place differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kapture_ros.localization.query import GnssFix, Query, QueryFeatures, QueryImage
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.manifest import FeatureTypes, Manifest, write_manifest
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum

TYPES = FeatureTypes("synthetic-kp", "synthetic-desc", "synthetic-global")
CAMERA = Camera("front", "PINHOLE", 640, 480, (400.0, 400.0, 320.0, 240.0))
DATUM = Datum(45.18, 5.72, 212.0, 0.3)
STREETS = (0.0, 300.0)  # y of each
STEP, IMAGES = 4.0, 12  # metres and images a street
# A camera that looks along the street: x right, y down, z ahead; the base is x ahead, z up.
CAM_FROM_BASE = Transform.from_matrix([[0, -1, 0, 0.0], [0, 0, -1, 1.5], [1, 0, 0, -0.3]])
SIDE_FROM_BASE = Transform.from_matrix([[1, 0, 0, 0.2], [0, 0, -1, 1.5], [0, 1, 0, 0.1]])
HEADER = "# kapture format: 1.1\n"


@dataclass(frozen=True)
class World:
    """A map and what it was made of."""

    map: VisualMap
    points: np.ndarray
    descriptors: np.ndarray
    alike: bool

    def query(
        self,
        map_from_base: Transform,
        seed: int = 0,
        cameras: tuple[Transform, ...] = (CAM_FROM_BASE,),
    ) -> Query:
        """What cameras at a pose see."""
        rng = np.random.default_rng(1000 + seed)
        images = []
        for number, cam_from_base in enumerate(cameras):
            cam_from_map = cam_from_base @ map_from_base.inverse()
            features, _ = self.look(cam_from_map, rng)
            camera = replace(CAMERA, sensor_id=f"cam{number}")
            images.append(QueryImage(camera, cam_from_base, features=features))
        return Query(1_700_000_000_000_000_000 + seed, tuple(images))

    def look(
        self, cam_from_map: Transform, rng: np.random.Generator
    ) -> tuple[QueryFeatures, np.ndarray]:
        """Features of a view, 30 % of them of nothing; and the point of each (-1: none)."""
        seen = cam_from_map.apply(self.points)
        ahead = np.flatnonzero((seen[:, 2] > 1) & (np.linalg.norm(seen, axis=1) < 40))
        fx, fy, cx, cy = CAMERA.params
        pixels = seen[ahead, :2] / seen[ahead, 2:] * (fx, fy) + (cx, cy)
        inside = ((pixels > 0) & (pixels < (640, 480))).all(axis=1)
        rows = ahead[inside]
        pixels = pixels[inside] + rng.normal(0, 0.5, (len(rows), 2))
        noise = rng.normal(0, 0.03, (len(rows), 64))
        clutter = max(len(rows) // 2, 5)
        pixels = np.concatenate([pixels, rng.uniform((0, 0), (640, 480), (clutter, 2))])
        described = np.concatenate(
            [self.descriptors[rows] + noise, rng.normal(0, 1, (clutter, 64))]
        )
        described /= np.linalg.norm(described, axis=1, keepdims=True)
        features = QueryFeatures(
            pixels.astype(np.float32),
            described.astype(np.float32),
            {TYPES.global_features: self.place(cam_from_map.inverse(), rng)},
            TYPES,
        )
        return features, np.concatenate([rows, np.full(clutter, -1)])

    def place(self, map_from_cam: Transform, rng: np.random.Generator) -> np.ndarray:
        """A global descriptor: waves of position and direction."""
        waves = np.random.default_rng(5)
        position = map_from_cam.translation.copy()
        if self.alike:
            position[1] %= STREETS[1]
        ahead = map_from_cam.rotation_matrix()[:, 2]
        state = np.concatenate([position / 15, 2 * ahead])
        value = np.cos(waves.normal(0, 1, (256, 6)) @ state + waves.uniform(0, 6.3, 256))
        value += rng.normal(0, 0.05, 256)
        return (value / np.linalg.norm(value)).astype(np.float32)


def base_at(x: float, street: int = 0, side: float = 0.0, yaw: float = 0.0) -> Transform:
    """map_from_base on a street."""
    turn = Transform.exp([0, 0, 0, 0, 0, yaw]).rotation
    return Transform(turn, [x, STREETS[street] + side, 0.0])


def gnss_at(position: np.ndarray, sigma: float, arm: np.ndarray | None = None) -> GnssFix:
    """A fix of an antenna at a position in the map."""
    lat, lon, alt = DATUM.geodetic_from_map(position)
    covariance = np.diag([sigma, sigma, 2 * sigma]) ** 2
    lever = np.zeros(3) if arm is None else arm
    return GnssFix(float(lat[0]), float(lon[0]), float(alt[0]), covariance, lever)


def make_world(folder: Path, *, alike: bool = False) -> World:
    """Write the map and load it."""
    rng = np.random.default_rng(3)
    front = _street(rng)
    fronts = [front, front if alike else _street(rng)]
    points = np.concatenate([f + np.array([0, y, 0]) for f, y in zip(fronts, STREETS, strict=True)])
    single = rng.normal(0, 1, (len(front), 64))
    double = [single, single if alike else rng.normal(0, 1, (len(front), 64))]
    descriptors = np.concatenate(double)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    world = World(None, points, descriptors, alike)  # type: ignore[arg-type]
    _write(folder, world, rng)
    return replace(world, map=VisualMap.load(folder))


def _street(rng: np.random.Generator, count: int = 800) -> np.ndarray:
    """Points on both sides of a street with corners and depth, and a few overhead."""
    x = rng.uniform(-5, STEP * IMAGES + 30, count)
    side = np.where(rng.random(count) < 0.5, -1, 1) * rng.uniform(5, 9, count)
    return np.stack([x, side, rng.uniform(0, 7, count)], axis=1)


def _write(folder: Path, world: World, rng: np.random.Generator) -> None:
    (folder / "sensors").mkdir(parents=True)
    (folder / "reconstruction").mkdir()
    params = ", ".join(map(str, CAMERA.params))
    sensors = [f"front, , camera, PINHOLE, 640, 480, {params}", "wlan, , wifi"]
    _table(folder / "sensors/sensors.txt", sensors)
    folders = _feature_folders(folder)
    records, poses, scans, seen = [], [], [], {}
    for number in range(2 * IMAGES):
        street, place = divmod(number, IMAGES)
        cam_from_map = CAM_FROM_BASE @ base_at(place * STEP, street).inverse()
        stamp, name = 1000 + number, f"front/{number:03d}.jpg"
        records.append(f"{stamp}, front, {name}")
        poses.append(_row(stamp, "front", cam_from_map))
        scans += [
            f"{stamp}, wlan, 02:00:00:00:0{street}:{ap:02d}, 2412, "
            f"{-40 - 1.2 * abs(place * STEP - 8 * ap):.0f}, net, 0, 0"
            for ap in range(6)
        ]
        features, points = world.look(cam_from_map, rng)
        folders["keypoints"].write(name, features.keypoints)
        folders["descriptors"].write(name, features.descriptors)
        described = features.global_descriptors[TYPES.global_features]
        folders["global_features"].write(name, described[None])
        for keypoint, point in enumerate(points):
            if point >= 0:
                seen.setdefault(int(point), []).append(f"{name}, {keypoint}")
    _table(folder / "sensors/records_camera.txt", records)
    _table(folder / "sensors/trajectories.txt", poses)
    _table(folder / "sensors/records_wifi.txt", scans)
    tracks = {point: tracked for point, tracked in sorted(seen.items()) if len(tracked) > 1}
    xyz = [", ".join(map(str, [*world.points[point], 0, 0, 0])) for point in tracks]
    _table(folder / "reconstruction/points3d.txt", xyz)
    rows = [f"{i}, {TYPES.keypoints}, " + ", ".join(t) for i, t in enumerate(tracks.values())]
    _table(folder / "reconstruction/observations.txt", rows)
    write_manifest(folder, Manifest(TYPES, datum=DATUM))


def _row(stamp: int, device: str, pose: Transform) -> str:
    return ", ".join(map(str, [stamp, device, *pose.quaternion, *pose.translation]))


def _table(path: Path, rows: list[str]) -> None:
    path.write_text(HEADER + "\n".join(rows) + "\n")


def _feature_folders(folder: Path) -> dict[str, FeatureFolder]:
    columns = {
        "keypoints": (TYPES.keypoints, {"dsize": "2"}),
        "descriptors": (
            TYPES.descriptors,
            {"dsize": "64", "keypoints_type": TYPES.keypoints, "metric_type": "L2"},
        ),
        "global_features": (TYPES.global_features, {"dsize": "256", "metric_type": "L2"}),
    }
    common = {"name": "synthetic", "dtype": "float32"}
    return {
        kind: FeatureFolder.create(folder, kind, type_name, common | values)
        for kind, (type_name, values) in columns.items()
    }


QUERY_CAMERAS = {"front": CAM_FROM_BASE, "side": SIDE_FROM_BASE}
ANTENNA_IN_RIG = np.array([-0.5, 0.2, 1.8])


def make_query_dataset(
    folder: Path, world: World, poses: list[Transform], *, gnss: bool = False
) -> None:
    """A kapture dataset of a rig of two cameras, with features, poses and GNSS."""
    (folder / "sensors").mkdir(parents=True)
    folders = _feature_folders(folder)
    params = ", ".join(map(str, CAMERA.params))
    sensors = [f"{name}, , camera, PINHOLE, 640, 480, {params}" for name in QUERY_CAMERAS]
    _table(folder / "sensors/sensors.txt", [*sensors, "gps, , gnss, EPSG:4326"])
    mounted = QUERY_CAMERAS | {"gps": Transform(translation=-ANTENNA_IN_RIG)}
    rows = [
        ", ".join(map(str, ["rig", name, *pose.quaternion, *pose.translation]))
        for name, pose in mounted.items()
    ]
    _table(folder / "sensors/rigs.txt", rows)
    rng = np.random.default_rng(11)
    records, trajectory, fixes = [], [], []
    for number, map_from_rig in enumerate(poses):
        stamp = 1_700_000_000_000_000_000 + number * 500_000_000
        trajectory.append(_row(stamp, "rig", map_from_rig.inverse()))
        antenna = map_from_rig.apply(ANTENNA_IN_RIG)
        lat, lon, alt = (float(value[0]) for value in DATUM.geodetic_from_map(antenna))
        fixes.append(f"{stamp + 40_000_000}, gps, {lon!r}, {lat!r}, {alt!r}, 0, 1.0")
        for name, cam_from_rig in QUERY_CAMERAS.items():
            image = f"{name}/{number:03d}.jpg"
            records.append(f"{stamp}, {name}, {image}")
            features, _ = world.look(cam_from_rig @ map_from_rig.inverse(), rng)
            folders["keypoints"].write(image, features.keypoints)
            folders["descriptors"].write(image, features.descriptors)
            described = features.global_descriptors[TYPES.global_features]
            folders["global_features"].write(image, described[None])
    _table(folder / "sensors/records_camera.txt", records)
    _table(folder / "sensors/trajectories.txt", trajectory)
    if gnss:
        _table(folder / "sensors/records_gnss.txt", fixes)

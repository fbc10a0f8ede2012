"""A drive through a painted room as bags: rendered in milliseconds, with exact truth.

The vehicle goes ahead at 0.5 m/s while the cameras look at four walls with a lot to see.
Odometry is exact, but its frame lies elsewhere: map_from_odom is `MAP_FROM_ODOM` always.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.cli.main import main
from kapture_ros.simulation import messages
from kapture_ros.simulation.bags import open_bags
from kapture_ros.simulation.camera import OPTICAL_FROM_LINK, Camera
from kapture_ros.simulation.messages import Message
from kapture_ros.simulation.sensors import GnssSample
from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum

WIDTH, HEIGHT, FOCAL = 320, 240, 200.0
SPEED = 0.5  # m/s
ODOMETRY_RATE, GNSS_RATE = 25, 10  # Hz
START_NS = 1_700_000_000_000_000_000
MAP_FROM_ODOM = Transform(Rotation.from_euler("z", 0.6), [2.0, -1.0, 0.3])
DATUM = Datum(45.2, 5.8, 250.0)
TEXELS = 60  # a metre


def _mounted(name: str, position: tuple[float, float, float], yaw: float) -> Camera:
    link_from_optical = OPTICAL_FROM_LINK.inv()
    turn = Rotation.from_euler("z", yaw) * link_from_optical
    centre = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    pose = Transform(turn, position)
    return Camera(name, WIDTH, HEIGHT, FOCAL, centre, base_from_camera=pose)


CAMERAS = {
    "front": _mounted("front", (0.4, 0.0, 1.2), 0.0),
    "left": _mounted("left", (0.1, 0.3, 1.2), 0.9),
}


@dataclass(frozen=True)
class Wall:
    """A painted rectangle: a corner, and its two sides in metres."""

    corner: np.ndarray
    along: np.ndarray
    up: np.ndarray
    paint: np.ndarray


def _paint(metres: tuple[float, float], seed: int) -> np.ndarray:
    """Patches of all sizes."""
    rng = np.random.default_rng(seed)
    width, height = (int(TEXELS * side) for side in metres)
    image = np.full((height, width, 3), 120, np.uint8)
    for size in (60, 30, 15, 8):
        for _ in range(width * height // (6 * size * size)):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            w, h = rng.integers(size // 3, size, 2).tolist()
            color = rng.integers(0, 255, 3).tolist()
            turned = cv2.boxPoints(((x, y), (w, h), float(rng.uniform(0, 90))))
            cv2.fillPoly(image, [turned.astype(np.int32)], color, cv2.LINE_AA)
    return image


def _wall(corner: tuple, along: tuple, up: tuple, seed: int) -> Wall:
    sides = (float(np.linalg.norm(along)), float(np.linalg.norm(up)))
    return Wall(np.array(corner, float), np.array(along, float), np.array(up, float),
                _paint(sides, seed))  # fmt: skip


def room() -> list[Wall]:
    """Ahead two walls at different distances, one to the left and one to the right."""
    return [
        _wall((9, 4, 0), (0, -4, 0), (0, 0, 4), 1),
        _wall((7, 0, 0), (0, -4, 0), (0, 0, 3), 2),
        _wall((-3, 4, 0), (12, 0, 0), (0, 0, 4), 3),
        _wall((-3, -4, 0), (10, 0, 0), (0, 0, 4), 4),
    ]


def render(walls: list[Wall], camera: Camera, map_from_base: Transform) -> np.ndarray:
    """What a camera sees (H, W, 3) BGR, by the intersection of every pixel's ray."""
    map_from_camera = map_from_base @ camera.base_from_camera
    x, y = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    rays = np.stack([(x - camera.centre[0]) / FOCAL, (y - camera.centre[1]) / FOCAL,
                     np.ones_like(x)], axis=-1)  # fmt: skip
    rays = rays @ map_from_camera.rotation_matrix().T
    start = map_from_camera.translation
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    nearest = np.full((HEIGHT, WIDTH), np.inf)
    for wall in walls:
        normal = np.cross(wall.along, wall.up)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = ((wall.corner - start) @ normal) / (rays @ normal)
        offset = start + distance[..., None] * rays - wall.corner
        u = offset @ wall.along / (wall.along @ wall.along)
        v = 1 - offset @ wall.up / (wall.up @ wall.up)
        seen = (distance > 0) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1) & (distance < nearest)
        height, width = wall.paint.shape[:2]
        columns = (u * (width - 1)).astype(np.float32)
        rows = (v * (height - 1)).astype(np.float32)
        looked = cv2.remap(wall.paint, columns, rows, cv2.INTER_LINEAR)
        image[seen] = looked[seen]
        nearest[seen] = distance[seen]
    return image


def pose_at(seconds: float, side: float = 0.0) -> Transform:
    """map_from_base: ahead, swaying a little so that scale and turns are seen."""
    yaw = 0.08 * np.sin(1.5 * seconds)
    place = [SPEED * seconds, side + 0.15 * np.sin(seconds), 0.0]
    return Transform(Rotation.from_euler("z", yaw), place)


@dataclass(frozen=True)
class Drive:
    """What is different from drive to drive.

    Attributes:
        in_map: /tf says where the vehicle is in the map, not in odom: a drive to map.
        rate: of the images, Hz.
        side: metres to the left of the mapped path.
        skew_s: how much later the second camera takes its images.
    """

    seconds: float = 6.0
    cameras: tuple[str, ...] = ("front",)
    in_map: bool = False
    rate: float = 4.0
    side: float = 0.0
    begin: float = 0.0
    start_ns: int = START_NS
    skew_s: float = 0.0
    missing: dict[str, float] = field(default_factory=dict)  # camera -> second it fails


def write_bag(folder: Path, name: str, drive: Drive) -> Path:
    """Write a drive as an mcap bag; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_bags(folder, name, ("mcap",)) as bag:
        for message in sorted(_messages(drive), key=lambda m: m.receive_ns):
            bag.write(message)
    return folder / name


def _messages(drive: Drive) -> Iterator[Message]:
    mounts = [
        messages.transform(
            drive.start_ns, "base_link", CAMERAS[name].frame_id, CAMERAS[name].base_from_camera
        )
        for name in drive.cameras
    ]
    mounts.append(
        messages.transform(
            drive.start_ns, "base_link", "gnss_link", Transform(translation=[0, 0, 2])
        )
    )
    tf = "tf2_msgs/msg/TFMessage"
    yield Message("/tf_static", tf, drive.start_ns, messages.transforms(mounts))
    world, offset = ("map", Transform()) if drive.in_map else ("odom", MAP_FROM_ODOM.inverse())
    for number in range(int(drive.seconds * ODOMETRY_RATE) + 5):
        seconds = number / ODOMETRY_RATE
        stamp = drive.start_ns + round(seconds * 1e9)
        pose = offset @ pose_at(drive.begin + seconds, drive.side)
        link = messages.transform(stamp, world, "base_link", pose)
        yield Message("/tf", tf, stamp + 1_000_000, messages.transforms([link]))
        if not drive.in_map:
            still = np.zeros((6, 6))
            odometry = messages.odometry(
                stamp, ("odom", "base_link"), pose, (np.zeros(3), np.zeros(3)), (still, still)
            )
            yield Message("/odom", "nav_msgs/msg/Odometry", stamp + 1_000_000, odometry)
    walls = room()
    for number in range(int(drive.seconds * drive.rate)):
        for place, name in enumerate(drive.cameras):
            seconds = 0.1 + number / drive.rate + place * drive.skew_s
            if seconds < drive.missing.get(name, np.inf):
                yield from _camera_messages(walls, CAMERAS[name], drive, seconds)
    for number in range(int(drive.seconds * GNSS_RATE)):
        yield _fix(drive, 0.05 + number / GNSS_RATE)


def _camera_messages(
    walls: list[Wall], camera: Camera, drive: Drive, seconds: float
) -> Iterator[Message]:
    stamp = drive.start_ns + round(seconds * 1e9)
    arrives = stamp + 20_000_000
    picture = render(walls, camera, pose_at(drive.begin + seconds, drive.side))
    info = messages.camera_info(stamp, camera)
    yield Message(f"/{camera.name}/camera_info", "sensor_msgs/msg/CameraInfo", arrives - 1, info)
    image = messages.compressed_image(stamp, camera.frame_id, picture)
    topic = f"/{camera.name}/image/compressed"
    yield Message(topic, "sensor_msgs/msg/CompressedImage", arrives, image)


def _fix(drive: Drive, seconds: float) -> Message:
    stamp = drive.start_ns + round(seconds * 1e9)
    antenna = pose_at(drive.begin + seconds, drive.side).apply([0, 0, 2])
    lat, lon, alt = DATUM.geodetic_from_map(antenna)
    place = (float(lat[0]), float(lon[0]), float(alt[0]))
    sample = GnssSample(seconds, place, (0.3, 0.3, 0.6))
    return Message(
        "/fix", "sensor_msgs/msg/NavSatFix", stamp + 5_000_000, messages.nav_sat_fix(stamp, sample)
    )


def make_map(folder: Path) -> Path:
    """Map the room by the commands that a user would run; returns the map's folder."""
    bag = write_bag(folder, "mapping", Drive(seconds=6.0, in_map=True, rate=2.0))
    dataset, visual_map = folder / "dataset", folder / "map"
    for command in (
        ("convert", str(bag), str(dataset)),
        ("extract", str(dataset), "--top-k", "800"),
        ("map", str(dataset), str(visual_map)),
    ):
        assert main(command) == 0, command
    return visual_map

"""The KITTI frames as a robot would have recorded them: the messages of a bag, and the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from bag_tools import START, Stream, camera_info, image, make, transforms

from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum

FRAMES = 12
K = np.array([[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1]])
SIZE = (1241, 376)
DATUM = Datum(48.98, 8.39, 115.0)
OPTICAL_FROM_BODY = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
BASE_FROM_CAMERA = Transform.from_matrix(
    np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0.1], [0, -1, 0, 1.65], [0, 0, 0, 1.0]])
)
BASE_FROM_GNSS = Transform(translation=np.array([0.2, 0.0, 1.9]))
SECOND = 1_000_000_000


@dataclass
class Drive:
    """Messages by time of recording, and what a dataset made of them must say."""

    stream: Stream
    stamps: list[int]
    grey: list[np.ndarray]
    jpeg: list[bytes]
    base_from_map: dict[int, Transform]  # by image stamp
    fixes: dict[int, tuple[float, float, float]] = field(default_factory=dict)


@cache
def frames(root: Path) -> list[bytes]:
    return [(root / "kitti_00" / f"{i:06d}.jpg").read_bytes() for i in range(FRAMES)]


def poses(root: Path) -> list[Transform]:
    """map_from_base of each frame."""
    rows = np.loadtxt(root / "kitti_00" / "poses.txt")[:FRAMES].reshape(-1, 3, 4)
    # KITTI's map is the first camera: x right, y down. Ours has z up.
    up = Transform.from_matrix(np.linalg.inv(OPTICAL_FROM_BODY))
    return [up @ Transform.from_matrix(row) @ BASE_FROM_CAMERA.inverse() for row in rows]


def drive(root: Path, ros: int) -> Drive:
    """One drive: four cameras on one real camera's pictures, TF, GNSS."""
    times = np.loadtxt(root / "kitti_00" / "times.txt")[:FRAMES]
    stamps = [START + round(t * 1e9) for t in times]
    made = Drive([], stamps, [], frames(root), {})
    add = made.stream.append
    static = transforms(
        [(START, "base_link", child, pose.quaternion, pose.translation)
         for child, pose in (("camera", BASE_FROM_CAMERA), ("gnss", BASE_FROM_GNSS))], ros
    )  # fmt: skip
    add(("/tf_static", static, START))
    for index, (stamp, map_from_base) in enumerate(zip(stamps, poses(root), strict=True)):
        # TF comes between the images, so that their poses have to be interpolated.
        for offset in (-30_000_000, 20_000_000):
            moved = map_from_base @ Transform.exp(
                np.array([offset / 1e7, 0, 0, 0, 0, offset / 1e9])
            )
            add(_tf(stamp + offset, moved, ros))
        made.base_from_map[stamp] = _middle(map_from_base).inverse()
        jpeg = made.jpeg[index]
        grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        made.grey.append(grey)
        _add_images(add, grey, jpeg, stamp, ros)
        if index % 3 == 0:
            add(_fix(made, stamp + 1000, map_from_base, ros))
    made.stream.sort(key=lambda item: item[2])
    return made


def _middle(map_from_base: Transform) -> Transform:
    from kapture_ros.transforms import interpolate

    before, after = (
        map_from_base @ Transform.exp(np.array([offset / 1e7, 0, 0, 0, 0, offset / 1e9]))
        for offset in (-30_000_000, 20_000_000)
    )
    return interpolate(before, after, 0.6)


def _tf(stamp: int, pose: Transform, ros: int):
    item = (stamp, "map", "base_link", pose.quaternion, pose.translation)
    return "/tf", transforms([item], ros), stamp + 2_000_000


def _add_images(add, grey: np.ndarray, jpeg: bytes, stamp: int, ros: int) -> None:
    colour = colored(grey)
    png = cv2.imencode(".png", grey)[1]
    compressed = {"stamp": stamp, "frame": "camera"}
    arrival = stamp + 5_000_000
    data = np.frombuffer(jpeg, np.uint8)
    messages = {
        "/grey/image_raw": image(grey, "mono8", stamp, "camera", ros),
        "/colour/image_raw": image(colour, "bgr8", stamp, "camera", ros),
        "/jpeg/image_raw/compressed": make(
            "sensor_msgs/CompressedImage", ros, **compressed, format="mono8; jpeg", data=data
        ),
        "/png/image_raw/compressed": make(
            "sensor_msgs/CompressedImage", ros, **compressed, format="mono8; png", data=png.ravel()
        ),
    }
    for index, (topic, message) in enumerate(messages.items()):
        add((topic, message, arrival + 2 * index))
        info_topic = f"/{topic.split('/')[1]}/camera_info"
        add((info_topic, camera_info(SIZE, K, stamp, "camera", ros), arrival + 2 * index + 1))


def colored(grey: np.ndarray) -> np.ndarray:
    """A colour picture in which every channel differs."""
    return np.stack([grey, 255 - grey, np.roll(grey, 7, axis=1)], axis=-1)


def _fix(made: Drive, stamp: int, map_from_base: Transform, ros: int):
    position = (map_from_base @ BASE_FROM_GNSS).translation
    lat, lon, alt = (float(v[0]) for v in DATUM.geodetic_from_map(position.copy()))
    made.fixes[stamp] = (lat, lon, alt)
    status = make("sensor_msgs/NavSatStatus", ros, status=2, service=1)
    message = make(
        "sensor_msgs/NavSatFix", ros, stamp=stamp, frame="gnss", status=status, latitude=lat,
        longitude=lon, altitude=alt, position_covariance=np.eye(3).ravel(),
        position_covariance_type=2,
    )  # fmt: skip
    return "/fix", message, stamp + 3_000_000

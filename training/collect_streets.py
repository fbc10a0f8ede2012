"""Adds the images of simulated drives (`kapture_ros simulate`) to a pack for place learning.

    kapture_ros simulate out/s32 --street 32 --seed 32 --light dusk --width 480 --height 360 \\
        --rate 1.5 --depth-rate 0 --detail 0.6 --duration 58 --cameras front left
    python training/collect_streets.py out/s32 … --out out/streets.zip

An entry is `street/NAME_CAMERA/POSITION_LAP.webp`; the position is the place on the first lap
in steps of 2 m, so that both laps have the same positions where they show the same.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import cv2
import numpy as np
from collect_images import encode
from rosbags.highlevel import AnyReader
from tqdm import tqdm

STEP = 2.0  # metres
MAX_DISTANCE, MAX_TURN = 6.0, 0.5  # metres, radians
SIDE = 384


def read_lap(path: Path) -> tuple[np.ndarray, dict[str, list[tuple[int, bytes]]]]:
    """Ground truth rows (stamp, x, y, yaw) and each camera's stamped payloads."""
    poses, images = [], {}
    with AnyReader([path]) as reader:
        for connection, _, raw in reader.messages():
            topic = connection.topic
            if topic == "/ground_truth/odometry":
                message = reader.deserialize(raw, connection.msgtype)
                pose, q = message.pose.pose.position, message.pose.pose.orientation
                yaw = np.arctan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y**2 + q.z**2))
                poses.append((stamp_of(message), pose.x, pose.y, yaw))
            elif topic.endswith("/image_raw/compressed"):
                message = reader.deserialize(raw, connection.msgtype)
                camera = topic.split("/")[2]
                images.setdefault(camera, []).append((stamp_of(message), bytes(message.data)))
    return np.array(poses), images


def stamp_of(message: object) -> int:
    stamp = message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drives", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        for drive in tqdm(args.drives, disable=None):
            laps = [read_lap(drive / name) for name in ("lap1", "lap2")]
            route = laps[0][0]
            travelled = np.concatenate(
                [[0], np.cumsum(np.linalg.norm(np.diff(route[:, 1:3], axis=0), axis=1))]
            )
            for lap, (poses, images) in enumerate(laps):
                for camera, shots in images.items():
                    for stamp, payload in shots:
                        pose = poses[np.abs(poses[:, 0] - stamp).argmin()]
                        distance = np.linalg.norm(route[:, 1:3] - pose[1:3], axis=1)
                        turn = np.abs(np.angle(np.exp(1j * (route[:, 3] - pose[3]))))
                        distance[turn > MAX_TURN] = np.inf
                        nearest = int(distance.argmin())
                        if distance[nearest] > MAX_DISTANCE:
                            continue
                        position = int(travelled[nearest] / STEP)
                        image = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
                        name = f"street/{drive.name}_{camera}/{position:06d}_{lap}.webp"
                        if name not in archive.NameToInfo:
                            archive.writestr(name, encode(image, SIDE))
            print(drive, len(archive.namelist()), "images in all")


if __name__ == "__main__":
    main()

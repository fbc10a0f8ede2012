"""How fast is `kapture_ros convert`, against reading the bag and writing the same bytes?

    python benchmarks/convert.py [--frames FRAMES] [--folder OUT] [--count 1500]

The limit reads every message with rosbags (decoded) and writes the bytes of each image to a
file, those of every other message to one file, and nothing else. Memory is the peak of a
process of its own, for a bag and one ten times as long. FRAMES holds JPEG files; without it,
noise of the same size is encoded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from kapture_ros.recording.bag import Bag
from kapture_ros.recording.convert import Conversion, convert
from kapture_ros.recording.health import HealthOptions

START, STEP = 1_700_000_000_000_000_000, 100_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)
STORE1 = get_typestore(Stores.ROS1_NOETIC)
SIZE = (1241, 376)
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def frames(folder: Path | None) -> list[bytes]:
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        noise = cv2.resize(rng.integers(0, 256, (94, 310), np.uint8), SIZE)
        found.append(cv2.imencode(".jpg", noise)[1].tobytes())
    return found


def messages(
    images: list[bytes], count: int, *, raw: bool = False, motion: bool = False
) -> Iterator[tuple[str, Any, int]]:
    """A camera at 10 Hz with CameraInfo; with motion, TF at 50 Hz and an IMU at 100 Hz too."""
    types = STORE.types
    decoded = [cv2.imdecode(np.frombuffer(i, np.uint8), 1) for i in images] if raw else []
    for index in range(count * 10):
        at = START + index * STEP // 10
        stamp = types["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="cam")
        vector = types["geometry_msgs/msg/Vector3"](x=0.1, y=0.2, z=9.8)
        turn = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
        nine = np.zeros(9)
        imu = types["sensor_msgs/msg/Imu"](header, turn, nine, vector, nine, vector, nine)
        if motion:
            yield "/imu", imu, at
        if motion and index % 2 == 0:
            pose = types["geometry_msgs/msg/Transform"](translation=vector, rotation=turn)
            base = types["std_msgs/msg/Header"](stamp=stamp, frame_id="odom")
            link = types["geometry_msgs/msg/TransformStamped"](base, "cam", pose)
            yield "/tf", types["tf2_msgs/msg/TFMessage"](transforms=[link]), at
        if index % 10 == 0:
            yield "/cam/camera_info", _camera_info(header), at + 1
            yield (
                "/cam/image_raw" + "/compressed" * (not raw),
                _image(header, images, decoded, index // 10),
                at + 2,
            )


def _camera_info(header: Any) -> Any:
    k = np.array([700.0, 0, 600, 0, 700, 185, 0, 0, 1])
    p = np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel()
    roi = STORE.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    info = STORE.types["sensor_msgs/msg/CameraInfo"]
    eye = np.eye(3).ravel()
    return info(header, SIZE[1], SIZE[0], "plumb_bob", np.zeros(5), k, eye, p, 0, 0, roi)


def _image(header: Any, images: list[bytes], decoded: list[Any], index: int) -> Any:
    if not decoded:
        data = np.frombuffer(images[index % len(images)], np.uint8)
        return STORE.types[COMPRESSED](header, "bgr8; jpeg compressed bgr8", data)
    pixels = decoded[index % len(decoded)]
    height, width = pixels.shape[:2]
    return STORE.types["sensor_msgs/msg/Image"](
        header, height, width, "bgr8", 0, width * 3, pixels.reshape(-1)
    )


def make_bag(path: Path, kind: str, stream: Iterator[tuple[str, Any, int]]) -> Path:
    if kind == "ros1":
        writer: Any = rosbag1.Writer(path.with_suffix(".bag"))
    else:
        plugin = {"db3": rosbag2.StoragePlugin.SQLITE3, "mcap": rosbag2.StoragePlugin.MCAP}[kind]
        writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
    connections: dict[str, Any] = {}
    store = STORE1 if kind == "ros1" else STORE
    if kind == "ros1" and "tf2_msgs/msg/TFMessage" not in store.fielddefs:
        name = "tf2_msgs/msg/TFMessage"
        store.register({name: STORE.fielddefs[name]})
    with writer:
        for topic, message, at in stream:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            data: Any = STORE.serialize_cdr(message, name)
            writer.write(
                connections[topic], at, STORE.cdr_to_ros1(data, name) if kind == "ros1" else data
            )
    return path.with_suffix(".bag") if kind == "ros1" else path


# -- what is measured, each in a process of its own -------------------------------------------


def limit(bag: Path, out: Path) -> int:
    """Read with rosbags, write the images' bytes."""
    out.mkdir()
    written = 0
    with AnyReader([bag]) as reader, (out / "others").open("wb", buffering=0) as others:
        for connection, _, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            if "Image" in connection.msgtype:
                stamp = message.header.stamp
                name = f"{stamp.sec}{stamp.nanosec:09d}"
                (out / name).write_bytes(message.data.tobytes())
                written += 1
            else:
                others.write(raw)
    return written


def conversion(bag: Path, out: Path, *, checks: bool = True) -> int:
    health = HealthOptions() if checks else HealthOptions(image_check_s=1e9)
    with Bag([bag]) as opened:
        convert(opened, out, Conversion(health=health))
    folders = (out / "sensors" / "records_data").iterdir()
    return sum(1 for folder in folders for _ in os.scandir(folder))


MEASURED = {"limit": limit, "convert": conversion, "unchecked": partial(conversion, checks=False)}


def child(what: str, bag: Path, out: Path) -> None:
    began = time.perf_counter()
    written = MEASURED[what](bag, out)
    result = {
        "seconds": time.perf_counter() - began,
        "images": written,
        "rss_mb": peak_mb(),
    }
    print(json.dumps(result))


def peak_mb() -> float:
    """Of this process alone: `getrusage` begins with what its parent had when it was started."""
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in row]
    return int(line.split()[1]) / 1024


def measure(what: str, bag: Path, folder: Path) -> dict[str, float]:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--child", what, str(bag), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def size_mb(bag: Path) -> float:
    files = [bag] if bag.is_file() else list(bag.iterdir())
    return sum(file.stat().st_size for file in files) / 1e6


def remove(bag: Path) -> None:
    if bag.is_dir():
        shutil.rmtree(bag)
    else:
        bag.unlink()


def compare(folder: Path, images: list[bytes], args: argparse.Namespace) -> None:
    """Speeds, the best of several rounds in which limit and conversion take turns."""
    print(f"{'bag':24} {'MB':>5} {'limit':>21} {'convert':>21} {'':>9} {'no image checks':>17}")
    print(f"{'':24} {'':>5} {'MB/s':>10} {'images/s':>10} {'MB/s':>10} {'images/s':>10} of limit")
    cases = [
        ("mcap", {}),
        ("db3", {}),
        ("ros1", {}),
        ("mcap", {"motion": True}),
        ("mcap", {"raw": True}),
    ]
    for kind, more in cases:
        count = args.count // 5 if "raw" in more else args.count
        bag = make_bag(folder / "bag", kind, messages(images, count, **more))
        rounds = [[measure(what, bag, folder) for what in MEASURED] for _ in range(args.repeat)]
        bound, found, bare = (
            min((r[i] for r in rounds), key=lambda m: m["seconds"]) for i in range(3)
        )
        what = {"raw": "raw colour", "motion": "JPEG, IMU, TF"}.get(next(iter(more), ""), "JPEG")
        megabytes = size_mb(bag)
        speeds = [
            f"{megabytes / m['seconds']:10.0f} {m['images'] / m['seconds']:10.0f}"
            for m in (bound, found)
        ]
        shares = [f"{100 * bound['seconds'] / m['seconds']:.0f} %" for m in (found, bare)]
        line = f"{kind + ' ' + what:24} {megabytes:5.0f} {' '.join(speeds)}"
        print(f"{line} {shares[0]:>8} {shares[1]:>17}", flush=True)
        remove(bag)


def memory(folder: Path, images: list[bytes], count: int) -> None:
    print(f"{'bag':>10} {'images':>8} {'peak memory':>12}")
    for length in (count, 10 * count):
        bag = make_bag(folder / "bag", "mcap", messages(images, length, motion=True))
        found = measure("convert", bag, folder)
        size = f"{size_mb(bag):.0f} MB"
        print(f"{size:>10} {found['images']:8.0f} {found['rss_mb']:9.0f} MB", flush=True)
        remove(bag)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--count", type=int, default=1500, help="images in a bag")
    parser.add_argument("--folder", type=Path, help="where to write; its disk is measured too")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "BAG", "OUT"))
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), Path(args.child[2]))
        return
    images = frames(args.frames)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        compare(Path(name), images, args)
        memory(Path(name), images, args.count // 5)


if __name__ == "__main__":
    main()

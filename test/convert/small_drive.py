"""A small drive to convert, and `kapture_ros convert` as a user calls it."""

from __future__ import annotations

import numpy as np
from bag_tools import START, STEP, Stream, camera_info, image, make, transforms

from kapture_ros.cli.main import main

K = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])


def drive(count: int = 20, size: tuple[int, int] = (48, 64)) -> Stream:
    """A camera on a robot that drives, with some things nobody knows."""
    rng = np.random.default_rng(1)
    static = transforms([(START, "base_link", "cam", (1, 0, 0, 0), (1, 0, 0.5))])
    # /tf_static stands at the end, where no time window would find it.
    stream: Stream = [("/tf_static", static, START + count * STEP)]
    for index in range(count):
        at = START + index * STEP
        move = transforms([(at, "odom", "base_link", (1, 0, 0, 0), (index, 0, 0))])
        picture = image(rng.integers(0, 256, size, np.uint8), "mono8", at, "cam")
        stream += [
            ("/tf", move, at),
            ("/cam/camera_info", camera_info(size[::-1], K, at, "cam"), at + 1),
            ("/cam/image_raw", picture, at + 2),
            ("/thing", make("strange_msgs/Thing", stamp=at), at + 3),
        ]
    return sorted(stream, key=lambda item: item[2])


def convert(*args: object) -> int:
    return main(["convert", *map(str, args)])

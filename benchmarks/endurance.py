"""Does the localizer node stay as it is while a drive is played to it again and again?

    kapture_ros demo out/demo                         once, for a map and a bag
    python benchmarks/endurance.py out/demo --minutes 30

Player, node and this listener are processes of their own on one machine. A line a minute:
memory and threads of the node, its share of the cores, image to pose as heard here, rates,
images that were LATE, and the age at which the oldest image was begun with. Fails if memory
grows by 2 % or more after the first minute, if threads or the node's endpoints become more,
or if an image older than `max_age` (1 s) was worked on.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage

from kapture_ros.cli.demo import IMAGES, KEYPOINTS
from kapture_ros.localization.query import Reason
from kapture_ros.messages.common import header_stamp_ns
from kapture_ros.msg import LocalizationStatus
from kapture_ros.nodes.localizer_options import SensorOptions

COMMAND = (sys.executable, "-m", "kapture_ros.cli.main")
STARTING_S = 400.0
GROWTH = 0.02  # of the memory after the first minute
SLACK_MS = 50.0  # /clock ticks, and the time between stages that nobody measures
TITLES = (
    "minute", "MB", "threads", "cores", "images", "poses", "late", "p50 ms", "p95 ms", "p99 ms",
    "odometry Hz", "longest gap ms", "oldest begun with ms",
)  # fmt: skip


@dataclass
class Minute:
    """What was heard in it; times in milliseconds."""

    images: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # of ~/odometry
    ages: list[float] = field(default_factory=list)  # of images, when they were begun with


class Listener(Node):
    """Hears a localizer for a minute at a time."""

    def __init__(self, rate: float) -> None:
        super().__init__("endurance")
        self.minute = Minute()
        self._rate = rate
        self._arrivals: dict[int, float] = {}
        self._predicted = 0.0
        many = QoSProfile(depth=1000)
        for kind, topic, hear in (
            (CompressedImage, IMAGES, self._hear_image),
            (PoseWithCovarianceStamped, "/localizer/pose", self._hear_pose),
            (LocalizationStatus, "/localizer/status", self._hear_status),
            (Odometry, "/localizer/odometry", self._hear_odometry),
        ):
            self.create_subscription(kind, topic, hear, many)

    def _hear_image(self, message: CompressedImage) -> None:
        self.minute.images += 1
        self._arrivals[header_stamp_ns(message)] = time.monotonic()

    def _hear_pose(self, message: PoseWithCovarianceStamped) -> None:
        arrival = self._arrivals.get(header_stamp_ns(message))
        if arrival is not None:
            self.minute.latencies.append(1e3 * (time.monotonic() - arrival))

    def _hear_odometry(self, message: Odometry) -> None:
        now, before = time.monotonic(), self._predicted
        self._predicted = now
        if before:
            self.minute.gaps.append(1e3 * (now - before))

    def _hear_status(self, message: LocalizationStatus) -> None:
        if message.reason == Reason.LATE:
            self.minute.late += 1
            return
        stages = [getattr(message, f"latency_{s}") for s in (
            "decode", "extraction", "retrieval", "matching", "pose", "fusion")]  # fmt: skip
        self.minute.ages.append(message.latency_total - self._rate * np.nansum(stages))

    def take(self) -> Minute:
        """What was heard since this was called the last time."""
        taken, self.minute = self.minute, Minute()
        return taken

    def endpoints(self) -> int:
        """How many publishers and subscriptions the node has."""
        name = ("localizer", "/")
        published = self.get_publisher_names_and_types_by_node(*name)
        return len(published) + len(self.get_subscriber_names_and_types_by_node(*name))


@contextmanager
def running(*arguments: str) -> Iterator[psutil.Process]:
    """A command of this package beside us, ended with the block."""
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def percentile(values: list[float], q: float) -> float:
    return float(np.percentile(values, q)) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of `kapture_ros demo`")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1.0, help="of the player")
    args = parser.parse_args()
    os.environ |= {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(random.randrange(1, 100)),
    }
    rclpy.init()
    listener = Listener(args.rate)
    localizer = (
        *("node", "localize", "--map", f"{args.demo}/map", "--image-topics", IMAGES),
        *("--odometry-topic", "/odom", "--gnss-topic", "/gnss/fix", "--wifi-topic", "/wifi/scan"),
        *("--imu-topic", "/imu/data", "--ros-args", "-p", "use_sim_time:=true"),
        *("-p", f"local_features.top_k:={KEYPOINTS}"),
    )
    waiting = ("--wait-for", "/odom", "--wait-seconds", str(STARTING_S))
    player = ("play", f"{args.demo}/drive/lap2", "--loop", "--rate", str(args.rate), *waiting)
    with running(*localizer) as node, running(*player):
        rows, endpoints = listen(listener, node, args.minutes)
    sys.exit(judge(rows, endpoints))


def listen(
    listener: Listener, node: psutil.Process, minutes: int
) -> tuple[list[list[float]], list[int]]:
    """A row for each minute from the first pose on, and the node's endpoints then."""
    end = time.monotonic() + STARTING_S
    while not listener.minute.latencies:
        assert time.monotonic() < end, "the localizer published no pose"
        rclpy.spin_once(listener, timeout_sec=0.1)
    listener.take()
    rows, endpoints = [], []
    print("  ".join(TITLES))
    for number in range(minutes):
        begin, memory = time.monotonic(), []
        busy = sum(node.cpu_times()[:2])
        while (passed := time.monotonic() - begin) < 60:
            rclpy.spin_once(listener, timeout_sec=0.1)
            if passed > len(memory):
                memory.append(node.memory_info().rss / 1e6)
        cores = (sum(node.cpu_times()[:2]) - busy) / passed
        heard = listener.take()
        late = [percentile(heard.latencies, q) for q in (50, 95, 99)]
        row = [number + 1, float(np.mean(memory)), node.num_threads(), cores, heard.images,
               len(heard.latencies), heard.late, *late, len(heard.gaps) / passed,
               max(heard.gaps, default=np.nan), max(heard.ages, default=np.nan)]  # fmt: skip
        shown = [f"{v:.2f}" if title == "cores" else f"{v:.0f}"
                 for title, v in zip(TITLES, row, strict=True)]  # fmt: skip
        print("  ".join(v.rjust(len(t)) for v, t in zip(shown, TITLES, strict=True)), flush=True)
        rows.append(row)
        endpoints.append(listener.endpoints())
    return rows, endpoints


def judge(rows: list[list[float]], endpoints: list[int]) -> int:
    """Print what holds; the exit code."""
    columns = dict(zip(TITLES, np.array(rows).T, strict=True))
    after = columns["MB"][1:]
    growth = after[-1] / after[0] - 1 if len(after) else 0.0
    oldest = float(np.nanmax(columns["oldest begun with ms"]))
    limit = 1e3 * SensorOptions().max_age + SLACK_MS
    checks = {
        f"memory after the first minute: {growth:+.1%}": growth < GROWTH,
        f"threads: {columns['threads'][0]:.0f} to {columns['threads'].max():.0f}":
            columns["threads"][-1] <= columns["threads"][0] + 2,
        f"publishers and subscriptions: {endpoints[0]} to {endpoints[-1]}":
            endpoints[-1] == endpoints[0],
        f"oldest image that was begun with: {oldest:.0f} ms of {limit:.0f}": oldest < limit,
    }  # fmt: skip
    for text, holds in checks.items():
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    main()

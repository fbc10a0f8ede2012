"""`kapture_ros play` as its own process, heard by another one over real topics."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from bag_tools import START, STEP, Stream, camera_info, image, make, transforms, write_bag
from processes import end_process

from kapture_ros.nodes.bag_player import Pace
from kapture_ros.recording.playback import PlayOptions

HERE = Path(__file__).parent
PATIENCE_S = 120.0  # a loaded machine is slow, a hanging one is not
pytestmark = pytest.mark.slow
COUNT = 20  # instants in the bag, STEP apart
MATRIX = [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0]
TYPES = {
    "/imu": "sensor_msgs/msg/Imu",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


def stamp(number: int) -> int:
    return START + number * STEP


def drive(ros: int) -> Stream:
    """Images, their calibration and an IMU at 10 Hz; one static transform before all of it."""
    still = ((1, 0, 0, 0), (0.5, 0, 0))
    said = transforms([(stamp(0), "base_link", "camera", *still)], ros)
    stream: Stream = [("/tf_static", said, stamp(0))]
    for number in range(COUNT):
        at = stamp(number)
        acceleration = make("geometry_msgs/Vector3", ros, z=9.0 + number)
        imu = make("sensor_msgs/Imu", ros, stamp=at, linear_acceleration=acceleration)
        pixels = np.full((2, 3), number, np.uint8)
        stream += [
            ("/imu", imu, at),
            ("/camera/camera_info", camera_info((3, 2), MATRIX, at, "camera", ros), at),
            ("/camera/image_raw", image(pixels, "mono8", at, "camera", ros), at),
        ]
    return stream


@contextmanager
def playing(
    environment: dict[str, str], bag: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A running player; it ends with the block."""
    command = [sys.executable, "-m", "kapture_ros.cli.main", "play", str(bag), *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        end_process(process)


def listen(environment: dict[str, str], count: int, topics: dict[str, str]) -> dict[str, Any]:
    """What a listener heard until the first topic said so many messages."""
    named = [f"{topic}={kind}" for topic, kind in topics.items()]
    command = [sys.executable, str(HERE / "topic_listener.py"), str(count), *named]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    heard: dict[str, Any] = json.loads(done.stdout)
    return heard


def failure(environment: dict[str, str], bag: Path, *arguments: str) -> str:
    with playing(environment, bag, *arguments) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    return errors


@pytest.mark.parametrize(("ros", "kind"), [(1, "ros1"), (2, "mcap")])
def test_all_arrives_in_order_from_the_start_that_was_asked_for(
    ros: int, kind: str, ros_environment: dict[str, str], tmp_path: Path
):
    """ROS 1 messages as those of ROS 2; /tf_static though it was said before the start."""
    bag = write_bag(tmp_path / "bag", kind, drive(ros))
    skipped = 5
    wanted = range(skipped, COUNT)
    with playing(
        ros_environment,
        bag,
        "--start",
        "0.5",
        "--rate",
        "2",
        "--wait-for",
        "/imu",
        "--wait-seconds",
        str(PATIENCE_S),
    ) as process:
        heard = listen(ros_environment, len(wanted), TYPES)
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, log
    assert f"{3 * len(wanted) + 1} messages in" in log
    topics = heard["topics"]
    assert topics["/imu"] == [[stamp(number), [9.0 + number]] for number in wanted]
    assert topics["/tf_static"] == [[stamp(0), "camera"]]
    for topic, sent in (
        ("/camera/camera_info", [[stamp(number), MATRIX] for number in wanted]),
        ("/camera/image_raw", [[stamp(number), [float(number)] * 6] for number in wanted]),
    ):
        arrived = topics[topic]  # best effort: one may be missing
        assert arrived and arrived == [message for message in sent if message in arrived], topic
    clock = heard["clock"]
    assert clock == sorted(clock)
    assert clock[0] >= stamp(skipped)


def test_between_messages_the_clock_goes_on():
    ticks: list[int] = []
    pace = Pace(START, PlayOptions(rate=2.0, clock_rate=1000.0), ticks.append)
    before = time.monotonic()
    pace.wait_until(START + 4 * STEP)
    assert time.monotonic() - before >= 0.2, "twice as fast as recorded"
    pace.wait_until(START)  # is past
    assert ticks
    assert ticks == sorted(ticks)
    assert ticks[0] >= START and ticks[-1] <= START + 4 * STEP


def test_it_loops_under_other_names_until_ctrl_c(ros_environment: dict[str, str], tmp_path: Path):
    bag = write_bag(tmp_path / "bag", "db3", drive(2))
    arguments = ["--loop", "--rate", "10", "--topics", "/im*", "--remap", "/imu:=/car/imu"]
    with playing(ros_environment, bag, *arguments) as process:
        heard = listen(ros_environment, 3 * COUNT, {"/car/imu": TYPES["/imu"]})
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # a shell and ros2 launch
            process.send_signal(number)
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    stamps = [stamp_ns for stamp_ns, _ in heard["topics"]["/car/imu"]]
    again = [after - before for before, after in pairwise(stamps)]
    assert set(again) == {STEP, stamp(0) - stamp(COUNT - 1)}, "after the end comes the beginning"
    assert any(after < before for before, after in pairwise(heard["clock"]))
    assert int(re.findall(r"(\d+) messages", log)[0]) >= 3 * COUNT


def test_nobody_listening_and_unknown_packages_are_told(
    ros_environment: dict[str, str], tmp_path: Path
):
    strange = ("/strange", make("strange_msgs/msg/Thing", stamp=START), START)
    bag = write_bag(tmp_path / "bag", "mcap", [*drive(2), strange])
    told = failure(ros_environment, bag, "--wait-for", "/imu", "--wait-seconds", "0.1")
    assert "not played: /strange: no message package with strange_msgs/msg/Thing here" in told
    assert "kapture_ros: nobody subscribed to /imu within 0.1 s (wait_seconds)" in told


def test_a_topic_that_has_another_type_in_another_bag_keeps_the_first(
    ros_environment: dict[str, str], tmp_path: Path
):
    """Subscribers would take the bytes of one type for those of the other."""
    stream = drive(2)
    fix = make("sensor_msgs/NavSatFix", stamp=stamp(COUNT), latitude=48.0, longitude=8.0)
    bags = [write_bag(tmp_path / "one", "mcap", stream),
            write_bag(tmp_path / "two", "mcap", [("/imu", fix, stamp(COUNT))])]  # fmt: skip
    with playing(ros_environment, bags[0], str(bags[1]), "--rate", "20") as process:
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, log
    assert "not played: /imu: its messages of type sensor_msgs/msg/NavSatFix" in log
    assert f"{len(stream)} messages in" in log

"""Bags of a simulated lap: every format says the same, byte for byte the same every time."""

from __future__ import annotations

import dataclasses
import filecmp
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import get_types_from_msg

from kapture_ros.simulation.bags import bag_path, open_bags
from kapture_ros.simulation.drive import simulate_lap
from kapture_ros.simulation.messages import DEFINITIONS, ROS2
from kapture_ros.simulation.options import FORMATS, DriveOptions, QueryOptions, StreetOptions, laps
from kapture_ros.simulation.street import World, build_world

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = DriveOptions(
    duration=3.0, width=64, height=48, rate=4.0, cameras=("front", "right"), formats=FORMATS
)
LAP = laps(QueryOptions())[1]

pytestmark = pytest.mark.slow  # they share a street that takes some seconds to build


def write(folder: Path, world: World, options: DriveOptions = TINY) -> Path:
    folder.mkdir()
    with open_bags(folder, "lap", options.formats) as bags:
        for message in simulate_lap(LAP, world, options):
            bags.write(message)
    return folder


@pytest.fixture(scope="module")
def bags(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bags") / "tiny", world)


def read(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, time of arrival and message of everything in a bag."""
    with AnyReader([path]) as reader:
        return [
            (connection.topic, time, reader.deserialize(raw, connection.msgtype))
            for connection, time, raw in reader.messages()
        ]


def stamp_ns(header: Any) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def plain(message: Any) -> Any:
    """A message as nested lists; ROS 1's `seq` and constants left out."""
    if isinstance(message, np.ndarray):
        return message.tolist()
    if isinstance(message, list):
        return [plain(item) for item in message]
    if dataclasses.is_dataclass(message):
        names = [field.name for field in dataclasses.fields(message)]
        constants = [name for name in names if len(name) > 1 and name.isupper()]  # not `K`
        fields = {name.lower(): name for name in names if name not in ("seq", *constants)}
        return {lower: plain(getattr(message, name)) for lower, name in sorted(fields.items())}
    return message


@pytest.mark.parametrize("format", ["db3", "ros1"])
def test_every_format_holds_the_same_messages(bags: Path, format: str):
    expected, found = (read(bag_path(bags, "lap", name)) for name in ("mcap", format))
    assert len(found) == len(expected) > 500
    for one, two in zip(expected, found, strict=True):
        assert one[:2] == two[:2]
        assert repr(plain(one[2])) == repr(plain(two[2]))  # NaN equals itself as text only


def test_a_lap_has_every_sensor(bags: Path):
    counts = Counter(topic for topic, _, _ in read(bag_path(bags, "lap", "mcap")))
    assert counts == {
        "/camera/front/image_raw/compressed": 12, "/camera/front/camera_info": 12,
        "/camera/right/image_raw/compressed": 12, "/camera/right/camera_info": 12,
        "/camera/front/depth/image_raw": 3, "/camera/front/depth/camera_info": 3,
        "/imu/data": 300, "/odom": 150, "/tf": 150, "/tf_static": 1, "/gnss/fix": 15,
        "/wifi/scan": 1, "/ground_truth/odometry": 150 + 24,
    }  # fmt: skip


def test_messages_arrive_in_order_and_after_they_were_measured(bags: Path):
    before = 0
    for _, time, message in read(bag_path(bags, "lap", "mcap")):
        assert time >= before
        before = time
        if hasattr(message, "header"):
            assert 0 <= time - stamp_ns(message.header) < 250_000_000


def test_every_image_has_a_true_pose_and_a_calibration_of_its_stamp(bags: Path):
    messages = read(bag_path(bags, "lap", "mcap"))
    truth = {stamp_ns(m.header): m for topic, _, m in messages if topic.startswith("/ground")}
    for name in ("front", "right"):
        infos = {stamp_ns(m.header) for t, _, m in messages if t == f"/camera/{name}/camera_info"}
        topic = f"/camera/{name}/image_raw/compressed"
        for message in (m for t, _, m in messages if t == topic):
            assert stamp_ns(message.header) in truth
            assert stamp_ns(message.header) in infos
            assert cv2.imdecode(message.data, cv2.IMREAD_COLOR).shape == (48, 64, 3)
    frames = {(m.header.frame_id, m.child_frame_id) for m in truth.values()}
    assert frames == {("map", "base_link")}


def test_transforms_hang_on_odom_and_the_map_is_left_to_others(bags: Path):
    links = {
        (link.header.frame_id, link.child_frame_id)
        for topic, _, message in read(bag_path(bags, "lap", "mcap"))
        if topic.startswith("/tf")
        for link in message.transforms
    }
    assert links == {
        ("odom", "base_link"), ("base_link", "imu_link"), ("base_link", "gnss_link"),
        ("base_link", "wifi_link"), ("base_link", "camera_front_optical_frame"),
        ("base_link", "camera_right_optical_frame"),
    }  # fmt: skip


def test_raw_images_and_depth_have_the_layout_they_claim(world: World):
    options = DriveOptions(duration=1.0, width=64, height=48, rate=2.0, raw=True, depth_rate=2.0)
    images = {
        m.topic: m.content for m in simulate_lap(LAP, world, options) if "image_raw" in m.topic
    }
    colour, depth = images["/camera/front/image_raw"], images["/camera/front/depth/image_raw"]
    assert (colour.encoding, colour.step, len(colour.data)) == ("bgr8", 64 * 3, 48 * 64 * 3)
    assert (depth.encoding, depth.step, len(depth.data)) == ("16UC1", 64 * 2, 48 * 64 * 2)
    millimetres = depth.data.view("<u2").reshape(48, 64)
    assert 2000 < millimetres[-1, 32] < 6000, "the road in front of the car"
    assert millimetres[0, 32] == 0, "the sky"


def test_a_second_simulation_has_the_same_bytes(
    bags: Path, coarse_street: StreetOptions, tmp_path: Path
):
    again = write(tmp_path / "again", build_world(coarse_street))
    for format in FORMATS:
        first, second = (bag_path(folder, "lap", format) for folder in (bags, again))
        files = [p.relative_to(first) for p in sorted(first.rglob("*"))] or [Path()]
        for name in files:
            assert (first / name).stat().st_size > 1000
            assert filecmp.cmp(first / name, second / name, shallow=False), name


def test_our_messages_are_defined_as_in_the_message_files():
    for name in DEFINITIONS:
        package, _, message = name.split("/")
        if package == "kapture_ros":
            text = (REPOSITORY / "msg" / f"{message}.msg").read_text(encoding="utf-8")
            assert get_types_from_msg(text, name)[name] == ([], ROS2.fielddefs[name][1])

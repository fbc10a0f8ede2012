"""The layouts for RViz and Foxglove show topics that the localizer has, as what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from rclpy.qos import DurabilityPolicy

from kapture_ros.nodes.outputs import TOPICS

CONFIG = Path(__file__).resolve().parents[2] / "config"
NODE = "/localizer/"
SHOWN_BY = {
    "PointCloud2": "PointCloud2",
    "Marker": "Marker",
    "MarkerArray": "MarkerArray",
    "Path": "Path",
    "PoseWithCovariance": "PoseWithCovarianceStamped",
    "Odometry": "Odometry",
    "Image": "CompressedImage",
}


def rviz() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "localize.rviz").read_text())["Visualization Manager"]


def test_each_rviz_display_suits_the_type_and_durability_of_its_topic():
    shown = set()
    for display in rviz()["Displays"]:
        if "Topic" not in display:
            continue
        name = display["Topic"]["Value"].removeprefix(NODE)
        message, profile = TOPICS[name]
        kind = display["Class"].removeprefix("rviz_default_plugins/")
        assert SHOWN_BY[kind] == message.__name__, name
        latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        wanted = "Transient Local" if latched else "Volatile"
        assert display["Topic"]["Durability Policy"] == wanted, name
        shown.add(name)
    assert shown == set(TOPICS) - {"status", "fix"}, "those have no display in RViz"


def test_rviz_gives_the_hint_that_the_node_listens_to():
    (tool,) = [tool for tool in rviz()["Tools"] if tool["Class"].endswith("SetInitialPose")]
    assert tool["Topic"]["Value"] == "/initialpose"


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def test_the_foxglove_layout_names_topics_and_fields_that_exist():
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    named = {text.removeprefix(NODE) for text in _texts(layout) if text.startswith(NODE)}
    assert named
    for path in named:
        topic, _, field = path.partition(".")
        message, _ = TOPICS[topic]
        assert not field or field in message.get_fields_and_field_types(), path


def test_each_foxglove_panel_has_a_place():
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    assert set(layout["configById"]) <= set(_texts(layout["layout"]))


def test_foxglove_shows_each_state_by_name():
    from kapture_ros.msg import LocalizationStatus

    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    shown = {
        rule["label"]: int(rule["rawValue"])
        for rule in layout["configById"]["Indicator!state"]["rules"]
    }
    states = {
        name.removeprefix("STATE_"): value
        for name, value in vars(LocalizationStatus).items()
        if name.startswith("STATE_")
    }
    assert shown == states

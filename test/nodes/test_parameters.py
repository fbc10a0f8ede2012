"""A node's parameters as tools see them: described with unit and range, refused outside of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from kapture_ros.errors import OptionError
from kapture_ros.nodes.parameters import declare_options, options_of
from kapture_ros.nodes.settings import parameters, read_settings
from kapture_ros.options import option


@dataclass(frozen=True)
class Pump:
    """Options of all kinds of ranges."""

    rate: float = option(20.0, "strokes", unit="Hz", minimum=1, maximum=200)
    quality: int = option(80, "of the oil", minimum=1, maximum=100)
    patience: float = option(5.0, "before it stops", unit="s", minimum=0)
    names: tuple[str, ...] = option((), "of its valves")


@pytest.fixture
def context(ros_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    for name, value in ros_environment.items():
        monkeypatch.setenv(name, value)
    made = Context()
    rclpy.init(context=made)
    yield made
    rclpy.shutdown(context=made)


def pump(context: Context, **overrides: Any) -> Node:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    node = Node("pump", context=context, parameter_overrides=given)
    declare_options(node, Pump)
    return node


def test_description_unit_and_range_are_told(context: Context):
    node = pump(context)
    rate = node.describe_parameter("rate")
    assert rate.description == "strokes [Hz, 1 to 200]"
    (allowed,) = rate.floating_point_range
    assert (allowed.from_value, allowed.to_value) == (1.0, 200.0)
    (allowed,) = node.describe_parameter("quality").integer_range
    assert (allowed.from_value, allowed.to_value) == (1, 100)
    patience = node.describe_parameter("patience")
    assert patience.description == "before it stops [s, at least 0]"
    assert not patience.floating_point_range, "ROS has no half-open ranges"


def test_values_outside_are_refused_with_the_range(context: Context):
    node = pump(context)
    (refused,) = node.set_parameters([Parameter("rate", value=500.0)])
    assert not refused.successful
    assert "200" in refused.reason
    (taken,) = node.set_parameters([Parameter("rate", value=200.0)])
    assert taken.successful
    assert options_of(node, Pump).rate == 200.0


def test_a_wrong_value_at_the_start_is_explained_when_it_is_read(context: Context):
    """The node is there meanwhile, and can be corrected."""
    node = pump(context, rate=500.0)
    with pytest.raises(OptionError, match=r"'rate' is 500.0 but must be a number \(1 to 200"):
        options_of(node, Pump)
    assert node.set_parameters([Parameter("rate", value=50)])[0].successful
    assert options_of(node, Pump).rate == 50.0


def test_names_of_parameters_are_unique_and_values_checked():
    names = [name for name, _, _ in parameters()]
    assert len(names) == len(set(names))
    with pytest.raises(OptionError, match=r"publish_rate.*1 to 200"):
        read_settings({"publish_rate": 1000.0}.get, "test")
    assert read_settings({"pose.max_error": 3.0}.get, "test").localizer.pose.max_error == 3.0

"""A node's parameters from options dataclasses, and the commented parameter file of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kapture_ros.options import OptionInfo, describe, from_mapping, to_yaml

if TYPE_CHECKING:
    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.node import Node


def declare_options(node: Node, cls: type[Any], prefix: str = "") -> None:
    """Declare every option as a parameter of the same name, behind a prefix if there is one.

    Types are not fixed by ROS, so that `5` does for a float and nothing at all for an
    option that may be empty; `options_of` checks the values and explains.
    """
    from rclpy.exceptions import InvalidParameterValueException

    before = f"{prefix}." if prefix else ""
    for info in describe(cls):
        default = list(info.default) if info.many else info.default
        name, value = before + info.name, default if default != [] else None
        try:
            node.declare_parameter(name, value, _descriptor(info, ranged=True))
        except InvalidParameterValueException:  # given at the start; `options_of` explains it
            node.declare_parameter(name, value, _descriptor(info, ranged=False))


def _descriptor(info: OptionInfo, *, ranged: bool) -> ParameterDescriptor:
    """What `ros2 param describe` and the sliders of rqt show; ROS knows no half-open ranges."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    descriptor = ParameterDescriptor(description=info.explanation, dynamic_typing=True)
    low, high = info.minimum, info.maximum
    if ranged and low is not None and high is not None:
        if info.type is int:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
    return descriptor


def options_of(node: Node, cls: type[Any]) -> Any:
    """The options from the parameters declared before.

    Raises:
        OptionError: naming the parameter that is out of range or of the wrong type.
    """
    values = {info.name: node.get_parameter(info.name).value for info in describe(cls)}
    given = {name: value for name, value in values.items() if value is not None}
    return from_mapping(cls, given, f"parameters of {node.get_name()}")


def parameter_file(title: str, classes: Iterable[type[Any] | tuple[str, type[Any]]]) -> str:
    """The commented YAML file of a node; options that are empty by default are comments.

    Args:
        classes: options, those with a prefix as (prefix, options).
    """
    lines = [f"# {title}", "/**:", "  ros__parameters:"]
    for item in classes:
        prefix, cls = item if isinstance(item, tuple) else ("", item)
        if prefix:
            lines.append(f"    {prefix}:")
        pad = " " * (6 if prefix else 4)
        for line in to_yaml(cls, indent=len(pad)).splitlines():
            # rcl's parser takes neither null nor a list without a type.
            empty = line.rstrip().endswith((": null", ": []"))
            lines.append(line.replace(pad, f"{pad}# ", 1).rsplit(" ", 1)[0] if empty else line)
    return "\n".join(lines) + "\n"


def write_parameter_file(
    path: Path, title: str, classes: Iterable[type[Any] | tuple[str, type[Any]]]
) -> None:
    """Write the file that `parameter_file` describes."""
    path.write_text(parameter_file(title, classes), encoding="utf-8")

"""A node's parameters from options dataclasses, and the commented parameter file of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kapture_ros.options import describe, from_mapping, to_yaml

if TYPE_CHECKING:
    from rclpy.node import Node


def declare_options(node: Node, cls: type[Any]) -> None:
    """Declare every option as a parameter of the same name.

    Types are not fixed by ROS, so that `5` does for a float and nothing at all for an
    option that may be empty; `options_of` checks the values and explains.
    """
    from rcl_interfaces.msg import ParameterDescriptor

    for info in describe(cls):
        descriptor = ParameterDescriptor(description=info.explanation, dynamic_typing=True)
        default = list(info.default) if info.many else info.default
        node.declare_parameter(info.name, default if default != [] else None, descriptor)


def options_of(node: Node, cls: type[Any]) -> Any:
    """The options from the parameters declared before.

    Raises:
        OptionError: naming the parameter that is out of range or of the wrong type.
    """
    values = {info.name: node.get_parameter(info.name).value for info in describe(cls)}
    given = {name: value for name, value in values.items() if value is not None}
    return from_mapping(cls, given, f"parameters of {node.get_name()}")


def parameter_file(title: str, classes: Iterable[type[Any]]) -> str:
    """The commented YAML file of a node; options that are empty by default are comments."""
    lines = [f"# {title}", "/**:", "  ros__parameters:"]
    for cls in classes:
        for line in to_yaml(cls, indent=4).splitlines():
            # rcl's parser takes neither null nor a list without a type.
            empty = line.rstrip().endswith((": null", ": []"))
            lines.append(line.replace("    ", "    # ", 1).rsplit(" ", 1)[0] if empty else line)
    return "\n".join(lines) + "\n"


def write_parameter_file(path: Path, title: str, classes: Iterable[type[Any]]) -> None:
    """Write the file that `parameter_file` describes."""
    path.write_text(parameter_file(title, classes), encoding="utf-8")

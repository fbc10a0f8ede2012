"""Arguments of the launch files: declared, read and checked alike in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.actions import DeclareLaunchArgument
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration

BOOLEAN = ("true", "false", "True", "False")
Arguments = Mapping[str, tuple[str, str]]
"""Name -> default and explanation."""


def declared(
    arguments: Arguments, choices: Mapping[str, Sequence[str]]
) -> list[DeclareLaunchArgument]:
    """The arguments, for `ros2 launch --show-args` and to be checked by it."""
    return [
        DeclareLaunchArgument(
            name, default_value=value, description=text, choices=choices.get(name)
        )
        for name, (value, text) in arguments.items()
    ]


def values_of(context: LaunchContext, arguments: Arguments) -> dict[str, str]:
    """The arguments as given."""
    return {name: LaunchConfiguration(name).perform(context) for name in arguments}


def file_of(name: str, path: str) -> Path:
    """The parameter file that an argument names.

    Raises:
        FileNotFoundError: naming the argument; launch_ros would go on without the file.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"{name}:={found} is no file")
    return found


def is_true(text: str) -> bool:
    """What a boolean argument says."""
    return text.lower() == "true"

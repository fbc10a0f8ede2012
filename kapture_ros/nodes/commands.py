"""What every command that runs a ROS node shares: the check for ROS, `--ros-args`, parameters."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kapture_ros.errors import MissingDependencyError
from kapture_ros.nodes.ending import importing
from kapture_ros.options import describe, from_arguments


@contextmanager
def needs_ros(what: str) -> Iterator[None]:
    """Around the imports of a command; `what` is named when one fails.

    Raises:
        MissingDependencyError: naming the module that is not installed.
    """
    try:
        with importing():
            yield
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs ROS 2 and {error.name} is not installed; source a ROS installation, "
            "or pip install -r requirements/ros-jazzy.txt"
        ) from error


def add_ros_arguments(parser: argparse.ArgumentParser) -> None:
    """The option `--ros-args`, which ends our part of the line."""
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        help="the rest of the line goes to ROS: remappings, parameters",
    )


def given_parameters(
    classes: Sequence[type[Any]], args: argparse.Namespace
) -> Iterator[tuple[str, Any]]:
    """Names and checked values of the parameters that are on the command line."""
    for cls in classes:
        options = from_arguments(cls, args)
        for info in describe(cls):
            if getattr(args, info.name) is not None:
                value = getattr(options, info.name)
                yield info.name, list(value) if info.many else value

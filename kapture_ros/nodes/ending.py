"""How a node's process ends: by one signal, whatever else arrives while it tidies up."""

from __future__ import annotations

import atexit
import signal
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

ENDING = (signal.SIGINT, signal.SIGTERM)
WAKE_S = 0.25


def end_by_signals() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore those after it.

    ros2 launch and a shell both send Ctrl-C, and launch escalates. SIGINT is set too, since
    a shell's background job begins with it ignored. rclpy must not handle them: it would
    shut the context down at once (`SignalHandlerOptions.NO`). Nothing heavy is imported for
    this, so that scripts call it before all else.
    """
    for number in ENDING:
        signal.signal(number, _end)
    atexit.register(_ignore_all)


def keep_awake(node: Node) -> None:
    """Let the node's executor look up now and then, on a clock that never rests.

    Python handles a signal when the wait for messages returns: without messages, or while
    /clock rests, that would be never.
    """
    from rclpy.clock import Clock, ClockType

    node.create_timer(WAKE_S, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))


def _end(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, _ignore)
    raise KeyboardInterrupt


def _ignore_all() -> None:
    """Python restores what kills the process before its last steps, unless this is set."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Unlike SIG_IGN, fit for a signal that has arrived already."""

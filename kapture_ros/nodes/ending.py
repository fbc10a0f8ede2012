"""How a node's process ends: by one signal, whatever else arrives while it tidies up."""

from __future__ import annotations

import signal
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def end_by_signals() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore those after it.

    ros2 launch and a shell both send Ctrl-C, and launch escalates. SIGINT is set too, since
    a shell's background job begins with it ignored. rclpy must not handle them: it would
    shut the context down at once (`SignalHandlerOptions.NO`).
    """
    for number in ENDING:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, _ignore)
    raise KeyboardInterrupt


def _ignore(number: int, frame: FrameType | None) -> None:
    """Unlike SIG_IGN, fit for a signal that has arrived already."""

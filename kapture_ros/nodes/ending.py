"""How a node's process ends: by one signal, whatever else arrives while it tidies up.

While libraries load, the first signal interrupts. A node at work only takes note of it and
ends between two callbacks: an exception in the midst of one may get lost there, or become
another one on its way through a library.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rclpy.node import Node

    AnyNode = TypeVar("AnyNode", bound=Node)

ENDING = (signal.SIGINT, signal.SIGTERM)
WAKE_S = 0.25
TIDY_S = 10.0

_told = threading.Event()


def end_by_signals() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore those after it.

    ros2 launch and a shell both send Ctrl-C, and launch escalates. SIGINT is set too, since
    a shell's background job begins with it ignored. Nothing heavy is imported for this, so
    that scripts call it before all else.
    """
    _handle(_interrupt)
    sys.unraisablehook = _report_unless_interrupted


def run_main(module: str) -> None:
    """Import a module, which takes some seconds, and run its `main`; a signal ends both."""
    end_by_signals()
    try:
        with importing():
            main = importlib.import_module(module).main
    except KeyboardInterrupt:
        # Python may end as killed by a signal that it caught, where a library had it run code.
        os._exit(0)
    with suppress(KeyboardInterrupt):
        main()


def note_signals() -> None:
    """From now on SIGINT and SIGTERM are noted only; `spin` and `end_if_told` look.

    rclpy must not handle them: it would shut the context down at once
    (`SignalHandlerOptions.NO`).

    Raises:
        KeyboardInterrupt: if one has come before, and its exception got lost.
    """
    _handle(_note)
    end_if_told()


def end_if_told() -> None:
    """Raise KeyboardInterrupt if a signal has come: where work may be broken off."""
    if _told.is_set():
        raise KeyboardInterrupt


@contextmanager
def importing() -> Iterator[None]:
    """Around imports: modules of machine code make an ImportError of what interrupts them.

    Raises:
        KeyboardInterrupt: in its place.
    """
    try:
        yield
    except ImportError:
        end_if_told()
        raise


@contextmanager
def alive(node_of: Callable[[], AnyNode], ros_arguments: Sequence[str] | None) -> Iterator[AnyNode]:
    """A node, between the begin of ROS and its end; signals are noted, the core's log is its own.

    Args:
        ros_arguments: None: those of the process.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from kapture_ros.nodes.core_log import core_logged_by

    note_signals()
    rclpy.init(
        args=list(ros_arguments) if ros_arguments is not None else None,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    node = node_of()
    with core_logged_by(node):
        try:
            yield node
        finally:
            node.destroy_node()
            rclpy.try_shutdown()


def spin(node: Node, begin_with: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
    """Run a node's callbacks until a signal is noted, or somebody shuts ROS down.

    One thread does: with several, looking for the next message at the rates of an IMU and
    /clock costs most of a core, with one a third of that.

    Args:
        begin_with: is run first, beside the callbacks.
    """
    import rclpy
    from rclpy.clock import Clock, ClockType
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    # Python handles a signal when the wait for messages returns: without messages, or while
    # /clock rests, that would be never.
    node.create_timer(WAKE_S, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))
    if begin_with is not None:
        executor.create_task(begin_with)
    try:
        while rclpy.ok() and not _told.is_set():
            executor.spin_once()
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown(timeout_sec=TIDY_S)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in ENDING:
        signal.signal(number, handler)
    atexit.register(_ignore_all)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _told.set()
    for each in ENDING:  # unlike SIG_IGN, fit for a signal that has arrived already
        signal.signal(each, _note)
    raise KeyboardInterrupt


def _report_unless_interrupted(lost: sys.UnraisableHookArgs) -> None:
    """Python drops exceptions of weak references' callbacks, as imports have; this one is noted."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def _note(number: int, frame: FrameType | None) -> None:
    _told.set()


def _ignore_all() -> None:
    """Python restores what kills the process before its last steps, unless this is set."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)

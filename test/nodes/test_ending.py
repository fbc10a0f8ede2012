"""Processes with a node end by one signal, whenever it comes and whatever they are doing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")

PATIENCE_S = 150.0  # a loaded machine is slow, a hanging one is not
# A shell reports both as 130. Python chooses the second where the signal came while a library
# had it run code, though the exception is caught later.
INTERRUPTED = (130, -signal.SIGINT)
COMMAND = (sys.executable, "-m", "kapture_ros.cli.main")

# Python drops exceptions of __del__: if the signal raised one there, it would be lost.
SPINNING = """
import signal
import rclpy
from rclpy.signals import SignalHandlerOptions
from kapture_ros.nodes.ending import note_signals, spin


class Told:
    def __del__(self):
        signal.raise_signal(signal.{name})


rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
note_signals()
node = rclpy.create_node("busy")
told = []


def work():
    told.append(Told()), told.clear()
    print("callbacks are finished")


node.create_timer(0.01, work)
spin(node)
print("ended")
"""


def run(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A Python script, in a process of its own."""
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


def handles(pid: int, number: int) -> bool:
    """Whether a process catches a signal by now."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_midst_of_a_callback_is_not_lost(
    name: str, ros_environment: dict[str, str]
):
    done = run(SPINNING.format(name=name), ros_environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["callbacks are finished", "ended", ""]


LOADING = """
import signal
import weakref
from kapture_ros.nodes.ending import end_by_signals, note_signals


class Lock:
    pass


end_by_signals()
lock = Lock()
watched = weakref.ref(lock, lambda _: signal.raise_signal(signal.{name}))
del lock
print("loaded")
note_signals()
print("at work")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_an_import_swallows_ends_the_process_before_it_works(
    name: str, ros_environment: dict[str, str]
):
    """Imports let go of their locks by weak references, of which Python drops exceptions."""
    done = run(LOADING.format(name=name), ros_environment)
    assert done.returncode in INTERRUPTED
    assert done.stdout == "loaded\n"
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("node", "localize"), ("record",), ("view",), ("play", "/nowhere")]
)
def test_a_background_job_can_be_interrupted_while_it_loads(
    arguments: tuple[str, ...], ros_environment: dict[str, str]
):
    """A shell starts it with SIGINT ignored; its libraries take seconds on a loaded machine."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments], env=ros_environment, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, usual)
    try:
        end = time.monotonic() + PATIENCE_S
        while not handles(process.pid, signal.SIGINT):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.005)
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text(), "nothing is loaded"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert errors == "kapture_ros: interrupted\n"
    assert process.returncode in INTERRUPTED


IMPORTING = """
import signal
from kapture_ros.nodes.commands import needs_ros
from kapture_ros.nodes.ending import end_by_signals

end_by_signals()
with needs_ros("this"):
    try:
        {happens}
    except BaseException as error:  # as pybind11 does
        raise ImportError("initialization failed") from error
"""


def test_an_interrupt_that_an_import_made_another_error_of_is_one() -> None:
    done = run(IMPORTING.format(happens="signal.raise_signal(signal.SIGINT)"), dict(os.environ))
    assert done.returncode in INTERRUPTED
    assert done.stderr.strip().endswith("KeyboardInterrupt")
    done = run(IMPORTING.format(happens="raise RuntimeError"), dict(os.environ))
    assert done.returncode == 1 and "MissingDependencyError" in done.stderr

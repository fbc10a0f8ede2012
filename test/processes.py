"""Ending the processes of a test."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

PATIENCE_S = 60.0  # a loaded machine is slow, a hanging one is not


def end_process(process: subprocess.Popen[Any]) -> None:
    """Interrupt a process if it is still there, and wait; kill it if it does not end.

    A process with a node that is killed leaves its shared memory in /dev/shm for good; so does
    a plain rclpy one on SIGTERM, by which it dies.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()

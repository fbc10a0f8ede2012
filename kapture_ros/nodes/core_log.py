"""What the core logs, told by the node that runs it: on the console and on /rosout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import LoggingSeverity
from rclpy.node import Node

CORE = "kapture_ros"


@contextmanager
def core_logged_by(node: Node) -> Iterator[None]:
    """Meanwhile what the package logs goes to the node's logger, and nowhere else."""
    core, logger = logging.getLogger(CORE), node.get_logger()
    handler, before = _ToRos(logger), (core.level, core.propagate)
    debug = logger.get_effective_level() <= LoggingSeverity.DEBUG
    core.setLevel(logging.DEBUG if debug else logging.INFO)
    core.propagate = False
    core.addHandler(handler)
    try:
        yield
    finally:
        core.removeHandler(handler)
        core.setLevel(before[0])
        core.propagate = before[1]


class _ToRos(logging.Handler):
    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # rclpy takes a line of code for one severity, and refuses another one from there.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)

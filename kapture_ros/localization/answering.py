"""The answer to one query while it grows: whatever stops it becomes its reason.

The localizer adds to it stage by stage, a sequence localizer what one of its searches found.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from kapture_ros.errors import KaptureRosError
from kapture_ros.localization.query import Estimate, Reason, Rejected

log = logging.getLogger(__name__)


class Answering:
    """What is known of a query's answer so far, and how long each stage took.

    Attributes:
        answer: rejected until a stage accepts it.
    """

    def __init__(self, stamp_ns: int) -> None:
        self.answer = Estimate(stamp_ns, Reason.BAD_INPUT, "")
        self._start = time.perf_counter()
        self._times: dict[str, float] = {}

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Whatever stops a query becomes its reason."""
        try:
            yield
        except Rejected as rejection:
            self.reject(rejection.reason, str(rejection))
        except KaptureRosError as error:
            self.reject(Reason.BAD_INPUT, str(error))
        except Exception as error:
            # One bad frame must not end a drive, whatever a library makes of it.
            log.exception("query at %d", self.answer.stamp_ns)
            self.reject(Reason.BAD_INPUT, f"unexpected {type(error).__name__}: {error}")

    def reject(self, reason: Reason, text: str) -> None:
        """Set why there is no pose to use."""
        self.answer = replace(self.answer, reason=reason, reason_text=text)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, also one that raises; the blocks of a name are added up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = 1e3 * (time.perf_counter() - start)
            self._times[name] = self._times.get(name, 0.0) + passed

    def finish(self) -> Estimate:
        """The answer with the milliseconds of all stages."""
        total = 1e3 * (time.perf_counter() - self._start)
        return replace(self.answer, latency_ms={**self._times, "total": total})

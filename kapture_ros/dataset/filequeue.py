"""Files that threads encode and write, finished in the order they were put in.

Encoding takes longer than messages take to arrive, so it happens off the caller's thread;
the queue is bounded in number and memory, and what waiting it causes is counted. A file
that needs no encoding is written at once by the caller: handing it over costs several times
what writing it does, and live it must not be lost because others take long to encode.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kapture_ros.dataset.records import (
    DepthRecord,
    FileBytes,
    FilePayload,
    ImageRecord,
    LidarRecord,
)
from kapture_ros.dataset.storage import write_file
from kapture_ros.errors import OutputError
from kapture_ros.options import option

FileRecord = ImageRecord | DepthRecord | LidarRecord
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class WriterOptions:
    """How a dataset is written."""

    workers: int = option(2, "threads that encode and write images", minimum=1)
    queue_images: int = option(64, "images that may wait to be written", minimum=1)
    queue_megabytes: float = option(256.0, "memory they may take", unit="MB", minimum=1)
    sync_s: float | None = option(
        None,
        "what a power failure may cost: 0 forces each record to the disk before it is "
        "acknowledged; empty leaves that to the operating system (a killed process loses nothing)",
        unit="s",
        minimum=0,
    )
    # What a new image does when the queue is full. Not for the user to choose: a
    # conversion waits, live recording drops (and counts), since messages do not wait.
    when_full: Literal["wait", "drop"] = "wait"

    @property
    def in_place(self) -> bool:
        """Whether a killed writer may leave torn files without a row, which repair removes.

        A conversion can make them anew; of messages that came live, every whole file counts.
        """
        return self.when_full == "wait"


@dataclass(slots=True)
class QueueCounts:
    """How full the queue was; nothing waits without showing here."""

    waits: int = 0  # times that a record waited for room
    waited_s: float = 0.0
    longest: int = 0


@dataclass(slots=True, eq=False)
class FileJob:
    """A file on its way to the disk, and what became of it."""

    record: FileRecord
    folder: str
    name: str
    duplicate: bool
    done: bool = False
    written: int = 0  # bytes
    shown: FileBytes | None = None  # what is still to be inspected
    dropped: str = ""  # why it could not be encoded
    error: OutputError | None = None  # why it could not be written


class FileQueue:
    """Writes files on threads.

    Args:
        changed: the owner's lock; held by the callers of `make_room` and `put`, and while
            `finish` runs.
        finish: called with each job when it is done, in order among jobs of one record type.
        after: called without the lock when a thread has finished jobs.
    """

    def __init__(
        self,
        options: WriterOptions,
        changed: threading.Condition,
        finish: Callable[[FileJob], None],
        after: Callable[[], None],
    ) -> None:
        self.counts = QueueCounts()
        self.length = 0  # of what is to be written or inspected
        self._bytes = 0
        self._options = options
        self._is_live = options.when_full == "drop"
        self._changed = changed
        self._finish = finish
        self._after = after
        self._jobs: dict[type[FileRecord], deque[FileJob]] = defaultdict(deque)
        self._pool = ThreadPoolExecutor(options.workers, "dataset-writer")

    def make_room(self, payload: FilePayload) -> bool:
        """True once one more file may wait; an empty queue takes a file of any size."""
        nbytes = payload.nbytes
        if self._is_room(nbytes) or (self._is_live and payload.ready):
            return True
        if self._is_live:
            return False
        self.counts.waits += 1
        began = time.monotonic()
        self._changed.wait_for(lambda: self._is_room(nbytes))
        self.counts.waited_s += time.monotonic() - began
        return True

    def _is_room(self, nbytes: int) -> bool:
        few = self.length < self._options.queue_images
        small = self._bytes + nbytes <= self._options.queue_megabytes * MEGABYTE
        return (few and small) or self.length == 0

    def put(self, job: FileJob) -> None:
        """Take a job that there is room for; it may be finished already on return."""
        jobs = self._jobs[type(job.record)]
        is_first = not jobs
        jobs.append(job)
        self.length += 1
        self._bytes += job.record.payload.nbytes
        self.counts.longest = max(self.counts.longest, self.length)
        if not job.record.payload.ready or not (is_first or self._is_live):
            self._pool.submit(self._work, job)
            return
        self._write(job)
        self._settle(job, jobs)
        if job.shown is not None:
            self._pool.submit(self._inspect, job)

    def wait_until_empty(self) -> None:
        """Wait until every job is finished and inspected; the lock is held by the caller."""
        self._changed.wait_for(lambda: self.length == 0)

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._pool.shutdown()

    def _work(self, job: FileJob) -> None:
        self._write(job)
        with self._changed:
            self._settle(job, self._jobs[type(job.record)])
            self._changed.notify_all()
        self._after()
        if job.shown is not None:
            self._inspect(job)

    def _write(self, job: FileJob) -> None:
        payload = job.record.payload
        try:
            data = payload.encode()
            in_place = self._options.in_place and not job.duplicate
            sync = self._options.sync_s is not None
            write_file(job.folder, job.name, data, in_place=in_place, sync=sync)
            job.written = len(data)
            if payload.inspect is not None:
                job.shown = data
        except OutputError as error:
            job.error = error
        # The encoder is the caller's: whatever it raises must not stop the other records.
        except Exception as error:
            job.dropped = f"could not be encoded: {error}"

    def _inspect(self, job: FileJob) -> None:
        inspect = job.record.payload.inspect
        assert inspect is not None
        assert job.shown is not None
        try:
            inspect(job.shown)
        finally:
            with self._changed:
                self._leave(job)
                self._changed.notify_all()

    def _leave(self, job: FileJob) -> None:
        self.length -= 1
        self._bytes -= job.record.payload.nbytes

    def _settle(self, job: FileJob, jobs: deque[FileJob]) -> None:
        """A job is done; finish it when all before it are. Till then the disk keeps its bytes."""
        job.done = True
        if job.shown is None:
            self._leave(job)
        if jobs[0] is not job:
            file = Path(job.folder, job.name)
            payload = dataclasses.replace(job.record.payload, encode=file.read_bytes)
            job.record = dataclasses.replace(job.record, payload=payload)
        while jobs and jobs[0].done:
            self._finish(jobs.popleft())

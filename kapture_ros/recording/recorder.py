"""One live recording: serialized messages in, on any thread, a dataset out on a thread of its own.

Receiving must never wait for the disk, so `put` only appends to a bounded inbox; what finds
it full is counted. The thread decodes messages, hands them to the session and watches the
disk. ROS is not needed here: the node brings the messages and knows how to decode them.
"""

from __future__ import annotations

import fnmatch
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from kapture_ros.dataset.filequeue import MEGABYTE, WriterOptions
from kapture_ros.dataset.splitting import SplitOptions, SplitWriter
from kapture_ros.dataset.writer import DatasetWriter
from kapture_ros.errors import KaptureRosError, OutputError
from kapture_ros.messages import Message
from kapture_ros.options import option
from kapture_ros.recording.config import RecordingConfig
from kapture_ros.recording.health import HealthMonitor, HealthOptions
from kapture_ros.recording.report import write_report
from kapture_ros.recording.session import RecordingSession

log = logging.getLogger(__name__)

SPACE_CHECK_S = 1.0
INBOX_FULL = "the recorder was too slow"
UNDECODABLE = "cannot be decoded"
INTERNAL = "internal error"

Decoder = Callable[[str, bytes], Message]
"""(type name, serialized message) -> message; raises ValueError if it cannot be decoded."""


@dataclass(frozen=True)
class RecorderOptions:
    """What is recorded, and where to."""

    output: str = option("recordings", "folder that gets a new dataset for each start")
    name: str = option("drive", "first part of the datasets' names; the time follows")
    topics: tuple[str, ...] = option((), "topics to record, * allowed; none: all that are known")
    exclude: tuple[str, ...] = option((), "topics to leave out, * allowed")
    config: str = option("", "YAML file with settings of topics, extrinsics and Wi-Fi types")
    autostart: bool = option(True, "record at once; else the node waits for lifecycle and ~/start")
    discovery_s: float = option(1.0, "how often new topics are looked for", unit="s", minimum=0.1)
    queue_depth: int = option(200, "messages that the middleware keeps per topic", minimum=1)
    inbox_megabytes: float = option(
        512.0, "memory for messages that wait to be recorded", unit="MB", minimum=1
    )
    min_free_megabytes: float = option(
        1000.0,
        "recording ends cleanly when the disk has less space than this",
        unit="MB",
        minimum=0,
    )

    def wants(self, topic: str) -> bool:
        """Whether a topic is to be recorded, by its name."""
        if any(fnmatch.fnmatchcase(topic, pattern) for pattern in self.exclude):
            return False
        return not self.topics or any(fnmatch.fnmatchcase(topic, p) for p in self.topics)


@dataclass(frozen=True)
class RecordingSettings:
    """All settings of a recording."""

    recorder: RecorderOptions = field(default_factory=RecorderOptions)
    config: RecordingConfig = field(default_factory=RecordingConfig)
    writer: WriterOptions = field(default_factory=WriterOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    health: HealthOptions = field(default_factory=HealthOptions)


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """How a recording goes.

    Attributes:
        ended: why it ended by itself; "" while it runs or when it was stopped.
        dropped: messages and images lost because they came too fast.
    """

    path: Path
    running: bool
    paused: bool
    ended: str
    received: int
    dropped: int
    inbox: int
    inbox_bytes: int
    images_queued: int
    bytes_written: int
    free_bytes: int


@dataclass(slots=True)
class _Letter:
    topic: str
    type_name: str
    data: bytes
    receive_ns: int


class Recording:
    """A recording from its start to its stop; `put` and `stop` may be called from any thread.

    Raises:
        OutputError: if the dataset cannot be created.
    """

    def __init__(self, path: Path, settings: RecordingSettings, decode: Decoder) -> None:
        self.settings = settings
        self.report_text = ""
        self._decode = decode
        self._free_bytes = check_space(path, settings.recorder)
        # Live, waiting for the disk would lose whatever arrives: drop images alone instead.
        options = replace(settings.writer, when_full="drop")
        self._writer: DatasetWriter | SplitWriter
        if settings.split.split_megabytes is None and settings.split.split_s is None:
            self._writer = DatasetWriter(path, options)
        else:
            self._writer = SplitWriter(
                path, settings.split, options, is_awaited=lambda ns: self._session.poses.awaits(ns)
            )
        self._monitor = HealthMonitor(settings.health)
        self._session = RecordingSession(self._writer, settings.config, self._monitor)
        self._arrived = threading.Condition()
        self._inbox: deque[_Letter] = deque()
        self._inbox_bytes = 0
        self._received = 0
        self._dropped = 0
        self._stopping = False
        self._ended = ""
        self._faulty: set[str] = set()
        self.paused = False
        self._thread = threading.Thread(target=self._run, name="recording")
        self._thread.start()

    def uses(self, topic: str, type_name: str) -> bool:
        """Whether messages of a topic are recorded."""
        wanted = self.settings.recorder.wants(topic)
        return wanted and not self._session.unused_because(topic, type_name)

    def put(self, topic: str, type_name: str, data: bytes, receive_ns: int) -> None:
        """Take a serialized message; returns at once."""
        limit = self.settings.recorder.inbox_megabytes * MEGABYTE
        with self._arrived:
            if self._stopping:
                return
            self._received += 1
            fits = self._inbox_bytes + len(data) <= limit or not self._inbox
            if fits:
                self._inbox.append(_Letter(topic, type_name, data, receive_ns))
                self._inbox_bytes += len(data)
                self._arrived.notify()
            else:
                self._dropped += 1
        if not fits:
            self._monitor.dropped(topic, INBOX_FULL)

    def lost(self, topic: str, reason: str, count: int) -> None:
        """Messages were lost before they came here."""
        with self._arrived:
            self._dropped += count
        self._monitor.dropped(topic, reason, count)

    def missed(self, topic: str, reason: str) -> None:
        """A topic could not be recorded at all; told in the report."""
        self._monitor.warned(topic, reason)

    def stop(self) -> None:
        """Record what has arrived, write the report and close the dataset."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        self._thread.join()

    @property
    def running(self) -> bool:
        """False once the dataset is closed, by `stop` or because the recording had to end."""
        return self._thread.is_alive()

    @property
    def paths(self) -> list[Path]:
        """The datasets written, several if the recording was split."""
        return self._writer.paths

    def status(self) -> RecordingStatus:
        """How the recording goes."""
        statistics = self._writer.statistics
        images = sum(sum(c.dropped.values()) for c in statistics.sensors.values())
        with self._arrived:
            return RecordingStatus(
                path=self._writer.path,
                running=self.running,
                paused=self.paused,
                ended=self._ended,
                received=self._received,
                dropped=self._dropped + images,
                inbox=len(self._inbox),
                inbox_bytes=self._inbox_bytes,
                images_queued=self._writer.queued,
                bytes_written=statistics.bytes_written,
                free_bytes=self._free_bytes,
            )

    # -- the recording's own thread -------------------------------------------------------------

    def _run(self) -> None:
        try:
            checked = 0.0
            while (letter := self._next()) is not None or not self._stopping:
                if not self._stopping and time.monotonic() - checked >= SPACE_CHECK_S:
                    checked = time.monotonic()
                    self._watch_space()
                if letter is not None:
                    self._record(letter)
        except OutputError as error:
            self._end(str(error))
            log.error("%d messages that had arrived are lost", len(self._inbox))
        finally:
            self._finish()

    def _next(self) -> _Letter | None:
        """The next message; None when none came for a while or no more will come."""
        with self._arrived:
            if not self._inbox and not self._stopping:
                self._arrived.wait(SPACE_CHECK_S)
            if not self._inbox:
                return None
            letter = self._inbox.popleft()
            self._inbox_bytes -= len(letter.data)
            return letter

    def _record(self, letter: _Letter) -> None:
        try:
            message = self._decode(letter.type_name, letter.data)
            self._session.handle(letter.topic, letter.type_name, message, letter.receive_ns)
        except ValueError:
            self._session.skip(letter.topic, letter.type_name, UNDECODABLE, letter.receive_ns)
        except OutputError:
            raise
        # A fault in our handling of one message must not end the drive.
        except Exception as error:
            if letter.topic not in self._faulty:
                self._faulty.add(letter.topic)
                log.exception("%s: a message could not be handled", letter.topic)
            self._monitor.skipped(letter.topic, f"{INTERNAL}: {type(error).__name__}")

    def _watch_space(self) -> None:
        try:
            self._free_bytes = check_space(self._writer.path, self.settings.recorder)
        except OutputError as error:  # what has arrived still fits
            self._end(str(error))

    def _end(self, reason: str) -> None:
        log.error("the recording ends: %s", reason)
        with self._arrived:
            self._stopping = True
            self._ended = self._ended or reason

    def _finish(self) -> None:
        """Answer what waits, write the report, close the dataset; errors end up in `ended`."""
        try:
            self._session.finish()
            self._writer.flush()
            report = self._monitor.report(self._writer.statistics, self._writer.sensors)
            report["poses"] = self._session.summary()
            for path in self._writer.paths:
                self.report_text = write_report(path, report)
        except KaptureRosError as error:
            self._end(str(error))
        try:
            self._writer.close()
        except OutputError as error:
            self._end(str(error))


def check_space(folder: Path, options: RecorderOptions) -> int:
    """The free bytes where a folder is, or will be.

    Raises:
        OutputError: when they are fewer than there should be.
    """
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    least = options.min_free_megabytes * MEGABYTE
    if free < least:
        raise OutputError(
            f"only {free / MEGABYTE:.0f} MB are free for {folder}, less than min_free_megabytes "
            f"({least / MEGABYTE:.0f})"
        )
    return free


def new_dataset_path(options: RecorderOptions) -> Path:
    """Where a recording that starts now goes: named by the time, never an existing folder."""
    base = Path(options.output).expanduser() / f"{options.name}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    path, number = base, 2
    while path.exists() or any(path.parent.glob(f"{path.name}_[0-9][0-9][0-9]")):
        path, number = base.with_name(f"{base.name}_{number}"), number + 1
    return path

"""Bags of every kind as one stream of messages: ROS 1 and ROS 2, one or split, whole or broken.

`rosbags` reads what is whole. What it refuses, or where it stops, is read on by `bagscan`,
so that everything readable is delivered and the damage is named.
"""

from __future__ import annotations

import heapq
import logging
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rosbags.interfaces import Connection, MessageDefinitionFormat, QosDurability
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2.storage_mcap import McapReader

from kapture_ros.errors import InputError
from kapture_ros.messages import nmea
from kapture_ros.messages.common import Message, time_ns
from kapture_ros.recording.bagscan import Damage, FoundChannel, FoundMessage, scan
from kapture_ros.recording.bagtypes import Channel, MessageTypes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = logging.getLogger(__name__)

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
PACKED = (".zstd", ".zst")
FOLDER_SUFFIXES = tuple(s + packed for s in BAG_SUFFIXES for packed in ("", *PACKED))
NMEA_SUFFIXES = (".nmea", ".nmea0183")
NMEA_TOPIC, SENTENCE = "/nmea", "sentence"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
END_OF_TIME = (1 << 63) - 1


@dataclass(slots=True)
class _Part:
    """One file or bag folder."""

    path: Path
    counts: dict[Channel, int] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = 0  # of the last message
    scanned: bool = False  # read without rosbags


class BagMessage(NamedTuple):
    """One message, not yet decoded; a tuple, since a bag has millions."""

    channel: Channel
    time_ns: int  # when it was recorded
    data: Any


class Bag:
    """One or more bags, read as one.

    Args:
        paths: bag files and folders, and logs of NMEA sentences.
        definitions: .msg files, or folders of them, for types that the bags do not define.

    Raises:
        InputError: if one does not exist, is no bag, is named twice or holds nothing readable.
    """

    def __init__(self, paths: Sequence[Path], definitions: Sequence[Path] = ()) -> None:
        self.paths = tuple(paths)
        self.problems: list[str] = []
        self._types = MessageTypes(definitions)
        self._stack = ExitStack()
        self._readers = self._stack.enter_context(closing(_Readers()))
        try:
            files = [file for path in paths for file in self._files(path)]
            _refuse_repeated(files)
            self._parts = [self._open_part(self._unpacked(file)) for file in files]
        except OSError as error:
            self._stack.close()
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
        except BaseException:
            self._stack.close()
            raise
        self._parts = [part for part in self._parts if part.counts]
        if not self._parts:
            names = ", ".join(map(str, paths))
            reasons = "; ".join(self.problems) or "there are no topics"
            raise InputError(f"nothing can be read from {names}: {reasons}")

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def counts(self) -> dict[Channel, int]:
        """How many messages each topic has."""
        counts: dict[Channel, int] = {}
        for part in self._parts:
            for channel, count in part.counts.items():
                counts[channel] = counts.get(channel, 0) + count
        return counts

    @property
    def start_ns(self) -> int:
        """When the first message was recorded."""
        return min((part.start_ns for part in self._parts if any(part.counts.values())), default=0)

    @property
    def end_ns(self) -> int:
        """When the last message was recorded."""
        return max((part.end_ns for part in self._parts), default=0)

    def messages(
        self,
        topics: Collection[str] | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """Messages by the time they were recorded, of some topics, in [start, end).

        Where a file turns out to be damaged, `problems` grows and the rest follows.
        """
        streams = [self._part_messages(part, topics, start_ns, end_ns) for part in self._parts]
        merged = heapq.merge(*streams, key=lambda item: item[:2]) if streams[1:] else streams[0]
        for _, _, message in merged:
            if message is not None:
                yield message

    def decode(self, message: BagMessage) -> Message:
        """The message itself.

        Raises:
            MessageError: `unknown type` without a definition, `not decodable` if the bytes
                do not fit it.
        """
        if message.channel.encoding == SENTENCE:
            return message.data
        return self._types.decode(message.channel, message.data)

    def as_ros2(self, message: BagMessage) -> bytes:
        """The message in ROS 2's encoding (CDR); what is ROS 2 already stays as it is.

        Raises:
            MessageError: `unknown type` where `ros2_type` is None, `not decodable`.
        """
        if message.channel.encoding == "cdr":
            return bytes(message.data)
        return self._types.as_ros2(message.channel, message.data)

    # -- opening ------------------------------------------------------------------------------

    def _unpacked(self, path: Path) -> Path:
        """The file itself, or a temporary copy of one that was compressed as a whole."""
        if path.suffix not in PACKED:
            return path
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kapture_ros-"))
        unpacked = Path(folder) / path.stem
        try:
            with zstd.open(path, "rb") as packed, unpacked.open("wb") as file:
                while block := packed.read(1 << 20):
                    file.write(block)
        except (EOFError, zstd.ZstdError) as error:
            self._tell(f"{path}: ends early: {error}")
        return unpacked

    def _files(self, path: Path) -> list[Path]:
        """The bag files that a path names: itself, or those in a folder.

        The metadata.yaml of a folder says nothing that is not in the files, or is missing
        where it would be needed most; only files that it knows and that are gone are reported.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if not is_bag(path):
            known = " ".join((*BAG_SUFFIXES, *NMEA_SUFFIXES))
            raise InputError(f"{path} is no bag; known are {known} and folders of them")
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.iterdir() if file.name.endswith(FOLDER_SUFFIXES))
        # A player unpacks files beside themselves, and leaves them there, whole or not.
        unpacked = {file.with_suffix("") for file in found if file.suffix in PACKED}
        found = [file for file in found if file not in unpacked]
        for name in _known_files(path):
            if not (path / name).exists():
                self._tell(f"{path / name} is missing, says metadata.yaml")
        return found

    def _open_part(self, path: Path) -> _Part:
        if path.suffix in NMEA_SUFFIXES:
            return _open_nmea(path)
        part = _Part(path)
        try:
            _refuse_what_rosbags_misreads(path)
            with self._readers.open(path) as reader:
                for connection in reader.connections:
                    channel = _channel(connection)
                    part.counts[channel] = part.counts.get(channel, 0) + connection.msgcount
                part.start_ns, part.end_ns = reader.start_time, reader.end_time - 1
                part.scanned = _is_unindexed(reader)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        # rosbags lets errors of the decompressors, of struct and of its own asserts through.
        except Exception as error:
            log.debug("rosbags cannot open %s", path, exc_info=True)
            self._tell(f"{path}: {error or 'damaged'}; reading what is intact")
            part.scanned = True
            self._survey(part)
        return part

    def _survey(self, part: _Part) -> None:
        """Find out by scanning what rosbags could not tell."""
        part.counts.clear()
        channels: dict[int, Channel] = {}
        first, last = 1 << 63, 0
        for found in scan(part.path):
            if isinstance(found, FoundChannel):
                channels[found.number] = channel = _found_channel(found)
                part.counts.setdefault(channel, 0)
            elif isinstance(found, Damage):
                self._tell(f"{part.path}, byte {found.offset}: {found.what}")
            elif found.number in channels:
                part.counts[channels[found.number]] += 1
                first, last = min(first, found.time_ns), max(last, found.time_ns)
        if last:
            part.start_ns, part.end_ns = first, last

    # -- reading ------------------------------------------------------------------------------

    def _part_messages(
        self,
        part: _Part,
        topics: Collection[str] | None,
        start_ns: int | None,
        end_ns: int | None,
    ) -> Iterator[tuple[int, int, BagMessage | None]]:
        """(time, index of the part, message); the first one is empty, so that files are
        opened only when the merge comes to them."""
        index = self._parts.index(part)
        yield max(part.start_ns, start_ns or 0), index, None
        wanted = {c for c in part.counts if topics is None or c.topic in topics}
        if not wanted or (end_ns is not None and part.start_ns >= end_ns):
            return
        if start_ns is not None and part.end_ns < start_ns:
            return
        window = (start_ns or 0, END_OF_TIME if end_ns is None else end_ns)
        delivered = _Delivered()
        if not part.scanned:
            try:
                for message in self._read(part.path, wanted, window):
                    delivered.note(message)
                    yield message.time_ns, index, message
                return
            except OSError as error:
                raise InputError(f"cannot read {part.path}: {error.strerror}") from error
            except Exception as error:  # as in _open_part
                self._tell(f"{part.path}: {error or 'damaged'}; reading what is intact")
        for message in self._scanned(part, wanted, report=not part.scanned):
            if window[0] <= message.time_ns < window[1] and delivered.is_new(message):
                yield message.time_ns, index, message

    def _read(
        self, path: Path, wanted: Collection[Channel], window: tuple[int, int]
    ) -> Iterator[BagMessage]:
        if path.suffix in NMEA_SUFFIXES:
            yield from _read_nmea(path, window)
            return
        with self._readers.open(path) as reader:
            channels = [(connection, _channel(connection)) for connection in reader.connections]
            chosen = [connection for connection, channel in channels if channel in wanted]
            by_number = {connection.id: channel for connection, channel in channels}
            for connection, time, data in reader.messages(chosen, start=window[0], stop=window[1]):
                yield BagMessage(by_number[connection.id], time, _unpacked_message(data))

    def _tell(self, problem: str) -> None:
        """Note a problem, once however often the bag is read."""
        if problem not in self.problems:
            self.problems.append(problem)

    def _scanned(
        self, part: _Part, wanted: Collection[Channel], *, report: bool
    ) -> Iterator[BagMessage]:
        channels: dict[int, Channel] = {}
        for found in scan(part.path):
            if isinstance(found, FoundChannel):
                channels[found.number] = _found_channel(found)
            elif isinstance(found, FoundMessage):
                channel = channels.get(found.number)
                if channel is not None and channel in wanted:
                    yield BagMessage(channel, found.time_ns, _unpacked_message(found.data))
            elif report:
                self._tell(f"{part.path}, byte {found.offset}: {found.what}")


class _Delivered:
    """What came before a file turned out to be damaged.

    rosbags delivers by time, so it is everything before the newest, and some at the newest.
    """

    def __init__(self) -> None:
        self._newest = -1
        self._at_newest: list[BagMessage] = []

    def note(self, message: BagMessage) -> None:
        if message.time_ns != self._newest:
            self._newest = message.time_ns
            self._at_newest = []
        self._at_newest.append(message)

    def is_new(self, message: BagMessage) -> bool:
        if message.time_ns == self._newest:
            return message not in self._at_newest
        return message.time_ns > self._newest


class _Readers:
    """Readers of `rosbags`, of which the one used last stays open.

    To open one reads its whole index, and a conversion reads a bag three times. No more than
    one is kept, since a drive may be split into more files than a process may open.
    """

    def __init__(self) -> None:
        self._kept: tuple[Path, Any] | None = None

    @contextmanager
    def open(self, path: Path) -> Iterator[Any]:
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] != path:
            kept[1].close()
            kept = None
        reader = kept[1] if kept else _opened(path)
        damaged = False
        try:
            yield reader
        except Exception:
            damaged = True
            raise
        finally:  # also where the caller had enough of its messages
            self.close()
            if damaged:
                reader.close()
            else:
                self._kept = path, reader

    def close(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
        self._kept = None


def _refuse_repeated(files: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for file in files:
        known = seen.setdefault(file.resolve(), file)
        if known is not file:
            raise InputError(f"{file} is named twice: every message would be there twice")


def _opened(path: Path) -> Any:
    reader = Reader1(path) if path.suffix == ".bag" else Reader2(path)
    reader.open()
    return reader


def _unpacked_message(data: bytes) -> bytes:
    """rosbag2 can compress each message, which only metadata.yaml would tell."""
    return zstd.decompress(data) if data[:4] == ZSTD_MAGIC else data


def _channel(connection: Connection) -> Channel:
    kind = {MessageDefinitionFormat.MSG: "msg", MessageDefinitionFormat.IDL: "idl"}.get(
        connection.msgdef.format, ""
    )
    ros1 = not hasattr(connection.ext, "serialization_format")
    definition = (kind, connection.msgdef.data if kind else "")
    encoding = "ros1" if ros1 else "cdr"
    return Channel(
        connection.topic, connection.msgtype, encoding, definition, _is_latched(connection)
    )


def _is_latched(connection: Connection) -> bool:
    """As its publishers said; /tf_static is by its meaning."""
    if _is_static(connection.topic):
        return True
    extra: Any = connection.ext
    if hasattr(extra, "latching"):
        return bool(extra.latching)
    offered = extra.offered_qos_profiles
    return bool(offered) and all(qos.durability is QosDurability.TRANSIENT_LOCAL for qos in offered)


def _is_static(topic: str) -> bool:
    return topic.rpartition("/")[2] == "tf_static"


def _found_channel(found: FoundChannel) -> Channel:
    kind = {"ros1msg": "msg", "ros2msg": "msg", "ros2idl": "idl", "omgidl": "idl"}.get(
        found.schema, ""
    )
    package, _, rest = found.type_name.partition("/")
    name = f"{package}/msg/{rest.rpartition('/')[2]}"
    definition = (kind, found.definition if kind else "")
    return Channel(found.topic, name, found.encoding, definition, _is_static(found.topic))


# -- files ------------------------------------------------------------------------------------


def is_bag(path: Path) -> bool:
    """Whether a path is a bag by its name, or a folder with one in it."""
    if path.is_dir():
        return any(file.name.endswith(FOLDER_SUFFIXES) for file in path.iterdir())
    return path.name.removesuffix(".active").endswith((*FOLDER_SUFFIXES, *NMEA_SUFFIXES))


def _known_files(folder: Path) -> list[str]:
    """The files that metadata.yaml names, if it can be read."""
    try:
        content = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))
        paths = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [Path(str(path)).name for path in paths]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return []


def _refuse_what_rosbags_misreads(path: Path) -> None:
    log_file = path.with_name(path.name + "-wal")
    if log_file.exists() and log_file.stat().st_size:
        raise ValueError(f"the last messages are in {log_file.name}")


def _is_unindexed(reader: Any) -> bool:
    """An MCAP file without chunks, which rosbags reads only if it is sorted by time."""
    storage = getattr(reader, "storage", None)
    return isinstance(storage, McapReader) and not storage.chunks


def _open_nmea(path: Path) -> _Part:
    times = [time_ns(sentence.header.stamp) for sentence in nmea.read_log(path)]
    channel = Channel(NMEA_TOPIC, "nmea_msgs/msg/Sentence", SENTENCE)
    return _Part(path, {channel: len(times)}, min(times, default=0), max(times, default=0))


def _read_nmea(path: Path, window: tuple[int, int]) -> Iterator[BagMessage]:
    channel = Channel(NMEA_TOPIC, "nmea_msgs/msg/Sentence", SENTENCE)
    for sentence in nmea.read_log(path):
        time = time_ns(sentence.header.stamp)
        if window[0] <= time < window[1]:
            yield BagMessage(channel, time, sentence)

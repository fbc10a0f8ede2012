"""Bag files read record by record, without trusting their index: what robots leave behind
when the power goes, and files with damage in the middle.

Yields what is intact in the order of the file, and says where something was not. Formats:
rosbag 2.0 (wiki.ros.org/Bags/Format/2.0), MCAP (mcap.dev/spec) and rosbag2's SQLite schema.
"""

from __future__ import annotations

import bz2
import mmap
import sqlite3
import struct
import sys
from binascii import crc32
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import lz4.frame  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROS1_MAGIC, MCAP_MAGIC = b"#ROSBAG V2.0\n", b"\x89MCAP0\r\n"
SEARCH_BACK = 300  # a rosbag record's header is shorter than this before its `op`
MAX_HEADER = 1 << 24
UNPACK_STEP = 1 << 14  # bytes at once, so that what comes before damage is kept
DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}
SQLITE_JUMP = 1 << 16  # rows skipped at most before a damaged table is given up


@dataclass(frozen=True, slots=True)
class FoundChannel:
    """A topic's declaration; `encoding` is cdr or ros1, `schema` ros1msg, ros2msg, ros2idl."""

    number: int
    topic: str
    type_name: str
    encoding: str
    schema: str
    definition: str


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message of a channel declared before."""

    number: int
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that could not be read."""

    offset: int
    what: str


Found: TypeAlias = FoundChannel | FoundMessage | Damage


class _BrokenError(Exception):
    """A record makes no sense; the argument says why."""


def scan(path: Path) -> Iterator[Found]:
    """Everything intact in a .bag, .mcap or .db3 file.

    Raises:
        OSError: if it cannot be read at all.
    """
    with path.open("rb") as file:
        magic = file.read(16)
        if magic.startswith(b"SQLite format 3"):
            yield from _scan_sqlite(path)
            return
        file.seek(0, 2)
        if file.tell() == 0:
            yield Damage(0, "the file is empty")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if magic.startswith(ROS1_MAGIC):
                yield from _scan_records(data, len(ROS1_MAGIC), _ros1_record, _next_ros1_record)
            elif magic.startswith(MCAP_MAGIC):
                yield from _scan_records(data, len(MCAP_MAGIC), _McapScanner().record, _next_chunk)
            else:
                yield Damage(0, "neither a rosbag, MCAP nor SQLite file")


Bytes: TypeAlias = bytes | mmap.mmap
RecordReader: TypeAlias = Callable[[Bytes, int], tuple[list[Found], int]]
"""(data, offset) -> what was found there, offset of the next record."""


def _scan_records(
    data: mmap.mmap, start: int, read: RecordReader, find_next: Callable[[mmap.mmap, int], int]
) -> Iterator[Found]:
    """Record after record; behind damage, from the next place that looks like one."""
    at = start
    while at < len(data):
        try:
            found, at = read(data, at)
        except _BrokenError as error:
            resume = find_next(data, at + 1)
            lost = (resume if resume >= 0 else len(data)) - at
            yield Damage(at, f"{error}; {lost} bytes were skipped")
            if resume < 0:
                return
            at = resume
            continue
        yield from found


# -- rosbag 2.0 -------------------------------------------------------------------------------


def _ros1_record(data: Bytes, at: int) -> tuple[list[Found], int]:
    header, body, end = _ros1_header(data, at)
    operation = header.get(b"op")
    if operation == b"\x05":
        compression = header.get(b"compression", b"none").decode("ascii", "replace")
        return _ros1_chunk(_decompressed(compression, data[body:end]), at), end
    if operation == b"\x07":
        return [_ros1_connection(header, data, body)], end
    if operation == b"\x02":
        return [_ros1_message(header, data[body:end])], end
    if operation in (b"\x03", b"\x04", b"\x06"):  # bag header and index records
        return [], end
    raise _BrokenError(f"record of unknown kind {operation!r}")


def _ros1_chunk(unpacked: tuple[bytes, str], at: int) -> list[Found]:
    chunk, problem = unpacked
    found: list[Found] = []
    inside = 0
    while inside < len(chunk):
        try:
            more, inside = _ros1_record(chunk, inside)
        except _BrokenError as error:
            problem = problem or f"chunk: {error}"
            break
        found += more
    return [*found, Damage(at, problem)] if problem else found


def _ros1_header(data: Bytes, at: int) -> tuple[dict[bytes, bytes], int, int]:
    """Fields of the record's header, and the offsets that its data lies between."""
    size = _number(data, at, 4)
    begin, end = at + 4, at + 4 + size
    if size < 4 or size > MAX_HEADER or end + 4 > len(data):
        raise _BrokenError("record header is cut off" if end + 4 > len(data) else "no record")
    fields = _ros1_fields(data[begin:end])
    body = end + 4
    stop = body + _number(data, end, 4)
    if stop > len(data):
        if fields.get(b"op") != b"\x05":
            raise _BrokenError("record is cut off")
        stop = len(data)  # a chunk that was being written
    return fields, body, stop


def _ros1_fields(header: bytes) -> dict[bytes, bytes]:
    fields = {}
    at = 0
    while at < len(header):
        size = _number(header, at, 4)
        name, equals, value = header[at + 4 : at + 4 + size].partition(b"=")
        if not equals or at + 4 + size > len(header):
            raise _BrokenError("record header is damaged")
        fields[name] = value
        at += 4 + size
    return fields


def _ros1_connection(header: dict[bytes, bytes], data: Bytes, body: int) -> FoundChannel:
    size = _number(data, body - 4, 4)
    described = _ros1_fields(data[body : body + size])
    try:
        return FoundChannel(
            _field_number(header, b"conn", 4),
            header[b"topic"].decode(),
            described[b"type"].decode(),
            "ros1",
            "ros1msg",
            described[b"message_definition"].decode("utf-8", "replace"),
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise _BrokenError(f"connection record is damaged: {error}") from error


def _ros1_message(header: dict[bytes, bytes], data: bytes) -> FoundMessage:
    time = _field_number(header, b"time", 8)
    time_ns = (time & 0xFFFFFFFF) * 1_000_000_000 + (time >> 32)
    return FoundMessage(_field_number(header, b"conn", 4), time_ns, data)


def _next_ros1_record(data: mmap.mmap, at: int) -> int:
    """The next offset where a record header can be parsed; -1 if there is none."""
    marker = b"\x04\x00\x00\x00op="
    while (mark := data.find(marker, at)) >= 0:
        for start in range(mark - 4, max(at, mark - SEARCH_BACK) - 1, -1):
            size = _number(data, start, 4)
            if mark + 8 - start - 4 <= size <= SEARCH_BACK * 4:
                try:
                    _ros1_record(data, start)
                except _BrokenError:
                    continue
                return start
        at = mark + 1
    return -1


# -- MCAP -------------------------------------------------------------------------------------


class _McapScanner:
    """Remembers schemas, which channels refer to."""

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}

    def record(self, data: Bytes, at: int) -> tuple[list[Found], int]:
        if at + 9 > len(data):
            raise _BrokenError("the file ends within a record")
        kind, size = data[at], _number(data, at + 1, 8)
        body, end = at + 9, at + 9 + size
        if end > len(data):
            if kind != 0x06:
                raise _BrokenError("the file ends within a record")
            end = len(data)  # a chunk that was being written
        if kind == 0x06:
            return self._chunk(data[body:end], at), end
        if kind == 0x03:
            self._schema(data[body:end])
        elif kind == 0x04:
            return [self._channel(data[body:end])], end
        elif kind == 0x05:
            number, _, time_ns, _ = struct.unpack_from("<HIQQ", _at_least(data[body:end], 22))
            return [FoundMessage(number, time_ns, data[body + 22 : end])], end
        elif kind in (0x02, 0x0F):  # footer, or end of the data section: only indexes follow
            return [], len(data)
        elif not 0x01 <= kind <= 0x0F and kind < 0x80:
            raise _BrokenError(f"record of unknown kind {kind}")
        return [], end

    def _chunk(self, body: bytes, at: int) -> list[Found]:
        compression, content = _chunk_parts(body)
        chunk, problem = _decompressed(compression, content)
        checksum = _number(body, 24, 4)
        if not problem and checksum and checksum != crc32(chunk):
            problem = "chunk fails its checksum; its messages may be damaged"
        found: list[Found] = []
        inside = 0
        while inside < len(chunk):
            try:
                more, inside = self.record(chunk, inside)
            except _BrokenError as error:
                problem = problem or f"chunk: {error}"
                break
            found += more
        return [*found, Damage(at, problem)] if problem else found

    def _schema(self, body: bytes) -> None:
        number = _number(body, 0, 2)
        name, at = _text(body, 2)
        encoding, at = _text(body, at)
        definition, _ = _text(body, at)
        self._schemas[number] = (name, encoding, definition)

    def _channel(self, body: bytes) -> FoundChannel:
        number, schema = _number(body, 0, 2), _number(body, 2, 2)
        topic, at = _text(body, 4)
        encoding, _ = _text(body, at)
        name, schema_encoding, definition = self._schemas.get(schema, ("", "", ""))
        return FoundChannel(number, topic, name, encoding, schema_encoding, definition)


def _chunk_parts(body: bytes) -> tuple[str, bytes]:
    """Compression and content of a chunk record, as much of it as there is."""
    compression, at = _text(_at_least(body, 32), 28)
    return compression, body[at + 8 : at + 8 + _number(body, at, 8)]


def _next_chunk(data: mmap.mmap, at: int) -> int:
    """The next offset of a chunk whose lengths agree with each other; -1 if there is none."""
    while (at := data.find(b"\x06", at)) >= 0:
        try:
            size = _number(data, at + 1, 8)
            name = _number(data, at + 37, 4)
            content = _number(data, at + 41 + name, 8) if name <= 16 else -1
        except _BrokenError:
            return -1
        if content >= 0 and size == 28 + 4 + name + 8 + content and content > 0:
            return at
        at += 1
    return -1


# -- rosbag2's SQLite -------------------------------------------------------------------------


def _scan_sqlite(path: Path) -> Iterator[Found]:
    """Rows in the order of their ids, so that a damaged index does not matter.

    Opened so that a write-ahead log beside the file is read, too.
    """
    uri = f"file:{path.absolute().as_posix().replace('?', '%3f').replace('#', '%23')}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            # SQLite refuses a file that is shorter than it should be, unless told to repair.
            database.execute("PRAGMA writable_schema = ON")
            yield from _sqlite_channels(database)
            yield from _sqlite_messages(database)
    except sqlite3.Error as error:
        yield Damage(0, str(error))


def _sqlite_channels(database: sqlite3.Connection) -> Iterator[Found]:
    definitions = {}
    try:
        rows = database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        definitions = {row[0]: row[1:] for row in rows if _are(row, str, str, str)}
    except sqlite3.Error:
        pass  # older than Iron: the file holds no definitions
    for row in database.execute(
        "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
    ):
        if _are(row, int, str, str, str):
            yield FoundChannel(*row, *definitions.get(row[2], ("", "")))
        else:
            yield Damage(0, f"topic {row[0]} is damaged; its messages are lost")


def _are(row: Sequence[object], *types: type) -> bool:
    """Whether values have the types that their columns should have, which SQLite never checks."""
    return all(isinstance(value, kind) for value, kind in zip(row, types, strict=True))


def _sqlite_messages(database: sqlite3.Connection) -> Iterator[Found]:
    query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
    last, jump, damage = 0, 0, None
    while jump <= SQLITE_JUMP:
        try:
            for row, number, time_ns, data in database.execute(query, (last + jump,)):
                if row <= last:  # else a damaged tree of pages leads round and round
                    raise sqlite3.DatabaseError(f"row {row} follows row {last}")
                if damage is not None:
                    yield Damage(last, f"{damage}; rows {last + 1} to {row - 1} are lost")
                last, jump, damage = row, 0, None
                if _are((number, time_ns, data), int, int, bytes):
                    yield FoundMessage(number, time_ns, data)
                else:
                    yield Damage(row, f"row {row} is damaged and lost")
        except sqlite3.Error as error:
            damage, jump = error, max(1, 2 * jump)
            continue
        break
    if damage is not None:
        yield Damage(last, f"{damage}; nothing readable behind row {last}")


# -- both -------------------------------------------------------------------------------------


def _decompressed(compression: str, content: bytes) -> tuple[bytes, str]:
    """As much of a chunk as can be unpacked, and what is wrong with the rest."""
    if compression in ("", "none"):
        return content, ""
    if compression not in DECOMPRESSORS:
        raise _BrokenError(f"chunk with unknown compression '{compression}'")
    unpacker = DECOMPRESSORS[compression]()
    unpacked = bytearray()
    try:
        for at in range(0, len(content), UNPACK_STEP):
            unpacked += unpacker.decompress(content[at : at + UNPACK_STEP])
    except (OSError, EOFError, RuntimeError, ValueError, zstd.ZstdError) as error:
        return bytes(unpacked), f"chunk cannot be unpacked any further: {error}"
    return bytes(unpacked), "" if unpacker.eof else "chunk is cut off"


def _number(data: Bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _BrokenError("cut off")
    return int.from_bytes(data[at : at + size], "little")


def _field_number(header: dict[bytes, bytes], name: bytes, size: int) -> int:
    value = header.get(name, b"")
    if len(value) != size:
        raise _BrokenError(f"record header without '{name.decode()}'")
    return int.from_bytes(value, "little")


def _text(body: bytes, at: int) -> tuple[str, int]:
    size = _number(body, at, 4)
    return _at_least(body, at + 4 + size)[at + 4 : at + 4 + size].decode(
        "utf-8", "replace"
    ), at + 4 + size


def _at_least(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise _BrokenError("record is too short")
    return body

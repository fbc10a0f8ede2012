"""What the topics of a bag carry: message types by their definitions, ROS 1's as ROS 2's too."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rosbags.convert.converter import STATIC_MSGTYPE_RENAMES, migrate_bytes
from rosbags.serde import SerdeError
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)
from rosbags.typesys.store import Typestore

from kapture_ros.errors import InputError
from kapture_ros.messages.common import NANOSECONDS, Message, MessageError

log = logging.getLogger(__name__)

UNKNOWN_DEFINITION = "unknown type"
UNDECODABLE = (SerdeError, AssertionError, IndexError, KeyError, MemoryError)
ROS2 = get_typestore(Stores.LATEST)


STAMP = slice(4, 12)
"""Where a message that begins with a header has its stamp. Before it, ROS 1 counts the messages
and CDR says how it is encoded."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic of one file.

    Attributes:
        encoding: of the messages: cdr, ros1, or sentence (a line of an NMEA log).
        definition: how the type is defined: "msg" or "idl" and the text; ("", "") if the
            bag does not say.
        latched: it was published for late subscribers too.
    """

    topic: str
    type_name: str
    encoding: str
    definition: tuple[str, str] = ("", "")
    latched: bool = field(default=False, compare=False)  # a scan cannot tell


def ros2_type(channel: Channel) -> str | None:
    """The ROS 2 message that carries the same; None if there is none of that name."""
    if channel.encoding == "cdr":
        return channel.type_name
    name = STATIC_MSGTYPE_RENAMES.get(channel.type_name, channel.type_name)
    return name if channel.encoding == "ros1" and name in ROS2.fielddefs else None


def encoded_stamp_ns(channel: Channel, data: Any) -> int:
    """The header's stamp of an encoded message that begins with a header, in nanoseconds."""
    ros1 = channel.encoding == "ros1"
    order: Literal["little", "big"] = "little" if ros1 or data[1] & 1 else "big"
    half = STAMP.start + 4
    sec = int.from_bytes(data[STAMP.start : half], order, signed=not ros1)
    return sec * NANOSECONDS + int.from_bytes(data[half : STAMP.stop], order)


class MessageTypes:
    """Decodes messages, each channel by the definition in its bag, else by a known one.

    Args:
        definitions: .msg files, or folders of them, for types that the bags do not define.
    """

    def __init__(self, definitions: Sequence[Path]) -> None:
        self._given = _read_definitions(definitions)
        self._stores: dict[tuple[str, str, tuple[str, str]], Typestore | None] = {}
        self._migrations: dict[Typestore, dict[str, object]] = {}

    def decode(self, channel: Channel, data: Any) -> Message:
        """The message of these bytes.

        Raises:
            MessageError: `unknown type` or `not decodable`.
        """
        store = self._known(channel)
        try:
            if channel.encoding == "ros1":
                return store.deserialize_ros1(data, channel.type_name)
            # Of bytes it would make a copy.
            return store.deserialize_cdr(memoryview(data), channel.type_name)
        except UNDECODABLE as error:
            raise MessageError("not decodable", f"{channel.type_name}: {error}") from error

    def as_ros2(self, channel: Channel, data: Any) -> bytes:
        """A ROS 1 message as the ROS 2 message `ros2_type`, in CDR.

        Raises:
            MessageError: `unknown type` or `not decodable`.
        """
        name = ros2_type(channel)
        if name is None:
            raise MessageError(UNKNOWN_DEFINITION, f"no ROS 2 message is like {channel.type_name}")
        store = self._known(channel)
        cache = self._migrations.setdefault(store, {})
        try:
            made = migrate_bytes(
                store, ROS2, channel.type_name, name, cache, data,
                src_is2=False, dst_is2=True,
            )  # fmt: skip
        except UNDECODABLE as error:
            raise MessageError("not decodable", f"{channel.type_name}: {error}") from error
        return bytes(made)

    def _known(self, channel: Channel) -> Typestore:
        key = (channel.type_name, channel.encoding, channel.definition)
        if key not in self._stores:
            self._stores[key] = self._store(channel)
        store = self._stores[key]
        if store is None:
            raise MessageError(UNKNOWN_DEFINITION, f"no definition of {channel.type_name}")
        return store

    def _store(self, channel: Channel) -> Typestore | None:
        kind, text = channel.definition
        try:
            if kind:
                store = get_typestore(Stores.EMPTY)
                for types in _definition_types(kind, text, channel.type_name):
                    store.register(types)
                return store
        except (TypesysError, ValueError, KeyError, IndexError, SyntaxError) as error:
            log.warning("%s: bad definition of %s: %s", channel.topic, channel.type_name, error)
        ros1 = channel.encoding == "ros1"
        store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)
        try:
            store.register({k: v for k, v in self._given.items() if k not in store.fielddefs})
        except TypesysError as error:
            raise InputError(f"message definitions: {error}") from error
        return store if channel.type_name in store.fielddefs else None


def _definition_types(kind: str, text: str, type_name: str) -> Iterator[Any]:
    if kind == "msg":
        yield get_types_from_msg(text, type_name)
        return
    separator = "=" * 80 + "\n"
    for piece in text.split(separator) if text.startswith(separator) else [text]:
        if piece.startswith("IDL: "):
            yield get_types_from_idl(piece.partition("\n")[2])
        elif piece:
            yield get_types_from_idl(piece)


def _read_definitions(paths: Sequence[Path]) -> dict[str, Any]:
    """Types of .msg files; their package is the folder above `msg`."""
    types: dict[str, Any] = {}
    for path in paths:
        files = sorted(path.rglob("*.msg")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path} holds no .msg files")
        for file in files:
            folder = file.absolute().parent
            package = folder.parent.name if folder.name == "msg" else folder.name
            try:
                types |= get_types_from_msg(file.read_text("utf-8"), f"{package}/msg/{file.stem}")
            except OSError as error:
                raise InputError(f"cannot read {file}: {error.strerror}") from error
            except (TypesysError, UnicodeDecodeError) as error:
                raise InputError(f"{file} is not a message definition: {error}") from error
    return types

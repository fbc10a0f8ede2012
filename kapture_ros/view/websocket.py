"""The server's side of a WebSocket (RFC 6455) over asyncio streams: handshake and frames.

Messages are binary, unfragmented and go to the browser only; what it sends is answered where
the protocol asks for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from kapture_ros.errors import KaptureRosError

KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
FINAL, MASKED = 0x80, 0x80
LONGEST = 65536  # bytes taken from a browser, which has nothing to say
PROTOCOL_ERROR, TOO_BIG = 1002, 1009


class Opcode(enum.IntEnum):
    """What a frame is (section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class WebSocketError(KaptureRosError):
    """The other side does not speak the protocol; `code` is the close code that tells it."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came in, unmasked."""

    opcode: int
    payload: bytes


def accept_key(headers: Mapping[str, str]) -> str:
    """The answer to a handshake (section 4.2.2), from the request's headers in lower case.

    Raises:
        WebSocketError: if the request is no handshake.
    """
    key = headers.get("sec-websocket-key", "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        valid = False
    upgrade = headers.get("upgrade", "").lower() == "websocket"
    if not (valid and upgrade and headers.get("sec-websocket-version") == "13"):
        raise WebSocketError("not a WebSocket handshake of version 13")
    return base64.b64encode(hashlib.sha1(key.encode() + KEY_SUFFIX).digest()).decode()


def encode(payload: bytes, opcode: Opcode = Opcode.BINARY) -> bytes:
    """One whole message as the server sends it: a frame without a mask."""
    size = len(payload)
    head = bytes([FINAL | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 1 << 16:
        return head + struct.pack("!BH", 126, size) + payload
    return head + struct.pack("!BQ", 127, size) + payload


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame of a browser.

    Raises:
        WebSocketError: if it is unmasked, uses reserved bits or is too long.
        asyncio.IncompleteReadError: at the end of the connection.
    """
    first, second = await reader.readexactly(2)
    if first & 0x70 or not second & MASKED:
        raise WebSocketError("frames of a client are masked and use no extensions")
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    if size > LONGEST:
        raise WebSocketError(f"a frame of {size} bytes", TOO_BIG)
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    repeated = mask * (size // 4 + 1)
    return Frame(first & 0x0F, bytes(a ^ b for a, b in zip(data, repeated, strict=False)))


def closing(code: int) -> bytes:
    """The frame that ends a connection."""
    return encode(struct.pack("!H", code), Opcode.CLOSE)

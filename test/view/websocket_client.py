"""The browser's side of a WebSocket, small and blocking, for tests of the view."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any
from urllib.parse import urlsplit


class WebSocketClient:
    """A connection to `ws://…`; use as a context manager."""

    def __init__(self, url: str, **headers: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=120)
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        asked = {"Host": parts.netloc, "Upgrade": "websocket", "Connection": "Upgrade"}
        asked |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"} | headers
        lines = [
            f"GET {parts.path} HTTP/1.1",
            *(f"{k}: {v}" for k, v in asked.items() if v),
            "",
            "",
        ]
        self._socket.sendall("\r\n".join(lines).encode())
        self.status = self._stream.readline().decode().strip()
        while self._stream.readline().strip():
            pass

    def __enter__(self) -> WebSocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, payload: bytes, opcode: int = 1, masked: bool = True) -> None:
        """One frame."""
        mask = os.urandom(4) if masked else b""
        bits = 0x80 if masked else 0
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, bits | min(size, 126))
        if size >= 126:
            head = struct.pack("!BBQ", 0x80 | opcode, bits | 127, size)
        if masked:
            payload = bytes(byte ^ mask[k % 4] for k, byte in enumerate(payload))
        self._socket.sendall(head + mask + payload)

    def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, second = self._stream.read(2)
        size = second & 0x7F
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(self._stream.read(width), "big")
        return first & 0x0F, self._stream.read(size)

    def scene_frame(self) -> tuple[dict[str, Any], bytes]:
        """The next message as a frame of the scene: header and data."""
        opcode, message = self.receive()
        assert opcode == 2, "scene frames are binary"
        size = int.from_bytes(message[:4], "little")
        return json.loads(message[4 : 4 + size]), message[4 + size :]

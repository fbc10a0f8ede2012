"""The web server of the live scene: one page, and a WebSocket with the newest of everything.

A thread of its own. `put` may be called from any thread; a browser that is slow misses what
was replaced meanwhile and never holds up anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from urllib.parse import urlsplit

from kapture_ros.errors import OutputError
from kapture_ros.view.options import ServerOptions
from kapture_ros.view.scene import SceneFrame
from kapture_ros.view.websocket import (
    Opcode,
    WebSocketError,
    accept_key,
    closing,
    encode,
    read_frame,
)

log = logging.getLogger(__name__)

REQUEST_S = 10.0  # for a whole request to arrive
GONE = (  # or talking nonsense
    OSError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    asyncio.TimeoutError,
)
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'"
)


@dataclass(slots=True, eq=False)
class _Browser:
    """One page that is open."""

    pending: dict[str, bytes] = field(default_factory=dict)  # by kind: the newest
    fresh: asyncio.Event = field(default_factory=asyncio.Event)


class SceneServer:
    """Serves the page and the scene until closed.

    Raises:
        OutputError: if the address cannot be listened on.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._newest: dict[str, bytes] = {}
        self._browsers: set[_Browser] = set()
        self._page = (resources.files("kapture_ros.view") / "page.html").read_bytes()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="view", daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        try:
            self._server = listening.result()
        except OSError as error:
            self._end_loop()
            raise OutputError(
                f"cannot listen on {options.host} port {options.port}: {error.strerror}; "
                "choose another one (--port, --host)"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def put(self, frame: SceneFrame) -> None:
        """Show this instead of the last one of its kind."""
        message = encode(frame.pack())
        self._loop.call_soon_threadsafe(self._offer, frame.kind, message)

    def close(self) -> None:
        """Close all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- on the loop's thread -----------------------------------------------------------------

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, self._options.host, self._options.port)

    async def _shut(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _offer(self, kind: str, message: bytes) -> None:
        self._newest[kind] = message
        for browser in self._browsers:
            browser.pending[kind] = message
            browser.fresh.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
            await self._answer(request, reader, writer)
        except GONE:
            pass
        except asyncio.CancelledError:
            pass  # the server is being closed; its task ends here
        finally:
            writer.close()

    async def _answer(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first, *lines = request.decode("latin-1").split("\r\n")
        fields = [line.partition(":") for line in lines if line]
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        method, path, *_ = [*first.split(" "), ""]
        if not self._is_meant(headers):
            writer.write(_response("403 Forbidden", b"ask by the address that is listened on\n"))
        elif method != "GET" or path not in ("/", "/live"):
            writer.write(_response("404 Not Found", b"the page is at /\n"))
        elif path == "/":
            writer.write(_response("200 OK", self._page, "text/html; charset=utf-8"))
        else:
            await self._stream(headers, reader, writer)
        await writer.drain()

    def _is_meant(self, headers: Mapping[str, str]) -> bool:
        """Whether the request comes from our own page.

        Pages of other sites must not read where the vehicle is: neither by their own
        WebSocket (Origin), nor under a name of theirs that leads here (Host).
        """
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return False
        return not _is_loopback(self._options.host) or _is_loopback(host)

    async def _stream(
        self,
        headers: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            key = accept_key(headers)
        except WebSocketError as error:
            writer.write(_response("400 Bad Request", f"{error}\n".encode()))
            return
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {key}\r\n\r\n".encode()
        )
        browser = _Browser(dict(self._newest))
        browser.fresh.set()
        self._browsers.add(browser)
        feeding = asyncio.ensure_future(self._feed(browser, writer))
        try:
            await _listen_politely(reader, writer)
        except WebSocketError as error:
            writer.write(closing(error.code))
        finally:
            self._browsers.discard(browser)
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, browser: _Browser, writer: asyncio.StreamWriter) -> None:
        while True:
            await browser.fresh.wait()
            browser.fresh.clear()
            messages, browser.pending = browser.pending, {}
            for message in messages.values():
                writer.write(message)
                await writer.drain()
            await asyncio.sleep(1 / self._options.frame_rate)


async def _listen_politely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer pings until the browser closes the connection."""
    while True:
        frame = await read_frame(reader)
        if frame.opcode == Opcode.PING:
            writer.write(encode(frame.payload, Opcode.PONG))
        elif frame.opcode == Opcode.CLOSE:
            writer.write(encode(frame.payload[:2], Opcode.CLOSE))
            return


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _response(status: str, body: bytes, kind: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Security-Policy: {POLICY}\r\nX-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body

"""The page's server: the newest of everything for everybody who may see it, whoever is slow."""

from __future__ import annotations

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_client import WebSocketClient

from kapture_ros.errors import OutputError
from kapture_ros.view.options import ServerOptions
from kapture_ros.view.scene import SceneFrame
from kapture_ros.view.server import SceneServer
from kapture_ros.view.websocket import WebSocketError, accept_key, encode, read_frame

CLOSE, PING, PONG = 8, 9, 10


@pytest.fixture
def server() -> Iterator[SceneServer]:
    made = SceneServer(ServerOptions(port=0, frame_rate=100))
    yield made
    made.close()


def live(server: SceneServer, **headers: str) -> WebSocketClient:
    return WebSocketClient(server.url.replace("http", "ws") + "live", **headers)


def frame(kind: str, number: int, data: bytes = b"") -> SceneFrame:
    return SceneFrame(kind, {"number": number}, data)


def test_the_page_is_served(server: SceneServer):
    answer = urllib.request.urlopen(server.url)
    assert "text/html" in answer.headers["Content-Type"]
    assert b"<canvas" in answer.read()


def test_who_comes_late_gets_the_newest_of_each_kind(server: SceneServer):
    for number in range(3):
        server.put(frame("pose", number))
    server.put(frame("points", 7, b"\0" * 200_000))
    with live(server) as browser:
        assert browser.status.endswith("101 Switching Protocols")
        got = [browser.scene_frame() for _ in range(2)]
        assert got[0] == ({"kind": "pose", "number": 2}, b"")
        assert got[1] == ({"kind": "points", "number": 7}, b"\0" * 200_000)
        server.put(frame("pose", 3))
        assert browser.scene_frame()[0]["number"] == 3


def test_a_slow_browser_misses_frames_and_holds_up_nobody(server: SceneServer):
    """It reads nothing while far more than its connection can hold is put."""
    last = 200
    with live(server) as slow, live(server) as quick:
        for number in range(last + 1):
            server.put(frame("image", number, bytes(1_000_000)))
            server.put(frame("pose", number))
        for browser in (quick, slow):
            seen = {"image": [-1], "pose": [-1]}
            while seen["image"][-1] < last or seen["pose"][-1] < last:
                header, _ = browser.scene_frame()
                seen[header["kind"]].append(header["number"])
            assert seen["image"] == sorted(seen["image"])
            assert len(seen["image"]) < last


def test_pings_are_answered_and_closing_is_mutual(server: SceneServer):
    with live(server) as browser:
        browser.send(b"hello?", PING)
        assert browser.receive() == (PONG, b"hello?")
        browser.send(b"\x03\xe8", CLOSE)
        assert browser.receive() == (CLOSE, b"\x03\xe8")


@pytest.mark.parametrize(
    ("payload", "masked", "code"), [(b"bare", False, 1002), (b"x" * 100_000, True, 1009)]
)
def test_what_breaks_the_protocol_is_closed_with_its_code(
    server: SceneServer, payload: bytes, masked: bool, code: int
):
    with live(server) as browser:
        browser.send(payload, masked=masked)
        assert browser.receive() == (CLOSE, code.to_bytes(2, "big"))


def test_pages_of_other_sites_are_refused(server: SceneServer):
    with live(server, Origin="http://evil.example") as browser:
        assert "403" in browser.status
    with live(server, Host="evil.example", Origin="http://evil.example") as browser:
        assert "403" in browser.status, "a name that leads here (DNS rebinding)"
    with live(server, Origin=server.url.rstrip("/")) as browser:
        assert "101" in browser.status


@pytest.mark.parametrize(
    "broken", [{"Upgrade": ""}, {"Sec-WebSocket-Version": "8"}, {"Sec-WebSocket-Key": "short"}]
)
def test_other_handshakes_are_bad_requests(server: SceneServer, broken: dict[str, str]):
    with live(server, **broken) as browser:
        assert "400" in browser.status


def test_other_paths_do_not_exist(server: SceneServer):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(server.url + "secret")


def test_a_port_in_use_is_told(server: SceneServer):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1 port {port}"):
        SceneServer(ServerOptions(port=port))


def test_closing_ends_connections_and_threads():
    before = set(threading.enumerate())
    server = SceneServer(ServerOptions(port=0))
    with live(server) as browser:
        server.close()
        assert set(threading.enumerate()) <= before
        assert browser._stream.read(1) == b""


def test_the_handshake_is_that_of_the_standard():
    """The example of RFC 6455, section 1.3."""
    headers = {
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert accept_key(headers) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(
    st.binary(max_size=70_000) | st.sampled_from([125, 126, 65535, 65536]).map(bytes), st.binary()
)
def test_a_masked_frame_is_read_whole_or_refused(payload: bytes, noise: bytes):
    async def read(data: bytes) -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return (await read_frame(reader)).payload

    head = bytearray(encode(payload)[: len(encode(payload)) - len(payload)])
    head[1] |= 0x80
    masked = bytes(byte ^ b"abcd"[k % 4] for k, byte in enumerate(payload))
    if len(payload) > 65536:
        with pytest.raises(WebSocketError, match="bytes"):
            asyncio.run(read(bytes(head) + b"abcd" + masked))
    else:
        assert asyncio.run(read(bytes(head) + b"abcd" + masked + noise)) == payload

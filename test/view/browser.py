"""A real headless browser, steered through its debugging port."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websocket_client import WebSocketClient

PATIENCE_S = 120.0  # a loaded machine is slow, a hanging one is not
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,800",
    "--no-first-run", "--disable-extensions", "--disable-background-networking",
)  # fmt: skip


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """An open page."""

    def __init__(self, client: WebSocketClient) -> None:
        self._client = client
        self._number = 0

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": parameters}
        self._client.send(json.dumps(call).encode())
        while True:
            answer = json.loads(self._client.receive()[1])
            if answer.get("id") == self._number:
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; None if it cannot be had (yet)."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Its value, once it is true."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression}: {value!r}"
            time.sleep(0.1)
        return value

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])


@contextmanager
def opened(url: str, profile: Path) -> Iterator[Tab]:
    """The page in a browser of its own, which ends with the block."""
    program = find_browser()
    assert program is not None
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        port_file = profile / "DevToolsActivePort"
        pages: list[dict[str, Any]] = []
        while not pages:
            assert time.monotonic() < end and process.poll() is None, "the browser did not start"
            time.sleep(0.1)
            if port_file.exists() and len(lines := port_file.read_text().splitlines()) == 2:
                listed = urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list").read()
                pages = [page for page in json.loads(listed) if page["type"] == "page"]
        with WebSocketClient(pages[0]["webSocketDebuggerUrl"]) as client:
            yield Tab(client)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)

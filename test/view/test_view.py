"""`kapture_ros view` as its own process: real topics in, the page in a real browser out."""

from __future__ import annotations

import base64
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from browser import PATIENCE_S, find_browser, opened
from processes import end_process
from websocket_client import WebSocketClient

HERE = Path(__file__).parent
KINDS = {"pose", "odometry", "path", "points", "cameras", "candidates", "status", "image"}
pytestmark = pytest.mark.slow


@contextmanager
def view(environment: dict[str, str]) -> Iterator[tuple[list[subprocess.Popen[str]], str]]:
    """A publishing localizer and a view of it, both running, and where the page is."""
    command = [sys.executable, "-m", "kapture_ros.cli.main", "view", "--port", "0"]
    publishing = [sys.executable, str(HERE / "scene_publisher.py")]
    publisher = subprocess.Popen(publishing, env=environment, text=True)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("the scene is at http://127.0.0.1:"), said
        yield [publisher, process], said.split()[-1]
    finally:
        for each in (publisher, process):
            end_process(each)


def test_all_that_a_localizer_says_reaches_the_browser(
    ros_environment: dict[str, str], tmp_path: Path
):
    with view(ros_environment) as ((publisher, process), url):
        heard = {}
        with WebSocketClient(url.replace("http", "ws") + "live") as client:
            while set(heard) < KINDS:
                header, data = client.scene_frame()
                heard[header["kind"]] = (header, data)
        assert heard["pose"][0]["position"] == heard["odometry"][0]["position"] == [5.25, 0, 0.5]
        assert heard["points"][0]["count"] == 20_000
        assert heard["status"][0]["state"] == "TRACKING"
        assert heard["status"][0]["reason"] == "ACCEPTED"
        assert heard["status"][0]["fix_age"] is None
        if find_browser():
            _look(url, tmp_path)
        end_process(publisher)  # the view ends though it hears nothing
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):  # a shell and ros2 launch
            process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def _look(url: str, profile: Path) -> None:
    """The page shows the state, the numbers, the image and, in both views, the points."""
    with opened(url, profile) as tab:
        tab.wait_for("document.body.dataset.state === 'TRACKING'")
        why = tab.evaluate("document.getElementById('why').textContent")
        assert why == "ACCEPTED: 321 inliers (64%)", "the state and its reason are told at once"
        tab.wait_for("document.getElementById('numbers').textContent.includes('5.25, 0.00, 0.50')")
        tab.wait_for("document.getElementById('image').naturalWidth === 160")
        tab.wait_for("document.getElementById('scale').textContent.endsWith('m wide')")
        end = time.monotonic() + PATIENCE_S
        while not _shows_points(picture := tab.screenshot()):
            assert time.monotonic() < end, base64.b64encode(picture)


def _shows_points(picture: bytes) -> bool:
    """Whether they are seen from above, in the inset, and in perspective, around it."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    magenta = (pixels[:, :, 0] > 200) & (pixels[:, :, 1] < 60) & (pixels[:, :, 2] > 200)
    inset = magenta[-360:, :360].sum()
    return bool(inset > 100 and magenta.sum() - inset > 500)

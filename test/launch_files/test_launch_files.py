"""The launch files under the real `ros2 launch`: they start, take arguments, end on Ctrl-C.

The package is found in a prefix of links, so that nothing needs to be built.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="no launch_ros: it comes with a ROS installation")
from bag_tools import START, make, write_bag

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command"),
]


@pytest.fixture
def environment(ros_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """That of a sourced workspace with this package."""
    prefix = tmp_path / "prefix"
    share, index = prefix / "share/kapture_ros", prefix / "share/ament_index/resource_index"
    (index / "packages").mkdir(parents=True)
    (index / "packages/kapture_ros").touch()
    for name in ("launch", "config"):
        shutil.copytree(REPOSITORY / name, share / name)
    shutil.copy(REPOSITORY / "package.xml", share)
    shutil.copytree(REPOSITORY / "scripts", prefix / "lib/kapture_ros")
    before = os.environ.get("AMENT_PREFIX_PATH", "")
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return ros_environment | {
        "AMENT_PREFIX_PATH": f"{prefix}:{before}",
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "PATH": python,
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }


class Launched:
    """A running `ros2 launch` and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str) -> None:
        end = time.monotonic() + 120
        while not re.search(pattern, self.said):
            assert time.monotonic() < end and self._process.poll() is None, self.said
            time.sleep(0.1)

    def ends_cleanly(self) -> None:
        """Ctrl-C reaches launch and its processes, as in a terminal."""
        os.killpg(self._process.pid, signal.SIGINT)
        self.have_ended()

    def have_ended(self) -> None:
        self._process.wait(timeout=90)
        started = self.said.count("process started with pid")
        assert self.said.count("process has finished cleanly") == started, self.said
        assert "Traceback" not in self.said, self.said


@contextmanager
def launched(
    environment: dict[str, str], log: Path, file: str, *arguments: str
) -> Iterator[Launched]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["ros2", "launch", "kapture_ros", file, *arguments],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Launched(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def small_bag(path: Path) -> Path:
    stamps = [START + n * 10**8 for n in range(5)]
    return write_bag(
        path, "mcap", [("/imu", make("sensor_msgs/Imu", stamp=at), at) for at in stamps]
    )


@pytest.mark.parametrize("file", ["record", "localize", "demo"])
def test_every_argument_is_explained(file: str, environment: dict[str, str]):
    command = ["ros2", "launch", "kapture_ros", f"{file}.launch.py", "--show-args"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "no description given" not in done.stdout
    assert done.stdout.count("(default: ") >= 5


def test_recording_starts_with_its_arguments(environment: dict[str, str], tmp_path: Path):
    output = tmp_path / "drives"
    with launched(
        environment, tmp_path / "said", "record.launch.py", f"output:={output}", "name:=city"
    ) as run:
        run.wait_for(f"recording to {output}/city_")
        run.ends_cleanly()
    assert len(list(output.iterdir())) == 1


def test_localizing_without_a_map_says_so_and_waits(environment: dict[str, str], tmp_path: Path):
    with launched(
        environment, tmp_path / "said", "localize.launch.py", "map:=/nowhere", "image_topic:=/a /b"
    ) as run:
        run.wait_for("cannot configure: .*/nowhere")
        run.ends_cleanly()


def test_the_demo_waits_for_the_localizer(environment: dict[str, str], tmp_path: Path):
    """Which has no map here; player and view end with it all the same."""
    bag = small_bag(tmp_path / "bag")
    with launched(
        environment, tmp_path / "said", "demo.launch.py", f"bag:={bag}", "map:=/nowhere",
        "image_topic:=/imu", "view:=false",
    ) as run:  # fmt: skip
        run.wait_for("cannot configure: .*/nowhere")
        run.ends_cleanly()

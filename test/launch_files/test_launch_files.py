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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="no launch_ros: it comes with a ROS installation")
import room_drive
from bag_tools import START, make, write_bag

REPOSITORY = Path(__file__).resolve().parents[2]
FRONT = "/front/image/compressed"
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
        self.wait_until(lambda: re.search(pattern, self.said) is not None)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < end and self._process.poll() is None, self.said
            time.sleep(0.1)

    def ends_cleanly(self) -> None:
        """Ctrl-C reaches launch and its processes, as in a terminal."""
        os.killpg(self._process.pid, signal.SIGINT)
        self.have_ended()

    def have_ended(self) -> None:
        assert self._process.wait(timeout=240) == 0, self.said
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


@pytest.fixture(scope="module")
def room_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_drive.make_map(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module")
def room_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drive = room_drive.Drive(seconds=5.0, side=0.1, start_ns=room_drive.START_NS + 10**13)
    return room_drive.write_bag(tmp_path_factory.mktemp("drive"), "drive", drive)


def ros2(environment: dict[str, str], *words: str) -> str:
    """What a `ros2` command says; it is asked again until discovery has found the node."""
    command = ["ros2", *words, "--no-daemon"]  # which would outlive the test
    end = time.monotonic() + 120
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
        if done.returncode == 0:
            return done.stdout.strip()
        assert time.monotonic() < end, done.stderr
        time.sleep(1)


def handles_sigterm(pid: int) -> bool:
    """Whether a process has come as far as to set its signal handlers."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def values(environment: dict[str, str], node: str, *names: str) -> list[str]:
    """Of parameters, as `ros2 param get` shows them."""
    told = [ros2(environment, "param", "get", node, name, "--hide-type") for name in names]
    return [value.removesuffix("\n") for value in told]


@contextmanager
def echoed(environment: dict[str, str], topic: str, kind: str, out: Path) -> Iterator[Path]:
    """The next message of a topic that is not there yet."""
    command = ["ros2", "topic", "echo", "--once", topic, kind, "--no-daemon"]
    with out.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file)
    try:
        yield out
        process.wait(timeout=120)
    finally:
        process.kill()
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


@pytest.mark.parametrize(
    ("file", "argument", "told"),
    [
        ("record", "params:=/nowhere.yaml", "params:=/nowhere.yaml is no file"),
        ("localize", "config:=~/nowhere.yaml", "config:=/.*/nowhere.yaml is no file"),
        ("record", "autostart:=perhaps", '"autostart".*"perhaps" is not valid'),
        ("localize", "publish_tf:=both", '"publish_tf".*"both" is not valid'),
        ("demo", "loop:=1", '"loop".*"1" is not valid'),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_starts(
    file: str, argument: str, told: str, environment: dict[str, str]
):
    command = ["ros2", "launch", "kapture_ros", f"{file}.launch.py", argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert re.search(told, said), said
    assert "process started" not in said


def test_recording_starts_with_its_arguments(environment: dict[str, str], tmp_path: Path):
    home = environment | {"HOME": str(tmp_path)}  # no shell replaces the ~ in output:=~
    with launched(
        home, tmp_path / "said", "record.launch.py", "output:=~/drives", "name:=city"
    ) as run:
        run.wait_for(f"recording to {tmp_path}/drives/city_")
        run.ends_cleanly()
    assert len(list((tmp_path / "drives").iterdir())) == 1


def test_a_bag_is_localized_as_the_arguments_say(
    environment: dict[str, str], tmp_path: Path, room_map: Path, room_bag: Path
):
    pose = ("/localizer/pose", "geometry_msgs/msg/PoseWithCovarianceStamped", tmp_path / "pose")
    with launched(
        environment, tmp_path / "said", "localize.launch.py", f"map:={room_map}",
        f"image_topic:={FRONT}", "base_frame:=gnss_link", "publish_tf:=none",
        "use_sim_time:=true", f"bag:={room_bag}",
    ) as run:  # fmt: skip
        with echoed(environment, *pose) as heard:
            run.wait_for("loaded with its networks")
            names = ("base_frame", "publish_tf", "use_sim_time")
            told = values(environment, "/localizer", *names)
            assert told == ["gnss_link", "none", "True"]
            assert ros2(environment, "lifecycle", "get", "/localizer") == "active [3]"
        run.ends_cleanly()
    assert "frame_id: map" in heard.read_text()


def test_without_autostart_the_node_waits_for_lifecycle(
    environment: dict[str, str], tmp_path: Path, room_map: Path
):
    config = tmp_path / "mine.yaml"
    config.write_text(
        "/**:\n  ros__parameters:\n    publish_rate: 7.0\n    image_topics: [/left, /right]\n"
    )
    with launched(
        environment, tmp_path / "said", "localize.launch.py", f"map:={room_map}",
        f"config:={config}", "odometry_topic:=/wheels", "autostart:=false", "namespace:=car",
    ) as run:  # fmt: skip
        assert ros2(environment, "lifecycle", "get", "/car/localizer") == "unconfigured [1]"
        told = values(
            environment, "/car/localizer", "publish_rate", "odometry_topic", "base_frame", "map"
        )
        assert told == ["7.0", "/wheels", "base_link", str(room_map)]
        for transition, state in (
            ("configure", "inactive [2]"),
            ("activate", "active [3]"),
            ("deactivate", "inactive [2]"),
            ("cleanup", "unconfigured [1]"),
            ("shutdown", "finalized [4]"),
        ):
            ros2(environment, "lifecycle", "set", "/car/localizer", transition)
            assert ros2(environment, "lifecycle", "get", "/car/localizer") == state
        run.ends_cleanly()


@pytest.mark.parametrize("file", ["record", "localize"])
def test_ctrl_c_while_libraries_are_loaded_is_no_failure(
    file: str, environment: dict[str, str], tmp_path: Path
):
    with launched(environment, tmp_path / "said", f"{file}.launch.py") as run:
        run.wait_for("process started with pid")
        pid = re.findall(r"process started with pid \[(\d+)\]", run.said)[-1]
        run.wait_until(lambda: handles_sigterm(int(pid)))  # Python itself does not
        run.ends_cleanly()


def test_localizing_without_a_map_says_so_and_waits(environment: dict[str, str], tmp_path: Path):
    home = environment | {"HOME": str(tmp_path)}
    with launched(
        home, tmp_path / "said", "localize.launch.py", "map:=~/nowhere", "image_topic:=/a /b"
    ) as run:
        run.wait_for(f"cannot configure: {tmp_path}/nowhere is no map")
        run.ends_cleanly()


def test_the_demo_ends_with_its_bag(
    environment: dict[str, str], tmp_path: Path, room_map: Path, room_bag: Path
):
    with launched(
        environment, tmp_path / "said", "demo.launch.py", f"map:={room_map}", f"bag:={room_bag}",
        f"image_topic:={FRONT}", "rate:=2.0", "loop:=false", "view:=true",
    ) as run:  # fmt: skip
        run.have_ended()
        assert "kapture_ros-2] was required" in run.said, "the player's end is the end of all"


def test_the_demo_waits_for_the_localizer(environment: dict[str, str], tmp_path: Path):
    """Which has no map here; player and view end with it all the same."""
    bag = small_bag(tmp_path / "bag")
    with launched(
        environment, tmp_path / "said", "demo.launch.py", f"bag:={bag}", "map:=/nowhere",
        "image_topic:=/imu", "view:=false",
    ) as run:  # fmt: skip
        run.wait_for("cannot configure: .*/nowhere")
        run.ends_cleanly()

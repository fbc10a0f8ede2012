"""The recorder as its own process, heard and commanded over real topics and services."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from dataset_comparison import differences
from kapture.io.csv import kapture_from_dir
from processes import end_process

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import Dataset, open_dataset
from kapture_ros.nodes.parameters import parameter_file
from kapture_ros.nodes.recorder_node import OPTIONS, matching_policies
from kapture_ros.recording.report import read_report

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "config" / "record.yaml"
PATIENCE_S = 150.0  # a loaded machine is slow, a hanging one is not
pytestmark = pytest.mark.slow

# The first of 201 messages is heard; then nobody listens, and 150 are kept.
UNHEARD = """
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import Imu
from kapture_ros.nodes.recorder_node import RecorderNode

rclpy.init()
overrides = dict(output="{output}", topics=["/imu"], queue_depth=150)
node = RecorderNode([Parameter(name, value=value) for name, value in overrides.items()])
publisher = node.create_publisher(Imu, "/imu", 200)
while not node.get_publishers_info_by_topic("/imu"):
    pass
node.trigger_configure()
node.trigger_activate()
while not publisher.get_subscription_count():
    pass
for number in range(1, 202):
    message = Imu()
    message.header.stamp.nanosec = number
    publisher.publish(message)
    while not node.recording.status().received:
        rclpy.spin_once(node)
assert publisher.wait_for_all_acked()
print(node.stop())
"""


@contextmanager
def recorder(
    environment: dict[str, str], output: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A running recorder; it ends with the block."""
    command = [sys.executable, "-m", "kapture_ros.cli.main", "record", "--output", str(output)]
    process = subprocess.Popen(
        [*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        end_process(process)


def publish(environment: dict[str, str], seconds: float, *arguments: str) -> list[int]:
    """Play the drive; returns the stamps sent."""
    command = [sys.executable, str(HERE / "drive_publisher.py"), str(seconds), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def interrupted(process: subprocess.Popen[str]) -> str:
    """End the recorder as Ctrl-C does; returns what it logged."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return errors


def only_dataset(output: Path) -> Dataset:
    (path,) = output.iterdir()
    return open_dataset(path)


def stamps(dataset: Dataset, sensor_id: str) -> list[int]:
    return [record.stamp_ns for record in dataset.records(sensor_id)]


def command(environment: dict[str, str], *words: str) -> list[str]:
    """What `recorder_client.py` prints for these words."""
    call = [sys.executable, str(HERE / "recorder_client.py"), *words]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_everything_sent_is_in_the_dataset(ros_environment: dict[str, str], tmp_path: Path):
    with recorder(ros_environment, tmp_path) as process:
        sent = publish(ros_environment, 3)
        logged = interrupted(process)
    dataset = only_dataset(tmp_path)
    assert dataset.repaired is None
    assert "0 lost" in logged
    for sensor_id in (
        "camera.image_raw.compressed",
        "imu.data-accelerometer",
        "imu.data-gyroscope",
        "gnss.fix",
        "wifi",
    ):
        assert stamps(dataset, sensor_id) == sent, sensor_id
    (camera,) = (s for s in dataset.sensors.values() if s.kind == "camera")
    assert camera.params[:3] == ("PINHOLE", "64", "48")
    (fix, *_) = dataset.records("gnss.fix")
    assert (fix.latitude, fix.longitude) == (45.0, 7.0)
    (scan, *_) = dataset.records("wifi")
    assert scan.access_points[0].ssid == "a,b"

    naver = kapture_from_dir(str(dataset.path))
    assert len(naver.records_camera) == len(sent)
    (rig,) = naver.rigs
    assert naver.rigs[rig]["camera.image_raw.compressed"].t_raw == [-0.5, 0.0, 0.0]
    posed = [stamp for stamp in sent if stamp in naver.trajectories]
    assert posed == sent
    positions = [-naver.trajectories[stamp][rig].t_raw[0] for stamp in sent]
    assert positions == pytest.approx([0.1 * number for number in range(len(sent))])
    (session,) = read_report(dataset.path)
    assert session["topics"]["/imu/data"]["received"] == len(sent)


def test_what_has_arrived_when_it_stops_is_recorded(
    ros_environment: dict[str, str], tmp_path: Path
):
    """An IMU at 200 Hz beside raw images; stopped at once after the last message."""
    options = ("--queue-depth", "1000", "--topics", "/imu/data", "/left/image", "/right/image")
    publisher = [sys.executable, str(HERE / "load_publisher.py"), "400"]
    with (
        recorder(ros_environment, tmp_path, *options) as process,
        subprocess.Popen(
            publisher, env=ros_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as loading,
    ):
        assert loading.stdout is not None
        sent = json.loads(loading.stdout.readline())
        logged = interrupted(process)  # the publisher is still there
    assert len(sent) == 400, logged
    assert stamps(only_dataset(tmp_path), "imu.data-gyroscope") == sent


def test_what_waits_in_the_middleware_is_taken_before_the_end(
    ros_environment: dict[str, str], tmp_path: Path
):
    script = [sys.executable, "-c", UNHEARD.format(output=str(tmp_path))]
    done = subprocess.run(
        script, env=ros_environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("151 messages, 50 lost")
    dataset = only_dataset(tmp_path)
    assert stamps(dataset, "imu-gyroscope") == [1, *range(52, 202)]
    (session,) = read_report(dataset.path)
    assert session["topics"]["/imu"]["dropped"] == {"lost in the middleware": 50}


def test_services_start_pause_and_stop_and_diagnostics_tell(
    ros_environment: dict[str, str], tmp_path: Path
):
    with recorder(ros_environment, tmp_path) as process:
        publish(ros_environment, 1)
        told = command(ros_environment, "diagnostics", "pause", "diagnostics")
        first = next(tmp_path.iterdir())
        assert told[0] == f"0 recording {first}"
        assert told[1] == "True paused"
        assert told[2] == f"1 paused {first}"
        paused = publish(ros_environment, 1)
        told = command(ros_environment, "resume", "start", "stop", "stop", "start")
        assert told[0] == "True recording"
        assert told[1].startswith("False already recording")
        assert told[2].startswith("True ")
        assert told[3] == "False nothing was being recorded"
        assert told[4].startswith("True ")
        after = publish(ros_environment, 1)
        interrupted(process)
    one, two = sorted(tmp_path.iterdir())
    assert not set(paused) & set(stamps(open_dataset(one), "gnss.fix"))
    assert stamps(open_dataset(two), "gnss.fix") == after
    assert len(open_dataset(two).kapture.rigs) == 1, "/tf_static is heard again"


def test_it_ends_cleanly_before_the_disk_is_full(ros_environment: dict[str, str], tmp_path: Path):
    """The threshold lies above what is free after the start, so the real watch must act."""
    import shutil

    free = shutil.disk_usage(tmp_path).free // 1_000_000
    with recorder(ros_environment, tmp_path, "--min-free-megabytes", str(free - 500)) as process:
        publish(ros_environment, 1)
        hog = tmp_path.parent / "hog"
        try:
            subprocess.run(["fallocate", "-l", "1500M", str(hog)], check=True)
            (told,) = command(ros_environment, "diagnostics=2")
        finally:
            hog.unlink(missing_ok=True)
        assert told.startswith("2 ended: only")
        interrupted(process)
    (path,) = tmp_path.iterdir()
    dataset = open_dataset(path)
    assert dataset.repaired is None
    assert len(stamps(dataset, "gnss.fix")) == 10


def test_impatience_and_sigterm_end_it_as_cleanly(ros_environment: dict[str, str], tmp_path: Path):
    """A second Ctrl-C while the dataset is being closed, as ros2 launch and a shell send it."""
    with recorder(ros_environment, tmp_path) as process:
        sent = publish(ros_environment, 1)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        logged = interrupted(process)
    assert "invalid" not in logged, "the node speaks while it still can"
    dataset = only_dataset(tmp_path)
    assert dataset.repaired is None
    assert stamps(dataset, "gnss.fix") == sent


def test_a_background_job_of_a_shell_ends_by_sigint_too(
    ros_environment: dict[str, str], tmp_path: Path
):
    """It begins with SIGINT ignored; and it tells of topics that nobody published."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        with recorder(ros_environment, tmp_path, "--topics", "/gnss/fix", "/nobody") as process:
            signal.signal(signal.SIGINT, usual)
            sent = publish(ros_environment, 1, "/gnss/fix")
            interrupted(process)
    finally:
        signal.signal(signal.SIGINT, usual)
    dataset = only_dataset(tmp_path)
    assert list(dataset.sensors) == ["gnss.fix"]
    assert stamps(dataset, "gnss.fix") == sent
    (session,) = read_report(dataset.path)
    assert "/nobody: asked for, but nobody published it (1 time)" in session["problems"]


def test_too_little_space_at_the_start_is_one_clear_error(
    ros_environment: dict[str, str], tmp_path: Path
):
    with recorder(ros_environment, tmp_path, "--min-free-megabytes", "1e12") as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "less than min_free_megabytes" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_killed_recording_opens(ros_environment: dict[str, str], tmp_path: Path):
    with recorder(ros_environment, tmp_path) as process:
        sent = publish(ros_environment, 2)
        process.kill()
        process.wait()
    dataset = only_dataset(tmp_path)
    assert dataset.repaired is not None
    assert stamps(dataset, "gnss.fix") == sent


def test_the_parameter_file_is_that_of_the_options():
    title = "Parameters of the recorder; ros2 launch kapture_ros record.launch.py"
    assert CONFIG.read_text() == parameter_file(title, OPTIONS)


def test_the_strongest_policies_that_hear_every_publisher_are_asked_for():
    from rclpy.qos import DurabilityPolicy as Durability
    from rclpy.qos import QoSProfile
    from rclpy.qos import ReliabilityPolicy as Reliability

    latched = QoSProfile(depth=1, durability=Durability.TRANSIENT_LOCAL)
    sensor = QoSProfile(depth=1, reliability=Reliability.BEST_EFFORT)
    assert matching_policies([latched]) == (Reliability.RELIABLE, Durability.TRANSIENT_LOCAL)
    assert matching_policies([latched, sensor]) == (Reliability.BEST_EFFORT, Durability.VOLATILE)


def test_a_drive_recorded_live_equals_its_converted_bag(
    ros_environment: dict[str, str], tmp_path: Path
):
    """Every record, file, sidecar entry, rig row and pose; only arrival times may differ."""
    size = ["--duration", "3", "--width", "64", "--height", "48", "--detail", "0.1"]
    drive = tmp_path / "drive"
    assert main(["simulate", str(drive), *size, "--rate", "5", "--depth-rate", "2"]) == 0
    assert main(["convert", str(drive / "lap1"), str(tmp_path / "converted")]) == 0
    live = tmp_path / "live"
    live.mkdir()
    with recorder(ros_environment, live) as process:
        play = [sys.executable, "-m", "kapture_ros.cli.main", "play", str(drive / "lap1")]
        play += ["--wait-for", "*", "--wait-seconds", str(PATIENCE_S), "--clock-rate", "0"]
        done = subprocess.run(
            play, env=ros_environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        command(ros_environment, "rest")
        assert ", 0 lost" in interrupted(process)
    (path,) = live.iterdir()
    assert differences(path, tmp_path / "converted") == []

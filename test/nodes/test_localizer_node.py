"""The localizer as its own process: a bag in, pose, transform and status out, as on a vehicle."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from processes import end_process
from room_drive import DATUM, MAP_FROM_ODOM, START_NS, Drive, make_map, pose_at, write_bag

from kapture_ros.errors import InputError
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.odometry import OdometrySample
from kapture_ros.localization.query import Query, Reason
from kapture_ros.localization.sequence_state import SequenceOptions, State
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.messages import Message
from kapture_ros.nodes.inference import Answer, Inference
from kapture_ros.nodes.outputs import TOPICS
from kapture_ros.nodes.synchronizer import Instant
from kapture_ros.transforms import Transform

HERE = Path(__file__).parent
PATIENCE = 240.0  # seconds; a loaded machine is slow, a hanging one is not
LATER = START_NS + 10**13
SIDE = 0.1  # metres beside the path that was mapped
WITHIN = 0.2  # metres: a pixel is four centimetres at the far wall
BEYOND_DOUBT = 50  # inliers of an image that needs no second one
SIGMAS = 5.0  # of the largest axis: what a true covariance hardly ever exceeds
TRACKING = int(State.TRACKING)
LOGGED_ERROR = 40  # rcl_interfaces/Log.ERROR
COMMAND = (sys.executable, "-m", "kapture_ros.cli.main")
FRONT = ("--image-topics", "/front/image/compressed")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Room:
    """A map, and bags of drives in it."""

    map: Path
    map_of_others: Path  # made by networks that nobody has
    drive: Path
    rig: Path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    folder = tmp_path_factory.mktemp("room")
    drive = Drive(side=SIDE, begin=0.3, start_ns=LATER, seconds=5.0)
    rig = Drive(
        side=SIDE, begin=0.3, start_ns=LATER, seconds=4.0, cameras=("front", "left"),
        skew_s=0.03, missing={"front": 2.0},
    )  # fmt: skip
    visual_map = make_map(folder / "mapping")
    return Room(
        visual_map,
        of_other_networks(visual_map, folder / "others"),
        write_bag(folder, "drive", drive),
        write_bag(folder, "rig", rig),
    )


def of_other_networks(visual_map: Path, other: Path) -> Path:
    """The map as if its global features had been made by a network that is not installed."""
    shutil.copytree(visual_map, other)
    manifest = other / "map.yaml"
    manifest.write_text(manifest.read_text().replace("apgem-small-free", "apgem-secret"))
    (features,) = (other / "reconstruction/global_features").iterdir()
    features.rename(features.with_name(features.name.replace("small-free", "secret")))
    return other


def truth(stamp_ns: int) -> Transform:
    return pose_at(0.3 + (stamp_ns - LATER) / 1e9, SIDE)


@contextmanager
def running(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    process = subprocess.Popen(
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        end_process(process)


class Client:
    """Asks the listening process."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def ask(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the client failed at {what}"
        return json.loads(answer)

    def heard(self, topic: str, count: int = 0) -> list[Any]:
        messages: list[Any] = self.ask("heard", topic=topic, count=count)
        assert len(messages) >= count, f"only {len(messages)} messages on {topic}"
        return messages

    def until(self, topic: str, holds: Callable[[Any], bool]) -> Any:
        """The first message for which something holds, since the last `forget`."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = next((message for message in self.heard(topic) if holds(message)), None)
            if found is not None:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{topic}: never heard; last {self.heard(topic)[-3:]}")

    def becomes(self, what: str, holds: Callable[[Any], bool]) -> Any:
        """What is answered, once it holds: the graph of nodes is known to others a while later."""
        end = time.monotonic() + PATIENCE
        while not holds(answer := self.ask(what)):
            assert time.monotonic() < end, f"{what} stays {answer}"
            time.sleep(0.1)
        return answer

    def told(self, level: int, words: str) -> Any:
        """A diagnostic status of this level with these words."""
        return self.until("diagnostics", lambda m: any(s[0] == level and words in s[2] for s in m))


@contextmanager
def session(
    environment: dict[str, str], *node_arguments: str
) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A localizer with use_sim_time, and a client."""
    node = (*COMMAND, "node", "localize", *node_arguments)
    ros = ("--ros-args", "-p", "use_sim_time:=true")
    listener = (sys.executable, str(HERE / "localizer_client.py"))
    with running(environment, *listener) as heard, running(environment, *node, *ros) as process:
        yield process, Client(heard)
        heard.communicate(timeout=PATIENCE)  # it ends with its input


def playing(environment: dict[str, str], bag: Path, *arguments: str) -> Any:
    """The bag again and again, slowly, so that a loaded machine keeps up."""
    waiting = ("--wait-for", "/front/image/compressed", "--wait-seconds", str(PATIENCE))
    always = ("--loop", "--rate", "0.4", *waiting)
    return running(environment, *COMMAND, "play", str(bag), *always, *arguments)


def check_poses(poses: list[Any], within: float = WITHIN) -> None:
    """Near the truth, and no farther than their covariance admits."""
    for message in poses:
        assert message["frame"] == "map"
        x, y, z, *wxyz = message["pose"]
        pose = Transform.from_quaternion(wxyz, (x, y, z))
        metres, radians = pose.distance_to(truth(message["stamp"]))
        assert metres < within and np.rad2deg(radians) < 1.5
        covariance = np.reshape(message["covariance"], (6, 6))
        assert np.linalg.eigvalsh(covariance)[0] > 0
        sigma = np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])
        assert sigma < within and metres < SIGMAS * sigma


def check_states(statuses: list[Any]) -> None:
    """A pose is believed from a confirmed fix on, or from one beyond doubt by itself."""
    before = [int(State.UNINITIALIZED), *(message["state"] for message in statuses)]
    begun = [(a, m) for a, m in zip(before, statuses, strict=False) if m["state"] == TRACKING != a]
    assert begun
    for state, message in begun:
        confirmed = state in (State.INITIALIZING, State.COASTING)
        assert confirmed or message["inliers"] >= BEYOND_DOUBT, (state, message)


def test_a_drive_is_localized_again_and_again(ros_environment: dict[str, str], room: Room):
    arguments = (
        "--map",
        str(room.map),
        *FRONT,
        "--odometry-topic",
        "/odom",
        "--gnss-topic",
        "/fix",
    )
    with session(ros_environment, *arguments) as (node, client):
        client.heard("map_points", 1)  # the node is heard: no status is missed from now on
        with playing(ros_environment, room.drive):
            check_poses(client.heard("pose", 3))
            check_outputs(client)
            check_loop(client)
            check_relocalization(client)
            check_parameters(client)
            check_another_map(client, room.map)
            client.ask("forget")
            client.until("status", lambda m: m["state"] == TRACKING and m["stamp"] < LATER + 3e9)
        client.ask("forget")
        client.told(2, "lost: no pose is published")  # nothing comes in any more
        node.send_signal(signal.SIGINT)
        assert node.wait(PATIENCE) == 0


def check_outputs(client: Client) -> None:
    client.heard("odometry", 60)
    check_states(client.heard("status"))
    links = [link for message in client.heard("tf", 30) for link in message]
    assert {(link[0], link[1]) for link in links} == {("map", "odom"), ("odom", "base_link")}
    x, y, _ = MAP_FROM_ODOM.translation
    for link in links:
        if link[1] == "odom":
            assert link[3:5] == pytest.approx([x, y], abs=1.5 * WITHIN)
    for message in client.heard("odometry"):
        assert message["frames"] == ["map", "base_link"]
        x, y, z, *wxyz = message["pose"]
        pose = Transform.from_quaternion(wxyz, (x, y, z))
        assert pose.distance_to(truth(message["stamp"]))[0] < 1.5 * WITHIN
    assert client.heard("map_points", 1)[0] > 100
    assert client.heard("map_cameras", 1)[0] == 12 * 16
    assert client.heard("path", 1)[0] >= 1
    assert client.heard("debug_image/compressed", 1)[0][2] == 3
    latitude, longitude, _ = client.heard("fix", 1)[0]
    assert latitude == pytest.approx(DATUM.latitude, abs=1e-4)  # about 10 m
    assert longitude == pytest.approx(DATUM.longitude, abs=1e-4)
    processed = next(m for m in client.heard("status") if m["reason"] == int(Reason.ACCEPTED))
    assert all(np.isfinite(processed["latency"])) and processed["map_id"]
    client.told(0, "images arrive")
    client.told(0, "tracking")


def check_loop(client: Client) -> None:
    """The bag begins anew, and so does the localizer."""
    client.until("status", lambda m: m["stamp"] > LATER + 4 * 10**9)
    client.ask("forget")
    client.until("status", lambda m: m["stamp"] < LATER + 10**9)
    client.until("status", lambda m: m["state"] == TRACKING and m["stamp"] < LATER + 4 * 10**9)
    check_poses(client.heard("pose", 1))


def searched_and_found(status: Any) -> bool:
    """Whether an image was compared with the whole map, as none is while TRACKING, and found."""
    return status["state"] == TRACKING and status["candidates"] > 0


def check_relocalization(client: Client) -> None:
    client.ask("forget")
    client.until("status", lambda m: m["state"] == TRACKING)
    client.ask("forget")
    assert client.ask("trigger", name="relocalize")[0]
    client.until("status", searched_and_found)
    client.ask("forget")
    client.ask("hint", frame="map", x=1.0, y=0.0)
    client.until("status", lambda m: m["state"] == TRACKING)
    client.ask("forget")
    assert client.ask("trigger", name="reset")[0]
    client.until("status", searched_and_found)


def check_parameters(client: Client) -> None:
    accepted, why = client.ask("set", name="publish_rate", value=500.0)
    assert not accepted and "Min: 1.0, Max: 200.0" in why
    accepted, why = client.ask("set", name="map", value="/elsewhere")
    assert not accepted and "load_map" in why
    accepted, why = client.ask("set", name="tracking.window", value=3)
    assert not accepted and "holds while the node is configured" in why
    accepted, why = client.ask("set", name="acceptance.min_inliers", value="many")
    assert not accepted and "whole number" in why
    assert client.ask("set", name="publish_tf", value="none") == [True, ""]
    client.told(0, "none wanted")
    client.ask("forget")
    client.heard("pose", 1)
    assert not [link for m in client.heard("tf") for link in m if link[1] == "odom"]


def check_another_map(client: Client, another: Path) -> None:
    """Loaded while the drive goes on, then localized in; a missing one changes nothing."""
    assert client.ask("load_map", path="/elsewhere") == 1  # RESULT_MAP_DOES_NOT_EXIST
    assert client.ask("load_map", path=f"file://{another}") == 0  # RESULT_SUCCESS
    client.ask("forget")
    client.until("status", lambda m: m["state"] == TRACKING)
    check_poses(client.heard("pose", 1))


def test_a_wrong_map_is_told_and_can_be_corrected_ten_times(
    ros_environment: dict[str, str], room: Room, tmp_path: Path
):
    scaleless = Path(shutil.copytree(room.map, tmp_path / "scaleless"))
    manifest = scaleless / "map.yaml"
    manifest.write_text(manifest.read_text().replace("metric: true", "metric: false"))
    alone = ros_environment | {"OMP_NUM_THREADS": "1"}  # whose threads come and go
    with session(alone, "--map", "/nowhere", *FRONT) as (node, client):
        client.told(2, "cannot configure: /nowhere is no map")
        assert client.ask("state") == "unconfigured"
        assert not client.ask("change", transition="configure")
        assert client.ask("set", name="map", value=str(room.map_of_others)) == [True, ""]
        assert not client.ask("change", transition="configure")
        client.told(2, "cannot configure: no weights 'apgem-secret'")
        assert client.ask("set", name="map", value=str(scaleless)) == [True, ""]
        assert not client.ask("change", transition="configure")
        client.told(2, "is of unknown scale, and motions and mountings of cameras are in metres")
        assert client.ask("set", name="odometry_topic", value="/wheel odometry") == [True, ""]
        assert not client.ask("change", transition="configure")
        client.told(2, "'odometry_topic': '/wheel odometry' is no topic: topic name must not")
        assert client.ask("set", name="odometry_topic", value="") == [True, ""]
        assert client.ask("set", name="map", value=str(room.map)) == [True, ""]
        with playing(ros_environment, room.drive):
            check_lives(client, psutil.Process(node.pid))
        node.send_signal(signal.SIGTERM)
        assert node.wait(PATIENCE) == 0


def check_lives(client: Client, process: psutil.Process) -> None:
    """Down and up ten times, each time until a pose is found: nothing of it stays."""
    idle, deaf = client.ask("publishers"), client.ask("subscriptions")
    topics = {f"/localizer/{name}" for name in TOPICS}
    threads, memory = [], []
    for _ in range(10):
        assert client.ask("change", transition="configure")
        client.becomes("publishers", lambda names: set(names) - set(idle) >= topics)
        client.until("rosout", lambda m: "how wrong the map is was not measured" in m[1])
        client.ask("forget")
        assert client.ask("change", transition="activate")
        client.becomes("subscriptions", lambda names: "/front/image/compressed" in names)
        client.until("status", lambda m: m["reason"] == int(Reason.ACCEPTED))
        assert client.ask("change", transition="deactivate")
        client.becomes("subscriptions", lambda names: names == deaf)
        assert client.ask("change", transition="cleanup")
        client.becomes("publishers", lambda names: names == idle)
        threads.append(process.num_threads())
        memory.append(process.memory_info().rss)
    assert threads[-1] <= threads[0] + 1, threads
    assert max(memory[5:]) < 1.05 * max(memory[1:5]), memory


def test_what_is_missing_is_told(ros_environment: dict[str, str], room: Room):
    """First no CameraInfo, then no frame, then no image at all."""
    arguments = ("--map", str(room.map), *FRONT, "--silence-warning", "1", "--silence-error", "6")
    with session(ros_environment, *arguments) as (_, client):
        client.told(1, "use_sim_time is set, and nothing publishes /clock")
        client.told(2, "no image yet")
        with playing(ros_environment, room.drive, "--topics", "/front/image/*"):
            refused = client.until("status", lambda m: m["reason"] == int(Reason.BAD_INPUT))
            assert "no CameraInfo on /front/camera_info" in refused["text"]
            client.told(2, "no CameraInfo on /front/camera_info")
        client.ask("forget")
        with playing(ros_environment, room.drive, "--topics", "/front/*"):
            client.told(2, "where is the camera on the vehicle?")
            assert client.heard("pose") == []
            client.ask("forget")
        client.told(1, "no image for")
        client.told(2, "no image for")


def test_images_that_cannot_be_used_are_told(ros_environment: dict[str, str], room: Room):
    """In the log, in diagnostics and, where no camera is left, in the status; with the cure."""
    arguments = ("--map", str(room.map), "--image-topics", "/a/image", "/b/image")
    usual = {"size": [32, 24], "encoding": "rgb8"}
    good = [{"camera": "a", "frame": "eye"} | usual, {"camera": "b", "frame": "other_eye"} | usual]
    with session(ros_environment, *arguments) as (_, client):
        client.ask("mount", frames=["eye", "other_eye"])
        for wrong, spoiled, words in (
            ({"frame": "eye"}, "b", "another camera has the frame 'eye' too; set camera_frames"),
            (
                {"size": [16, 24]},
                "ab",
                "images are 16×24 but /b/camera_info is for 32×24; calibrate",
            ),
            (
                {"encoding": "hologram8"},
                "ab",
                "unknown-encoding: 'hologram8'; let the driver send rgb8",
            ),
            ({"frame": "nowhere"}, "b", "publish 'base_link' to 'nowhere' on /tf_static"),
        ):
            client.ask("forget")
            shown = [view | (wrong if view["camera"] in spoiled else {}) for view in good]
            client.ask("show", images=shown)
            client.told(2, words)
            client.until("rosout", lambda m, words=words: m[0] == LOGGED_ERROR and words in m[1])
            if spoiled == "ab":
                client.until("status", lambda m, words=words: words in m["text"])
        client.ask("show", images=good)
        dark = client.until("status", lambda m: m["reason"] == int(Reason.NO_FEATURES))
        assert dark["text"].endswith("the image is black")
        assert dark["state"] == int(State.UNINITIALIZED), "it shows nothing of the map"
        client.told(1, "uninitialized; last image NO_FEATURES")


def test_a_rig_goes_on_when_a_camera_fails(ros_environment: dict[str, str], room: Room):
    """The cameras take turns by 30 ms; after two seconds the left one is alone. No odometry."""
    topics = ("/front/image/compressed", "/left/image/compressed")
    arguments = ("--map", str(room.map), "--image-topics", *topics, "--publish-tf", "map_to_base")
    with (
        session(ros_environment, *arguments) as (_, client),
        playing(ros_environment, room.rig, "--topics", "/front/*", "/left/*", "/tf_static"),
    ):
        alone = client.until(
            "status",
            lambda m: m["stamp"] > LATER + 2.5e9 and m["reason"] == int(Reason.ACCEPTED),
        )
        assert alone["inliers"] >= 12
        check_poses(client.heard("pose", 1), within=0.3)
        links = {tuple(link[:2]) for message in client.heard("tf", 1) for link in message}
        assert links == {("map", "base_link")}


def test_the_first_image_of_a_bag_that_begins_anew_knows_its_odometry(room: Room):
    """Which came while the last image of before was still being worked on."""
    answers: queue.Queue[Answer] = queue.Queue()
    newest: queue.Queue[int | None] = queue.Queue()

    def make_query(instant: Instant[Message]) -> Query:
        if instant.stamp_ns == LATER:
            inference.restart()
            inference.add(OdometrySample(START_NS, Transform()))
            inference.submit(image_at(START_NS))
        else:
            inference.order(lambda tracker: newest.put(tracker.motion.odometry.newest_ns))
        raise InputError("it is about the order only")

    def image_at(stamp_ns: int) -> Instant[Message]:
        return Instant({0: (stamp_ns, None)})

    localizer = Localizer(VisualMap.load(room.map))
    inference = Inference(localizer, SequenceOptions(), make_query, lambda _: 0.0, answers.put)
    inference.add(OdometrySample(LATER, Transform()))
    inference.submit(image_at(LATER))
    inference.start()
    try:
        told = [answers.get(timeout=PATIENCE) for _ in range(2)]
        assert newest.get(timeout=PATIENCE) == START_NS
    finally:
        inference.stop()
    assert [answer.generation for answer in told] == [0, 1]


def test_an_answer_that_cannot_be_published_does_not_end_the_drive(room: Room, caplog):
    answers: queue.Queue[Answer] = queue.Queue()

    def make_query(instant: Instant[Message]) -> Query:
        raise InputError("it is about the answer only")

    def deliver(answer: Answer) -> None:
        answers.put(answer)
        if answer.estimate.stamp_ns == LATER:
            raise RuntimeError("no publisher")

    localizer = Localizer(VisualMap.load(room.map))
    inference = Inference(localizer, SequenceOptions(), make_query, lambda _: 0.0, deliver)
    inference.start()
    try:
        for stamp in (LATER, LATER + 1):
            inference.submit(Instant({0: (stamp, None)}))
            assert answers.get(timeout=PATIENCE).estimate.stamp_ns == stamp
    finally:
        inference.stop()
    assert "no publisher" in caplog.text

"""The rules of a recording: sensors, calibrations, rigs, poses, and messages that are wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from bag_tools import START, STEP, camera_info, image, make, pose_fields, transforms

from kapture_ros.dataset.escape import check_id
from kapture_ros.dataset.records import Record, RigRow, Sensor, TrajectoryRow
from kapture_ros.recording.config import (
    Extrinsic,
    RecordingConfig,
    RecordingOptions,
    TopicOptions,
    urdf_transform,
)
from kapture_ros.recording.session import RecordingSession
from kapture_ros.transforms import Transform

SECOND = 1_000_000_000
K = np.array([[50.0, 0, 3.5], [0, 50, 2.5], [0, 0, 1]])
TURN = (0.5, -0.5, 0.5, -0.5)  # optical from body


class Recorded:
    """Takes what a session writes."""

    def __init__(self) -> None:
        self.sensors: dict[str, Sensor] = {}
        self.rigs: dict[tuple[str, str], RigRow] = {}
        self.poses: dict[tuple[str, int], TrajectoryRow] = {}
        self.records: dict[str, list[Record]] = defaultdict(list)

    def add_sensor(self, sensor: Sensor) -> None:
        self.sensors[sensor.sensor_id] = sensor

    def add_rig(self, row: RigRow) -> None:
        self.rigs[row.rig_id, row.sensor_id] = row

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        self.poses[row.device_id, row.stamp_ns] = row
        return True

    def write(self, record: Record) -> bool:
        assert record.sensor_id in self.sensors
        self.records[record.sensor_id].append(record)
        return True


class Player:
    """Feeds messages to a session, by default received when they were stamped."""

    def __init__(self, options: RecordingOptions | None = None, **config: Any) -> None:
        self.to = Recorded()
        self.session = RecordingSession(
            self.to, RecordingConfig(options or RecordingOptions(), **config)
        )

    def play(self, topic: str, message: Any, received: int | None = None) -> bool:
        if received is None:
            received = stamp_of(message)
        return self.session.handle(topic, message.__msgtype__, message, received)

    def image(
        self, at: int, size=(6, 4), topic: str = "/cam/image_raw", frame: str = "cam"
    ) -> bool:
        return self.play(topic, image(np.zeros(size[::-1], np.uint8), "mono8", at, frame))

    def info(self, at: int, matrix=K, size=(6, 4), topic: str = "/cam/camera_info") -> None:
        self.play(topic, camera_info(size, matrix, at, "cam"))

    def tf(self, at: int, parent: str, child: str, xyz, wxyz=(1, 0, 0, 0), static=False) -> None:
        message = transforms([(at, parent, child, wxyz, xyz)])
        self.play("/tf_static" if static else "/tf", message, at)

    def odometry(self, at: int, x: float, topic: str = "/odom", child: str = "base_link") -> None:
        pose = make(
            "geometry_msgs/PoseWithCovariance", pose=pose_fields("Pose", (1, 0, 0, 0), (x, 0, 0), 2)
        )
        message = make("nav_msgs/Odometry", stamp=at, frame="odom", child_frame_id=child, pose=pose)
        self.play(topic, message)

    def fix(self, at: int, latitude: float, longitude: float = 8.0) -> None:
        self.play("/fix", make("sensor_msgs/NavSatFix", stamp=at, frame="gnss", latitude=latitude,
                               longitude=longitude, altitude=100.0))  # fmt: skip

    def finish(self) -> Recorded:
        self.session.finish()
        return self.to

    def topic(self, name: str) -> dict[str, Any]:
        from kapture_ros.dataset.writer import WriterStatistics

        return self.session.monitor.report(WriterStatistics(), self.to.sensors)["topics"][name]


def stamp_of(message: Any) -> int:
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec


def stamps(recorded: Recorded, sensor_id: str) -> list[int]:
    return [record.stamp_ns for record in recorded.records[sensor_id]]


def positions(recorded: Recorded, device: str) -> dict[int, list[float]]:
    """Where the device was, by stamp after START in steps."""
    return {
        (stamp - START) / STEP: row.device_from_world.inverse().translation.round(9).tolist()
        for (name, stamp), row in recorded.poses.items()
        if name == device
    }


# -- cameras ----------------------------------------------------------------------------------


def test_a_camera_has_the_calibration_of_the_camera_info_beside_it() -> None:
    player = Player()
    player.info(START)
    player.info(START, K * 2, topic="/other/camera_info")
    player.image(START)
    recorded = player.finish()
    assert recorded.sensors["cam.image_raw"].params == (
        "PINHOLE", "6", "4", "50.0", "50.0", "3.5", "2.5",
    )  # fmt: skip
    origin = recorded.sensors["cam.image_raw"].origin
    assert origin["camera_info_topic"] == "/cam/camera_info"
    assert origin["camera_info"]["k"] == K.ravel().tolist()


def test_an_image_does_not_wait_for_its_camera_info() -> None:
    player = Player()
    player.image(START)
    assert player.to.sensors["cam.image_raw"].params == ("UNKNOWN_CAMERA", "6", "4")
    player.info(START + 1)
    player.image(START + STEP)
    recorded = player.finish()
    assert list(recorded.sensors) == ["cam.image_raw"]
    assert recorded.sensors["cam.image_raw"].params[0] == "PINHOLE"
    assert player.topic("/cam/image_raw")["warned"] == {
        "no pose source": 2
    }  # no word of CameraInfo: it came


def test_images_without_camera_info_are_counted() -> None:
    player = Player()
    for index in range(3):
        player.image(START + index * STEP)
    player.finish()
    assert player.topic("/cam/image_raw")["warned"]["no CameraInfo"] == 3


def test_a_calibration_that_changes_begins_a_new_sensor_and_is_reported() -> None:
    player = Player()
    for index, matrix in enumerate((K, K * 1.1, K * 1.1, K)):
        player.info(
            START + index * STEP,
            matrix * [[1, 1, 1], [1, 1, 1], [0, 0, 0]] + [[0, 0, 0], [0, 0, 0], [0, 0, 1]],
        )
        player.image(START + index * STEP)
    recorded = player.finish()
    assert stamps(recorded, "cam.image_raw") == [START, START + 3 * STEP]
    assert stamps(recorded, "cam.image_raw-2") == [START + STEP, START + 2 * STEP]
    assert recorded.sensors["cam.image_raw-2"].params[3] == str(50.0 * 1.1)
    reasons = player.topic("/cam/image_raw")["warned"]
    assert reasons["calibration changed: a new sensor begins"] == 2


def test_each_camera_info_is_kept_though_none_of_them_calibrates() -> None:
    player = Player()
    for index, focal in enumerate((0.0, np.nan)):
        player.info(START + index * STEP, np.diag([focal, focal, 1.0]))
        player.image(START + index * STEP)
    recorded = player.finish()
    kept = [recorded.sensors[name].origin["camera_info"]["k"][0] for name in recorded.sensors]
    assert kept == [0.0, pytest.approx(np.nan, nan_ok=True)]
    assert {sensor.params[0] for sensor in recorded.sensors.values()} == {"UNKNOWN_CAMERA"}


def test_a_camera_info_without_images_is_reported() -> None:
    player = Player()
    player.info(START)
    player.finish()
    assert player.topic("/cam/camera_info")["warned"] == {"no image of this camera": 1}


def test_a_resolution_that_changes_begins_a_new_sensor_and_is_reported() -> None:
    player = Player()
    player.info(START)
    player.image(START)
    player.image(START + STEP, size=(12, 8))
    recorded = player.finish()
    assert recorded.sensors["cam.image_raw-2"].params == ("UNKNOWN_CAMERA", "12", "8")
    reasons = player.topic("/cam/image_raw")["warned"]
    assert reasons["image size changed to 12×8"] == 1
    assert reasons["CameraInfo is for 6×4, the image is another size"] == 1


def test_a_camera_info_elsewhere_is_found_by_its_frame_or_named() -> None:
    player = Player()
    player.info(START, topic="/calibration")
    player.image(START)
    assert player.finish().sensors["cam.image_raw"].params[0] == "PINHOLE"
    named = {"/cam/image_raw": TopicOptions(camera_info="/b", name="front")}
    player = Player(topics=named)
    player.info(START, topic="/a")
    player.info(START, K @ np.diag([2.0, 2, 1]), topic="/b")
    player.image(START)
    assert player.finish().sensors["front"].params[3] == "100.0"


def test_depth_is_told_by_its_encoding_or_the_configuration() -> None:
    thermal = {"/thermal": TopicOptions(kind="camera")}
    player = Player(topics=thermal)
    for topic in ("/depth", "/thermal"):
        player.play(topic, image(np.zeros((4, 6), np.uint16), "16UC1", START, "cam"))
    recorded = player.finish()
    assert recorded.sensors["depth"].kind == "depth"
    assert recorded.sensors["thermal"].kind == "camera"


def test_every_nth_image_is_kept_and_the_others_counted() -> None:
    player = Player(RecordingOptions(every=3))
    for index in range(7):
        player.image(START + index * STEP)
    assert stamps(player.finish(), "cam.image_raw") == [START + i * STEP for i in (0, 3, 6)]
    assert player.topic("/cam/image_raw")["skipped"] == {"not selected": 4}


def test_images_that_did_not_move_enough_are_left_out() -> None:
    player = Player(RecordingOptions(min_distance=1.0))
    player.tf(START, "base_link", "cam", (0, 0, 1), static=True)
    for index in range(21):
        player.odometry(START + index * STEP, 0.3 * index)
        player.image(START + index * STEP + STEP // 2)
    recorded = player.finish()
    kept = [(stamp - START) / STEP for stamp in stamps(recorded, "cam.image_raw")]
    assert kept == [0.5, 4.5, 8.5, 12.5, 16.5, 20.5]  # the last one has no pose and stays
    assert len(recorded.poses) == 5


# -- rigs and poses ---------------------------------------------------------------------------


def test_poses_are_interpolated_between_transforms_never_nearest() -> None:
    player = Player()
    player.tf(START, "base_link", "cam", (1, 0, 0.5), TURN, static=True)
    for index in range(4):
        player.tf(START + index * STEP, "odom", "base_link", (index, 0, 0))
        player.image(START + index * STEP + STEP // 4)
    recorded = player.finish()
    assert positions(recorded, "rig-base_link") == {
        0.25: [0.25, 0, 0], 1.25: [1.25, 0, 0], 2.25: [2.25, 0, 0],
    }  # fmt: skip
    assert player.topic("/cam/image_raw")["warned"]["no pose at that time"] == 1
    sensor_from_rig = recorded.rigs["rig-base_link", "cam.image_raw"].sensor_from_rig
    base_from_camera = Transform.from_quaternion(TURN, (1, 0, 0.5))
    assert sensor_from_rig.distance_to(base_from_camera.inverse())[0] < 1e-12


@pytest.mark.parametrize("chain", [["odom"], ["map", "odom"], ["earth", "map", "odom"]])
def test_any_parent_of_tf_can_be_the_world(chain: list[str]) -> None:
    player = Player()
    player.tf(START, "base_link", "cam", (0, 0, 0), static=True)
    for index in range(3):
        at = START + index * STEP
        for parent, child in zip(chain, [*chain[1:], "base_link"], strict=True):
            player.tf(at, parent, child, (index if child == "base_link" else 10, 0, 0))
        player.image(at)
    recorded = player.finish()
    world = "map" if "map" in chain else chain[0]
    assert player.session.summary()["world_frame"] == world
    offset = 10 * (len(chain) - chain.index(world) - 1)
    assert positions(recorded, "rig-base_link")[1] == [offset + 1, 0, 0]


def test_a_camera_moved_by_tf_itself_has_its_own_poses() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "world", "cam", (0, index, 0))
        player.image(START + index * STEP)
    recorded = player.finish()
    assert not recorded.rigs
    assert positions(recorded, "cam.image_raw") == {i: [0, i, 0] for i in range(3)}


def test_odometry_is_used_where_tf_does_not_reach() -> None:
    player = Player(
        extrinsics=(Extrinsic("base_link", "cam", urdf_transform((1, 0, 0), (0, 0, 0))),)
    )
    for index in range(3):
        player.odometry(START + index * STEP, 2.0 * index)
        player.tf(START + index * STEP, "base_link", "wheel", (index, 0, 0))
        player.image(START + index * STEP)
    recorded = player.finish()
    assert player.session.summary()["source"] == "/odom"
    assert positions(recorded, "rig-base_link")[1] == [2.0, 0, 0]
    assert ("rig-base_link", "cam.image_raw") in recorded.rigs


def test_the_source_can_be_chosen() -> None:
    player = Player(RecordingOptions(trajectory="/truth", pose_frame="cam"))
    for index in range(3):
        at = START + index * STEP
        player.tf(at, "odom", "cam", (index, 0, 0))
        pose = pose_fields("Pose", (1, 0, 0, 0), (-index, 0, 0), 2)
        player.play("/truth", make("geometry_msgs/PoseStamped", stamp=at, frame="map", pose=pose))
        player.image(at)
    assert positions(player.finish(), "cam.image_raw")[2] == [-2, 0, 0]


def test_gnss_alone_gives_positions_without_orientation() -> None:
    player = Player()
    player.fix(START, 48.0)
    player.image(START + 5 * STEP)
    player.fix(START + 10 * STEP, 48.0 + 10 / 111_200)
    recorded = player.finish()
    ((_, row),) = recorded.poses.items()
    assert not row.oriented
    east, north, _ = row.device_from_world.inverse().translation
    assert abs(east) < 1e-6 and north == pytest.approx(5, abs=0.02)
    assert player.session.summary()["datum"]["latitude"] == 48.0


def test_positions_that_a_receiver_does_not_vouch_for_are_no_poses() -> None:
    player = Player()
    no_fix = make("sensor_msgs/NavSatStatus", status=-1)
    for index in range(3):
        stale = make("sensor_msgs/NavSatFix", stamp=START + index * STEP, latitude=48.0,
                     longitude=8.0, altitude=1.0, status=no_fix)  # fmt: skip
        player.play("/fix", stale)
        player.image(START + index * STEP)
    assert not player.finish().poses
    assert len(player.to.records["fix"]) == 3, "what came is kept all the same"


def test_gnss_does_not_take_the_place_of_poses_that_come_a_little_later() -> None:
    player = Player()
    for index in range(40):
        at = START + index * STEP
        player.fix(at, 48.0)
        if index >= 10:
            player.tf(at, "odom", "cam", (index, 0, 0))
        player.image(at)
    player.finish()
    assert player.session.summary()["source"] == "tf"


def test_static_transforms_from_outside_the_window_count() -> None:
    player = Player()
    message = transforms([(START - 99 * SECOND, "base_link", "cam", (1, 0, 0, 0), (1, 0, 0))])
    player.session.prepare("/tf_static", message.__msgtype__, message)
    player.image(START)
    recorded = player.finish()
    assert ("rig-base_link", "cam.image_raw") in recorded.rigs
    assert not any(sensor_id.startswith("tf") for sensor_id in recorded.sensors)


def test_long_gaps_between_poses_are_not_interpolated() -> None:
    player = Player(RecordingOptions(max_gap_s=1.0))
    for at in (0, 30):
        player.tf(START + at * STEP, "odom", "cam", (at, 0, 0))
        player.image(START + at * STEP)
    player.image(START + 15 * STEP)
    assert sorted(positions(player.finish(), "cam.image_raw")) == [0, 30]


def test_what_waits_for_a_pose_is_answered_within_the_time_given() -> None:
    player = Player(RecordingOptions(wait_s=2.0, trajectory="tf"))
    for index in range(600):
        at = START + index * STEP
        player.image(at)
        assert player.session.poses.waiting <= 27  # 2 s and half a second at 10 Hz
    assert player.topic("/cam/image_raw")["warned"]["no pose source"] > 500


def test_a_missing_extrinsic_is_named_with_the_cure() -> None:
    player = Player()
    for index in range(3):
        player.odometry(START + index * STEP, index)
        player.image(START + index * STEP)
    player.finish()
    (reason,) = (r for r in player.topic("/cam/image_raw")["warned"] if "cam" in r and "frame" in r)
    assert "'extrinsics'" in reason


def test_images_that_name_no_frame_are_told_so() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "odom", "base_link", (index, 0, 0))
        player.image(START + index * STEP, frame="")
    player.finish()
    told = "messages name no frame: give it as 'frame' under 'topics'"
    assert player.topic("/cam/image_raw")["warned"][told] == 3


def test_a_frame_with_two_parents_is_told() -> None:
    player = Player()
    for index in range(3):
        player.tf(START + index * STEP, "odom", "cam", (index, 0, 0))
        player.tf(START + index * STEP, "world", "cam", (99, index, 0))
        player.image(START + index * STEP)
    player.finish()
    told = "'cam' hangs on 'odom' and on 'world': poses are lost at each change"
    assert player.session.poses.problems == {told: 5}


def test_a_clock_that_jumps_back_mixes_no_poses() -> None:
    player = Player()
    for run in range(2):
        for index in range(30):
            at = START + index * STEP
            message = transforms([(at, "odom", "cam", (1, 0, 0, 0), (index, run * 100, 0))])
            received = START + (run * 40 + index) * STEP
            player.play("/tf", message, received)
            picture = image(np.zeros((4, 6), np.uint8), "mono8", at + run, "cam")
            player.play("/cam/image_raw", picture, received)
    recorded = player.finish()
    second_run = [row for (_, stamp), row in recorded.poses.items() if stamp % STEP == 1]
    assert len(second_run) == 29
    assert {round(row.device_from_world.translation[1], 9) for row in second_run} == {-100.0}
    assert player.session.summary()["problems"] == {"the clock of tf jumped back": 1}
    assert player.topic("/cam/image_raw")["clock_jumps_back"] == 1


# -- odometry that is started again ------------------------------------------------------------


def drives(second_m: float, pause: int, *, tf: bool, above: str = "") -> Player:
    """Odometry up to 29 m, then after a pause in steps from somewhere: 30 m more."""
    player = Player(
        extrinsics=(Extrinsic("base_link", "cam", urdf_transform((0, 0, 0), (0, 0, 0))),)
    )
    for run, start_m in enumerate((0.0, second_m)):
        for index in range(30):
            at = START + ((29 + pause) * run + index) * STEP
            if above:
                player.tf(at, above, "odom", (0, 100, 0))
            if tf:
                player.tf(at, "odom", "base_link", (start_m + index, 0, 0))
                player.tf(at, "base_link", "wheel", (0, 0, 0), (index % 2, 1 - index % 2, 0, 0))
            else:
                player.odometry(at, start_m + index)
            player.image(at + STEP // 2)
    return player


@pytest.mark.parametrize("tf", [True, False], ids=["tf", "topic"])
@pytest.mark.parametrize(
    ("second_m", "pause", "restarts"),
    [
        (0.0, 1, 1),  # a leap of 29 m within a tenth of a second
        (0.0, 600, 1),  # at its origin again a minute later
        (0.0, 15, 0),  # messages were lost, and it drove back: nothing tells
        (30.0, 1, 0),  # drove on
        (60.0, 600, 0),  # drove on while nothing was recorded
    ],
)
def test_odometry_that_is_started_again_makes_two_drives(tf, second_m, pause, restarts) -> None:
    player = drives(second_m, pause, tf=tf)
    recorded = player.finish()
    summary = player.session.summary()
    again = START + (29 + pause) * STEP
    assert summary["restarts"] == [again] * restarts
    assert [count for what, count in summary["problems"].items() if "anew" in what] == (
        [1] * restarts
    )
    found = {at: xyz[0] for at, xyz in positions(recorded, "rig-base_link").items()}
    first = {index + 0.5: index + 0.5 for index in range(29)}
    second = {29 + pause + at: second_m + x for at, x in first.items()}
    within_gap = {29.5: 29.0 + 0.5 * (second_m - 29.0) / pause} if pause * STEP <= 2e9 else {}
    expected = first | second | (within_gap if not restarts else {})
    assert found == pytest.approx(expected)


def test_a_transform_above_odometry_corrects_what_was_started_again() -> None:
    """No pose across the leap, but the frame of the poses is still the map's."""
    player = drives(0.0, 1, tf=True, above="map")
    recorded = player.finish()
    assert player.session.summary()["restarts"] == []
    assert 29.5 not in positions(recorded, "rig-base_link")


@pytest.mark.parametrize("tf", [True, False], ids=["tf", "topic"])
def test_poses_in_a_map_may_leap(tf: bool) -> None:
    player = Player()
    for index in range(20):
        at = START + index * STEP
        x = index if index < 10 else 0.0
        if tf:
            player.tf(at, "map", "cam", (x, 0, 0))
        else:
            pose = pose_fields("Pose", (1, 0, 0, 0), (x, 0, 0), 2)
            message = make("geometry_msgs/PoseStamped", stamp=at, frame="map", pose=pose)
            player.play("/amcl_pose", message)
        player.image(at)
    player.finish()
    assert player.session.summary()["restarts"] == []


# -- messages that are wrong ------------------------------------------------------------------


def test_a_zero_stamp_is_replaced_by_receive_time_and_counted() -> None:
    player = Player()
    player.play("/cam/image_raw", image(np.zeros((4, 6), np.uint8), "mono8", 0, "cam"), START + 7)
    recorded = player.finish()
    (record,) = recorded.records["cam.image_raw"]
    assert record.stamp_ns == START + 7 and record.extra["stamp"] == 0
    assert player.topic("/cam/image_raw")["zero_stamps"] == 1


def test_a_stamp_before_1970_is_replaced_too() -> None:
    player = Player()
    message = image(np.zeros((4, 6), np.uint8), "mono8", 1, "cam")
    message.header.stamp.sec = -5
    player.play("/cam/image_raw", message, START)
    assert stamps(player.finish(), "cam.image_raw") == [START]


def test_bad_messages_are_counted_by_reason_and_the_rest_goes_on() -> None:
    player = Player()
    liar = image(np.zeros((4, 6), np.uint8), "mono8", START, "cam")
    liar.height = 1000
    assert not player.play("/cam/image_raw", liar)
    assert player.image(START + STEP)
    nan = make("sensor_msgs/Imu", stamp=START,
               linear_acceleration=make("geometry_msgs/Vector3", x=float("nan")))  # fmt: skip
    assert not player.play("/imu", nan)
    assert not player.play("/thing", make("strange_msgs/Thing", stamp=START))
    player.finish()
    (kept,) = player.to.records["imu-refused"]
    assert player.to.sensors["imu-refused"].kind == "message"
    assert math.isnan(kept.extra["linear_acceleration"]["x"])
    assert player.topic("/cam/image_raw")["skipped"] == {"bad-size": 1}
    assert player.topic("/imu")["skipped"] == {"not-finite": 1}
    assert player.topic("/thing")["skipped"] == {"unknown type": 1}


def test_hostile_frames_and_topics_give_safe_ids() -> None:
    player = Player()
    evil = "../../etc/passwd, x\n"
    player.play("/../a,b", image(np.zeros((4, 6), np.uint8), "mono8", START, evil))
    player.tf(START, "map", evil, (1, 2, 3), static=True)
    recorded = player.finish()
    for sensor_id in (*recorded.sensors, *(rig for rig, _ in recorded.rigs)):
        assert "/" not in sensor_id and "," not in sensor_id and not sensor_id.startswith(".")
    assert recorded.sensors[next(iter(recorded.records))].origin["frame_id"] == evil


def test_names_of_any_length_give_ids() -> None:
    player = Player()
    long = "/" + "x" * 127
    player.play(long, make("sensor_msgs/Imu", stamp=START, frame="y" * 300))
    player.play(f"{long}/fix", make("sensor_msgs/NavSatFix", stamp=START, latitude=np.nan))
    player.tf(START, "z" * 300, "y" * 300, (1, 2, 3), static=True)
    recorded = player.finish()
    ids = [*recorded.sensors, *(rig for rig, _ in recorded.rigs)]
    assert len(set(ids)) == 5
    for identifier in ids:
        check_id(identifier)


def test_transforms_that_contradict_each_other_are_reported() -> None:
    player = Player()
    player.tf(START, "a", "b", (1, 0, 0), static=True)
    player.tf(START, "a", "b", (1, 0, 0), static=True)  # a repetition says nothing
    player.tf(START, "a", "b", (2, 0, 0), static=True)
    player.tf(START, "b", "a", (2, 0, 0), static=True)
    player.tf(START, "x", "b", (2, 0, 0))
    assert len(player.session.summary()["problems"]) == 3


def test_topics_can_be_ignored_and_renamed() -> None:
    said = {"/a/image": TopicOptions(ignore=True), "/b/image": TopicOptions(name="left")}
    player = Player(topics=said)
    player.image(START, topic="/a/image")
    player.image(START, topic="/b/image")
    assert list(player.finish().sensors) == ["left"]
    assert player.topic("/a/image")["skipped"] == {"ignored": 1}


@pytest.mark.parametrize("node", ["/localizer", "/car/localizer"])
def test_what_the_localizer_makes_is_no_sensor_unless_the_configuration_names_it(node: str) -> None:
    """Pictures without calibration; its pose as a fix, which would bear out the map it is of."""
    picture = f"{node}/debug_image/compressed"
    for said, found in (({}, ["eye.image"]), ({picture: TopicOptions(name="seen")}, ["seen"])):
        player = Player(topics=said)
        player.image(START, topic=picture)
        player.image(START, topic="/eye/image")
        assert set(found) <= set(player.finish().sensors)
        assert player.topic(picture)["skipped"] == ({} if said else {"ignored": 1})
    session = Player().session
    for topic, used in (("fix", False), ("map_points", False), ("pose", True), ("odometry", True)):
        kind = {"fix": "sensor_msgs/msg/NavSatFix", "map_points": "sensor_msgs/msg/PointCloud2"}
        reason = session.unused_because(f"{node}/{topic}", kind.get(topic, "nav_msgs/msg/Odometry"))
        assert bool(reason) is not used


def test_two_topics_never_share_a_sensor() -> None:
    said = {"/a/image": TopicOptions(name="b.image")}
    player = Player(topics=said)
    player.image(START, topic="/a/image")
    player.image(START, topic="/b/image")
    assert len(player.finish().sensors) == 2


def test_undistorted_images_come_with_a_pinhole_camera() -> None:
    player = Player(RecordingOptions(undistort=True))
    bent = camera_info((60, 40), np.array([[40.0, 0, 30], [0, 40, 20], [0, 0, 1]]), START, "cam",
                       d=np.array([-0.2, 0.05, 0, 0, 0.0]))  # fmt: skip
    player.play("/cam/camera_info", bent)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    player.play("/cam/image_raw", image(picture, "mono8", START, "cam"))
    recorded = player.finish()
    assert recorded.sensors["cam.image_raw"].params[0] == "PINHOLE"
    (record,) = recorded.records["cam.image_raw"]
    assert record.extra["undistorted"] is True and record.payload.encode()[:4] == b"\x89PNG"

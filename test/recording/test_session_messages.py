"""Messages that are wrong, and topics that are named otherwise: the recording goes on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bag_tools import START, STEP, image, make
from session_player import Player, stamps

from kapture_ros.dataset.escape import check_id
from kapture_ros.recording.config import TopicOptions


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


def test_a_sensor_that_changes_its_frame_is_told_unless_the_configuration_says_where_it_is() -> (
    None
):
    for said, warned in ((None, 2), (TopicOptions(frame="here"), 0)):
        player = Player(topics={"/cam/image_raw": said} if said else {})
        for index, frame in enumerate(("left", "left", "/left", "right", "right")):
            player.image(START + index * STEP, frame=frame)
        player.finish()
        told = player.topic("/cam/image_raw")["warned"]
        reason = "in the frame 'right'; 'left', which came first, counts"
        assert told.get(reason, 0) == warned
    player = Player()
    for index, frame in enumerate(("imu", "imu_link")):
        message = make("sensor_msgs/Imu", stamp=START + index * STEP, frame=frame)
        player.play("/imu", message)
    player.finish()
    assert sum(player.topic("/imu")["warned"].values()) == 1

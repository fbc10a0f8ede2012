"""Cameras of a recording: which sensor an image is of, with which calibration."""

from __future__ import annotations

import numpy as np
import pytest
from bag_tools import START, STEP, camera_info, image
from session_player import K, Player, stamps

from kapture_ros.recording.config import RecordingOptions, TopicOptions


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

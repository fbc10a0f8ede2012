"""What the node hears becomes queries, or a reason; without a ROS graph."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from heard import SECOND, fix, header, image, info, instant, listening, ready, transform
from sensor_msgs.msg import CameraInfo, CompressedImage, Imu

from kapture_ros.errors import InputError, OptionError
from kapture_ros.msg import WifiAccessPoint, WifiScan
from kapture_ros.nodes.localizer_options import InputOptions, camera_settings
from kapture_ros.nodes.settings import read_settings


def test_images_become_a_query_with_the_cameras_where_tf_says():
    heard = ready()
    heard.inputs.on_image(0, image(5 * SECOND), 0)
    heard.inputs.on_image(1, image(5 * SECOND, "other_eye"), 0)
    (found,) = heard.instants
    query = heard.inputs.query(found)
    assert query.stamp_ns == 5 * SECOND
    assert [i.camera.sensor_id for i in query.images] == ["/a/image", "/b/image"]
    assert [i.cam_from_base.translation[0] for i in query.images] == [-1.0, -2.0]
    assert query.images[0].camera.params == (20.0, 20.0, 15.5, 11.5)
    assert query.images[0].pixels is not None
    assert query.images[0].pixels[0, 1].tolist() == [3, 4, 5], "RGB"


def test_a_camera_that_looked_later_is_where_the_vehicle_was_then():
    heard = ready()
    later = image(5 * SECOND + 30_000_000, "other_eye")
    query = heard.inputs.query(instant(a=image(5 * SECOND), b=later))
    assert query.images[0].cam_from_base.translation[0] == -1.0
    assert query.images[1].cam_from_base.translation[0] == -1.5, "moved half a metre"


def test_poses_of_cameras_may_come_from_parameters():
    heard = listening(camera_poses=["1 2 3 0 0 0 1", "0 0 0 0 0 0 1"])
    heard.inputs.on_info(0, info())
    query = heard.inputs.query(instant(a=image(1)))
    assert query.images[0].cam_from_base.translation.tolist() == [-1, -2, -3]


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        ({"size": (16, 24)}, "/a/image: images are 16×24 but /a/camera_info is for 32×24"),
        ({"frame": "nowhere"}, "where is the camera on the vehicle? frame 'nowhere'"),
        ({"frame": ""}, "images have no frame; set camera_frames"),
        ({"encoding": "hologram8"}, "unknown-encoding: 'hologram8'"),
        ({"encoding": "32FC1", "step": 128, "data": bytes(3072)}, "no camera image"),
        ({"data": b"abc"}, "bad-size"),
    ],
)
def test_an_image_that_cannot_be_used_is_told_and_the_others_are_used(spoiled, told):
    heard = ready()
    bad = image(5 * SECOND, **spoiled)
    with pytest.raises(InputError) as error:
        heard.inputs.query(instant(a=bad))
    assert told in str(error.value)
    assert told in heard.inputs.cameras[0].problem
    query = heard.inputs.query(instant(a=bad, b=image(5 * SECOND, "other_eye")))
    assert [i.camera.sensor_id for i in query.images] == ["/b/image"]
    heard.inputs.query(instant(a=image(6 * SECOND)))
    assert heard.inputs.cameras[0].problem == "", "it recovered"


def test_an_empty_compressed_image_is_told():
    heard = ready(image_topics=["/a/image/compressed"])
    nothing = CompressedImage(header=header(SECOND, "eye"), format="jpeg")
    with pytest.raises(InputError, match="/a/image/compressed: bad-image: 'jpeg' of 0 bytes"):
        heard.inputs.query(instant(a=nothing))


def test_no_camera_info_and_an_uncalibrated_one_are_told():
    heard = listening()
    with pytest.raises(InputError, match="/a/image: no CameraInfo on /a/camera_info"):
        heard.inputs.query(instant(a=image(1)))
    heard.inputs.on_info(0, CameraInfo(width=32, height=24))
    with pytest.raises(InputError, match="uncalibrated"):
        heard.inputs.query(instant(a=image(1)))


@pytest.mark.parametrize(
    ("mount", "told"), [("0 0 1 0 0 0 1", True), ("0 0 1 -0.5 0.5 -0.5 0.5", False)]
)
def test_a_link_in_place_of_an_optical_frame_is_suspected(mount: str, told: bool):
    """Simulators stamp images so: the pose would be turned, and nobody would say why."""
    heard = ready(image_topics=["/a/image"], camera_poses=[mount])
    heard.inputs.query(instant(a=image(SECOND)))
    problem = heard.inputs.problems.get("/a/image", "")
    assert ("it looks straight up" in problem and "optical" in problem) == told


def test_two_cameras_with_one_frame_are_not_believed_to_be_one():
    heard = ready()
    query = heard.inputs.query(instant(a=image(1), b=image(1)))
    assert [i.camera.sensor_id for i in query.images] == ["/a/image"]
    assert "another camera has the frame 'eye' too" in heard.inputs.cameras[1].problem


def test_the_fix_nearest_in_time_goes_along_with_its_lever_arm_and_age():
    heard = ready(gnss_topic="/fix")
    for tenths in (10, 12, 30):
        heard.inputs.on_gnss(fix(tenths * SECOND // 10), 0)
    gnss = heard.inputs.query(instant(a=image(13 * SECOND // 10))).gnss
    assert gnss is not None
    assert gnss.lever_arm.tolist() == [1, 0, 0]
    assert gnss.covariance[0, 0] == pytest.approx(1 + 1, abs=1e-3), "0.1 s at 10 m/s is 1 m"
    assert heard.inputs.query(instant(a=image(20 * SECOND // 10))).gnss is None, "too old"


def test_wifi_and_imu_go_along():
    heard = ready(wifi_topic="/wifi", imu_topic="/imu")
    scan = WifiScan(
        header=header(SECOND, ""), access_points=[WifiAccessPoint(bssid="aa", rssi=-40)]
    )
    heard.inputs.on_wifi(scan, 0)
    assert heard.inputs.query(instant(a=image(2 * SECOND))).wifi == {"aa": -40.0}
    assert heard.inputs.query(instant(a=image(9 * SECOND))).wifi is None
    imu = Imu(header=header(SECOND, "eye"))
    imu.angular_velocity.z, imu.linear_acceleration.z = 0.1, 9.81
    heard.inputs.on_imu(imu, 0)
    assert heard.imu[0].turn_rate.tolist() == [0, 0, 0.1]
    imu.header.frame_id = "unheard_of"
    heard.inputs.on_imu(imu, 0)
    assert "unheard_of" in heard.inputs.problems["/imu"]


def test_the_slop_changes_at_once():
    heard = ready()
    heard.inputs.use(read_settings({"sync_slop": 0.5}.get, "test"))
    assert heard.inputs.synchronizer.slop_ns == SECOND // 2


def test_stamps_of_zero_become_the_time_of_arrival_and_are_told():
    heard = ready(image_topics=["/a/image"])
    heard.inputs.on_image(0, image(0), 7 * SECOND)
    assert heard.instants[0].stamp_ns == 7 * SECOND
    assert "stamps of zero" in heard.inputs.problems["/a/image stamps"]


def test_a_clock_that_jumps_back_begins_everything_anew():
    heard = ready(image_topics=["/a/image"], gnss_topic="/fix")
    heard.inputs.on_image(0, image(100 * SECOND), 0)
    heard.inputs.on_gnss(fix(100 * SECOND), 0)
    heard.inputs.on_image(0, image(99 * SECOND), 0)
    assert heard.jumps == [], "an image that was overtaken is no jump"
    heard.inputs.on_image(0, image(SECOND), 0)
    assert heard.jumps == ["the time of /a/image went back by 99.0 s"]
    assert [found.stamp_ns for found in heard.instants] == [100 * SECOND, SECOND]
    assert heard.inputs.query(heard.instants[1]).gnss is None
    heard.inputs.on_image(0, image(2 * SECOND), 0)
    assert heard.jumps == ["the time of /a/image went back by 99.0 s"]


def test_only_what_tells_the_motion_tells_that_the_clock_went_back():
    """A receiver that finds its fix sets its clock; a detector's frames come when they are done."""
    heard = ready(gnss_topic="/fix", odometry_topic="")
    heard.inputs.on_transforms(transform(100 * SECOND, "odom", "base_link", 0.0), static=False)
    heard.inputs.on_gnss(fix(100 * SECOND), 0)
    heard.inputs.on_transforms(transform(100 * SECOND, "eye", "person", 0.0), static=False)
    heard.inputs.on_gnss(fix(82 * SECOND), 0)
    heard.inputs.on_transforms(transform(90 * SECOND, "eye", "person", 0.0), static=False)
    assert heard.jumps == []
    heard.inputs.on_transforms(transform(SECOND, "odom", "base_link", 0.0), static=False)
    assert heard.jumps == ["the time of tf base_link went back by 99.0 s"]


def test_messages_that_were_under_way_when_the_clock_went_back_are_left_out():
    heard = ready(image_topics=["/a/image"], gnss_topic="/fix")
    heard.inputs.on_image(0, image(100 * SECOND), 0)
    heard.inputs.on_image(0, image(SECOND), 0)
    heard.clock_ns = 2 * SECOND
    heard.inputs.on_image(0, image(101 * SECOND), 0)
    heard.inputs.on_transforms(transform(101 * SECOND, "odom", "base_link", 3.0), static=False)
    heard.inputs.on_image(0, image(2 * SECOND), 0)
    assert heard.jumps == ["the time of /a/image went back by 99.0 s"]
    assert heard.odometry == []
    assert [found.stamp_ns for found in heard.instants] == [100 * SECOND, SECOND, 2 * SECOND]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (InputOptions(image_topics=()), "'image_topics' is empty"),
        (InputOptions(image_topics=("/a", "/a")), "names a topic twice"),
        (InputOptions(camera_frames=("a", "b")), "'camera_frames' has 2 entries"),
        (InputOptions(camera_poses=("1 2 3",)), "'1 2 3' is no pose"),
        (InputOptions(camera_poses=("1 2 3 0 0 0 0",)), "is no pose"),
    ],
)
def test_cameras_that_contradict_themselves_are_refused(options, told):
    with pytest.raises(OptionError, match=told):
        camera_settings(options)

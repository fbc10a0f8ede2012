"""What the node hears becomes queries, or a reason; without a ROS graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, NavSatStatus
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from kapture_ros.errors import InputError, OptionError
from kapture_ros.messages import MessageError
from kapture_ros.msg import WifiAccessPoint, WifiScan
from kapture_ros.nodes import conversions
from kapture_ros.nodes.inputs import Inputs, Outlets
from kapture_ros.nodes.localizer_options import InputOptions, camera_settings
from kapture_ros.nodes.settings import Settings, parameters, read_settings
from kapture_ros.nodes.synchronizer import Instant
from kapture_ros.transforms import Transform

SECOND = 10**9


def header(stamp_ns: int, frame: str) -> Header:
    return Header(stamp=Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND), frame_id=frame)


def image(stamp_ns: int, frame: str = "eye", size: tuple[int, int] = (32, 24), **changes) -> Image:
    width, height = size
    pixels = np.arange(height * width * 3, dtype=np.uint8)
    fields = {"encoding": "rgb8", "step": 3 * width, "data": pixels.tobytes()} | changes
    return Image(header=header(stamp_ns, frame), height=height, width=width, **fields)


def info(width: int = 32, height: int = 24) -> CameraInfo:
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [20.0, 0, 15.5, 0, 20.0, 11.5, 0, 0, 1.0]
    return message


def transform(stamp_ns: int, parent: str, child: str, x: float) -> TFMessage:
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    message.transform.translation.x = x
    return TFMessage(transforms=[message])


@dataclass
class Heard:
    """Inputs and what they handed on."""

    inputs: Inputs
    instants: list = field(default_factory=list)
    odometry: list = field(default_factory=list)
    imu: list = field(default_factory=list)
    jumps: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    clock_ns: int = 10**18


def listening(**changes) -> Heard:
    values = {"image_topics": ["/a/image", "/b/image"]} | changes
    settings: Settings = read_settings(values.get, "test")
    heard = Heard(None)  # type: ignore[arg-type]

    def take(sample) -> bool:
        heard.odometry.append(sample)
        return True

    def is_over(stamp_ns: int) -> bool:
        return stamp_ns > heard.clock_ns

    moved = Transform(translation=[0.5, 0, 0])
    outlets = Outlets(
        heard.instants.append,
        take,
        heard.imu.append,
        lambda a, b: moved,
        heard.jumps.append,
        is_over,
        heard.sent,
    )
    heard.inputs = Inputs(settings, camera_settings(settings.inputs), outlets)
    return heard


def ready(**changes) -> Heard:
    """With both calibrations and where the cameras are."""
    heard = listening(**changes)
    for camera in range(len(heard.inputs.cameras)):
        heard.inputs.on_info(camera, info())
    static = TFMessage(
        transforms=[
            *transform(0, "base_link", "eye", 1.0).transforms,
            *transform(0, "base_link", "other_eye", 2.0).transforms,
        ]
    )
    heard.inputs.on_transforms(static, static=True)
    return heard


def instant(**images: Image) -> Instant:
    """Of cameras a and b."""
    numbers = {"a": 0, "b": 1}
    return Instant(
        {
            numbers[c]: (m.header.stamp.sec * SECOND + m.header.stamp.nanosec, m)
            for c, m in images.items()
        }
    )


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


def test_odometry_comes_from_tf_where_it_has_no_topic():
    heard = ready()
    heard.inputs.on_transforms(transform(SECOND, "odom", "base_link", 3.0), static=False)
    (sample,) = heard.odometry
    assert (sample.stamp_ns, sample.odom_from_base.translation[0]) == (SECOND, 3.0)
    assert sample.covariance is None


def test_odometry_of_a_topic_brings_the_covariance_of_its_twist():
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_transforms(transform(SECOND, "odom", "base_link", 3.0), static=False)
    assert heard.odometry == [], "TF is not listened to then"
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        message.twist.covariance = np.diag([0.04] * 6).ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[0].covariance is None, "there was no step yet"
    assert heard.odometry[1].covariance == pytest.approx(np.diag([0.0004] * 6))


@pytest.mark.parametrize("unknown", [0.0, -1.0, np.nan, np.inf, 1e6])
def test_a_twist_that_says_that_something_was_not_measured_is_not_believed(unknown):
    """Wheels say 1e6 for height, roll and pitch: the pose would be lost in one step."""
    heard = ready(odometry_topic="/odom")
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        message.twist.covariance = np.diag([0.001, 0.001, *[unknown] * 3, 0.03]).ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[1].covariance is None


def test_a_twist_with_an_impossible_covariance_is_not_believed():
    heard = ready(odometry_topic="/odom")
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        covariance = 0.01 * np.eye(6)
        covariance[0, 1] = covariance[1, 0] = 5.0
        message.twist.covariance = covariance.ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[1].covariance is None


def odometry(tenths: int, x: float, yaw: float = 0.0, frame: str = "odom") -> Odometry:
    message = Odometry(header=header(tenths * SECOND // 10, frame), child_frame_id="base_link")
    message.pose.pose.position.x = x
    message.pose.pose.orientation.z = np.sin(yaw / 2)
    message.pose.pose.orientation.w = np.cos(yaw / 2)
    return message


@pytest.mark.parametrize(("x", "yaw", "leaps"), [(4, 0.1, 0), (-20, 0, 1), (0.1, 3, 1)])
def test_odometry_that_is_started_again_begins_everything_anew(x, yaw, leaps):
    """Else the vehicle would seem to have driven to where it began."""
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_odometry(odometry(10, 0.0), 0)
    heard.inputs.on_odometry(odometry(11, x, yaw), 0)
    heard.inputs.on_odometry(odometry(12, x + 0.1, yaw), 0)
    assert [("leapt" in why) for why in heard.jumps] == [True] * leaps
    assert len(heard.odometry) == 3


@pytest.mark.parametrize(
    ("pause_s", "x", "leaps"), [(3, 0.1, 1), (3, 22.0, 0), (1, 0.1, 0)], ids=str
)
def test_odometry_that_is_at_its_origin_again_after_a_pause_was_started_again(pause_s, x, leaps):
    """No leap by its speed: 20 m in 3 s."""
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_odometry(odometry(10, 20.0), 0)
    heard.inputs.on_odometry(odometry(10 + 10 * pause_s, x), 0)
    assert len(heard.jumps) == leaps


def test_odometry_that_is_not_where_tf_says_is_told():
    heard = ready(odometry_topic="/wheels")
    heard.inputs.on_odometry(odometry(10, 0.0, frame="wheel_odom"), 0)
    assert "/wheels is in 'wheel_odom'; set odom_frame" in heard.inputs.foreign_odometry
    heard.inputs.on_odometry(odometry(11, 0.0), 0)
    heard.inputs.on_transforms(transform(SECOND * 11 // 10, "odom", "base_link", 2.0), static=False)
    heard.inputs.on_odometry(odometry(12, 0.0), 0)
    assert "it is 2.0 m and 0° from there" in heard.inputs.foreign_odometry
    heard.inputs.on_transforms(transform(SECOND * 12 // 10, "odom", "base_link", 0.1), static=False)
    heard.inputs.on_odometry(odometry(13, 0.0), 0)
    assert heard.inputs.foreign_odometry == ""


def test_a_filter_that_dates_its_transform_ahead_is_the_same_odometry():
    """At 20 m/s a tenth of a second is two metres."""
    heard = ready(odometry_topic="/odom")
    for tenths in range(10, 20):
        ahead = transform((tenths + 1) * SECOND // 10, "odom", "base_link", 2.0 * tenths)
        heard.inputs.on_transforms(ahead, static=False)
        heard.inputs.on_odometry(odometry(tenths, 2.0 * tenths), 0)
        assert heard.inputs.foreign_odometry == ""


def test_odometry_of_another_frame_is_moved_to_the_base():
    heard = ready(odometry_topic="/odom")
    message = Odometry(header=header(SECOND, "odom"), child_frame_id="eye")
    heard.inputs.on_odometry(message, 0)
    assert heard.odometry[0].odom_from_base.translation[0] == -1.0
    message.child_frame_id = "unheard_of"
    heard.inputs.on_odometry(message, 0)
    assert "unheard_of" in heard.inputs.problems["/odom"]


def test_our_own_transform_is_not_heard_and_that_of_others_is_told():
    heard = ready()
    heard.sent.append(SECOND)
    heard.inputs.on_transforms(transform(SECOND, "map", "odom", 3.0), static=False)
    assert heard.inputs.tree.parent("odom") is None
    assert heard.inputs.problems == {}
    heard.inputs.on_transforms(transform(SECOND + 1, "map", "odom", 3.0), static=False)
    assert "another node says where 'odom' is in 'map'" in heard.inputs.problems["tf"]


@pytest.mark.parametrize(("child", "publish_tf"), [("dock", "map_to_odom"), ("odom", "none")])
def test_what_this_node_does_not_place_others_may(child, publish_tf):
    heard = ready(publish_tf=publish_tf)
    heard.inputs.on_transforms(transform(SECOND, "map", child, 3.0), static=True)
    assert heard.inputs.problems == {}


def test_a_transform_that_closes_a_circle_is_told():
    heard = ready()
    heard.inputs.on_transforms(transform(SECOND, "eye", "base_link", 3.0), static=False)
    assert "cycle" in heard.inputs.problems["tf"]


def fix(stamp_ns: int, **changes) -> NavSatFix:
    message = NavSatFix(header=header(stamp_ns, "eye"), latitude=45.0, longitude=5.0, altitude=9.0)
    message.position_covariance = np.diag([1.0, 1.0, 4.0]).ravel()
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    for name, value in changes.items():
        setattr(message, name, value)
    return message


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
    ("encoding", "dtype", "shape"),
    [
        ("mono8", np.uint8, (24, 32)),
        ("mono16", np.uint16, (24, 32)),
        ("bgra8", np.uint8, (24, 32, 3)),
    ],
)
def test_every_kind_of_light_becomes_grey_or_rgb(encoding, dtype, shape):
    samples = 4 if encoding == "bgra8" else 1
    data = (np.arange(24 * 32 * samples) % 200).astype(dtype)
    message = image(1, encoding=encoding, step=32 * samples * data.itemsize, data=data.tobytes())
    pixels = conversions.rgb_pixels(message)
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
    assert pixels.max() > 150


def test_a_fix_without_covariance_or_altitude_is_believed_accordingly():
    unknown = fix(1, position_covariance_type=NavSatFix.COVARIANCE_TYPE_UNKNOWN)
    assert conversions.gnss_fix(unknown, np.zeros(3), 3.0).covariance[0, 0] == pytest.approx(9)
    flat = conversions.gnss_fix(fix(1, altitude=np.nan), np.zeros(3), 3.0)
    assert np.isfinite(flat.altitude) and flat.covariance[2, 2] > 1e6
    with pytest.raises(MessageError):
        conversions.gnss_fix(fix(1, latitude=np.nan), np.zeros(3), 3.0)


@pytest.mark.parametrize("diagonal", [(0, 0, 0), (-1, 0, 0), (1, 1, -1)])
def test_a_fix_with_an_impossible_covariance_has_none(diagonal):
    impossible = fix(1, position_covariance=np.diag(np.array(diagonal, float)).ravel())
    assert conversions.gnss_fix(impossible, np.zeros(3), 3.0).covariance[0, 0] == pytest.approx(9)


def test_a_receiver_without_a_fix_is_believed_by_its_covariance_only():
    none = NavSatStatus(status=NavSatStatus.STATUS_NO_FIX)
    assert conversions.gnss_fix(fix(1, status=none), np.zeros(3), 3.0).covariance[0, 0] == 1
    unknown = fix(1, status=none, position_covariance_type=NavSatFix.COVARIANCE_TYPE_UNKNOWN)
    with pytest.raises(MessageError, match="no fix"):
        conversions.gnss_fix(unknown, np.zeros(3), 3.0)


def test_a_pose_from_rviz_gets_the_variances_it_does_not_have():
    message = PoseWithCovarianceStamped()
    message.pose.pose.orientation.w = 1.0
    message.pose.covariance[0] = message.pose.covariance[7] = 0.25
    message.pose.covariance[35] = 0.0685
    prior = conversions.pose_prior(message)
    assert np.linalg.eigvalsh(prior.covariance)[0] > 0
    assert prior.covariance[2, 2] == 0.25
    message.pose.covariance = np.zeros(36)  # as on the command line: nobody points so well
    assert conversions.pose_prior(message).covariance[0, 0] == 0.25
    message.pose.covariance[0] = np.nan
    with pytest.raises(MessageError):
        conversions.pose_prior(message)


def test_an_imu_is_turned_into_the_axes_of_the_base():
    imu = Imu()
    imu.linear_acceleration.x = 9.81
    sample = conversions.imu_sample(imu, 1, Rotation.from_euler("y", -np.pi / 2))
    assert sample.acceleration == pytest.approx([0, 0, 9.81])


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


def test_names_of_parameters_are_unique_and_values_checked():
    names = [name for name, _, _ in parameters()]
    assert len(names) == len(set(names))
    with pytest.raises(OptionError, match=r"publish_rate.*1 to 200"):
        read_settings({"publish_rate": 1000.0}.get, "test")
    assert read_settings({"pose.max_error": 3.0}.get, "test").localizer.pose.max_error == 3.0


def test_a_message_needs_no_ros_class():
    plain = SimpleNamespace(access_points=[SimpleNamespace(bssid="aa", rssi=-50)])
    assert conversions.wifi_signals(plain) == {"aa": -50.0}


def test_the_parameter_file_is_that_of_the_options():
    from kapture_ros.nodes.parameters import parameter_file
    from kapture_ros.nodes.settings import PARTS, TITLE

    file = Path(__file__).parents[2] / "config" / "localize.yaml"
    assert file.read_text() == parameter_file(TITLE, PARTS.values())

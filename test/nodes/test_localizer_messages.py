"""What the localizer says in messages: numbers in the order and axes that ROS wants."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from scipy.spatial.transform import Rotation

from kapture_ros.errors import KaptureRosError
from kapture_ros.localization.extractor import StartedFeatures
from kapture_ros.localization.query import Reason
from kapture_ros.localization.sequence_state import State
from kapture_ros.nodes import diagnosis, publishing
from kapture_ros.nodes.inference import WatchedExtractor, explain
from kapture_ros.nodes.inputs import Inputs
from kapture_ros.nodes.localizer_options import camera_settings
from kapture_ros.nodes.predictor import Prediction
from kapture_ros.nodes.settings import read_settings
from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum

STAMP = 1_700_000_000_123_456_789
POSE = Transform(Rotation.from_euler("z", np.pi / 2), [1.0, 2.0, 3.0])
COVARIANCE = np.diag([1.0, 4.0, 9.0, 0.01, 0.02, 0.03])


def test_stamps_poses_and_covariances_keep_their_order():
    message = publishing.pose_message(STAMP, "map", POSE, COVARIANCE)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == divmod(STAMP, 10**9)
    assert message.header.frame_id == "map"
    position, turn = message.pose.pose.position, message.pose.pose.orientation
    assert (position.x, position.y, position.z) == (1.0, 2.0, 3.0)
    assert (turn.x, turn.y) == (0.0, 0.0)
    assert turn.z == pytest.approx(turn.w) == pytest.approx(np.sqrt(0.5))
    assert np.reshape(message.pose.covariance, (6, 6)) == pytest.approx(COVARIANCE)


def test_odometry_is_of_the_base_in_the_map_with_its_own_speed():
    twist = np.array([1.0, 2, 3, 4, 5, 6])
    prediction = Prediction(STAMP, State.TRACKING, POSE, COVARIANCE, None, twist)
    message = publishing.odometry_message(prediction, "map", "base_link")
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    assert [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z] == twist.tolist()


def test_a_fix_is_east_north_up_whatever_the_yaw_of_the_map():
    datum = Datum(45.0, 5.0, 100.0, yaw=np.pi / 2)  # the map's x axis looks north
    pose = Transform(translation=[100.0, 0.0, 7.0])
    message = publishing.fix_message(STAMP, "base_link", pose, COVARIANCE, datum)
    assert message.latitude > 45.0005
    assert message.longitude == pytest.approx(5.0, abs=1e-9)
    assert message.altitude == pytest.approx(107.0, abs=0.01)
    assert np.diag(np.reshape(message.position_covariance, (3, 3))) == pytest.approx([4, 1, 9])


def small_map(count: int) -> SimpleNamespace:
    rng = np.random.default_rng(0)

    class Points(SimpleNamespace):
        def __len__(self) -> int:
            return count

    return SimpleNamespace(
        points=Points(xyz=rng.normal(size=(count, 3)), rgb=np.tile(np.uint8([1, 2, 3]), (count, 1)))
    )


def test_the_cloud_holds_places_and_colours_and_is_a_sample_of_a_large_map():
    cloud = publishing.point_cloud(small_map(50), "map", STAMP, 1000)
    table = np.frombuffer(cloud.data, [("xyz", "<f4", 3), ("bgra", "u1", 4)])
    assert table["xyz"] == pytest.approx(small_map(50).points.xyz, abs=1e-6)
    assert table["bgra"][0].tolist() == [3, 2, 1, 0]
    assert [field.offset for field in cloud.fields] == [0, 4, 8, 12]
    assert (cloud.width, cloud.point_step, cloud.row_step) == (50, 16, 800)
    assert publishing.point_cloud(small_map(50), "map", STAMP, 7).width == 7


def test_the_state_hangs_above_the_vehicle_in_a_colour_of_its_own():
    place, colors = np.array([1.0, 2.0, 3.0]), set()
    for state in State:
        marker = publishing.status_marker(state, "3 of 25", place, "map", STAMP)
        assert marker.text == f"{state.name}\n3 of 25"
        assert (marker.header.frame_id, marker.pose.position.x) == ("map", 1.0)
        assert marker.pose.position.z > 4.0
        assert marker.color.a == 1.0
        colors.add((marker.color.r, marker.color.g, marker.color.b))
    assert len(colors) == len(State)


def test_diagnostics_are_as_grave_as_the_state():
    statistics = diagnosis.Statistics()
    statistics.add(Reason.TOO_FEW_INLIERS, "3 of 25", 80.0)
    lost = diagnosis.localization_status("localizer", State.LOST, statistics, None)
    assert lost.level == diagnosis.ERROR
    assert "TOO_FEW_INLIERS: 3 of 25" in lost.message
    values = {value.key: value.value for value in lost.values}
    assert values["images too few inliers"] == "1"
    assert values["latency ms p50 p95 p99"] == "80 80 80"
    fine = diagnosis.localization_status("localizer", State.TRACKING, statistics, None)
    assert (fine.level, fine.message) == (diagnosis.OK, "tracking")


@pytest.mark.parametrize(
    ("odometry", "clock", "told"),
    [
        (None, "", "no odometry (TF odom to base_link)"),
        ((0.1, 0.1), "", "ok"),
        ((9.0, 9.0), "", "no odometry for 9.0 s"),
        ((0.1, 2.0), "", "odometry comes 2.0 s after its stamps"),
        ((0.1, 1e8), "stamps are of a bag", "stamps are of a bag"),
    ],
)
def test_odometry_that_is_missing_and_stamps_of_another_time_are_told_apart(odometry, clock, told):
    settings = read_settings({}.get, "test")
    inputs = Inputs(settings, camera_settings(settings.inputs), None)
    status = diagnosis.inputs_status("localizer", inputs, odometry, clock)
    assert status.message.startswith(told)
    assert (status.level == diagnosis.OK) == (told == "ok")


def test_the_log_is_told_what_changed_and_nothing_twice():
    log = diagnosis.ChangeLog()

    def news(level: bytes, text: str) -> list[str]:
        return [s.message for s in log.news([diagnosis.status("camera", level, text, {})])]

    assert news(diagnosis.OK, "images arrive") == []
    assert news(diagnosis.WARN, "no image for 2.1 s") == ["no image for 2.1 s"]
    assert news(diagnosis.WARN, "no image for 3.1 s") == []
    assert news(diagnosis.ERROR, "no image for 10.1 s") == ["no image for 10.1 s"]
    assert news(diagnosis.OK, "images arrive") == ["images arrive"]
    assert news(diagnosis.OK, "images arrive") == []


class FullGpu:
    """An extractor whose device holds only so many images."""

    types = None

    def __init__(self, room: int):
        self.room = room

    def start(self, images, describe):
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [StartedFeatures({}, image.sum) for image in images]


def test_a_full_gpu_gets_one_image_at_a_time_and_then_an_error_that_helps():
    images = [np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)]
    started = WatchedExtractor(FullGpu(room=1)).start(images, describe=False)
    assert [found.wait() for found in started] == [4, 0]
    with pytest.raises(KaptureRosError, match="memory is full; end other programs"):
        WatchedExtractor(FullGpu(room=0)).start(images, describe=False)


def test_a_gpu_that_is_full_later_on_is_told_alike_and_other_errors_are_logged(caplog):
    assert "use networks.device cpu" in explain(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert caplog.text == ""
    assert explain(ValueError("odd")) == "unexpected ValueError: odd"
    assert "ValueError: odd" in caplog.text


def test_extraction_is_timed_once():
    watched = WatchedExtractor(FullGpu(room=2))
    (started,) = watched.start([np.ones((2, 2), np.uint8)], describe=False)
    started.wait()
    assert watched.take_ms() > 0
    assert np.isnan(watched.take_ms())

"""CameraInfo: what kapture's camera says of a point in space is what ROS says of it."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest
from bag_tools import camera_info, make
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.dataset.camera_models import (
    is_rectified,
    model_of_camera_info,
    opencv_camera,
)

SIZE = (640, 480)
K = np.array([[500.0, 0, 321.5], [0, 510.0, 238.25], [0, 0, 1]])
POINTS = np.random.default_rng(0).uniform([-1, -0.7, 2], [1, 0.7, 4], (50, 3))


def info(model: str = "plumb_bob", d=(0, 0, 0, 0, 0), ros: int = 2, **more):
    return camera_info(SIZE, K, 1, "cam", ros, distortion_model=model, d=np.array(d, float), **more)


def projected_by_colmap(model) -> np.ndarray:
    camera = pycolmap.Camera(
        model=model.name, width=model.width, height=model.height, params=list(model.values)
    )
    return np.asarray(camera.img_from_cam(POINTS))


@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.parametrize(
    ("model", "d", "name"),
    [
        ("plumb_bob", (0, 0, 0, 0, 0), "PINHOLE"),
        ("plumb_bob", (), "PINHOLE"),
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0), "OPENCV"),
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002), "OPENCV"),
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.05), "FULL_OPENCV"),
        ("rational_polynomial", (0.1, -0.2, 0.001, 0.002, 0.05, 0.2, -0.1, 0.01), "FULL_OPENCV"),
        (
            "rational_polynomial",
            (0.1, -0.2, 0, 0, 0.05, 0.2, -0.1, 0.01, 0, 0, 0, 0),
            "FULL_OPENCV",
        ),
        ("equidistant", (-0.02, 0.01, -0.003, 0.001), "OPENCV_FISHEYE"),
        ("fisheye", (0, 0, 0, 0), "OPENCV_FISHEYE"),
    ],
)
def test_colmap_projects_where_opencv_does(model, d, name, ros) -> None:
    found = model_of_camera_info(info(model, d, ros), rectified=False)
    coefficients = np.array(d, float)
    if name == "OPENCV_FISHEYE":
        pixels = cv2.fisheye.projectPoints(
            POINTS[:, None], np.zeros(3), np.zeros(3), K, coefficients
        )[0][:, 0]
    else:
        pixels = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), K, coefficients)[0][:, 0]
    assert found.name == name
    assert np.allclose(projected_by_colmap(found), pixels, atol=1e-6)
    matrix, distortion, fisheye = opencv_camera(found.params)
    assert np.allclose(matrix, K, atol=1e-9)
    assert fisheye == (name == "OPENCV_FISHEYE")
    shortened = coefficients[: len(distortion)]
    assert np.allclose(distortion[: len(shortened)], shortened)


def test_rectified_topics_are_pinhole_with_p() -> None:
    p = np.array([400.0, 0, 300, -40, 0, 400, 200, 0, 0, 0, 1, 0])
    found = model_of_camera_info(info(d=(-0.3, 0.1, 0, 0, 0), p=p), rectified=True)
    assert (found.name, found.values) == ("PINHOLE", (400.0, 400.0, 300.0, 200.0))


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/cam/image_rect", True),
        ("/cam/image_rect_color/compressed", True),
        ("/depth/image_rect_raw", True),
        ("/cam/image_raw", False),
        ("/cam/image_raw/compressed", False),
        ("/image_rect/image", False),
    ],
)
def test_rectified_topics_are_known_by_name(topic, rectified) -> None:
    assert is_rectified(topic) == rectified


@given(offset=st.tuples(st.integers(0, 200), st.integers(0, 150)), bins=st.sampled_from([1, 2, 4]))
def test_region_of_interest_and_binning_are_those_of_the_images_pixels(offset, bins) -> None:
    """Averaging b × b pixels of the full image puts a point at (x - offset) / b, counted from
    the edges of the pixels."""
    roi = make(
        "sensor_msgs/RegionOfInterest",
        x_offset=offset[0],
        y_offset=offset[1],
        width=400,
        height=320,
    )
    found = model_of_camera_info(info(roi=roi, binning_x=bins, binning_y=bins), rectified=False)
    full = projected_by_colmap(model_of_camera_info(info(), rectified=False))
    assert (found.width, found.height) == (400 // bins, 320 // bins)
    expected = (full + 0.5 - offset) / bins - 0.5
    assert np.allclose(projected_by_colmap(found), expected, atol=1e-9)


@pytest.mark.parametrize(
    "message",
    [
        camera_info(SIZE, np.zeros((3, 3)), 1, "cam"),
        camera_info(SIZE, K * np.nan, 1, "cam"),
        camera_info(SIZE, K + np.eye(3, k=1) * [[1], [0], [0]], 1, "cam"),
        info("mystery", (0.1, 0.2)),
        info("rational_polynomial", (0.1,) * 12),
        info("equidistant", (0.1, 0, 0, 0, 0.5)),
        info("plumb_bob", (np.inf, 0, 0, 0, 0)),
    ],
)
def test_what_cannot_be_said_exactly_is_uncalibrated_with_a_reason(message) -> None:
    found = model_of_camera_info(message, rectified=False)
    assert found.params == ("UNKNOWN_CAMERA", "640", "480")
    assert found.note and not found.calibrated

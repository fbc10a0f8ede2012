"""Messages as frames of the scene: nothing is lost that can be seen."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from bag_tools import START, make, pose_fields
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.messages.common import MessageError
from kapture_ros.view.scene import (
    SceneFrame,
    image_frame,
    lines_frame,
    path_frame,
    points_frame,
    pose_frame,
)

UNTURNED = (1, 0, 0, 0)


def positions(frame: SceneFrame) -> np.ndarray:
    """(N, 3) metres in the map, as the page computes them."""
    count = frame.header["count"]
    offsets = np.frombuffer(frame.data[: 12 * count], "<f4").reshape(-1, 3)
    return offsets.astype(float) + frame.header["origin"]


def cloud(columns: dict[str, np.ndarray], gap: int = 0) -> Any:
    """A PointCloud2 of these columns, rows of two points, with gaps between rows."""
    kinds = {"<f4": 7, "<u4": 6}
    dtype = np.dtype([(name, values.dtype) for name, values in columns.items()])
    table = np.zeros(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        table[name] = values
    rows = [row.tobytes() + b"\xff" * gap for row in table.reshape(-1, 2)]
    fields = [
        make("sensor_msgs/PointField", name=name, offset=dtype.fields[name][1],
             datatype=kinds[dtype[name].str], count=1)
        for name in columns
    ]  # fmt: skip
    return make(
        "sensor_msgs/PointCloud2", height=len(rows), width=2, fields=fields, is_bigendian=False,
        point_step=dtype.itemsize, row_step=2 * dtype.itemsize + gap,
        data=np.frombuffer(b"".join(rows), np.uint8), is_dense=True,
    )  # fmt: skip


def axes(points: np.ndarray) -> dict[str, np.ndarray]:
    return {axis: points[:, k].astype("<f4") for k, axis in enumerate("xyz")}


@given(st.lists(st.tuples(*[st.floats(-500, 500)] * 3), max_size=20))
def test_a_path_far_from_the_origin_keeps_its_millimetres(offsets: list[tuple[float, ...]]):
    far = np.array([691_000.0, 5_334_000.0, 520.0])
    places = np.array(offsets).reshape(-1, 3) + far
    poses = [
        make("geometry_msgs/PoseStamped", pose=pose_fields("Pose", UNTURNED, xyz, 2))
        for xyz in places
    ]
    frame = path_frame(make("nav_msgs/Path", poses=poses))
    np.testing.assert_allclose(positions(frame), places, atol=1e-3)


def test_points_keep_their_place_and_color():
    points = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [-1, -2, -3]], float)
    rgb = np.array([0xFF0000, 0x00FF00, 0x0000FF, 0x102030], "<u4").view("<f4")
    frame = points_frame(cloud(axes(points) | {"rgb": rgb}, gap=5), limit=100)
    np.testing.assert_allclose(positions(frame), points)
    colors = np.frombuffer(frame.data[12 * 4 :], np.uint8).reshape(-1, 3)
    assert colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [16, 32, 48]]


def test_points_without_a_place_are_left_out():
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [4, 5, 6]], float)
    frame = points_frame(cloud(axes(points)), limit=100)
    np.testing.assert_allclose(positions(frame), points[[0, 3]])
    assert len(frame.data) == 2 * 15, "colours of those only"


def test_too_many_points_are_thinned_evenly():
    points = np.repeat(np.arange(1000.0)[:, None], 3, axis=1)
    shown = positions(points_frame(cloud(axes(points)), limit=100))[:, 0]
    assert shown.tolist() == list(range(0, 1000, 10))


def test_a_cloud_without_coordinates_is_refused():
    with pytest.raises(MessageError, match="a cloud without z"):
        points_frame(cloud({"x": np.zeros(2, "<f4"), "y": np.zeros(2, "<f4")}), limit=1)


def test_a_pose_comes_with_the_covariance_of_its_position():
    covariance = np.arange(36.0)
    said = make(
        "geometry_msgs/PoseWithCovarianceStamped", stamp=START, frame="map",
        pose=make("geometry_msgs/PoseWithCovariance", covariance=covariance,
                  pose=pose_fields("Pose", (0.5, 0.5, -0.5, 0.5), (1, 2, 3), 2)),
    )  # fmt: skip
    header = pose_frame(said).header
    assert header["position"] == [1, 2, 3]
    assert header["orientation"] == [0.5, -0.5, 0.5, 0.5], "x y z w"
    assert header["covariance"] == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert int(header["stamp_ns"]) == START


def test_lines_come_with_the_color_of_their_marker_and_other_markers_do_not():
    def marker(kind: int, x: float, red: float) -> Any:
        ends = [make("geometry_msgs/Point", x=x, y=y, z=0.0) for y in (0.0, 1.0)]
        color = make("std_msgs/ColorRGBA", r=red, g=0.0, b=1.0, a=1.0)
        return make("visualization_msgs/Marker", type=kind, points=ends, color=color)

    lines, sphere, delete_all = marker(5, 1.0, 1.0), marker(2, 7.0, 0.0), marker(0, 8.0, 0.0)
    said = make("visualization_msgs/MarkerArray", markers=[delete_all, lines, sphere])
    said.markers.append(marker(5, 2.0, 0.0))
    frame = lines_frame(said, "candidates")
    np.testing.assert_allclose(positions(frame), [[1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]])
    colors = np.frombuffer(frame.data[12 * 4 :], np.uint8).reshape(-1, 3)
    assert colors.tolist() == [[255, 0, 255]] * 2 + [[0, 0, 255]] * 2
    assert lines_frame(make("visualization_msgs/MarkerArray"), "candidates").header["count"] == 0


def test_an_image_is_passed_on_byte_for_byte():
    said = make("sensor_msgs/CompressedImage", format="jpeg", data=np.arange(9, dtype=np.uint8))
    frame = image_frame(said)
    assert frame.data == bytes(range(9))
    assert frame.header == {"type": "image/jpeg"}


def test_a_frame_is_a_header_with_its_length_and_data():
    packed = SceneFrame("path", {"count": 0}, b"data").pack()
    size = int.from_bytes(packed[:4], "little")
    assert json.loads(packed[4 : 4 + size]) == {"kind": "path", "count": 0}
    assert packed[4 + size :] == b"data"

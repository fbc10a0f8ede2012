"""What the localizer knows as ROS messages; pure functions, called by `outputs.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseStamped,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Quaternion,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, NavSatFix, NavSatStatus, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Candidate, Estimate
from kapture_ros.localization.sequence_state import State, TrackedPose
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.msg import LocalizationStatus
from kapture_ros.nodes.inference import Answer
from kapture_ros.nodes.predictor import Prediction
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array, Transform

FRUSTUM = 0.5  # metres, depth of a drawn camera
BLUE = (0.25, 0.45, 0.95, 0.8)
GREEN = (0.3, 0.8, 0.3, 1.0)
YELLOW = (0.95, 0.8, 0.2, 1.0)
GREY_POINT = 170  # where the map has no colours
STATE_COLORS = {  # those of view/page.html
    State.UNINITIALIZED: (0.54, 0.58, 0.65, 1.0),
    State.INITIALIZING: (0.9, 0.71, 0.13, 1.0),
    State.TRACKING: (0.21, 0.76, 0.46, 1.0),
    State.COASTING: (0.95, 0.55, 0.16, 1.0),
    State.LOST: (0.9, 0.28, 0.3, 1.0),
}
TEXT_HEIGHT, TEXT_ABOVE = 0.6, 2.5  # metres; above the vehicle
STAGES = ("extraction", "retrieval", "matching", "pose")


def to_time(stamp_ns: int) -> Time:
    """builtin_interfaces/Time."""
    return Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)


def header(stamp_ns: int, frame: str) -> Header:
    """std_msgs/Header."""
    return Header(stamp=to_time(stamp_ns), frame_id=frame)


def to_pose(transform: Transform) -> Pose:
    """geometry_msgs/Pose of a parent_from_child."""
    x, y, z = transform.translation.tolist()
    return Pose(position=Point(x=x, y=y, z=z), orientation=_orientation(transform))


def _orientation(transform: Transform) -> Quaternion:
    w, x, y, z = transform.quaternion.tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def pose_with_covariance(transform: Transform, covariance: Array) -> PoseWithCovariance:
    """Pose with the row-major covariance x, y, z, and rotations about the parent's axes."""
    return PoseWithCovariance(pose=to_pose(transform), covariance=covariance.ravel())


def pose_message(
    stamp_ns: int, frame: str, map_from_base: Transform, covariance: Array
) -> PoseWithCovarianceStamped:
    """~/pose."""
    pose = pose_with_covariance(map_from_base, covariance)
    return PoseWithCovarianceStamped(header=header(stamp_ns, frame), pose=pose)


def pose_stamped(stamp_ns: int, frame: str, map_from_base: Transform) -> PoseStamped:
    """One pose of ~/path."""
    return PoseStamped(header=header(stamp_ns, frame), pose=to_pose(map_from_base))


def odometry_message(prediction: Prediction, map_frame: str, base_frame: str) -> Odometry:
    """~/odometry: pose in the map, twist in the base frame."""
    message = Odometry(header=header(prediction.stamp_ns, map_frame), child_frame_id=base_frame)
    message.pose = pose_with_covariance(prediction.map_from_base, prediction.covariance)
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = prediction.twist_base.tolist()
    return message


def transform_message(
    stamp_ns: int, parent: str, child: str, parent_from_child: Transform
) -> TransformStamped:
    """One transform for /tf."""
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    x, y, z = parent_from_child.translation.tolist()
    message.transform.translation = Vector3(x=x, y=y, z=z)
    message.transform.rotation = _orientation(parent_from_child)
    return message


def status_message(
    answer: Answer, state: State, visual_map: VisualMap, map_frame: str, latency_s: float
) -> LocalizationStatus:
    """~/status of an image.

    Args:
        latency_s: image stamp to now.
    """
    estimate, tracked = answer.estimate, answer.tracked
    stages = {name: estimate.latency_ms.get(name, math.nan) for name in STAGES}
    stages["extraction"] = answer.extraction_ms
    fix_age = None if tracked is None else tracked.fix_age
    message = LocalizationStatus(
        header=header(estimate.stamp_ns, map_frame),
        state=int(state),
        reason=int(estimate.reason),
        reason_text=estimate.reason_text,
        inliers=estimate.scores.inliers,
        matches=estimate.scores.matched,
        candidates=len(estimate.candidates),
        best_map_image=_best_image(estimate, visual_map),
        window_size=0 if tracked is None else tracked.window_size,
        fix_age=math.nan if fix_age is None else fix_age,
        map_id=visual_map.map_id,
    )
    message.latency_decode = answer.decode_ms
    for name, milliseconds in stages.items():
        setattr(message, f"latency_{name}", milliseconds)
    known = [value for value in stages.values() if not math.isnan(value)]
    message.latency_fusion = answer.update_ms - sum(known) if known else math.nan
    message.latency_total = 1e3 * latency_s
    return message


def _best_image(estimate: Estimate, visual_map: VisualMap) -> str:
    best = estimate.best_image
    if best is None and estimate.candidates:
        best = estimate.candidates[0].image
    return "" if best is None else visual_map.image_names[best]


def fix_message(
    stamp_ns: int, frame: str, map_from_base: Transform, covariance: Array, datum: Datum
) -> NavSatFix:
    """~/fix: the pose as latitude and longitude, covariance east, north, up."""
    position = map_from_base.translation.copy()  # SciPy refuses what cannot be written
    latitude, longitude, altitude = datum.geodetic_from_map(position)
    enu_from_map = Rotation.from_euler("z", datum.yaw).as_matrix()
    spread = enu_from_map @ covariance[:3, :3] @ enu_from_map.T
    return NavSatFix(
        header=header(stamp_ns, frame),
        status=NavSatStatus(status=NavSatStatus.STATUS_FIX, service=NavSatStatus.SERVICE_GPS),
        latitude=float(latitude[0]),
        longitude=float(longitude[0]),
        altitude=float(altitude[0]),
        position_covariance=spread.ravel(),
        position_covariance_type=NavSatFix.COVARIANCE_TYPE_KNOWN,
    )


def point_cloud(visual_map: VisualMap, frame: str, stamp_ns: int, most: int) -> PointCloud2:
    """~/map_points: x, y, z, rgb; a random sample if the map has more than `most`."""
    points = visual_map.points
    rows = np.arange(len(points))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    rgb = points.rgb[rows].astype(np.uint32)
    rgb[~rgb.any(axis=1)] = GREY_POINT
    table = np.empty(len(rows), [("xyz", np.float32, 3), ("rgb", np.uint32)])
    table["xyz"] = points.xyz[rows]
    table["rgb"] = rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]
    names = ("x", "y", "z", "rgb")
    return PointCloud2(
        header=header(stamp_ns, frame),
        height=1,
        width=len(rows),
        fields=[
            PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
            for place, name in enumerate(names)
        ],
        point_step=table.itemsize,
        row_step=table.nbytes,
        data=table.tobytes(),
        is_dense=True,
    )


def map_camera_markers(visual_map: VisualMap, frame: str, stamp_ns: int) -> MarkerArray:
    """~/map_cameras: one frustum for each map image."""
    shapes = [_frustum(camera) for camera in visual_map.cameras]
    lines = [
        visual_map.cam_from_map(row).inverse().apply(shapes[visual_map.image_camera[row]])
        for row in range(len(visual_map))
    ]
    return MarkerArray(markers=[_lines(lines, frame, stamp_ns, BLUE, "map_cameras", 0.02)])


def candidate_markers(
    candidates: Sequence[Candidate],
    best: int | None,
    visual_map: VisualMap,
    frame: str,
    stamp_ns: int,
) -> MarkerArray:
    """~/candidates: the map images an image was matched with, the best one green."""
    rows = [candidate.image for candidate in candidates if candidate.image != best]
    parts = (([best] if best is not None else [], GREEN, "best"), (rows, YELLOW, "candidates"))
    markers = [Marker(action=Marker.DELETEALL)]
    for images, color, name in parts:
        lines = [
            visual_map.cam_from_map(row).inverse().apply(2 * _frustum(visual_map.camera(row)))
            for row in images
        ]
        if lines:
            markers.append(_lines(lines, frame, stamp_ns, color, name, 0.05))
    return MarkerArray(markers=markers)


def status_marker(
    state: State, reason_text: str, place: Array, frame: str, stamp_ns: int
) -> Marker:
    """~/status_marker: the state in its colour and the reason, above a place (3,) of the map."""
    marker = Marker(header=header(stamp_ns, frame), ns="status", type=Marker.TEXT_VIEW_FACING)
    marker.text = f"{state.name}\n{reason_text}"
    x, y, z = place.tolist()
    marker.pose.position = Point(x=x, y=y, z=z + TEXT_ABOVE)
    marker.pose.orientation.w = 1.0
    marker.scale.z = TEXT_HEIGHT
    marker.color = _color(STATE_COLORS[state])
    return marker


def _color(rgba: tuple[float, float, float, float]) -> ColorRGBA:
    r, g, b, a = rgba
    return ColorRGBA(r=r, g=g, b=b, a=a)


def _frustum(camera: Camera) -> Array:
    """Ends (16, 3) of the lines of a camera in its own frame; the focal length is nearly so."""
    x, y = FRUSTUM * camera.width / 2 / camera.focal, FRUSTUM * camera.height / 2 / camera.focal
    corners = np.array([[-x, -y, FRUSTUM], [x, -y, FRUSTUM], [x, y, FRUSTUM], [-x, y, FRUSTUM]])
    spokes = [end for corner in corners for end in (np.zeros(3), corner)]
    border = [end for n in range(4) for end in (corners[n], corners[(n + 1) % 4])]
    return np.array(spokes + border)


def _lines(
    lines: Iterable[Array],
    frame: str,
    stamp_ns: int,
    color: tuple[float, float, float, float],
    name: str,
    width: float,
) -> Marker:
    marker = Marker(header=header(stamp_ns, frame), ns=name, type=Marker.LINE_LIST)
    marker.pose.orientation.w = 1.0
    marker.scale.x = width
    marker.color = _color(color)
    ends = np.concatenate([np.empty((0, 3)), *lines])
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in ends.tolist()]
    return marker


def jpeg_message(
    stamp_ns: int, frame: str, rgb: npt.NDArray[np.uint8], quality: int
) -> CompressedImage:
    """~/debug_image/compressed."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(header=header(stamp_ns, frame), format="jpeg", data=data.tobytes())


def pose_of(tracked: TrackedPose) -> tuple[Transform, Array] | None:
    """The pose with its covariance; None if it is not known."""
    if tracked.map_from_base is None or tracked.covariance is None:
        return None
    return tracked.map_from_base, tracked.covariance

"""Everything the node hears, kept until it belongs to an instant: cameras, TF, fixes, scans.

The node's subscriptions call `Inputs`; instants go to the inference thread, which asks back
for the query of an instant. No ROS graph is needed to use it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from kapture_ros.dataset.camera_models import CameraModel, is_rectified, model_of_camera_info
from kapture_ros.errors import (
    DisconnectedFramesError,
    InputError,
    KaptureRosError,
    TransformError,
)
from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import GnssFix, Query, QueryImage
from kapture_ros.mapping.images import Camera
from kapture_ros.messages import Message, MessageError
from kapture_ros.messages.common import frame_id, header_stamp_ns
from kapture_ros.messages.motion import StampedTransform, stamped_transforms, to_transform
from kapture_ros.nodes import conversions
from kapture_ros.nodes.localizer_options import CameraSettings
from kapture_ros.nodes.settings import Settings
from kapture_ros.nodes.synchronizer import Instant, Synchronizer
from kapture_ros.transforms import Transform, TransformTree
from kapture_ros.transforms.restarts import begins_anew, leapt

T = TypeVar("T")

JUMP_NS = 2 * SECOND  # stamps that go back by more: the clock jumped, a bag began anew
APART_NS = 1_000_000  # stamps of one instant that are worth a correction
NOT_MEASURED = 100.0  # m²/s², rad²/s²: a variance of a twist that says so, as 1e6 often does
UPWARDS = 0.8  # cosine between a camera's view and the z axis of the base
SAME_ODOMETRY = (0.5, 0.1)  # metres, radians by which TF may differ from the odometry's topic,
DATED_S = 0.25  # and by what it moves in this time: filters date their transforms ahead


class Recent(Generic[T]):
    """The last values of a stream by their stamps; for several threads."""

    def __init__(self) -> None:
        self._values: deque[tuple[int, T]] = deque(maxlen=50)
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, value: T) -> None:
        """Take a value."""
        with self._lock:
            self._values.append((stamp_ns, value))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._values.clear()

    def nearest(self, stamp_ns: int, max_age_ns: int) -> tuple[int, T] | None:
        """The value next to a time with its stamp; None if all are farther than `max_age_ns`."""
        with self._lock:
            near = min(self._values, key=lambda item: abs(item[0] - stamp_ns), default=None)
        return near if near is not None and abs(near[0] - stamp_ns) <= max_age_ns else None


@dataclass(slots=True)
class CameraInput:
    """One camera: its settings, and what its CameraInfo said last.

    Attributes:
        problem: why its last image could not be used; empty: it could.
        newest_ns: stamp of its last image; images: how many came.
    """

    settings: CameraSettings
    model: CameraModel | None = None
    problem: str = ""
    newest_ns: int | None = None
    images: int = 0

    def set_info(self, message: Message) -> None:
        """Take a CameraInfo."""
        self.model = model_of_camera_info(message, rectified=is_rectified(self.settings.topic))

    def camera(self) -> Camera:
        """The calibrated camera.

        Raises:
            InputError: if there is no CameraInfo, or none that can be used.
        """
        topic = self.settings.topic
        if self.model is None:
            raise InputError(
                f"{topic}: no CameraInfo on {self.settings.info_topic}; publish it there, or set "
                "camera_info_topics"
            )
        if not self.model.calibrated:
            raise InputError(
                f"{topic}: {self.settings.info_topic} cannot be used: {self.model.note}"
            )
        return Camera(
            topic, self.model.name, self.model.width, self.model.height, self.model.values
        )


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where `Inputs` hands things on.

    Attributes:
        instant: images that belong together.
        odometry: where the vehicle is in its odometry's frame; False: not newer than the last.
        imu: turn rate and acceleration, in the axes of the base.
        moved: base_then_from_base_now between two stamps; the identity if unknown.
        jumped: all that was heard is over, and why: the clock went back.
        is_over: whether a stamp is of before the clock went back.
        sent_ns: stamps of the transforms that this node sent.
    """

    instant: Callable[[Instant[Message]], None]
    odometry: Callable[[OdometrySample], bool]
    imu: Callable[[ImuSample], None]
    moved: Callable[[int, int], Transform]
    jumped: Callable[[str], None]
    is_over: Callable[[int], bool]
    sent_ns: Container[int]


class Inputs:
    """All inputs of the node.

    Attributes:
        problems: by input, what is wrong with it now.
        foreign_odometry: why what `odometry_topic` says is not of `odom_frame`; empty: it is.
    """

    def __init__(self, settings: Settings, cameras: Sequence[CameraSettings], outlets: Outlets):
        self.settings = settings
        self.cameras = [CameraInput(camera) for camera in cameras]
        self.tree = TransformTree()
        self.problems: dict[str, str] = {}
        self.foreign_odometry = ""
        self._outlets = outlets
        self._sync = self._new_synchronizer()
        self._newest: dict[str, int] = {}  # by stream
        self._odometry: tuple[int, Transform] | None = None
        self._fixes: Recent[tuple[Message, str]] = Recent()
        self._scans: Recent[dict[str, float]] = Recent()

    def use(self, settings: Settings) -> None:
        """Go on with other parameters."""
        again = settings.sensors.sync_slop != self.settings.sensors.sync_slop
        self.settings = settings
        if again:
            self._sync = self._new_synchronizer()

    @property
    def synchronizer(self) -> Synchronizer[Message]:
        """What brings the images together."""
        return self._sync

    def _new_synchronizer(self) -> Synchronizer[Message]:
        return Synchronizer(len(self.cameras), int(self.settings.sensors.sync_slop * SECOND))

    # -- callbacks ------------------------------------------------------------------------------

    def on_info(self, camera: int, message: Message) -> None:
        """A CameraInfo."""
        self.cameras[camera].set_info(message)

    def on_image(self, camera: int, message: Message, now_ns: int) -> None:
        """An image; `now_ns` stands in for a stamp of zero."""
        known = self.cameras[camera]
        stamp = self._stamp(known.settings.topic, message, now_ns, notice=True)
        if stamp is None:
            return
        known.newest_ns, known.images = stamp, known.images + 1
        for instant in self._sync.add(camera, stamp, message):
            self._outlets.instant(instant)

    def on_transforms(self, message: Message, *, static: bool) -> None:
        """A TFMessage; also the odometry where it has no topic."""
        inputs, topic = self.settings.inputs, "tf_static" if static else "tf"
        stamps, moving = set(), self._moving_frames()
        for item in stamped_transforms(message):
            if isinstance(item, MessageError):
                self.problems[topic] = str(item)
                continue
            if item.parent == inputs.map_frame:  # what it says is what we are to find out
                if self._is_rival(item):
                    self.problems[topic] = (
                        f"another node says where '{item.child}' is in '{item.parent}'; end it, "
                        "or set publish_tf to none"
                    )
                continue
            if not static:
                if self._outlets.is_over(item.stamp_ns):
                    continue
                if item.child in moving:
                    self._notice(f"tf {item.child}", item.stamp_ns)
                stamps.add(item.stamp_ns)
            try:
                if static:
                    self.tree.insert_static(item.parent, item.child, item.parent_from_child)
                else:
                    self.tree.insert(item.parent, item.child, item.stamp_ns, item.parent_from_child)
            except DisconnectedFramesError as error:
                self.problems[topic] = str(error)
        if inputs.odometry_topic:
            return
        for stamp in sorted(stamps):
            try:
                pose = self.tree.lookup(inputs.odom_frame, inputs.base_frame, stamp)
            except TransformError:
                continue  # other transforms; diagnostics tell if odometry never comes
            self._take_odometry(stamp, pose, None)

    def _moving_frames(self) -> set[str]:
        """The base and what it hangs on: their transforms are the odometry."""
        frames, frame = set(), self.settings.inputs.base_frame
        while frame and frame not in frames:
            frames.add(frame)
            frame = self.tree.parent(frame) or ""
        return frames

    def _is_rival(self, item: StampedTransform) -> bool:
        """Whether another node places in the map what this one places there."""
        inputs = self.settings.inputs
        ours = item.child in (inputs.odom_frame, inputs.base_frame)
        wanted = self.settings.outputs.publish_tf != "none"
        return ours and wanted and item.stamp_ns not in self._outlets.sent_ns

    def on_odometry(self, message: Message, now_ns: int) -> None:
        """A nav_msgs/Odometry."""
        inputs = self.settings.inputs
        stamp = self._stamp(inputs.odometry_topic, message, now_ns, notice=True)
        if stamp is None:
            return
        child = str(message.child_frame_id).lstrip("/") or inputs.base_frame
        try:
            pose = to_transform(message.pose.pose)
            child_from_base = Transform()
            if child != inputs.base_frame:
                child_from_base = self.tree.lookup(child, inputs.base_frame, stamp)
        except KaptureRosError as error:
            self.problems[inputs.odometry_topic] = str(error)
            return
        covariance = None
        if child == inputs.base_frame and self.settings.sensors.odometry_covariance:
            covariance = np.array(message.twist.covariance, dtype=float).reshape(6, 6)
        self.problems.pop(inputs.odometry_topic, None)
        odom_from_base = pose @ child_from_base
        self._compare_with_tf(frame_id(message), stamp, odom_from_base)
        self._take_odometry(stamp, odom_from_base, covariance)

    def _compare_with_tf(self, frame: str, next_ns: int, next_pose: Transform) -> None:
        """Whether the odometry's topic and TF speak of the same frame, at the last sample."""
        inputs = self.settings.inputs
        topic, expected = inputs.odometry_topic, inputs.odom_frame
        if frame not in ("", expected):
            self.foreign_odometry = f"{topic} is in '{frame}'; set odom_frame to that"
            return
        if self._odometry is None:
            return
        stamp, odom_from_base = self._odometry
        if next_ns <= stamp:
            return
        try:
            by_tf = self.tree.lookup(expected, inputs.base_frame, stamp)
        except TransformError:
            return  # nobody else says, or it is not here yet
        apart, moved = by_tf.distance_to(odom_from_base), odom_from_base.distance_to(next_pose)
        periods = DATED_S * SECOND / (next_ns - stamp)
        metres, radians = apart
        self.foreign_odometry = ""
        if any(a > s + m * periods for a, s, m in zip(apart, SAME_ODOMETRY, moved, strict=True)):
            self.foreign_odometry = (
                f"TF says where '{inputs.base_frame}' is in '{expected}', and {topic} says it is "
                f"{metres:.1f} m and {np.rad2deg(radians):.0f}° from there; set odometry_topic to "
                "that of TF, or leave it empty"
            )

    def _take_odometry(
        self, stamp_ns: int, odom_from_base: Transform, twist_covariance: np.ndarray | None
    ) -> None:
        if self._odometry is not None:
            samples = (*self._odometry, stamp_ns, odom_from_base)
            if leapt(*samples) or begins_anew(*samples):
                self.restart()
                self._outlets.jumped("the odometry leapt, as it does when it is started again")
        spread = None
        if twist_covariance is not None and self._odometry is not None:
            seconds = (stamp_ns - self._odometry[0]) / SECOND
            spread = _measured(twist_covariance, seconds)
        if self._outlets.odometry(OdometrySample(stamp_ns, odom_from_base, spread)):
            self._odometry = (stamp_ns, odom_from_base)

    def on_gnss(self, message: Message, now_ns: int) -> None:
        """A NavSatFix."""
        stamp = self._stamp(self.settings.inputs.gnss_topic, message, now_ns)
        if stamp is not None:
            self._fixes.add(stamp, (message, frame_id(message)))

    def on_wifi(self, message: Message, now_ns: int) -> None:
        """A WifiScan."""
        stamp = self._stamp(self.settings.inputs.wifi_topic, message, now_ns)
        if stamp is not None:
            self._scans.add(stamp, conversions.wifi_signals(message))

    def on_imu(self, message: Message, now_ns: int) -> None:
        """An Imu."""
        topic = self.settings.inputs.imu_topic
        stamp = self._stamp(topic, message, now_ns)
        if stamp is None:
            return
        try:
            base = self.settings.inputs.base_frame
            base_from_imu = self.tree.lookup(base, frame_id(message), stamp)
            sample = conversions.imu_sample(message, stamp, base_from_imu.rotation)
        except KaptureRosError as error:
            self.problems[topic] = f"not used: {error}"
            return
        self.problems.pop(topic, None)
        self._outlets.imu(sample)

    def _stamp(
        self, topic: str, message: Message, now_ns: int, *, notice: bool = False
    ) -> int | None:
        """The stamp; None if the message is of a time that is over.

        Args:
            notice: begin anew where it went back. Not for GNSS, say: it has a clock of its own.
        """
        stamp = header_stamp_ns(message)
        if stamp == 0:
            self.problems[f"{topic} stamps"] = "stamps of zero: the time of arrival is used"
            stamp = now_ns
        if self._outlets.is_over(stamp):
            return None
        if notice:
            self._notice(topic, stamp)
        return stamp

    def _notice(self, stream: str, stamp_ns: int) -> None:
        """Begin anew when the stamps of a stream went back."""
        newest = self._newest.get(stream, stamp_ns)
        if stamp_ns < newest - JUMP_NS:
            self.restart()
            back = (newest - stamp_ns) / SECOND
            self._outlets.jumped(f"the time of {stream} went back by {back:.1f} s")
        self._newest[stream] = max(stamp_ns, self._newest.get(stream, stamp_ns))

    def restart(self) -> None:
        """Forget all that has a stamp."""
        self.tree.clear()
        self._newest.clear()
        self._sync = self._new_synchronizer()
        self._odometry = None
        for recent in (self._fixes, self._scans):
            recent.clear()

    # -- the query of an instant ----------------------------------------------------------------

    def query(self, instant: Instant[Message]) -> Query:
        """What is known about an instant.

        Raises:
            InputError: if none of its images can be used, with the first one's reason.
        """
        images, frames = [], set[str]()
        for number, (stamp, message) in sorted(instant.images.items()):
            camera = self.cameras[number]
            try:
                image, frame = self._image(camera, stamp, message, instant.stamp_ns)
                if frame in frames:
                    raise InputError(
                        f"{camera.settings.topic}: another camera has the frame '{frame}' too; "
                        "set camera_frames or camera_poses"
                    )
                frames.add(frame)
                images.append(image)
                camera.problem = ""
            except KaptureRosError as error:
                camera.problem = str(error)
        if not images:
            raise InputError("; ".join(self.cameras[n].problem for n in sorted(instant.images)))
        stamp, sensors = instant.stamp_ns, self.settings.sensors
        scan = self._scans.nearest(stamp, int(sensors.wifi_max_age * SECOND))
        return Query(
            stamp,
            tuple(images),
            gnss=self._gnss(stamp),
            wifi=None if scan is None else scan[1],
        )

    def _image(
        self, known: CameraInput, stamp_ns: int, message: Message, instant_ns: int
    ) -> tuple[QueryImage, str]:
        camera = known.camera()
        frame = known.settings.frame or frame_id(message)
        try:
            pixels = conversions.rgb_pixels(message)
        except MessageError as error:
            cure = "; let the driver send rgb8, mono8, a Bayer or YUV encoding, JPEG or PNG"
            known_as = cure if error.reason == "unknown-encoding" else ""
            raise InputError(f"{known.settings.topic}: {error}{known_as}") from error
        if pixels.shape[:2] != (camera.height, camera.width):
            raise InputError(
                f"{known.settings.topic}: images are {pixels.shape[1]}×{pixels.shape[0]} but "
                f"{known.settings.info_topic} is for {camera.width}×{camera.height}; calibrate "
                "at the size that is sent"
            )
        if known.settings.base_from_camera is not None:
            cam_from_base = known.settings.base_from_camera.inverse()
            frame = known.settings.topic  # a pose of its own
        else:
            if not frame:
                raise InputError(f"{known.settings.topic}: images have no frame; set camera_frames")
            cam_from_base = self._cam_from_base(known, frame, stamp_ns)
        self._suspect(known.settings.topic, cam_from_base)
        if abs(stamp_ns - instant_ns) > APART_NS:
            # The base when this image was taken, seen from the base at the instant.
            cam_from_base = cam_from_base @ self._outlets.moved(stamp_ns, instant_ns)
        return QueryImage(camera, cam_from_base, pixels), frame

    def _suspect(self, topic: str, cam_from_base: Transform) -> None:
        """Tell where a camera seems to be placed by its link, whose z axis points up."""
        if cam_from_base.rotation_matrix()[2, 2] < UPWARDS:
            self.problems.pop(topic, None)
            return
        self.problems[topic] = (
            "it looks straight up: is the frame that of the camera's link instead of its optical "
            "one? set camera_frames"
        )

    def _cam_from_base(self, known: CameraInput, frame: str, stamp_ns: int) -> Transform:
        base = self.settings.inputs.base_frame
        try:
            return self.tree.lookup(frame, base, stamp_ns)
        except TransformError as error:
            raise InputError(
                f"{known.settings.topic}: where is the camera on the vehicle? {error}; publish "
                f"'{base}' to '{frame}' on /tf_static, or set camera_poses"
            ) from error

    def _gnss(self, stamp_ns: int) -> GnssFix | None:
        sensors, topic = self.settings.sensors, self.settings.inputs.gnss_topic
        near = self._fixes.nearest(stamp_ns, int(sensors.gnss_max_age * SECOND))
        if near is None:
            return None
        fix_ns, (message, frame) = near
        try:
            arm = self.tree.lookup(self.settings.inputs.base_frame, frame, fix_ns).translation
            self.problems.pop(topic, None)
        except TransformError as error:
            arm = np.zeros(3)
            self.problems[topic] = f"the antenna is taken to be in the base frame: {error}"
        try:
            fix = conversions.gnss_fix(message, arm, sensors.gnss_sigma)
        except MessageError:
            return None  # the receiver has no fix: that is normal under a bridge
        return fix.aged((fix_ns - stamp_ns) / SECOND)


def _measured(twist_covariance: np.ndarray, seconds: float) -> np.ndarray | None:
    """(6, 6) of the motion in that time; None where it says nothing, or what cannot be."""
    variances = np.diag(twist_covariance)
    if not np.isfinite(twist_covariance).all() or not (variances < NOT_MEASURED).all():
        return None
    covariance = (twist_covariance + twist_covariance.T) / 2
    if not (variances > 0).all() or np.linalg.eigvalsh(covariance)[0] < 0:
        return None
    spread: np.ndarray = covariance * seconds**2
    return spread

"""What lives while the localizer is active: subscriptions, the inference thread, the timers.

Messages go to `Inputs`, instants to `Inference`, answers and predictions to `Outputs`. It is
made at activation and closed at deactivation; nothing of it stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix
from tf2_msgs.msg import TFMessage

from kapture_ros.errors import KaptureRosError
from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.refinement import PosePrior
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State, TrackedPose
from kapture_ros.messages import Message
from kapture_ros.messages.common import frame_id, header_stamp_ns
from kapture_ros.msg import WifiScan
from kapture_ros.nodes import conversions, diagnosis
from kapture_ros.nodes.inference import Answer, Inference
from kapture_ros.nodes.inputs import JUMP_NS, Inputs, Outlets
from kapture_ros.nodes.localizer_options import camera_settings
from kapture_ros.nodes.outputs import Outputs
from kapture_ros.nodes.predictor import Prediction, Predictor, known_after
from kapture_ros.nodes.settings import Settings
from kapture_ros.nodes.synchronizer import Instant

SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
STREAM = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SILENT = SubscriptionEventCallbacks(use_default_callbacks=False)
"""Every event that can be waited for costs the executor time at each message."""
PATH_S = 1.0
SILENT_S = 3.0  # without any pose published: it is not known any more, whatever was last said
CLOCKS_DIFFER_S = 30.0  # stamps this far from the clock are of a bag, not late


class Drive:
    """A localizer at work."""

    def __init__(self, node: Node, settings: Settings, localizer: Localizer, outputs: Outputs):
        self._node, self._settings, self._outputs = node, settings, outputs
        self._statistics = diagnosis.Statistics()
        self._lock = threading.Lock()  # answers come from two threads
        self._state = State.UNINITIALIZED
        self._tracked: TrackedPose | None = None
        self._begin = time.monotonic()
        self._simulated = bool(node.get_parameter("use_sim_time").value)
        self._arrivals: dict[int, float] = {}  # of each camera's last image
        self._heard_odometry: float | None = None  # when its newest sample arrived
        self._behind_ns = 0  # the clock's time when the last image came, less its stamp
        self._predictor = Predictor(settings.sequence.motion, settings.sequence.tracking)
        outlets = Outlets(
            self._localize,
            self._add_odometry,
            self._add_imu,
            self._predictor.moved,
            self._jumped,
            self._is_over,
            outputs.sent_ns,
        )
        self._inputs = Inputs(settings, camera_settings(settings.inputs), outlets)
        self._inference = Inference(
            localizer, settings.sequence, self._inputs.query, self._age, self._deliver
        )
        self._inference.max_age = settings.sensors.max_age
        self._inference.start()
        self._sensing = MutuallyExclusiveCallbackGroup()
        self._timing = MutuallyExclusiveCallbackGroup()
        self._subscriptions = self._subscribe()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # goes on while /clock rests
        self._timers = self._start_timers()

    def close(self) -> None:
        """End everything; waits for the image that is being worked on."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._inference.stop()

    def use(self, settings: Settings) -> None:
        """Go on with other parameters."""
        rate = self._settings.outputs.publish_rate
        self._settings = settings
        self._inputs.use(settings)
        self._predictor.tracking = settings.sequence.tracking
        self._inference.set_options(settings.sequence)
        self._inference.max_age = settings.sensors.max_age
        if settings.outputs.publish_rate != rate:
            for timer in self._timers:
                self._node.destroy_timer(timer)
            self._timers = self._start_timers()

    def restart(self) -> None:
        """Forget all that was heard."""
        self._inputs.restart()
        self._jumped("a reset was asked for")

    def relocalize(self, hint: PosePrior | None = None) -> None:
        """Give the pose up and search anew, with a hint near there; odometry stays."""

        def give_up(tracker: SequenceLocalizer) -> None:
            tracker.relocalize(hint)
            newest = tracker.motion.odometry.newest_ns
            if newest is not None:  # or there was nothing to give up
                tracked = tracker.pose_at(newest)
                self._predictor.adopt(known_after(tracker, tracked))
                self._state = tracked.state

        self._inference.order(give_up)

    # -- hearing --------------------------------------------------------------------------------

    def _subscribe(self) -> list[Any]:
        inputs, heard = self._inputs, self._settings.inputs
        made = [
            self._hear(TFMessage, "/tf", lambda m: inputs.on_transforms(m, static=False), STREAM),
            self._hear(
                TFMessage, "/tf_static", lambda m: inputs.on_transforms(m, static=True), STATIC
            ),
            self._hear(PoseWithCovarianceStamped, "/initialpose", self._on_initial_pose, 1),
        ]
        for number, camera in enumerate(self._inputs.cameras):
            topic = camera.settings.topic
            kind = CompressedImage if topic.endswith("/compressed") else Image
            info = camera.settings.info_topic
            # Before its images, of which the first might else come before it, and be refused.
            made.append(self._hear(CameraInfo, info, self._info_callback(number), SENSOR))
            made.append(self._hear(kind, topic, self._image_callback(number), SENSOR))
        for kind, topic, callback in (
            (Odometry, heard.odometry_topic, inputs.on_odometry),
            (NavSatFix, heard.gnss_topic, inputs.on_gnss),
            (WifiScan, heard.wifi_topic, inputs.on_wifi),
            (Imu, heard.imu_topic, inputs.on_imu),
        ):
            if topic:
                made.append(self._hear(kind, topic, self._timed(callback), STREAM))
        return made

    def _hear(self, kind: type[Any], topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
        group = self._sensing
        return self._node.create_subscription(
            kind, topic, callback, qos, callback_group=group, event_callbacks=SILENT
        )

    def _timed(self, callback: Callable[[Message, int], None]) -> Callable[[Message], None]:
        return lambda message: callback(message, self._now_ns())

    def _image_callback(self, camera: int) -> Callable[[Message], None]:
        def take(message: Message) -> None:
            self._arrivals[camera] = time.monotonic()
            now, stamp = self._now_ns(), header_stamp_ns(message)
            self._behind_ns = now - stamp if stamp else 0
            self._inputs.on_image(camera, message, now)

        return take

    def _info_callback(self, camera: int) -> Callable[[Message], None]:
        return lambda message: self._inputs.on_info(camera, message)

    def _on_initial_pose(self, message: Message) -> None:
        log, map_frame = self._node.get_logger(), self._settings.inputs.map_frame
        if frame_id(message) != map_frame:
            log.warning(f"/initialpose is in '{frame_id(message)}', expected '{map_frame}'")
            return
        try:
            prior = conversions.pose_prior(message)
        except KaptureRosError as error:
            log.warning(f"/initialpose: {error}")
            return

        self.relocalize(prior)

    # -- localizing -----------------------------------------------------------------------------

    def _localize(self, instant: Instant[Message]) -> None:
        self._inference.submit(instant)

    def _add_odometry(self, sample: OdometrySample) -> bool:
        newer = self._predictor.add_odometry(sample)
        if newer:
            self._heard_odometry = time.monotonic()
            self._inference.add(sample)
        return newer

    def _add_imu(self, sample: ImuSample) -> None:
        self._inference.add(sample)

    def _jumped(self, why: str) -> None:
        """Nothing of before holds."""
        self._node.get_logger().info(f"begun anew: {why}")
        with self._lock:
            self._inference.restart()
            self._predictor.reset()
            self._outputs.restart()
            self._state, self._tracked = State.UNINITIALIZED, None

    def _is_over(self, stamp_ns: int) -> bool:
        """Ahead of /clock, which went back, are messages that were under way meanwhile."""
        return self._simulated and 0 < self._now_ns() < stamp_ns - JUMP_NS

    def _age(self, instant: Instant[Message]) -> float:
        age = (self._now_ns() - instant.stamp_ns) / SECOND
        return age if abs(age) < CLOCKS_DIFFER_S else 0.0

    def _deliver(self, answer: Answer) -> None:
        now = self._now_ns()
        with self._lock:
            if answer.generation != self._inference.generation:
                return  # of a time that is over
            if answer.known is not None:
                self._predictor.adopt(answer.known)
            if answer.tracked is not None:
                self._tracked, self._state = answer.tracked, answer.tracked.state
            self._outputs.publish_answer(answer, self._state, now)
            estimate = answer.estimate
            latency = (now - estimate.stamp_ns) / 1e6
            self._statistics.add(estimate.reason, estimate.reason_text, latency)

    # -- telling --------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        now: int = self._node.get_clock().now().nanoseconds
        return now

    def _start_timers(self) -> list[Any]:
        periods = ((1 / self._settings.outputs.publish_rate, self._predict), (PATH_S, self._path))
        return [
            self._node.create_timer(
                period, callback, callback_group=self._timing, clock=self._steady
            )
            for period, callback in periods
        ]

    def _predict(self) -> None:
        prediction = self._predictor.at(self._now_ns())
        if prediction is not None:
            self._outputs.publish_prediction(prediction, transform=not self._rival())

    def _path(self) -> None:
        with self._lock:
            self._outputs.publish_path(self._now_ns())

    def _rival(self) -> str:
        """Why our transform must not be published; empty if it may."""
        inputs, what = self._settings.inputs, self._settings.outputs.publish_tf
        if what == "none":
            return ""
        if what == "map_to_odom" and self._inputs.foreign_odometry:
            return f"not published: {self._inputs.foreign_odometry}"
        child = inputs.odom_frame if what == "map_to_odom" else inputs.base_frame
        parent = self._inputs.tree.parent(child)
        if parent is None:
            return ""
        cure = "map_to_odom" if what == "map_to_base" else "none"
        return f"not published: '{child}' hangs on '{parent}' already; set publish_tf to {cure}"

    def _clock_problem(self, now_ns: int) -> str:
        """How the clock does not fit the images; empty if it does."""
        if self._simulated and now_ns == 0:
            return "use_sim_time is set, and nothing publishes /clock"
        if abs(self._behind_ns) < CLOCKS_DIFFER_S * SECOND:
            return ""
        where = "behind" if self._behind_ns > 0 else "ahead of"
        return (
            f"stamps of images are {abs(self._behind_ns) / SECOND:.0f} s {where} the clock; with a "
            "bag set use_sim_time, else synchronize the clocks"
        )

    def _state_now(self, prediction: Prediction | None, monotonic: float) -> State:
        """What the last image left of the state: it does not stay so without images."""
        if self._state not in (State.TRACKING, State.COASTING):
            return self._state
        if monotonic - self._outputs.published > SILENT_S:
            return State.LOST
        if self._state is State.TRACKING and prediction is not None:
            return prediction.state
        return self._state

    def report(self) -> list[DiagnosticStatus]:
        """For /diagnostics."""
        name, limits = self._node.get_name(), self._settings.sensors
        monotonic, now = time.monotonic(), self._now_ns()
        heard, newest = self._heard_odometry, self._predictor.newest_odometry_ns
        odometry = None
        if heard is not None and newest is not None:
            odometry = monotonic - heard, (now - newest) / SECOND
        prediction = self._predictor.at(now)
        with self._lock:
            state = self._state_now(prediction, monotonic)
            told = [diagnosis.localization_status(name, state, self._statistics, self._tracked)]
        for number, camera in enumerate(self._inputs.cameras):
            silent = monotonic - self._arrivals.get(number, self._begin)
            told.append(diagnosis.camera_status(name, camera, silent, limits))
        told.append(diagnosis.inputs_status(name, self._inputs, odometry, self._clock_problem(now)))
        self._inputs.problems.pop("tf", None)  # is told again if it goes on
        told.append(diagnosis.transform_status(name, self._settings, self._rival(), prediction))
        return told

"""The recorder node: subscribes to what is to be recorded and feeds it to a `Recording`.

A lifecycle node. Configured, it knows its parameters; active, it can record. Subscriptions
are made when a recording starts, so that publishers of latched topics repeat themselves for
each dataset. Callbacks only enqueue serialized messages.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_srvs.srv import SetBool, Trigger

from kapture_ros.dataset.filequeue import WriterOptions
from kapture_ros.dataset.splitting import SplitOptions
from kapture_ros.errors import KaptureRosError, OptionError
from kapture_ros.messages import Message
from kapture_ros.nodes.ending import alive, spin
from kapture_ros.nodes.parameters import declare_options, options_of
from kapture_ros.recording.config import RecordingOptions, load_config
from kapture_ros.recording.health import HealthOptions
from kapture_ros.recording.recorder import (
    RecorderOptions,
    Recording,
    RecordingSettings,
    RecordingStatus,
    new_dataset_path,
)
from kapture_ros.recording.streaming import SequenceGaps

OPTIONS = (RecorderOptions, RecordingOptions, WriterOptions, SplitOptions, HealthOptions)
"""All parameters of the node, in the order of config/record.yaml."""

STATUS_PERIOD_S = 1.0
MIDDLEWARE_LOST = "lost in the middleware"
NOT_INSTALLED = "not recorded: its message package is not installed"
SEVERAL_TYPES = "not recorded: published with several types"
NEVER_HEARD = "asked for, but nobody published it"
WHILE_PAUSED = ("tf_static", "camera_info")  # said once, so heard even while paused


@dataclass(slots=True)
class _Subscription:
    """A topic being recorded."""

    handle: Any
    type_name: str
    profile: tuple[ReliabilityPolicy, DurabilityPolicy]


class RecorderNode(LifecycleNode):
    """Records topics to kapture datasets.

    Services: ~/start and ~/stop (std_srvs/Trigger), ~/pause (std_srvs/SetBool). Publishes
    /diagnostics once a second.
    """

    def __init__(self, overrides: Sequence[Parameter] = ()) -> None:
        super().__init__("recorder", parameter_overrides=list(overrides))
        for cls in OPTIONS:
            declare_options(self, cls)
        self.settings: RecordingSettings | None = None
        self.recording: Recording | None = None
        self._active = False
        self._subscriptions_by_topic: dict[str, _Subscription] = {}
        self._missed: set[str] = set()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._status_timer = self.create_timer(STATUS_PERIOD_S, self._report_status)
        self._discovery_timer: Any = None

    # -- lifecycle ------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read and check the parameters."""
        try:
            self.settings = self._read_settings()
        except KaptureRosError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Be ready to record; with `autostart`, record."""
        assert self.settings is not None  # configured
        self._active = True
        if self.settings.recorder.autostart:
            try:
                self.start()
            except KaptureRosError as error:
                self.get_logger().error(str(error))
                self._active = False
                return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the recording."""
        self.stop()
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the parameters."""
        self.settings = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the recording."""
        self.stop()
        self._active = False
        return TransitionCallbackReturn.SUCCESS

    def _read_settings(self) -> RecordingSettings:
        recorder: RecorderOptions = options_of(self, RecorderOptions)
        in_file = Path(recorder.config).expanduser() if recorder.config else None
        given = {
            name: getattr(options_of(self, RecordingOptions), name)
            for name in self._parameter_overrides
            if name in RecordingOptions.__dataclass_fields__
        }
        return RecordingSettings(
            recorder,
            load_config(in_file, given),
            options_of(self, WriterOptions),
            options_of(self, SplitOptions),
            options_of(self, HealthOptions),
        )

    # -- recording ------------------------------------------------------------------------------

    def start(self) -> Path:
        """Begin a new dataset.

        Raises:
            OptionError: if the node is not active, or records already.
            OutputError: if the dataset cannot be created.
        """
        if self.settings is None or not self._active:
            raise OptionError("the recorder is not active; activate it first")
        if self.recording is not None and self.recording.running:
            raise OptionError(f"already recording to {self.recording.paths[-1]}; stop that first")
        self._unsubscribe()
        path = new_dataset_path(self.settings.recorder)
        self.recording = Recording(path, self.settings, self._decode)
        self.get_logger().info(f"recording to {path}")
        self._discover()
        period = self.settings.recorder.discovery_s
        self._discovery_timer = self.create_timer(period, self._discover)
        return path

    def stop(self) -> str:
        """End the recording, if there is one; returns what to tell about it."""
        heard = set(self._subscriptions_by_topic)
        self._take_what_waits()
        self._unsubscribe()
        if self.recording is None:
            return "nothing was being recorded"
        recording, self.recording = self.recording, None
        asked = {topic for topic in recording.settings.recorder.topics if "*" not in topic}
        for topic in sorted(asked - heard - self._missed):
            recording.missed(topic, NEVER_HEARD)
        self._missed.clear()
        recording.stop()
        status = recording.status()
        places = ", ".join(map(str, recording.paths))
        told = f"{status.received} messages, {status.dropped} lost, in {places}"
        if status.ended:
            told += f"; ended early: {status.ended}"
        self.get_logger().info(told)
        return told

    def _take_what_waits(self) -> None:
        """Hear what has arrived in the middleware; what publishers go on to say is too late."""
        if self.recording is None:
            return
        most = self.recording.settings.recorder.queue_depth
        for subscription in self._subscriptions_by_topic.values():
            handle = subscription.handle
            for _ in range(most):
                with handle.handle:
                    taken = handle.handle.take_message(handle.msg_type, handle.raw)
                if taken is None:
                    break
                handle.callback(*taken)

    def _unsubscribe(self) -> None:
        if self._discovery_timer is not None:
            self.destroy_timer(self._discovery_timer)
            self._discovery_timer = None
        for subscription in self._subscriptions_by_topic.values():
            self.destroy_subscription(subscription.handle)
        self._subscriptions_by_topic.clear()

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = str(self.start())
            response.success = True
        except KaptureRosError as error:
            response.message = str(error)
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.recording is not None
        response.message = self.stop()
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.recording is None:
            response.message = "nothing is being recorded"
            return response
        self.recording.paused = request.data
        response.success = True
        response.message = "paused" if request.data else "recording"
        return response

    # -- topics ---------------------------------------------------------------------------------

    def _discover(self) -> None:
        """Subscribe to topics that have come up; again where a publisher needs other QoS."""
        recording = self.recording
        if recording is None or not recording.running:
            return
        for topic, types in self.get_topic_names_and_types():
            if not recording.uses(topic, types[0]):
                continue
            if len(types) > 1:
                self._miss_once(topic, SEVERAL_TYPES, ", ".join(types))
                continue
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            wanted = matching_policies([publisher.qos_profile for publisher in publishers])
            known = self._subscriptions_by_topic.get(topic)
            if known is not None and known.profile == wanted:
                continue
            if (message_type := message_class(types[0])) is None:
                self._miss_once(topic, NOT_INSTALLED, types[0])
                continue
            if known is not None:
                self.destroy_subscription(known.handle)
            gaps = SequenceGaps(len(publishers))
            handle = self._subscribe(recording, topic, types[0], message_type, wanted, gaps)
            self._subscriptions_by_topic[topic] = _Subscription(handle, types[0], wanted)
            self.get_logger().info(f"{'again ' if known else ''}subscribed to {topic} ({types[0]})")

    def _subscribe(
        self,
        recording: Recording,
        topic: str,
        type_name: str,
        message_type: type[Message],
        policies: tuple[ReliabilityPolicy, DurabilityPolicy],
        gaps: SequenceGaps,
    ) -> Any:
        heard_while_paused = topic.rpartition("/")[2] in WHILE_PAUSED
        clock = self.get_clock()

        numbered = False

        def enqueue(data: bytes, info: Mapping[str, Any]) -> None:
            nonlocal numbered
            # A subscription whose queue overflows tells nobody but by these numbers.
            if (number := info.get("publication_sequence_number")) is not None:
                numbered = True
                if missing := gaps.add(number):
                    recording.lost(topic, MIDDLEWARE_LOST, missing)
            if not recording.paused or heard_while_paused:
                recording.put(topic, type_name, data, clock.now().nanoseconds)

        def count_lost(event: Any) -> None:
            if not numbered:  # they would be counted twice
                recording.lost(topic, MIDDLEWARE_LOST, event.total_count_change)

        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=recording.settings.recorder.queue_depth,
            reliability=policies[0],
            durability=policies[1],
        )
        heard: Any = enqueue  # rclpy's annotation knows callbacks with one argument only
        events = SubscriptionEventCallbacks(message_lost=count_lost)
        return self.create_subscription(
            message_type, topic, heard, profile, event_callbacks=events, raw=True
        )

    def _decode(self, type_name: str, data: bytes) -> Message:
        message_type = message_class(type_name)
        try:
            return deserialize_message(data, message_type)
        except RuntimeError as error:  # what rclpy raises for a message that is not whole
            raise ValueError(str(error)) from error

    def _miss_once(self, topic: str, reason: str, types: str) -> None:
        if self.recording is not None and topic not in self._missed:
            self._missed.add(topic)
            self.recording.missed(topic, reason)
            self.get_logger().warning(f"{topic} ({types}): {reason}")

    # -- status ---------------------------------------------------------------------------------

    def _report_status(self) -> None:
        if self.recording is not None and not self.recording.running:
            self._unsubscribe()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status.append(
            diagnostic(self.get_name(), self.recording.status() if self.recording else None)
        )
        self._diagnostics.publish(message)


def matching_policies(
    offered: Sequence[QoSProfile],
) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
    """The strongest reliability and durability that match every publisher.

    A subscription that asks for more than a publisher offers hears nothing of it.
    """
    reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
    latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
    return (
        ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def message_class(type_name: str) -> type[Message] | None:
    """The class of `package/msg/Name`; None if its package is not installed."""
    package, _, name = type_name.replace("/msg/", "/").partition("/")
    try:
        found: type[Message] | None = getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None
    return found


def diagnostic(name: str, status: RecordingStatus | None) -> DiagnosticStatus:
    """What /diagnostics says about a recording."""
    message = DiagnosticStatus(name=f"{name}: recording", hardware_id="kapture_ros")
    if status is None:
        message.level, message.message = DiagnosticStatus.OK, "not recording"
        return message
    if status.ended:
        message.level, message.message = DiagnosticStatus.ERROR, f"ended: {status.ended}"
    elif status.dropped:
        message.level, message.message = DiagnosticStatus.WARN, f"{status.dropped} messages lost"
    elif status.paused:
        message.level, message.message = DiagnosticStatus.WARN, "paused"
    else:
        message.level, message.message = DiagnosticStatus.OK, "recording"
    values = {
        "dataset": status.path,
        "messages received": status.received,
        "messages lost": status.dropped,
        "messages waiting": status.inbox,
        "megabytes waiting": round(status.inbox_bytes / 1e6, 1),
        "images waiting": status.images_queued,
        "megabytes written": round(status.bytes_written / 1e6, 1),
        "megabytes free": round(status.free_bytes / 1e6),
    }
    message.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return message


def run(node_of: Callable[[], RecorderNode], ros_arguments: Sequence[str] | None = None) -> int:
    """Spin a recorder until it is told to end; returns the exit code.

    A signal ends the recording cleanly. With `autostart` the node configures and activates
    itself, and the process fails if it cannot.
    """
    with alive(node_of, ros_arguments) as node:
        try:
            if node.get_parameter("autostart").value and not _bring_up(node):
                return 1
            spin(node)
        finally:
            node.stop()
    return 0


def _bring_up(node: RecorderNode) -> bool:
    done = TransitionCallbackReturn.SUCCESS
    return bool(node.trigger_configure() == done and node.trigger_activate() == done)


def main() -> None:
    """Entry point of `ros2 run kapture_ros recorder`."""
    sys.exit(run(RecorderNode))


if __name__ == "__main__":
    main()

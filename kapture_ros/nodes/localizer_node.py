"""The localizer node: images in, pose and TF out, thin over `SequenceLocalizer`.

A lifecycle node. Configured, it holds map and networks; active, it listens, localizes on a
thread of its own and publishes. Callbacks only hand messages on to `Inputs`; answers go
through `Outputs`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.srv import LoadMap
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import Trigger

from kapture_ros.errors import InputError, KaptureRosError, OptionError
from kapture_ros.localization.extractor import extractor_for
from kapture_ros.localization.localizer import Localizer
from kapture_ros.mapping.manifest import require_metric
from kapture_ros.mapping.matching import eight_bit_search
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.nodes import diagnosis
from kapture_ros.nodes.drive import Drive
from kapture_ros.nodes.ending import alive, spin
from kapture_ros.nodes.inference import WatchedExtractor, explain
from kapture_ros.nodes.localizer_options import InputOptions, camera_settings
from kapture_ros.nodes.outputs import Outputs
from kapture_ros.nodes.parameters import declare_options
from kapture_ros.nodes.settings import PARTS, Settings, is_fixed, parameters, read_settings
from kapture_ros.options import OptionInfo, check

_Loaded: TypeAlias = tuple[Settings, Localizer]
Result = TypeVar("Result")

DIAGNOSTICS_S = 1.0
LARGE_BLOCK = 2**20  # bytes that go back to the system when they are freed
KEPT_FREE = 2**26  # bytes at the end of the heap that do not
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
SWITCH_S = 2e-4  # the networks' many short steps must not wait 5 ms each for the callbacks


class LocalizerNode(LifecycleNode):
    """Localizes in a visual map; topics, services and parameters: docs/localizer.md."""

    def __init__(self, overrides: Sequence[Parameter] = ()) -> None:
        super().__init__("localizer", parameter_overrides=list(overrides))
        for prefix, cls in PARTS.values():
            declare_options(self, cls, prefix)
        self._infos: dict[str, tuple[str, OptionInfo]] = {
            name: (part, info) for name, part, info in parameters()
        }
        self.settings: Settings | None = None  # of the configured node
        self._localizer: Localizer | None = None
        self._outputs: Outputs | None = None
        self._drive: Drive | None = None
        self._failure = ""
        self._loaded: _Loaded | KaptureRosError | None = None  # for the next configuration
        self._loading: deque[threading.Thread] = deque(maxlen=4)  # the newest
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._changes = diagnosis.ChangeLog()
        self.create_service(Trigger, "~/relocalize", self._on_relocalize)
        self.create_service(Trigger, "~/reset", self._on_reset)
        loading = MutuallyExclusiveCallbackGroup()
        self.create_service(LoadMap, "~/load_map", self._on_load_map, callback_group=loading)
        self._load_before_configuring(loading)
        timing = MutuallyExclusiveCallbackGroup()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # speaks before /clock does
        self.create_timer(DIAGNOSTICS_S, self._report, callback_group=timing, clock=steady)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._use_parameters)

    # -- lifecycle ------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take map and networks; a failure leaves the node as it was, to be tried again."""
        loaded, self._loaded = self._loaded or self._load_configured(), None
        if isinstance(loaded, KaptureRosError):
            self._failure = f"{loaded}; correct the parameters, then configure again"
            self.get_logger().error(f"cannot configure: {self._failure}")
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        self.settings, self._localizer = loaded
        self._outputs = Outputs(self, self.settings, self._localizer.map)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen, localize, publish."""
        assert self.settings is not None and self._localizer is not None  # configured
        assert self._outputs is not None
        self._outputs.publish_map(self._localizer.map, self.now_ns)
        self._drive = Drive(self, self.settings, self._localizer, self._outputs)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; map and networks stay."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget map and networks."""
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End everything."""
        self.stop()
        self._forget()
        return TransitionCallbackReturn.SUCCESS

    async def bring_up(self) -> None:
        """Configure and activate, as `autostart` wants it."""
        self._loaded = await self._beside(self._load_configured)
        if self.settings is not None:
            return  # somebody configured it meanwhile
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RuntimeError as error:  # rcl: no such transition, it was shut down meanwhile
            self.get_logger().warning(f"not brought up: {error}")

    def stop(self) -> None:
        """End the drive, if there is one."""
        drive, self._drive = self._drive, None
        if drive is not None:
            drive.close()

    def _forget(self) -> None:
        if self._outputs is not None:
            self._outputs.close()
        self._outputs = self._localizer = self.settings = None
        gc.collect()  # callbacks and networks are in cycles, and with them the map's memory

    # -- loading --------------------------------------------------------------------------------

    def _load_before_configuring(self, group: CallbackGroup) -> None:
        """Have map and networks loaded on a thread before a call of ~/change_state configures.

        A transition itself holds up all callbacks of the node, for as long as it takes.
        """
        service = next(s for s in self.services if s.srv_type is ChangeState)
        change = service.callback

        async def load_and_change(request: Any, response: Any) -> Any:
            wanted = request.transition
            configures = wanted.label == "configure" or (
                not wanted.label and wanted.id == Transition.TRANSITION_CONFIGURE
            )
            if configures and self.settings is None:
                self._loaded = await self._beside(self._load_configured)
            try:
                return change(request, response)
            except RuntimeError as error:  # rcl: no such transition from this state
                self.get_logger().error(f"~/change_state: {error}")
                response.success = False
                return response
            finally:
                self._loaded = None

        service.callback = load_and_change  # type: ignore[assignment]  # executors await it
        service.callback_group = group  # whoever asks for the state is answered meanwhile
        group.add_entity(service)

    async def _beside(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, done on a thread while callbacks go on."""
        done: Future = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # whatever it is belongs to who waits
                done.set_exception(error)
            if self.executor is not None:
                self.executor.wake()

        thread = threading.Thread(target=run, name="loading", daemon=True)
        self._loading.append(thread)
        thread.start()
        result: Result = await done
        return result

    @property
    def is_loading(self) -> bool:
        """Whether a thread of this node still loads; it cannot be stopped."""
        return any(thread.is_alive() for thread in self._loading)

    def _load_configured(self) -> _Loaded | KaptureRosError:
        """The settings of the parameters and their localizer, or why there is none."""
        try:
            settings = self._read_settings()
            self._check_topics(settings.inputs)
            if not settings.inputs.map:
                raise OptionError("'map' is empty; set it to the folder of a visual map")
            return settings, self._try_load(Path(settings.inputs.map).expanduser(), settings)
        except KaptureRosError as error:
            return error

    def _check_topics(self, inputs: InputOptions) -> None:
        """Refuse names that ROS refuses: at activation rclpy would do so without a word.

        Raises:
            OptionError: naming the parameter and what is wrong with it.
        """
        for camera in camera_settings(inputs):
            self._check_topic("image_topics", camera.topic)
            self._check_topic("camera_info_topics", camera.info_topic)
        for parameter in ("odometry_topic", "gnss_topic", "wifi_topic", "imu_topic"):
            topic = getattr(inputs, parameter)
            if topic:
                self._check_topic(parameter, topic)

    def _check_topic(self, parameter: str, topic: str) -> None:
        try:
            self.resolve_topic_name(topic)
        except RuntimeError as error:  # rcl's text, with where in its source it is from
            why = str(error).partition(", at ")[0].rpartition(": ")[2]
            raise OptionError(f"'{parameter}': '{topic}' is no topic: {why}") from None

    def _try_load(self, map_dir: Path, settings: Settings) -> Localizer:
        """The localizer of a map; whatever goes wrong must not end the node that has another one.

        Raises:
            KaptureRosError: if there is none.
        """
        try:
            return self._load(map_dir, settings)
        except KaptureRosError:
            raise
        except Exception as error:
            raise InputError(f"{map_dir} cannot be loaded: {explain(error)}") from error

    def _load(self, map_dir: Path, settings: Settings) -> Localizer:
        start = time.monotonic()
        visual_map = VisualMap.load(map_dir)
        require_metric(visual_map.manifest, map_dir, "motions and mountings of cameras")
        parts = settings.parts
        extractor = extractor_for(
            visual_map.feature_types,
            parts["local_features"],
            parts["global_features"],
            parts["networks"],
        )
        localizer = Localizer(visual_map, settings.localizer, WatchedExtractor(extractor))
        eight_bit_search()  # compiled now, not while the first image of a drive waits
        self.get_logger().info(
            f"map {map_dir}: {len(visual_map)} images, {len(visual_map.points)} points; "
            f"loaded with its networks in {time.monotonic() - start:.1f} s"
        )
        return localizer

    # -- parameters -----------------------------------------------------------------------------

    def _read_settings(self) -> Settings:
        def value_of(name: str) -> Any:
            return self.get_parameter(name).value

        return read_settings(value_of, f"parameters of {self.get_name()}")

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """Refuse values out of range, and changes that would need another configuration."""
        for parameter in changed:
            if parameter.name not in self._infos:
                continue  # use_sim_time and the like
            part, info = self._infos[parameter.name]
            try:
                if parameter.value is not None:
                    check(info, parameter.value, parameter.name)
            except OptionError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if self.settings is not None and is_fixed(part, parameter.name):
                text = f"'{parameter.name}' holds while the node is configured; clean up first"
                if parameter.name == "map":
                    text += ", or call ~/load_map"
                return SetParametersResult(successful=False, reason=text)
        return SetParametersResult(successful=True)

    def _use_parameters(self, changed: list[Parameter]) -> None:
        if self.settings is None or not any(p.name in self._infos for p in changed):
            return
        self.settings = settings = self._read_settings()
        if self._localizer is not None:
            self._localizer.options = settings.localizer
        if self._outputs is not None:
            self._outputs.use(settings)
        if self._drive is not None:
            self._drive.use(settings)

    # -- services -------------------------------------------------------------------------------

    def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Any:
        """Give the pose up and search the whole map; what is known of odometry stays."""
        if self._drive is None:
            response.message = "the localizer is not active"
            return response
        self._drive.relocalize()
        response.success, response.message = True, "searching the whole map"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Any:
        """Forget all but the map."""
        if self._drive is None:
            response.message = "the localizer is not active"
            return response
        self._drive.restart()
        response.success, response.message = True, "begun anew"
        return response

    async def _on_load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> Any:
        """Go on with another map (its folder is `map_url`); the old one stays if that fails."""
        settings, outputs = self.settings, self._outputs
        if settings is None or outputs is None:
            response.result = LoadMap.Response.RESULT_UNDEFINED_FAILURE
            self.get_logger().error("~/load_map: the localizer is not configured")
            return response
        path = Path(request.map_url.removeprefix("file://")).expanduser()
        try:
            localizer = await self._beside(lambda: self._try_load(path, settings))
        except KaptureRosError as error:
            self.get_logger().error(f"~/load_map: {error}")
            missing = not path.is_dir()
            response.result = (
                LoadMap.Response.RESULT_MAP_DOES_NOT_EXIST
                if missing
                else LoadMap.Response.RESULT_INVALID_MAP_DATA
            )
            return response
        if self._outputs is not outputs:
            response.result = LoadMap.Response.RESULT_UNDEFINED_FAILURE
            self.get_logger().error("~/load_map: the localizer was cleaned up meanwhile")
            return response
        was_active = self._drive is not None
        self.stop()
        self._localizer = localizer
        gc.collect()  # as in _forget
        outputs.restart()
        if was_active:
            outputs.publish_map(localizer.map, self.now_ns)
            self._drive = Drive(self, outputs.settings, localizer, outputs)
        response.result = LoadMap.Response.RESULT_SUCCESS
        return response

    # -- status ---------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The node's clock."""
        now: int = self.get_clock().now().nanoseconds
        return now

    def _report(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name, drive = self.get_name(), self._drive
        if drive is not None:
            message.status.extend(drive.report())
        elif self._failure:
            text = f"cannot configure: {self._failure}"
            message.status.append(
                diagnosis.status(f"{name}: localization", diagnosis.ERROR, text, {})
            )
        else:
            message.status.append(
                diagnosis.status(f"{name}: localization", diagnosis.OK, "not active", {})
            )
        self._diagnostics.publish(message)
        self._log(message.status)

    def _log(self, statuses: Sequence[DiagnosticStatus]) -> None:
        """What got better or worse, for whoever reads the log only."""
        for told in self._changes.news(statuses):
            text = f"{told.name.partition(': ')[2]}: {told.message}"
            if told.level == diagnosis.OK:  # a line each: rclpy knows lines by their severity
                self.get_logger().info(text)
            elif told.level == diagnosis.WARN:
                self.get_logger().warning(text)
            else:
                self.get_logger().error(text)


def run(node_of: Callable[[], LocalizerNode], ros_arguments: Sequence[str] | None = None) -> int:
    """Spin a localizer until it is told to end; returns the exit code.

    With `autostart` the node configures and activates itself; where it cannot, it stays
    unconfigured and tells why, to be corrected and configured again.
    """
    sys.setswitchinterval(SWITCH_S)
    give_large_blocks_back()
    with alive(node_of, ros_arguments) as node:
        try:
            spin(node, node.bring_up if node.get_parameter("autostart").value else None)
        finally:
            node.stop()
    if node.is_loading:
        # Where Python ends, it ends that thread in the midst of machine code, which aborts.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


def give_large_blocks_back() -> None:
    """Hold the memory at what is used: freed maps of the networks must not stay in pieces.

    glibc would keep blocks of up to 32 MB after the first of that size is freed, and grow for
    minutes until every one finds a gap. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, LARGE_BLOCK)
        set_option(M_TRIM_THRESHOLD, KEPT_FREE)


def main() -> None:
    """Entry point of `ros2 run kapture_ros localizer`."""
    sys.exit(run(LocalizerNode))


if __name__ == "__main__":
    main()

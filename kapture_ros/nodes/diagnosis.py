"""What /diagnostics says about the localizer: its inputs, its answers, its transform.

Levels follow the REP-107 practice: WARN is degraded, ERROR means that nothing comes out.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Reason
from kapture_ros.localization.sequence_state import State, TrackedPose
from kapture_ros.nodes.inputs import CameraInput, Inputs
from kapture_ros.nodes.localizer_options import SensorOptions
from kapture_ros.nodes.predictor import Prediction
from kapture_ros.nodes.settings import Settings

LATE_S = 1.0  # odometry: beyond that nothing is predicted from it
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
LEVEL_OF_STATE = {
    State.UNINITIALIZED: WARN,
    State.INITIALIZING: WARN,
    State.TRACKING: OK,
    State.COASTING: WARN,
    State.LOST: ERROR,
}


@dataclass(slots=True)
class Statistics:
    """Answers of the last while: counts by reason, image-to-pose latency in milliseconds."""

    reasons: Counter[Reason] = field(default_factory=Counter)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    last_reason: str = ""

    def add(self, reason: Reason, text: str, latency_ms: float) -> None:
        """Take an answer."""
        self.reasons[reason] += 1
        self.last_reason = f"{reason.name}: {text}"
        if reason is not Reason.LATE:
            self.latencies.append(latency_ms)

    def values(self) -> dict[str, Any]:
        """For a diagnostic status."""
        shown: dict[str, Any] = {
            f"images {reason.name.lower().replace('_', ' ')}": count
            for reason, count in sorted(self.reasons.items())
        }
        if self.latencies:
            p50, p95, p99 = np.percentile(list(self.latencies), [50, 95, 99])
            shown["latency ms p50 p95 p99"] = f"{p50:.0f} {p95:.0f} {p99:.0f}"
        shown["last image"] = self.last_reason
        return shown


def status(name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """One line of /diagnostics."""
    shown = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        name=f"{name}", level=level, message=text, hardware_id="kapture_ros", values=shown
    )


class ChangeLog:
    """Picks what is new in diagnostics for the log; numbers in the texts may change."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[bytes, str]] = {}

    def news(self, statuses: Iterable[DiagnosticStatus]) -> list[DiagnosticStatus]:
        """Those that got worse or better or say something else; not what was well all along."""
        changed = []
        for told in statuses:
            now = (told.level, re.sub(r"\d+(\.\d+)?", "#", told.message.partition("; last")[0]))
            if now != self._said.get(told.name, (OK, now[1])):
                changed.append(told)
            self._said[told.name] = now
        return changed


def localization_status(
    node: str, state: State, statistics: Statistics, tracked: TrackedPose | None
) -> DiagnosticStatus:
    """Whether the pose is known."""
    level = LEVEL_OF_STATE[state]
    texts = {State.TRACKING: "tracking", State.LOST: "lost: no pose is published"}
    text = texts.get(state, state.name.lower())
    if state is not State.TRACKING and statistics.last_reason:
        text += f"; last image {statistics.last_reason}"
    values: dict[str, Any] = {}
    if tracked is not None:
        values = {"carried by": tracked.motion.value, "fix age s": tracked.fix_age}
        if tracked.gnss_disagrees:
            level, text = max(level, WARN), f"{text}; GNSS contradicts the pose"
        if not tracked.consistent:
            text += f"; covariances were too small, now {tracked.inflation:.1f} times as large"
    return status(f"{node}: localization", level, text, {**values, **statistics.values()})


def camera_status(
    node: str, camera: CameraInput, silent_s: float, limits: SensorOptions
) -> DiagnosticStatus:
    """Whether a camera's images come and can be used.

    Args:
        silent_s: seconds since its last image, or since the node became active.
    """
    level, text = OK, "images arrive"
    if silent_s > limits.silence_warning:
        level = ERROR if silent_s > limits.silence_error else WARN
        text = f"no image for {silent_s:.1f} s" if camera.images else "no image yet"
        text += f"; is {camera.settings.topic} published? (ros2 topic hz)"
    elif camera.problem:
        level, text = ERROR, camera.problem
    model = camera.model
    values = {
        "topic": camera.settings.topic,
        "camera info": camera.settings.info_topic,
        "images": camera.images,
        "calibration": " ".join(model.params[:3]) if model else "none yet",
    }
    return status(f"{node}: camera {camera.settings.topic}", level, text, values)


def inputs_status(
    node: str, inputs: Inputs, odometry: tuple[float, float] | None, clock: str
) -> DiagnosticStatus:
    """Odometry, the other sensors, and how the cameras fit together.

    Args:
        odometry: seconds since its newest sample came, and since its stamp; None: none came.
        clock: how the clock does not fit the images; empty if it does.
    """
    problems = [f"{name}: {problem}" for name, problem in sorted(inputs.problems.items())]
    if clock:
        problems.append(clock)
    silent, age = odometry or (None, None)
    if silent is None or age is None:
        source = inputs.settings.inputs
        wanted = source.odometry_topic or f"TF {source.odom_frame} to {source.base_frame}"
        problems.append(f"no odometry ({wanted}): the pose is carried by its last motion")
    elif silent > LATE_S:
        problems.append(f"no odometry for {silent:.1f} s")
    elif age > LATE_S and not clock:
        problems.append(f"odometry comes {age:.1f} s after its stamps")
    sync = inputs.synchronizer
    values: dict[str, Any] = {"odometry age s": age}
    if len(inputs.cameras) > 1:
        spreads = [spread / SECOND for spread in sync.spreads_ns]
        values["slop s"] = round(sync.slop_ns / SECOND, 4)
        values["stamps apart s p95"] = round(float(np.percentile(spreads, 95)), 4) if spreads else 0
        values["silent cameras"] = ", ".join(inputs.cameras[c].settings.topic for c in sync.silent)
    return status(f"{node}: inputs", WARN if problems else OK, "; ".join(problems) or "ok", values)


def transform_status(
    node: str, settings: Settings, rival: str, prediction: Prediction | None
) -> DiagnosticStatus:
    """Whether the transform is published."""
    what, inputs = settings.outputs.publish_tf, settings.inputs
    child = {"map_to_odom": inputs.odom_frame, "map_to_base": inputs.base_frame}.get(what, "")
    level, text = OK, f"{inputs.map_frame} to {child}" if child else "none wanted"
    if rival:
        level, text = ERROR, rival
    elif child and prediction is None:
        level, text = WARN, "not published: the pose is not known"
    elif what == "map_to_odom" and prediction is not None and prediction.map_from_odom is None:
        level, text = ERROR, "not published: no odometry; give it, or set publish_tf to map_to_base"
    return status(f"{node}: transform", level, text, {"publish_tf": what})

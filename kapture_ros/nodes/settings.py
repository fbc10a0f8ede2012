"""All parameters of the localizer node: its own, and the core's behind prefixes.

Read from ROS parameters by the node; `config/localize.yaml` is written from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kapture_ros.features.options import ApGemOptions, R2D2Options, RuntimeOptions
from kapture_ros.localization.guided import GuidedOptions
from kapture_ros.localization.inertial import InertialOptions
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.options import GROUPS, LocalizerOptions
from kapture_ros.localization.place_filter import PlaceOptions
from kapture_ros.localization.sequence_state import SequenceOptions, TrackingOptions
from kapture_ros.nodes.localizer_options import InputOptions, OutputOptions, SensorOptions
from kapture_ros.options import OptionInfo, describe, from_mapping

TITLE = "Parameters of the localizer; ros2 launch kapture_ros localize.launch.py map:=…"
PARTS: dict[str, tuple[str, type[Any]]] = {
    "inputs": ("", InputOptions),
    "sensors": ("", SensorOptions),
    "outputs": ("", OutputOptions),
    **{group: (group, cls) for group, cls in GROUPS.items()},
    "tracking": ("tracking", TrackingOptions),
    "guided": ("guided", GuidedOptions),
    "motion": ("motion", MotionOptions),
    "place": ("place", PlaceOptions),
    "inertial": ("inertial", InertialOptions),
    "local_features": ("local_features", R2D2Options),
    "global_features": ("global_features", ApGemOptions),
    "networks": ("networks", RuntimeOptions),
}
"""Every part with the prefix of its parameters, in the order of config/localize.yaml."""

FIXED = ("inputs", "motion", "place", "inertial", "local_features", "global_features", "networks")
"""Parts that hold from configure to cleanup; of the others all change at once but these:"""

FIXED_ONES = (
    *("map_points", "matching.device", "answer.map_sigma", "answer.map_sigma_degrees"),
    "tracking.window",
)


@dataclass(frozen=True)
class Settings:
    """The values of all parameters, by part."""

    parts: Mapping[str, Any]

    @property
    def inputs(self) -> InputOptions:
        """What the node listens to."""
        options: InputOptions = self.parts["inputs"]
        return options

    @property
    def sensors(self) -> SensorOptions:
        """How inputs are brought together."""
        options: SensorOptions = self.parts["sensors"]
        return options

    @property
    def outputs(self) -> OutputOptions:
        """What is published."""
        options: OutputOptions = self.parts["outputs"]
        return options

    @property
    def localizer(self) -> LocalizerOptions:
        """For `Localizer`."""
        return LocalizerOptions(**{group: self.parts[group] for group in GROUPS})

    @property
    def sequence(self) -> SequenceOptions:
        """For `SequenceLocalizer`."""
        wanted = ("tracking", "motion", "guided", "place", "inertial")
        return SequenceOptions(**{part: self.parts[part] for part in wanted})


def full_name(prefix: str, name: str) -> str:
    """The parameter of an option: `pose.max_error`, or the name alone."""
    return f"{prefix}.{name}" if prefix else name


def parameters() -> Iterator[tuple[str, str, OptionInfo]]:
    """Every parameter: its name, its part, its option."""
    for part, (prefix, cls) in PARTS.items():
        for info in describe(cls):
            yield full_name(prefix, info.name), part, info


def is_fixed(part: str, name: str) -> bool:
    """Whether a parameter, by part and full name, holds from configure to cleanup."""
    return part in FIXED or name in FIXED_ONES


def read_settings(value_of: Callable[[str], Any], where: str) -> Settings:
    """Settings from the values of all parameters; None stands for the default.

    Raises:
        OptionError: naming the parameter that is out of range or of the wrong type.
    """
    made = {}
    for part, (prefix, cls) in PARTS.items():
        values = {info.name: value_of(full_name(prefix, info.name)) for info in describe(cls)}
        given = {name: value for name, value in values.items() if value is not None}
        made[part] = from_mapping(cls, given, f"{where} {prefix}".rstrip())
    return Settings(made)

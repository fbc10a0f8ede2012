"""Settings of a recording or conversion: options for everybody, and a file for the rest.

The YAML file holds the options by their names, and under `topics`, `extrinsics`, `urdf` and
`wifi` what has no place on a command line (docs/converting.md shows one).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.dataset.escape import check_id
from kapture_ros.errors import InputError, OptionError
from kapture_ros.messages.common import normalized_type
from kapture_ros.messages.wifi import WifiMapping
from kapture_ros.options import from_mapping, load_yaml, option
from kapture_ros.transforms.se3 import Array, Transform

SECTIONS = ("topics", "extrinsics", "urdf", "wifi")
# Left out unless `topics` has them: a map made of them would have pictures without calibration
# for a camera's, and its own pose for a receiver's fix, which would bear it out.
MADE_BY_LOCALIZER = tuple(f"*/localizer/{name}" for name in ("debug_image/*", "fix", "map_points"))


@dataclass(frozen=True)
class RecordingOptions:
    """What becomes of the messages of a recording or bag."""

    trajectory: str = option(
        "auto", "where poses come from: auto, tf, gnss, none, or an Odometry or Pose topic"
    )
    world_frame: str = option("", "frame of the trajectory from tf; empty: map, or the root")
    base_frame: str = option("", "frame of the rig; empty: base_link, or the top static frame")
    pose_frame: str = option("", "frame that Pose topics give the pose of; empty: the base frame")
    max_gap_s: float = option(
        2.0, "longest gap between poses that is interpolated across", unit="s", minimum=0
    )
    wait_s: float = option(5.0, "how long an image waits for a later pose", unit="s", minimum=0)
    every: int = option(1, "keep every n-th image of each camera", minimum=1)
    min_distance: float = option(
        0.0, "keep an image when its camera moved this far since the last", unit="m", minimum=0
    )
    undistort: bool = option(False, "remove the lens distortion of camera images (not lossless)")
    transforms: bool = option(True, "keep every transform of /tf beside the dataset's poses")


@dataclass(frozen=True)
class TopicOptions:
    """What the configuration says about one topic."""

    name: str = option("", "sensor id in the dataset; empty: made from the topic")
    kind: str = option("", "what images are; empty: by encoding", choices=("", "camera", "depth"))
    camera_info: str = option("", "topic of its CameraInfo; empty: beside the image topic")
    frame: str = option("", "frame of the sensor, in place of the messages' frame_id")
    every: int = option(0, "keep every n-th image; 0: as for all", minimum=0)
    ignore: bool = option(False, "leave this topic out")


@dataclass(frozen=True, slots=True)
class Extrinsic:
    """A static transform given by the configuration."""

    parent: str
    child: str
    parent_from_child: Transform


@dataclass(frozen=True)
class RecordingConfig:
    """Everything a session needs to know."""

    options: RecordingOptions = field(default_factory=RecordingOptions)
    topics: Mapping[str, TopicOptions] = field(default_factory=dict)
    extrinsics: Sequence[Extrinsic] = ()
    wifi: Mapping[str, WifiMapping] = field(default_factory=dict)

    def topic(self, name: str) -> TopicOptions:
        """What is said about a topic; the defaults if nothing."""
        made_here = any(fnmatch.fnmatchcase(name, pattern) for pattern in MADE_BY_LOCALIZER)
        return self.topics.get(name, TopicOptions(ignore=made_here))


def load_config(path: Path | None, given: Mapping[str, Any] | None = None) -> RecordingConfig:
    """The configuration of a YAML file, with options of the command line over its own.

    Raises:
        InputError: if the file, or the URDF it names, cannot be read.
        OptionError: on an unknown key or a value that cannot be.
    """
    content = load_yaml(path) if path else {}
    where = str(path) if path else "command line"
    plain = {key: value for key, value in content.items() if key not in SECTIONS}
    options = from_mapping(RecordingOptions, plain, where)
    checked = from_mapping(RecordingOptions, given or {}, "command line")
    options = dataclasses.replace(
        options, **{name: getattr(checked, name) for name in (given or {})}
    )
    topics = {
        str(topic): from_mapping(TopicOptions, values or {}, f"{where}: topics: {topic}")
        for topic, values in _section(content, "topics", where).items()
    }
    for said in topics.values():
        if said.name:
            check_id(said.name)
    wifi = {
        normalized_type(str(kind)): from_mapping(WifiMapping, values, f"{where}: wifi: {kind}")
        for kind, values in _section(content, "wifi", where).items()
    }
    listed = content.get("extrinsics") or []
    if not isinstance(listed, list):
        raise OptionError(f"{where}: 'extrinsics' must be a list, '- {{parent: …, child: …}}'")
    extrinsics = [_extrinsic(item, where) for item in listed]
    children = {item.child for item in extrinsics}
    if len(children) < len(extrinsics):
        raise OptionError(f"{where}: a child of 'extrinsics' is there twice")
    if path is not None and content.get("urdf"):
        joints = read_urdf(path.parent / str(content["urdf"]))
        extrinsics += [joint for joint in joints if joint.child not in children]
    return RecordingConfig(options, topics, tuple(extrinsics), wifi)


def read_urdf(path: Path) -> list[Extrinsic]:
    """The fixed joints of a URDF file.

    Raises:
        InputError: if it cannot be read or is no URDF (xacro must be expanded first).
    """
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
        return [_urdf_joint(joint) for joint in root.iter("joint") if joint.get("type") == "fixed"]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (xml.etree.ElementTree.ParseError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a URDF (expand xacro first): {error}") from error


def urdf_transform(xyz: Sequence[float], rpy: Sequence[float]) -> Transform:
    """`parent_from_child` of a URDF origin: metres, and radians about fixed x, y, z axes.

    Raises:
        ValueError: if they are not three finite numbers each.
    """
    translation: Array = np.array([float(value) for value in xyz])
    angles: Array = np.array([float(value) for value in rpy])
    for numbers in (translation, angles):
        if numbers.shape != (3,) or not np.isfinite(numbers).all():
            raise ValueError(f"{numbers.tolist()} are not three finite numbers")
    return Transform(Rotation.from_euler("xyz", angles), translation)


def _urdf_joint(joint: xml.etree.ElementTree.Element) -> Extrinsic:
    parent, child = joint.find("parent"), joint.find("child")
    if parent is None or child is None:
        raise ValueError(f"joint '{joint.get('name')}' lacks a parent or child")
    origin = joint.find("origin")
    values = {} if origin is None else origin.attrib
    numbers = [[float(v) for v in values.get(key, "0 0 0").split()] for key in ("xyz", "rpy")]
    return Extrinsic(parent.attrib["link"], child.attrib["link"], urdf_transform(*numbers))


def _section(content: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, Mapping):
        raise OptionError(f"{where}: '{name}' must hold 'key: value' lines")
    return section


def _extrinsic(item: Any, where: str) -> Extrinsic:
    """`{parent, child, xyz: […], rpy: […]}` as in a URDF, or with `quaternion: [w, x, y, z]`."""
    try:
        unknown = set(item) - {"parent", "child", "xyz", "rpy", "quaternion"}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(map(str, unknown)))}")
        parent, child = str(item["parent"]), str(item["child"])
        xyz = item.get("xyz", (0, 0, 0))
        if "quaternion" in item:
            return Extrinsic(parent, child, Transform.from_quaternion(item["quaternion"], xyz))
        return Extrinsic(parent, child, urdf_transform(xyz, item.get("rpy", (0, 0, 0))))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise OptionError(
            f"{where}: an extrinsic needs parent, child, xyz (metres) and rpy (radians) or "
            f"quaternion (w, x, y, z): {item!r}: {error}"
        ) from error

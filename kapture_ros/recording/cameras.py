"""Which camera an image belongs to: calibrations, their changes, and the sensor ids.

A camera keeps its id as long as image size and CameraInfo stay; when either changes, a new
sensor `NAME-2`, `NAME-3`, … begins, since kapture knows one calibration per sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from kapture_ros.dataset.camera_models import (
    CameraModel,
    base_topic,
    is_rectified,
    model_of_camera_info,
    unknown_camera,
)
from kapture_ros.dataset.escape import derived_id
from kapture_ros.dataset.records import JsonValue, Sensor
from kapture_ros.messages.common import Message, frame_id, plain

NO_CAMERA_INFO = "no CameraInfo"
NO_IMAGE = "no image of this camera"
ADDED_UNDER_OLD = "image came before the CameraInfo that changed its calibration"


_Version: TypeAlias = tuple[tuple[str, ...], tuple[Any, ...] | None]
"""What one sensor stands for: the camera's parameters, and all that its CameraInfo said."""


@dataclass(slots=True)
class _Info:
    """The last CameraInfo of one topic."""

    message: Message
    frame: str
    fingerprint: tuple[Any, ...]


@dataclass(slots=True)
class _Camera:
    """One image topic."""

    topic: str
    kind: str
    name: str
    rectified: bool
    origin: dict[str, JsonValue]
    frame: str
    info_topic: str = ""
    size: tuple[int, int] | None = None
    model: CameraModel | None = None
    sensor_id: str = ""
    newest_ns: int = 0
    without_info: int = 0  # images so far for which no CameraInfo came
    version: _Version | None = None
    versions: dict[_Version, str] = field(default_factory=dict)  # to sensor id


class CameraBook:
    """The cameras of one recording.

    Args:
        info_topics: the CameraInfo topic of an image topic, where the configuration says so.
        add_sensor: declares a sensor, again when its calibration comes late.
        warn: counts a problem of a topic.
        late_info: whether a first CameraInfo holds for the images before it too.
    """

    def __init__(
        self,
        info_topics: Mapping[str, str],
        add_sensor: Callable[[Sensor], None],
        warn: Callable[[str, str], None],
        *,
        late_info: bool = True,
    ) -> None:
        self._info_topics = info_topics
        self._late_info = late_info
        self._add_sensor = add_sensor
        self._warn = warn
        self._infos: dict[str, _Info] = {}
        self._cameras: dict[str, _Camera] = {}

    def add_camera(self, topic: str, kind: str, name: str, origin: dict[str, JsonValue]) -> None:
        """Begin with an image topic.

        Args:
            name: of its first sensor, by which `sensor_of` knows it.
            origin: of its sensors; `frame_id` is the frame of its first image.
        """
        frame = str(origin.get("frame_id", "")).lstrip("/")
        rectified = is_rectified(topic)
        self._cameras[name] = _Camera(topic, kind, name, rectified, origin, frame)

    def add_info(self, topic: str, message: Message, stamp_ns: int) -> bool:
        """Take a CameraInfo; False if it says the same as the one before."""
        fingerprint = _fingerprint(message)
        known = self._infos.get(topic)
        if known is not None and known.fingerprint == fingerprint:
            return False
        self._infos[topic] = _Info(message, frame_id(message), fingerprint)
        for camera in self._cameras.values():
            if camera.size is not None and self._info_topic(camera) == topic:
                if camera.sensor_id and camera.info_topic and camera.newest_ns >= stamp_ns > 0:
                    self._warn(camera.topic, ADDED_UNDER_OLD)
                self._use(camera, camera.size)
        return True

    def sensor_of(self, name: str, size: tuple[int, int], stamp_ns: int) -> str:
        """The sensor id of an image of a width and height, its sensor declared."""
        camera = self._cameras[name]
        camera.newest_ns = stamp_ns
        if camera.size != size:
            if camera.size is not None:
                self._warn(camera.topic, f"image size changed to {size[0]}×{size[1]}")
            self._use(camera, size)
        note = camera.model.note if camera.model else ""
        if note == NO_CAMERA_INFO:
            camera.without_info += 1  # it may still come
        elif note:
            self._warn(camera.topic, note)
        return camera.sensor_id

    def finish(self) -> None:
        """No more CameraInfo: count the images that never got one."""
        for camera in self._cameras.values():
            for _ in range(camera.without_info):
                self._warn(camera.topic, NO_CAMERA_INFO)
            camera.without_info = 0
        for topic in self._infos.keys() - {c.info_topic for c in self._cameras.values()}:
            self._warn(topic, NO_IMAGE)

    def _use(self, camera: _Camera, size: tuple[int, int]) -> None:
        """Go on with the sensor that fits size and calibration."""
        model = self._model(camera, size)
        late = self._late_info and not camera.info_topic
        camera.info_topic = self._info_topic(camera)
        info = self._infos.get(camera.info_topic)
        version = (model.params, info.fingerprint if info else None)
        if version != camera.version:
            camera.sensor_id = self._sensor_id(camera, version, late=late)
        camera.size, camera.model, camera.version = size, model, version
        self._add_sensor(
            Sensor(camera.sensor_id, camera.name, camera.kind, model.params, self._origin(camera))
        )

    def _sensor_id(self, camera: _Camera, version: _Version, *, late: bool) -> str:
        """The sensor id of a version that differs from the previous one."""
        sensor_id, previous = camera.versions.get(version), camera.version
        same_size = previous is not None and previous[0][1:3] == version[0][1:3]
        if sensor_id is None and same_size and late and previous is not None:
            # The first CameraInfo came after the first images: it is theirs.
            sensor_id = camera.versions.pop(previous)
            camera.without_info = 0
        elif previous is not None and same_size:
            self._warn(camera.topic, "calibration changed: a new sensor begins")
        if sensor_id is None:
            count = len(camera.versions) + 1
            sensor_id = camera.name if count == 1 else derived_id(camera.name, f"-{count}")
        camera.versions[version] = sensor_id
        return sensor_id

    def _model(self, camera: _Camera, size: tuple[int, int]) -> CameraModel:
        info = self._infos.get(self._info_topic(camera))
        if info is None:
            return unknown_camera(*size, NO_CAMERA_INFO)
        model = model_of_camera_info(info.message, rectified=camera.rectified)
        if (model.width, model.height) != size:
            note = f"CameraInfo is for {model.width}×{model.height}, the image is another size"
            return unknown_camera(*size, note)
        return model

    def _origin(self, camera: _Camera) -> dict[str, JsonValue]:
        info = self._infos.get(camera.info_topic)
        if info is None:
            return camera.origin
        return {
            **camera.origin,
            "camera_info_topic": camera.info_topic,
            "camera_info": camera_info_content(info.message),
        }

    def _info_topic(self, camera: _Camera) -> str:
        """Where its CameraInfo comes from; "" if nobody sent one yet.

        Beside the image by the rule of image_transport, else the only one with its frame.
        """
        given = self._info_topics.get(camera.topic)
        beside = given or f"{base_topic(camera.topic).rpartition('/')[0]}/camera_info"
        if given or beside in self._infos:
            return beside if beside in self._infos else ""
        same = [topic for topic, info in self._infos.items() if info.frame == camera.frame]
        return same[0] if len(same) == 1 and camera.frame else ""


def camera_info_content(message: Message) -> dict[str, JsonValue]:
    """All that a CameraInfo says but its header, by the names of ROS 2."""
    return {name.lower(): value for name, value in plain(message, without=("header",)).items()}


def _fingerprint(info: Message) -> tuple[Any, ...]:
    """Everything a CameraInfo says but its header."""
    values = (
        (info.d, info.k, info.r, info.p) if hasattr(info, "d") else (info.D, info.K, info.R, info.P)
    )
    arrays = (np.asarray(value, float).tobytes() for value in values)
    roi = info.roi
    region = (roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify)
    sizes = (info.width, info.height, info.binning_x, info.binning_y)
    return (str(info.distortion_model), *arrays, *region, *sizes)

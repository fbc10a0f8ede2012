"""Camera calibrations: CameraInfo of ROS to and from the parameters of kapture and COLMAP.

kapture's models are COLMAP's by name, but NAVER's own data and keypoints put the centre of
the first pixel at (0, 0), as ROS and OpenCV do; COLMAP puts it at (0.5, 0.5). So the params
of a dataset are those of CameraInfo, unshifted. `PIXEL_CENTER` is the difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PIXEL_CENTER = 0.5
"""COLMAP's coordinates minus those of kapture, ROS and OpenCV, in pixels."""

UNKNOWN_CAMERA = "UNKNOWN_CAMERA"
PINHOLE_DISTORTIONS = ("plumb_bob", "rational_polynomial", "radtan", "")
FISHEYE_DISTORTIONS = ("equidistant", "fisheye", "kannala_brandt4")
RECTIFIED = re.compile(r"(^|/)image_rect[^/]*$")
TRANSPORTS = re.compile(r"/(compressed|compressedDepth)$")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A camera model of kapture: its name, the image size and its parameters in order."""

    name: str
    width: int
    height: int
    values: tuple[float, ...] = ()
    note: str = ""  # why nothing better than UNKNOWN_CAMERA could be said

    @property
    def params(self) -> tuple[str, ...]:
        """The sensor parameters of kapture: name, width, height, values."""
        numbers = (repr(value) for value in self.values)
        return (self.name, str(self.width), str(self.height), *numbers)

    @property
    def calibrated(self) -> bool:
        """Whether rays can be computed."""
        return self.name != UNKNOWN_CAMERA


def unknown_camera(width: int, height: int, note: str) -> CameraModel:
    """A camera of which only the size is known."""
    return CameraModel(UNKNOWN_CAMERA, width, height, note=note)


def base_topic(image_topic: str) -> str:
    """The topic of the raw images: without the suffix of a compressed transport."""
    return TRANSPORTS.sub("", image_topic)


def is_rectified(image_topic: str) -> bool:
    """Whether a topic carries rectified images, by the names of image_proc."""
    return RECTIFIED.search(base_topic(image_topic)) is not None


def model_of_camera_info(info: Any, *, rectified: bool) -> CameraModel:
    """The model of a sensor_msgs/CameraInfo, ROS 1 or 2, for the images it comes with.

    K and P are of the full sensor; region of interest and binning are applied. Binning
    averages pixels, so it scales coordinates that begin at the pixels' edge.
    What no model of kapture can say exactly becomes UNKNOWN_CAMERA with a note.
    """
    roi, bins = info.roi, (max(int(info.binning_x), 1), max(int(info.binning_y), 1))
    full = (int(roi.width) or int(info.width), int(roi.height) or int(info.height))
    width, height = full[0] // bins[0], full[1] // bins[1]
    distortion = _field(info, "d")
    matrix = _field(info, "k").reshape(3, 3)
    projection = _field(info, "p").reshape(3, 4)[:, :3]
    if rectified and projection[0, 0] != 0:
        matrix, distortion, kind = projection, np.zeros(0), "plumb_bob"
    else:
        kind = str(info.distortion_model).strip().lower()
        if rectified and distortion.any():
            return unknown_camera(width, height, "rectified images need P, which is zero")
    numbers = np.concatenate([matrix.ravel(), distortion])
    if not np.isfinite(numbers).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        return unknown_camera(width, height, "K has no focal length: the camera is uncalibrated")
    if matrix[0, 1] != 0:
        return unknown_camera(width, height, "K has skew, which no model of kapture has")
    name, coefficients = _distortion(kind, distortion)
    if name == UNKNOWN_CAMERA:
        return unknown_camera(width, height, f"no model for '{kind}' with D = {distortion}")
    offsets = np.array([int(roi.x_offset), int(roi.y_offset)])
    focal = np.array([matrix[0, 0], matrix[1, 1]]) / bins
    center = np.array([matrix[0, 2], matrix[1, 2]]) - offsets
    center = (center + PIXEL_CENTER) / bins - PIXEL_CENTER
    values = (*focal.tolist(), *center.tolist(), *coefficients)
    return CameraModel(name, width, height, values)


def opencv_camera(params: tuple[str, ...] | list[str]) -> tuple[Array, Array, bool] | None:
    """K (3, 3), distortion coefficients and whether they are fisheye, as OpenCV wants them.

    Args:
        params: of a kapture camera.

    Returns:
        None for models that OpenCV does not have.
    """
    name, values = params[0], [float(value) for value in params[3:]]
    if name == "SIMPLE_PINHOLE":
        name, values = "PINHOLE", [values[0], *values]
    if name in ("SIMPLE_RADIAL", "RADIAL"):
        radial = [*values[3:], 0.0][:2]
        name, values = "OPENCV", [values[0], *values[:3], *radial, 0.0, 0.0]
    if name not in ("PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"):
        return None
    fx, fy, cx, cy = values[:4]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return K, np.array(values[4:]), name == "OPENCV_FISHEYE"


def _distortion(kind: str, d: Array) -> tuple[str, tuple[float, ...]]:
    """Model name and coefficients; UNKNOWN_CAMERA where there is no exact one."""
    if kind in FISHEYE_DISTORTIONS:
        exact = d.size <= 4 or not d[4:].any()
        return ("OPENCV_FISHEYE", _padded(d, 4)) if exact else (UNKNOWN_CAMERA, ())
    if not d.any():
        return "PINHOLE", ()
    if kind not in PINHOLE_DISTORTIONS or d[8:].any():  # thin prism and tilt terms
        return UNKNOWN_CAMERA, ()
    if d[4:].any():
        return "FULL_OPENCV", _padded(d, 8)
    return "OPENCV", _padded(d, 4)


def _padded(d: Array, size: int) -> tuple[float, ...]:
    return tuple(np.concatenate([d, np.zeros(size)])[:size].tolist())


def _field(info: Any, name: str) -> Array:
    """D, K, R and P are written large in ROS 1."""
    value = getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())
    return np.asarray(value, dtype=float)

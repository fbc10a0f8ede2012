"""Removing lens distortion from camera images while they are written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from kapture_ros.dataset.camera_models import CameraModel, opencv_camera
from kapture_ros.dataset.records import FilePayload, ImageRecord
from kapture_ros.messages.common import MessageError
from kapture_ros.messages.encodings import Pixels
from kapture_ros.messages.images import PNG_OPTIONS


@dataclass(frozen=True, slots=True, eq=False)
class Undistortion:
    """From one calibrated camera to a pinhole camera of the same size.

    Attributes:
        params: of the pinhole camera, as in kapture.
        maps: for each of its pixels, where to look in the distorted image.
    """

    params: tuple[str, ...]
    maps: tuple[Pixels, Pixels]

    @classmethod
    def of(cls, params: tuple[str, ...]) -> Undistortion | None:
        """For a kapture camera; None if it is uncalibrated or of a model OpenCV lacks.

        The pinhole camera sees all valid pixels and none that are black.
        """
        camera = opencv_camera(params)
        if camera is None:
            return None
        K, distortion, fisheye = camera
        size = (int(params[1]), int(params[2]))
        if fisheye:
            new_K = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                K, distortion, size, np.eye(3), balance=0.0
            )
            maps = cv2.fisheye.initUndistortRectifyMap(
                K, distortion, np.eye(3), new_K, size, cv2.CV_16SC2
            )
        else:
            new_K, _ = cv2.getOptimalNewCameraMatrix(K, distortion, size, alpha=0.0)
            maps = cv2.initUndistortRectifyMap(K, distortion, None, new_K, size, cv2.CV_16SC2)
        center = (new_K[0, 2], new_K[1, 2])
        values = tuple(float(v) for v in (new_K[0, 0], new_K[1, 1], *center))
        return cls(CameraModel("PINHOLE", *size, values).params, maps)

    def applied_to(self, record: ImageRecord) -> ImageRecord:
        """The record of the undistorted image, a PNG."""
        encode = record.payload.encode

        def encode_undistorted() -> bytes:
            image = cv2.imdecode(np.frombuffer(encode(), np.uint8), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise MessageError("bad-image", "the image cannot be decoded to undistort it")
            straight = cv2.remap(image, *self.maps, cv2.INTER_LINEAR)
            return bytes(cv2.imencode(".png", straight, PNG_OPTIONS)[1])

        payload = FilePayload(".png", encode_undistorted, record.payload.nbytes)
        extra = {**record.extra, "undistorted": True}
        return dataclasses.replace(record, payload=payload, extra=extra)

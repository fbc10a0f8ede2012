"""A first guess of a camera nobody calibrated, for bundle adjustment to refine."""

from __future__ import annotations

from dataclasses import replace

from kapture_ros.mapping.images import UNCALIBRATED, Camera, ImageTable

FOCAL_PER_SIZE = 1.2  # COLMAP's usual guess: a diagonal view of about 60°


def with_guessed_intrinsics(images: ImageTable) -> ImageTable:
    """The table with SIMPLE_RADIAL cameras where the calibration is unknown."""
    return replace(images, cameras=tuple(_guessed(camera) for camera in images.cameras))


def _guessed(camera: Camera) -> Camera:
    if camera.model != UNCALIBRATED:
        return camera
    focal = FOCAL_PER_SIZE * max(camera.width, camera.height)
    return replace(
        camera, model="SIMPLE_RADIAL", params=(focal, camera.width / 2, camera.height / 2, 0.0)
    )

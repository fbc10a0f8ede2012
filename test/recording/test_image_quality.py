"""Measures of an image: exposure and blur, on made and on real pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from kapture_ros.recording.health import HealthOptions
from kapture_ros.recording.image_quality import measure

Image = npt.NDArray[np.uint8]
LIMIT = HealthOptions().blur


def file_of(image: Image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def texture(low: int = 0, high: int = 255) -> Image:
    noise = np.random.default_rng(0).integers(low, high, (60, 80), np.uint8)
    return cv2.resize(noise, (640, 480), interpolation=cv2.INTER_NEAREST)


def test_darkness_and_glare_are_fractions_of_the_pixels() -> None:
    image = texture(60, 200)
    image[:240] = 3
    image[240:300] = 255
    quality = measure(file_of(image))
    assert quality is not None
    assert (quality.dark, quality.bright) == (0.5, 0.125)
    assert quality.brightness == pytest.approx(image.mean())


def test_a_blank_image_is_not_called_blurred() -> None:
    quality = measure(file_of(np.full((480, 640), 90, np.uint8)))
    assert quality is not None
    assert quality.blur == 0.0


def test_an_image_smaller_than_the_crop_is_measured_whole() -> None:
    assert measure(file_of(texture()[:50, :60])) is not None


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_a_broken_file_is_said_to_be_unreadable(data: bytes) -> None:
    assert measure(data) is None


@pytest.mark.parametrize(
    "pattern", ["kitti_00/*0.jpg", "sevenscenes_room/frame-000[0-4]50.color.jpg"]
)
def test_real_images_are_told_from_the_same_ones_with_motion_blur(
    shared_data: Path, pattern: str
) -> None:
    """The middle ones of each kind lie on either side of the limit, with room to spare."""
    motion = np.zeros((9, 9), np.float32)
    motion[4] = 1 / 9
    sharp, moved = [], []
    for path in sorted(shared_data.glob(pattern)):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for found, picture in ((sharp, image), (moved, cv2.filter2D(image, -1, motion))):
            quality = measure(file_of(picture))
            assert quality is not None
            found.append(quality.blur)
    assert len(sharp) >= 5
    assert np.median(sharp) < LIMIT - 0.1
    assert np.median(moved) > LIMIT

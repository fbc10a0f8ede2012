"""From light to pixels: motion blur, automatic gain, sensor noise, vignetting, tone curve."""

from __future__ import annotations

import cv2
import numpy as np

from kapture_ros.simulation.camera import Camera
from kapture_ros.simulation.mesh import Floats, Image
from kapture_ros.simulation.render import Rendering
from kapture_ros.transforms.se3 import Transform

_TAPS = 9
_FAR = 2000.0  # metres at which the sky is taken to be
_SHOT_NOISE = 5e-5  # variance for each unit of light, at gain 1
_READ_NOISE = 1.2e-3  # standard deviation, at gain 1
_MAX_GAIN = 14.0
_TONE_STEPS = 4096
_CURVE = np.clip(
    255.0 * (1.055 * np.linspace(0, 1, _TONE_STEPS) ** (1 / 2.4) - 0.055) + 0.5, 0, 255
).astype(np.uint8)


def blur(
    rendering: Rendering, camera: Camera, opened: Transform, middle: Transform, closed: Transform
) -> Floats:
    """Radiance (H, W, 3) smeared along what each pixel sees move while the shutter is open.

    Args:
        opened, middle, closed: map_from_camera when the shutter opens, half way, closes.
    """
    step = 4  # motion changes little from pixel to pixel
    shape = (camera.height, camera.width)
    distance = np.minimum(rendering.distance[::step, ::step], _FAR)
    rays = camera.ray_table().reshape(*shape, 3)[::step, ::step]
    points = middle.apply((rays * distance[..., None]).reshape(-1, 3))
    begin, end = (camera.project(pose.inverse().apply(points)) for pose in (opened, closed))
    moved = np.nan_to_num(end - begin).reshape(*distance.shape, 2).astype(np.float32)
    if np.abs(moved).max() < 0.7:
        return rendering.radiance
    size = (camera.width, camera.height)
    flow = cv2.resize(moved, size, interpolation=cv2.INTER_LINEAR)
    pixels = camera.pixel_grid().reshape(*shape, 2).astype(np.float32)
    total = np.zeros_like(rendering.radiance)
    for fraction in np.linspace(-0.5, 0.5, _TAPS, dtype=np.float32):
        at = pixels + fraction * flow
        total += cv2.remap(
            rendering.radiance, at[..., 0], at[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
        )
    return total / np.float32(_TAPS)


def develop(radiance: Floats, random: np.random.Generator, noise: float) -> Image:
    """The image (H, W, 3) that a camera with automatic gain makes of a radiance.

    Args:
        noise: strength of the sensor's noise, 1 for an ordinary one.
    """
    height, width = radiance.shape[:2]
    luminance = radiance[height // 4 :].mean(axis=2)
    gain = 0.145 / max(float(np.exp(np.mean(np.log(luminance + 1e-4)))), 1e-3)
    gain = float(np.clip(gain, 0.5, _MAX_GAIN))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1.0 - 0.14 * (x**2 + y**2)).astype(np.float32)
    light = radiance * (gain * vignette[..., None])
    if noise > 0:
        variance = _SHOT_NOISE * gain * light + (_READ_NOISE * gain) ** 2
        grain = random.standard_normal(light.shape, dtype=np.float32)
        light += noise * np.sqrt(variance) * grain
    # Bright light saturates softly, as film and camera processors do.
    soft = 1.0 - np.exp(-1.3 * np.maximum(light, 0.0))
    developed: Image = _CURVE[(soft * (_TONE_STEPS - 1)).astype(np.int32)]
    return developed

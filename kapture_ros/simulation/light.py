"""Light of the street: sun, sky with clouds, lamps; chosen by name, made from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kapture_ros.simulation.mesh import Floats
from kapture_ros.simulation.paint import fractal_noise
from kapture_ros.transforms.se3 import Array

SKY_SHAPE = (512, 2048)  # rows from the zenith to the horizon, columns once around


@dataclass(frozen=True, slots=True)
class Light:
    """Radiances are linear, blue-green-red, relative to a white wall in full sun (about 1).

    Attributes:
        sun_direction: unit vector to the sun, map frame.
        lamps: how brightly street lamps, signs and windows shine, 0 by day.
        sky: (rows, columns, 3) radiance by elevation and azimuth.
    """

    sun_direction: Array
    sun: Array
    ambient: Array
    lamps: float
    sky: Floats


@dataclass(frozen=True, slots=True)
class _Preset:
    azimuth: float  # degrees from the map's x axis
    elevation: float  # degrees
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    clouds: float  # part of the sky they cover
    lamps: float = 0.0


_PRESETS = {
    "morning": _Preset(
        -62, 40, (0.80, 0.92, 1.0), (0.36, 0.32, 0.28), (0.78, 0.46, 0.25), (0.86, 0.76, 0.66), 0.30
    ),
    "afternoon": _Preset(
        152, 30, (0.62, 0.82, 1.0), (0.36, 0.32, 0.29), (0.70, 0.44, 0.27), (0.80, 0.76, 0.74), 0.50
    ),
    "overcast": _Preset(
        90, 50, (0.03, 0.03, 0.03), (0.62, 0.60, 0.58), (0.70, 0.66, 0.62), (0.95, 0.93, 0.90), 1.0
    ),
    "dusk": _Preset(
        175, 6, (0.05, 0.09, 0.16), (0.12, 0.09, 0.08), (0.22, 0.13, 0.10), (0.25, 0.34, 0.52),
        0.45, 0.6,
    ),
    "night": _Preset(
        200, 35, (0.004, 0.003, 0.003), (0.012, 0.009, 0.008), (0.008, 0.005, 0.004),
        (0.020, 0.016, 0.015), 0.5, 1.0,
    ),
}  # fmt: skip

NAMES = tuple(_PRESETS)


def make_light(name: str, seed: int) -> Light:
    """The light of that name; the seed decides the clouds."""
    preset = _PRESETS[name]
    azimuth, elevation = np.radians([preset.azimuth, preset.elevation])
    to_sun = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    sun = np.array(preset.sun) * 1.35
    ambient = np.array(preset.ambient)
    return Light(to_sun, sun, ambient, preset.lamps, _sky(preset, to_sun, seed))


def sky_directions(shape: tuple[int, int] = SKY_SHAPE) -> Floats:
    """Unit directions (rows, columns, 3) of the sky image's pixels."""
    rows, columns = shape
    elevation = np.radians(90.0 * (1.0 - (np.arange(rows) + 0.5) / rows))[:, None]
    azimuth = (2 * np.pi * (np.arange(columns) + 0.5) / columns)[None, :]
    up = np.broadcast_to(np.sin(elevation), shape)
    parts = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), up]
    return np.stack(parts, axis=-1).astype(np.float32)


def _sky(preset: _Preset, to_sun: Array, seed: int) -> Floats:
    directions = sky_directions()
    up = directions[..., 2:]
    haze = np.exp(-4.0 * up)
    sky = np.array(preset.zenith) * (1 - haze) + np.array(preset.horizon) * haze
    # Clouds lie on a plane above the street, so that they shrink towards the horizon.
    plane = directions[..., :2] / (up + 0.12)
    noise = fractal_noise(np.random.default_rng([seed, 7]), (1024, 1024), 200, 7)
    at = (plane * 60.0 + 512.0).astype(np.float32)
    density = cv2.remap(noise, at[..., 0], at[..., 1], cv2.INTER_LINEAR)
    spread = np.quantile(noise, [1 - preset.clouds, 1.0])
    cover = np.clip((density - spread[0]) / (0.35 * np.ptp(spread) + 1e-6), 0, 1)[..., None]
    lit = np.array(preset.horizon) * (0.75 + 0.45 * (1 - density[..., None]))
    sky = sky * (1 - 0.85 * cover) + lit * 0.85 * cover
    facing = np.clip(directions @ to_sun.astype(np.float32), 0, 1)[..., None]
    glow = 0.5 * facing**24 + 3.0 * facing**900 * (1 - 0.8 * cover)
    radiance: Floats = (sky + glow * np.array(preset.sun)).astype(np.float32)
    return radiance

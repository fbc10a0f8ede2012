"""Painting with numbers: noise, weathered materials, lettering, posters, graffiti.

Every function draws from the generator it is given and from nothing else. Images are
blue-green-red, uint8; lengths are pixels unless a scale (pixels per metre) is given.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from kapture_ros.simulation.mesh import Floats, Image

Random = np.random.Generator
Colour = tuple[float, float, float]

_SRGB = np.arange(256) / 255.0
LINEAR_FROM_SRGB: Floats = np.where(
    _SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4
).astype(np.float32)
FONTS = (
    "DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold",
    "STIXGeneralBol", "DejaVuSerif-BoldItalic", "STIXGeneralBolIta", "cmss10",
)  # fmt: skip
_ONSETS = (
    "b",
    "br",
    "c",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sch",
    "sk",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "au", "ei", "ie", "o", "a", "e")
_CODAS = ("", "", "l", "m", "n", "r", "s", "t", "x", "nd", "rk", "lt", "ss")


def fractal_noise(
    random: Random, shape: tuple[int, int], scale: float, octaves: int = 4, stretch: float = 1.0
) -> Floats:
    """Smooth noise (H, W) in 0 to 1; `scale` pixels is its coarsest detail.

    Args:
        stretch: how much longer the details are downwards than across.
    """
    total = np.zeros((1, 1), np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        size = scale / 2**octave
        if octave and size < 1.0:
            break
        # Each octave is added at its own resolution, so that fine ones do not pay for coarse ones.
        rows, columns = int(shape[0] / (size * stretch)) + 3, int(shape[1] / size) + 3
        grid = random.random((rows, columns), dtype=np.float32)
        total = cv2.resize(total, (columns, rows), interpolation=cv2.INTER_CUBIC) + weight * grid
        norm += weight
        weight *= 0.55
    fine = cv2.resize(total, shape[::-1], interpolation=cv2.INTER_CUBIC)
    noise: Floats = np.clip(fine / norm, 0.0, 1.0, dtype=np.float32)
    return noise


def speckle(random: Random, shape: tuple[int, int], strength: float) -> Floats:
    """Fine grain around 1 (H, W), different at every pixel."""
    grain = random.standard_normal(shape, dtype=np.float32)
    return 1.0 + strength * grain


def coloured(colour: Colour, brightness: Floats) -> Image:
    """A colour times a brightness (H, W)."""
    return np.clip(brightness[..., None] * np.asarray(colour, np.float32), 0, 255).astype(np.uint8)


def jitter(random: Random, colour: Colour, amount: float = 12.0) -> Colour:
    """A colour near another one."""
    blue, green, red = np.clip(np.asarray(colour) + random.normal(0, amount, 3), 8, 248)
    return float(blue), float(green), float(red)


def dimmed(colour: Colour, factor: float) -> Colour:
    """A darker colour."""
    blue, green, red = colour
    return factor * blue, factor * green, factor * red


def shaded(image: Image, brightness: Floats) -> Image:
    """An image times a brightness (H, W)."""
    result: Image = np.clip(image * brightness[..., None], 0, 255).astype(np.uint8)
    return result


# ---------------------------------------------------------------- materials


def brick(random: Random, shape: tuple[int, int], scale: float, colour: Colour) -> Image:
    """Running bond: bricks of 24 × 7 cm, each of its own tone, in mortar."""
    courses = (np.arange(shape[0]) / (0.08 * scale)).astype(int)
    mortar_rows = (np.arange(shape[0]) / (0.08 * scale)) % 1 < 0.14
    along = np.arange(shape[1]) / (0.25 * scale)
    tone = random.normal(1.0, 0.16, (courses[-1] + 1, int(along[-1]) + 3)).astype(np.float32)
    tone *= np.where(random.random(tone.shape) < 0.06, 0.6, 1.0)
    result = np.empty(shape, np.float32)
    mortar = np.empty(shape, bool)
    for parity in (0, 1):
        rows = np.nonzero(courses % 2 == parity)[0]
        shifted = along + 0.5 * parity
        result[rows] = tone[courses[rows][:, None], shifted.astype(int)[None, :]]
        mortar[rows] = (shifted % 1 < 0.05)[None, :]
    mortar |= mortar_rows[:, None]
    image = coloured(colour, result * speckle(random, shape, 0.06))
    grey = coloured((150, 158, 165), speckle(random, shape, 0.08))
    return np.where(mortar[..., None], grey, image)


def plaster(random: Random, shape: tuple[int, int], scale: float, colour: Colour) -> Image:
    """Painted plaster with clouds, cracks and patches."""
    tone = 0.90 + 0.2 * fractal_noise(random, shape, 1.5 * scale, 6)
    image = coloured(colour, tone * speckle(random, shape, 0.025))
    for _ in range(int(random.poisson(shape[0] * shape[1] / scale**2 / 12))):
        crack(random, image, scale)
    for _ in range(int(random.poisson(shape[0] * shape[1] / scale**2 / 25))):
        spread = random.uniform(0.15, 0.6, 2) * scale
        centre = random.uniform((0, 0), shape[::-1])
        outline = centre + spread * random.normal(0, 1, (9, 2))
        hull = cv2.convexHull(outline.astype(np.int32))
        cv2.fillPoly(image, [hull], jitter(random, colour, 10), cv2.LINE_AA)
    return image


def ashlar(random: Random, shape: tuple[int, int], scale: float, colour: Colour) -> Image:
    """Courses of cut stone of different lengths."""
    image = np.empty((*shape, 3), np.uint8)
    image[:] = 95
    top = 0.0
    while top < shape[0]:
        course = random.uniform(0.28, 0.42) * scale
        left = -random.uniform(0, 0.5) * scale
        while left < shape[1]:
            length = random.uniform(0.45, 1.0) * scale
            upper_left = (int(left + 1), int(top + 1))
            lower_right = (int(left + length - 2), int(top + course - 2))
            stone = jitter(random, dimmed(colour, random.normal(1.0, 0.09)), 4)
            cv2.rectangle(image, upper_left, lower_right, stone, -1)
            left += length
        top += course
    tone = 0.80 + 0.4 * fractal_noise(random, shape, 0.4 * scale, 5)
    return shaded(image, tone * speckle(random, shape, 0.05))


def boards(random: Random, shape: tuple[int, int], scale: float, colour: Colour) -> Image:
    """Painted horizontal boards."""
    phase = np.arange(shape[0]) / (0.16 * scale)
    tone = random.normal(1.0, 0.05, int(phase[-1]) + 1)[phase.astype(int)]
    tone *= np.where(phase % 1 < 0.1, 0.55, 0.9 + 0.14 * (phase % 1))
    veins = 0.9 + 0.2 * fractal_noise(random, (shape[1], shape[0]), 0.08 * scale, 4, 12).T
    return coloured(colour, tone[:, None].astype(np.float32) * veins)


def panels(random: Random, shape: tuple[int, int], scale: float, colour: Colour) -> Image:
    """Concrete or metal panels with joints and rust-like stains."""
    tone = 0.86 + 0.28 * fractal_noise(random, shape, 1.2 * scale, 6)
    image = coloured(colour, tone * speckle(random, shape, 0.035))
    width, height = random.uniform(1.0, 1.8) * scale, random.uniform(0.9, 1.5) * scale
    for x in np.arange(0, shape[1], width):
        cv2.line(image, (int(x), 0), (int(x), shape[0]), (60, 62, 64), max(int(0.02 * scale), 1))
    for y in np.arange(0, shape[0], height):
        cv2.line(image, (0, int(y)), (shape[1], int(y)), (60, 62, 64), max(int(0.02 * scale), 1))
    return image


MATERIALS = {
    "brick": brick,
    "plaster": plaster,
    "ashlar": ashlar,
    "boards": boards,
    "panels": panels,
}
WALL_COLOURS: dict[str, tuple[Colour, ...]] = {
    "brick": ((58, 78, 150), (52, 66, 118), (84, 104, 168), (110, 140, 180), (70, 72, 84)),
    "plaster": (
        (188, 214, 226), (142, 188, 222), (150, 168, 208), (196, 200, 198), (170, 190, 170),
        (206, 190, 170), (120, 150, 205), (222, 226, 230), (165, 200, 205),
    ),
    "ashlar": ((150, 172, 188), (170, 178, 182), (128, 146, 164), (140, 150, 152)),
    "boards": ((198, 204, 204), (150, 120, 84), (96, 128, 100), (120, 150, 178), (86, 92, 128)),
    "panels": ((150, 154, 156), (178, 180, 178), (118, 124, 132), (160, 150, 138)),
}  # fmt: skip


def crack(random: Random, image: Image, scale: float, colour: Colour = (70, 74, 78)) -> None:
    """A dark, branching line, drawn into the image."""
    height, width = image.shape[:2]
    point = random.uniform((0, 0), (width, height))
    heading = random.uniform(0, 2 * np.pi)
    points = [point]
    for _ in range(int(random.integers(6, 22))):
        heading += random.normal(0, 0.5)
        point = point + random.uniform(0.04, 0.14) * scale * np.array(
            [np.cos(heading), np.sin(heading)]
        )
        points.append(point)
    line = np.array(points).astype(np.int32)
    cv2.polylines(image, [line], False, colour, max(int(0.012 * scale), 1), cv2.LINE_AA)


def weather(random: Random, image: Image, scale: float, *, at_ground: bool) -> Image:
    """Streaks of rain and soot; splashes and damp near the ground."""
    shape = image.shape[:2]
    streaks = fractal_noise(random, shape, 0.25 * scale, 4, 10.0)
    tone = 1.0 - 0.20 * np.clip(streaks - 0.45, 0, 1) / 0.55
    if at_ground:
        height = (shape[0] - np.arange(shape[0]))[:, None] / scale
        ragged = 0.35 * fractal_noise(random, shape, 0.6 * scale, 4)
        tone *= 1.0 - 0.45 * np.clip(1.0 - height / (0.25 + 2 * ragged), 0, 1)
    return shaded(image, tone.astype(np.float32))


# ------------------------------------------------------- lettering and paper


def invent_name(random: Random) -> str:
    """A word that nobody has used, pronounceable."""
    syllables = [
        random.choice(_ONSETS) + random.choice(_NUCLEI) + random.choice(_CODAS)
        for _ in range(int(random.integers(1, 4)))
    ]
    return "".join(syllables)


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # which brings the same fonts everywhere

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def lettering(text: str, font: str, area: tuple[int, int]) -> Floats:
    """Text as large as fits into (height, width), centred: coverage 0 to 1."""
    height, width = area
    size = max(int(height * 0.8), 6)
    left, top, right, bottom = _font(font, size).getbbox(text)
    size = max(int(size * min(1.0, 0.92 * width / max(right - left, 1))), 5)
    left, top, right, bottom = _font(font, size).getbbox(text)
    canvas = PilImage.new("L", (width, height))
    at = ((width - right - left) / 2, (height - bottom - top) / 2)
    ImageDraw.Draw(canvas).text(at, text, fill=255, font=_font(font, size))
    return np.asarray(canvas, np.float32) / np.float32(255)


def write(image: Image, area: tuple[int, int, int, int], text: str, font: str, ink: Colour) -> None:
    """Text into x0, y0, x1, y1 of an image, as large as fits."""
    x0, y0, x1, y1 = area
    if x1 - x0 < 6 or y1 - y0 < 6:
        return
    cover = lettering(text, font, (y1 - y0, x1 - x0))[..., None]
    part = image[y0:y1, x0:x1, :3]
    part[:] = (part * (1 - cover) + cover * np.asarray(ink, np.float32)).astype(np.uint8)


_HUES = (3, 12, 23, 50, 70, 95, 108, 115, 140, 172)  # OpenCV's, 0 to 180
_HUE_CHANCES = (0.17, 0.12, 0.12, 0.07, 0.09, 0.09, 0.13, 0.09, 0.03, 0.09)


def vivid(random: Random) -> Colour:
    """A colour as of paint, cloth and print: reds and blues more often than greens and purples."""
    hue = (random.choice(_HUES, p=_HUE_CHANCES) + random.normal(0, 4)) % 180
    saturation, value = random.uniform(60, 210), random.uniform(55, 215)
    patch = np.array([[[hue, saturation, value]]]).astype(np.uint8)
    blue, green, red = cv2.cvtColor(patch, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return float(blue), float(green), float(red)


def pale_or_dark(random: Random, against: Colour) -> Colour:
    """An ink that is legible on a ground."""
    bright = float(np.mean(against)) > 120
    return jitter(random, (38, 34, 40) if bright else (232, 238, 240), 10)


def sign(random: Random, shape: tuple[int, int], text: str) -> Image:
    """A shop's sign with its name, and a small line or emblem."""
    ground = vivid(random) if random.random() < 0.75 else jitter(random, (225, 230, 232), 8)
    image = coloured(ground, 0.92 + 0.16 * fractal_noise(random, shape, max(shape[0], 4), 3))
    height, width = shape
    ink = pale_or_dark(random, ground)
    border = max(height // 18, 1)
    cv2.rectangle(image, (border, border), (width - border, height - border), ink, border)
    font = str(random.choice(FONTS))
    emblem = height if random.random() < 0.6 and width > 3 * height else 0
    if emblem:
        motif(random, image[:, :height])
    lower = int(height * (0.68 if random.random() < 0.5 else 0.92))
    write(image, (emblem + 2 * border, 2 * border, width - 2 * border, lower), text, font, ink)
    if lower < 0.8 * height:
        small = f"{invent_name(random)} & {invent_name(random)}  {random.integers(1880, 2020)}"
        write(image, (emblem, lower, width, height - 2 * border), small, FONTS[0], ink)
    return image


def motif(random: Random, image: Image) -> None:
    """A few overlapping shapes, as in logos, drawn into the image."""
    height, width = image.shape[:2]
    for _ in range(int(random.integers(2, 6))):
        colour = vivid(random)
        x, y = (random.uniform(0.25, 0.75, 2) * (width, height)).astype(int).tolist()
        size = int(random.uniform(0.08, 0.32) * min(width, height)) + 1
        if random.random() < 0.45:
            axes = (size, int(size * random.uniform(0.4, 1.0)) + 1)
            angle = float(random.uniform(0, 180))
            cv2.ellipse(image, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = np.array((x, y)) + random.normal(0, size, (int(random.integers(3, 7)), 2))
            cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def poster(random: Random, shape: tuple[int, int]) -> Image:
    """A printed bill: ground, picture, headline, small print."""
    height, width = shape
    top, bottom = np.array(vivid(random)), np.array(vivid(random))
    blend = np.linspace(0, 1, height)[:, None, None]
    image = np.broadcast_to(top * (1 - blend) + bottom * blend, (height, width, 3)).astype(np.uint8)
    image = image.copy()
    for _ in range(int(random.integers(1, 4))):
        motif(random, image[int(0.15 * height) :])
    ink = pale_or_dark(random, vivid(random))
    font = str(random.choice(FONTS))
    row = int(height * random.uniform(0.03, 0.12))
    for _ in range(int(random.integers(1, 3))):
        tall = int(height * random.uniform(0.10, 0.18))
        write(image, (2, row, width - 2, row + tall), invent_name(random).upper(), font, ink)
        row += tall
    for line in range(int(random.integers(1, 4))):
        base = int(height * (0.95 - 0.06 * line))
        day, month = random.integers(1, 29), random.integers(1, 13)
        text = f"{invent_name(random)} {invent_name(random)} {day}.{month}."
        write(image, (4, base - int(0.06 * height), width - 4, base), text, FONTS[0], ink)
    worn = 0.85 + 0.25 * fractal_noise(random, shape, max(width / 2, 2), 5)
    return shaded(image, worn)


def graffiti(random: Random, image: Image, scale: float) -> None:
    """A sprayed tag, drawn into the image."""
    height, width = image.shape[:2]
    size = random.uniform(0.5, 1.3) * scale
    at = random.uniform((0, height - 1.6 * scale - size), (max(width - 2 * size, 1), height - size))
    colour, edge = vivid(random), jitter(random, (20, 20, 20), 10)
    for _ in range(int(random.integers(3, 7))):
        steps = np.cumsum(random.normal(0, 0.28 * size, (7, 2)), axis=0) * [1.0, 0.7]
        line = np.array([np.interp(np.linspace(0, 6, 40), range(7), steps[:, i]) for i in (0, 1)]).T
        line = cv2.GaussianBlur(line.astype(np.float32), (1, 9), 0)
        points = [(at + size / 2 + line).astype(np.int32)]
        thick = max(int(0.09 * size), 1)
        cv2.polylines(image, points, False, edge, thick + max(thick // 2, 1), cv2.LINE_AA)
        cv2.polylines(image, points, False, colour, thick, cv2.LINE_AA)
        at = at + np.array([0.35 * size, random.normal(0, 0.05 * size)])

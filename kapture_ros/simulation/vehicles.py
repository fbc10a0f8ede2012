"""Cars, vans and people, parked or moving.

Local axes: `right` is forward, `out` is to the vehicle's right; so in an actor's own frame
(`ACTOR_FRAME`) x is forward, y left and z up, as base_link's axes are (REP-103).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from kapture_ros.simulation import paint
from kapture_ros.simulation.buildings import swatch
from kapture_ros.simulation.mesh import Frame, Image, MeshBuilder
from kapture_ros.simulation.paint import Colour, Random
from kapture_ros.transforms.se3 import Array

ACTOR_FRAME = Frame.upright((0.0, 0.0, 0.0), 0.0)
_SCALE = 64.0
_FLOOR = 0.24
_WHEEL = 0.31
_CAR_COLOURS: tuple[Colour, ...] = (
    (40, 38, 36), (215, 218, 220), (150, 150, 152), (90, 88, 88), (40, 35, 150), (130, 70, 30),
    (60, 80, 40), (190, 190, 180), (110, 120, 70), (50, 120, 200),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Body:
    """A body as sections along x: x, belt line, top, half width at the belt and at the top.

    Attributes:
        glass: the stretches between sections whose top is a window.
        side_windows: outline of the side windows, (N, 2) of x and height.
    """

    sections: tuple[tuple[float, float, float, float, float], ...]
    glass: tuple[int, ...]
    side_windows: tuple[tuple[tuple[float, float], ...], ...]
    axles: tuple[float, float]


_CAR = _Body(
    (
        (-2.08, 0.62, 0.62, 0.78, 0.78), (-2.02, 0.90, 0.93, 0.82, 0.80),
        (-1.62, 0.93, 1.38, 0.85, 0.62), (0.20, 0.93, 1.45, 0.86, 0.64),
        (1.00, 0.93, 0.98, 0.85, 0.76), (1.88, 0.76, 0.80, 0.82, 0.72),
        (2.10, 0.58, 0.58, 0.76, 0.76),
    ),
    (1, 3),
    (
        ((-1.55, 0.97), (-1.40, 1.33), (-0.65, 1.36), (-0.65, 0.97)),
        ((-0.58, 0.97), (-0.58, 1.36), (0.14, 1.38), (0.72, 0.99)),
    ),
    (-1.30, 1.28),
)  # fmt: skip
_VAN = _Body(
    (
        (-2.55, 0.60, 0.60, 0.92, 0.92), (-2.52, 1.10, 2.28, 0.95, 0.86),
        (1.15, 1.10, 2.30, 0.97, 0.88), (1.85, 1.10, 1.32, 0.96, 0.84),
        (2.45, 0.85, 0.98, 0.93, 0.80), (2.62, 0.60, 0.60, 0.88, 0.88),
    ),
    (2,),
    (((0.55, 1.25), (0.55, 1.85), (1.10, 1.88), (1.55, 1.28)),),
    (-1.55, 1.65),
)  # fmt: skip


def add_car(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A small car."""
    _add_body(builder, frame, random, _CAR, "")


def add_van(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A delivery van with lettering."""
    _add_body(builder, frame, random, _VAN, paint.invent_name(random).upper())


def _add_body(
    builder: MeshBuilder, frame: Frame, random: Random, body: _Body, lettering: str
) -> None:
    colour = paint.jitter(random, _CAR_COLOURS[int(random.integers(len(_CAR_COLOURS)))], 8)
    picture = _side_picture(random, body, colour)
    right = builder.texture(_lettered(random, picture, lettering))
    left = builder.texture(_lettered(random, picture, lettering)[:, ::-1])
    metal = swatch(builder, random, colour, 0.12)
    sections = np.array(body.sections)
    low, high = sections[:, 0].min(), sections[:, 0].max()
    top = sections[:, 2].max()
    sheen = np.linspace(0.35, 1.15, 32)[:, None] * np.ones((1, 48))
    glass = builder.texture(paint.coloured((92, 84, 74), sheen.astype(np.float32)))
    ends = [builder.texture(_end_picture(random, colour, front=front)) for front in (False, True)]
    for index, (a, b) in enumerate(pairwise(sections)):
        for texture, side in ((right, 1.0), (left, -1.0)):
            _side(builder, frame, (a, b), (low, high, top), texture, side)
        if 0 < index < len(sections) - 2:
            (xa, _, ya, _, za), (xb, _, yb, _, zb) = a, b
            roof = [[xa, ya, za], [xb, yb, zb], [xb, yb, -zb], [xa, ya, -za]]
            builder.quads(frame.points([roof]), glass if index in body.glass else metal)
    for texture, front in zip(ends, (False, True), strict=True):
        _end(builder, frame, sections, texture, front=front)
    floor = swatch(builder, random, (22, 22, 24))
    builder.box(frame, (low + 0.1, _FLOOR, -0.7), (high - 0.1, _FLOOR + 0.02, 0.7), floor, "d")
    wheel = builder.texture(_wheel_picture(random))
    for axle in body.axles:
        for sign in (1.0, -1.0):
            _wheel(builder, frame, wheel, floor, np.array([axle, _WHEEL, sign * 0.84]))


def _side(
    builder: MeshBuilder,
    frame: Frame,
    pair: tuple[Array, Array],
    extent: tuple[float, float, float],
    texture: int,
    side: float,
) -> None:
    """The right (1) or left (-1) side between two sections: below and above the belt line.

    Args:
        extent: rear, front and top of the side's picture.
    """
    (xa, belt_a, top_a, half_a, inner_a), (xb, belt_b, top_b, half_b, inner_b) = pair
    lower = [[xa, _FLOOR, half_a], [xb, _FLOOR, half_b], [xb, belt_b, half_b], [xa, belt_a, half_a]]
    upper = [lower[3], lower[2], [xb, top_b, inner_b], [xa, top_a, inner_a]]
    local = np.array([lower, upper]) * [1.0, 1.0, side]
    rear, front, top = extent
    along = (local[..., 0] - rear) / (front - rear)
    places = np.stack([along if side > 0 else 1 - along, 1 - local[..., 1] / top], axis=-1)
    around = [0, 1, 2, 3] if side > 0 else [1, 0, 3, 2]
    builder.quads(frame.points(local[:, around]), texture, places[:, around])


def _end(builder: MeshBuilder, frame: Frame, sections: Array, texture: int, *, front: bool) -> None:
    """Bumper and the slope above it, front or rear, as one picture in two pieces."""
    outer, inner = (sections[-1], sections[-2]) if front else (sections[0], sections[1])
    side = 1.0 if front else -1.0
    x, half = outer[0], side * outer[3]
    lower = [[x, _FLOOR, half], [x, _FLOOR, -half], [x, outer[2], -half], [x, outer[2], half]]
    upper = [
        lower[3],
        lower[2],
        [inner[0], inner[2], -side * inner[4]],
        [inner[0], inner[2], side * inner[4]],
    ]
    builder.quads(frame.points([lower, upper]), texture, [(0, 0.5, 1, 1), (0, 0, 1, 0.5)])


def _wheel(builder: MeshBuilder, frame: Frame, face: int, tread: int, centre: Array) -> None:
    angles = np.linspace(0, 2 * np.pi, 13)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    side = np.sign(centre[2])
    flat = np.zeros((12, 4, 3))
    flat[:, 1, :2], flat[:, 2, :2] = ring[:-1], ring[1:]
    flat[:, 3, :2] = ring[1:]
    if side < 0:
        flat = flat[:, [0, 2, 1, 1]]
    places = 0.5 + 0.5 * flat[..., :2] * [1, -1]
    outer = centre + np.array([0, 0, side * 0.06])
    builder.quads(frame.points(flat * _WHEEL + outer), face, places)
    builder.prism(
        frame.points([outer, centre - np.array([0, 0, side * 0.15])]), [_WHEEL, _WHEEL], tread, 12
    )


def _lettered(random: Random, picture: Image, text: str) -> Image:
    """The side with a company's name and emblem, if there is a text."""
    if not text:
        return picture
    picture = picture.copy()
    height, width = picture.shape[:2]
    x0, x1, y0, y1 = int(0.05 * width), int(0.55 * width), int(0.15 * height), int(0.42 * height)
    paint.write(picture, (x0, y0, x1, y1), text, paint.FONTS[0], paint.vivid(random))
    paint.motif(random, picture[y1 : y1 + 24, x0 : x0 + 70])
    return picture


def _side_picture(random: Random, body: _Body, colour: Colour) -> Image:
    sections = np.array(body.sections)
    low, high, top = sections[:, 0].min(), sections[:, 0].max(), sections[:, 2].max()
    shape = (int(top * _SCALE), int((high - low) * _SCALE))
    sheen = 1.05 - 0.35 * np.abs(np.linspace(0, 1, shape[0]) - 0.42)
    image = paint.coloured(colour, np.repeat(sheen[:, None], shape[1], 1).astype(np.float32))

    def pixels(outline: object) -> Array:
        points = np.asarray(outline, float)
        return np.stack([(points[:, 0] - low), (top - points[:, 1])], axis=1) * _SCALE

    dark = paint.dimmed(colour, 0.45)
    for window in body.side_windows:
        outline = pixels(window).astype(np.int32)
        cv2.fillPoly(image, [outline], (66, 58, 50), cv2.LINE_AA)
        cv2.polylines(image, [outline], True, (24, 24, 24), 2, cv2.LINE_AA)
        shine = pixels([np.mean(window, axis=0) + d for d in ((-0.2, -0.15), (0.1, 0.2))])
        start, end = ((int(x), int(y)) for x, y in shine)
        cv2.line(image, start, end, (120, 112, 100), 3, cv2.LINE_AA)
    for x in (-0.62, 0.62, -1.5):
        ends = pixels([(x, 0.35), (x, 0.93)]).astype(int)
        cv2.line(image, tuple(ends[0].tolist()), tuple(ends[1].tolist()), dark, 1, cv2.LINE_AA)
    for x in (-0.45, 0.45):
        left, top_edge = pixels([(x, 0.84)])[0].astype(int).tolist()
        cv2.rectangle(image, (left, top_edge), (left + 10, top_edge + 3), dark, -1)
    for axle in body.axles:
        centre = pixels([(axle, _WHEEL + 0.02)])[0].astype(int).tolist()
        cv2.circle(image, centre, int(0.37 * _SCALE), (14, 14, 16), -1, cv2.LINE_AA)
    sill = pixels([(low, 0.32)])[0][1]
    image[int(sill) :] = (image[int(sill) :] * 0.4).astype(np.uint8)
    return image


def _end_picture(random: Random, colour: Colour, *, front: bool) -> Image:
    image = paint.coloured(
        colour, np.repeat(np.linspace(1.0, 0.6, 64)[:, None], 112, 1).astype(np.float32)
    )
    lamp = (215, 225, 230) if front else (30, 24, 190)
    for x in (4, 86):
        cv2.rectangle(image, (x, 14), (x + 21, 28), lamp, -1)
        cv2.rectangle(image, (x, 14), (x + 21, 28), (40, 40, 40), 1)
    if front:
        cv2.rectangle(image, (32, 20), (80, 38), (28, 28, 30), -1)
    cv2.rectangle(image, (36, 40), (76, 50), (225, 230, 232), -1)
    plate = f"{''.join(random.choice(list('ABCDEFGHKLMNPRST'), 2))} {random.integers(100, 999)}"
    paint.write(image, (37, 40, 76, 51), plate, paint.FONTS[0], (20, 20, 20))
    image[54:] = (image[54:] * 0.35).astype(np.uint8)
    glow = np.zeros(image.shape[:2], np.uint8)
    glow[14:29, 4:26] = glow[14:29, 86:108] = 200
    return np.dstack([image, glow])


def _wheel_picture(random: Random) -> Image:
    image = np.full((48, 48, 3), 24, np.uint8)
    cv2.circle(image, (24, 24), 15, (150, 152, 154), -1, cv2.LINE_AA)
    spokes = int(random.integers(4, 8))
    for angle in np.linspace(0, 2 * np.pi, spokes, endpoint=False):
        tip = (int(24 + 13 * np.cos(angle)), int(24 + 13 * np.sin(angle)))
        cv2.line(image, (24, 24), tip, (50, 50, 52), 3, cv2.LINE_AA)
    cv2.circle(image, (24, 24), 3, (90, 92, 94), -1, cv2.LINE_AA)
    return image


def add_person(builder: MeshBuilder, frame: Frame, random: Random, stride: float = 0.0) -> None:
    """Somebody on foot; `stride` is the angle of the legs in radians, 0 standing."""
    cloth = [swatch(builder, random, paint.vivid(random), 0.45) for _ in range(2)]
    skin = swatch(builder, random, paint.jitter(random, (120, 150, 200), 30), 0.15)
    hair = swatch(builder, random, paint.jitter(random, (40, 50, 70), 25), 0.5)
    shoe = swatch(builder, random, (30, 32, 36))
    tall = random.uniform(0.93, 1.06)
    scaled = frame.points

    def limb(points: list[list[float]], radii: list[float], texture: int) -> None:
        builder.prism(scaled(np.array(points) * tall), np.array(radii) * tall, texture, 8)

    for side, sign in ((0.09, 1.0), (-0.09, -1.0)):
        swing = 0.85 * np.sin(sign * stride)
        limb(
            [[swing, 0.06, side], [swing * 0.45, 0.46, side], [0, 0.9, side]],
            [0.06, 0.075, 0.1],
            cloth[0],
        )
        limb([[swing - 0.06, 0.05, side], [swing + 0.17, 0.04, side]], [0.05, 0.04], shoe)
        reach = -0.55 * swing
        limb([[reach, 0.85, 2.6 * side], [reach * 0.4, 1.12, 2.7 * side], [0, 1.42, 2.2 * side]],
             [0.04, 0.05, 0.06], cloth[1])  # fmt: skip
        limb([[reach, 0.85, 2.6 * side], [reach * 1.1, 0.76, 2.6 * side]], [0.045, 0.03], skin)
    limb([[0, 0.85, 0], [0, 1.1, 0], [0, 1.4, 0], [0, 1.5, 0]], [0.16, 0.17, 0.19, 0.07], cloth[1])
    limb(
        [[0, 1.48, 0], [0, 1.54, 0], [0, 1.64, 0], [0.01, 1.70, 0]], [0.05, 0.085, 0.1, 0.07], skin
    )
    limb([[-0.02, 1.60, 0], [-0.02, 1.68, 0], [-0.01, 1.76, 0]], [0.108, 0.112, 0.03], hair)
    if random.random() < 0.5:
        bag = swatch(builder, random, paint.vivid(random), 0.4)
        builder.box(frame, (-0.32, 1.0, -0.15), (-0.14, 1.42, 0.15), bag)

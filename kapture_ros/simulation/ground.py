"""The ground of the street: asphalt, pavements, kerbs and road markings, as one raster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.simulation import paint
from kapture_ros.simulation.mesh import Image, MeshBuilder, Rect
from kapture_ros.simulation.paint import Random
from kapture_ros.transforms.se3 import Array

Mask = npt.NDArray[np.bool_]

SCALE = 32.0  # texels per metre
KERB = 0.12  # metres the pavement is higher than the road
_Pixel = Callable[[float, float], tuple[int, int]]  # of a place in the map
_CELL = 1.3  # metres of a piece of the ground; light is baked at their corners


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are, metres in the map frame; rectangles are x0, y0, x1, y1.

    Attributes:
        bounds: the walls around everything.
        road: the inner edge of the outer pavement.
        blocks: what is built up.
        pavement: how wide the pavements are.
        crossings: zebra crossings: the road's part they cover and whether it runs along x.
        lanes: dashed lines between lanes: x0, y0, x1, y1 of each.
    """

    bounds: Rect
    road: Rect
    blocks: tuple[Rect, ...]
    pavement: float
    crossings: tuple[tuple[Rect, bool], ...]
    lanes: tuple[Rect, ...]

    def grown_blocks(self) -> list[Rect]:
        """The blocks with their pavements."""
        p = self.pavement
        return [(x0 - p, y0 - p, x1 + p, y1 + p) for x0, y0, x1, y1 in self.blocks]


def add_ground(builder: MeshBuilder, plan: Plan, random: Random, detail: float) -> None:
    """Paint the ground and lay it."""
    texture = builder.texture(_picture(plan, random, SCALE * detail))
    x_cuts, y_cuts = _cuts(plan, 0), _cuts(plan, 1)
    x, y = np.meshgrid((x_cuts[:-1] + x_cuts[1:]) / 2, (y_cuts[:-1] + y_cuts[1:]) / 2)
    raised, built = _on_pavement(plan, x, y), _inside(plan.blocks, x, y)
    x0, y0 = np.meshgrid(x_cuts[:-1], y_cuts[:-1])
    x1, y1 = np.meshgrid(x_cuts[1:], y_cuts[1:])
    height = np.where(raised, KERB, 0.0)
    corners = np.stack(
        [
            np.stack(c, -1)
            for c in ((x0, y0, height), (x1, y0, height), (x1, y1, height), (x0, y1, height))
        ],
        axis=2,
    )[~built]
    left, bottom, right, top = plan.bounds
    places = (corners[..., :2] - [left, bottom]) / [right - left, top - bottom]
    places[..., 1] = 1 - places[..., 1]
    builder.quads(corners, texture, places)
    stone = builder.texture(paint.ashlar(random, (16, 128), 64.0, (165, 172, 176)))
    _kerbs(builder, stone, raised, (x_cuts, y_cuts))


def _kerbs(builder: MeshBuilder, stone: int, raised: Mask, cuts: tuple[Array, Array]) -> None:
    """Upright faces between pieces of pavement and of road; each looks to the road."""
    x_cuts, y_cuts = cuts
    rows, columns = np.nonzero(raised[:, 1:] != raised[:, :-1])
    x, low, high = x_cuts[columns + 1], y_cuts[rows], y_cuts[rows + 1]
    west_is_road = raised[rows, columns + 1]
    begin = np.stack([x, np.where(west_is_road, high, low)], axis=1)
    end = np.stack([x, np.where(west_is_road, low, high)], axis=1)
    rows, columns = np.nonzero(raised[1:] != raised[:-1])
    y, left, right = y_cuts[rows + 1], x_cuts[columns], x_cuts[columns + 1]
    south_is_road = raised[rows + 1, columns]
    begin = np.vstack([begin, np.stack([np.where(south_is_road, left, right), y], axis=1)])
    end = np.vstack([end, np.stack([np.where(south_is_road, right, left), y], axis=1)])
    foot, top = np.zeros((len(begin), 1)), np.full((len(begin), 1), KERB)
    corners = [(begin, foot), (end, foot), (end, top), (begin, top)]
    builder.quads(np.stack([np.hstack(corner) for corner in corners], axis=1), stone)


def _cuts(plan: Plan, axis: int) -> Array:
    """Where the ground is cut along an axis: at every edge, and between them."""
    edges = {plan.bounds[axis], plan.bounds[axis + 2], plan.road[axis], plan.road[axis + 2]}
    for grown, block in zip(plan.grown_blocks(), plan.blocks, strict=True):
        edges |= {grown[axis], grown[axis + 2], block[axis], block[axis + 2]}
    pieces = []
    ordered = sorted(edges)
    for low, high in pairwise(ordered):
        count = max(round((high - low) / _CELL), 1)
        pieces.append(np.linspace(low, high, count + 1)[:-1])
    return np.concatenate([*pieces, [ordered[-1]]])


def _inside(rectangles: Sequence[Rect], x: Array, y: Array) -> Mask:
    result = np.zeros(x.shape, bool)
    for x0, y0, x1, y1 in rectangles:
        result |= (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return result


def _on_pavement(plan: Plan, x: Array, y: Array) -> Mask:
    free: Mask = ~_inside([plan.road], x, y) | _inside(plan.grown_blocks(), x, y)
    return free


def _picture(plan: Plan, random: Random, scale: float) -> Image:
    left, bottom, right, top = plan.bounds
    shape = (int((top - bottom) * scale), int((right - left) * scale))
    tone = 0.78 + 0.30 * paint.fractal_noise(random, shape, 3 * scale, 5)
    tone *= paint.speckle(random, shape, 0.07)
    image = paint.coloured((98, 100, 102), tone)

    def pixel(x: float, y: float) -> tuple[int, int]:
        return round((x - left) * scale), round((top - y) * scale)

    area = (right - left) * (top - bottom)
    _repairs(random, image, scale, int(area / 70))
    _markings(plan, random, image, scale, pixel)
    for _ in range(int(area / 90)):
        _manhole(random, image, scale)
    pavers = _pavers(random, shape, scale)
    raised = np.full(shape, 255, np.uint8)
    cv2.rectangle(
        raised, pixel(plan.road[0], plan.road[3]), pixel(plan.road[2], plan.road[1]), 0, -1
    )
    for x0, y0, x1, y1 in plan.grown_blocks():
        cv2.rectangle(raised, pixel(x0, y1), pixel(x1, y0), 255, -1)
    inner = cv2.erode(raised, np.ones((3, 3), np.uint8), iterations=max(int(0.09 * scale), 1))
    image[inner > 0] = pavers[inner > 0]
    kerb = (raised > 0) & (inner == 0)
    image[kerb] = np.clip(image[kerb] * 0.3 + 118, 0, 255).astype(np.uint8)
    return image


def _repairs(random: Random, image: Image, scale: float, count: int) -> None:
    """Patches of other asphalt, cracks, stains."""
    height, width = image.shape[:2]
    for _ in range(count):
        x, y = random.uniform(0, width), random.uniform(0, height)
        wide, tall = random.uniform(0.4, 3.0, 2) * scale
        box = cv2.boxPoints(((x, y), (wide, tall), float(random.choice([0, 90, 3, -4]))))
        part_low = np.maximum(box.min(0).astype(int), 0)
        part_high = box.max(0).astype(int) + 1
        part = image[part_low[1] : part_high[1], part_low[0] : part_high[0]]
        if part.size:
            mask = np.zeros(part.shape[:2], np.uint8)
            cv2.fillPoly(mask, [(box - part_low).astype(np.int32)], 255)
            part[mask > 0] = np.clip(part[mask > 0] * random.uniform(0.72, 1.2), 0, 255)
            cv2.polylines(
                image, [box.astype(np.int32)], True, (44, 44, 46), max(int(0.03 * scale), 1)
            )
    for _ in range(count * 2):
        paint.crack(random, image, scale * 3.0, (52, 52, 54))
    for _ in range(count):
        centre = [int(v) for v in random.uniform((0, 0), (width, height))]
        axes = [int(v) + 1 for v in random.uniform(0.05, 0.35, 2) * scale]
        cv2.ellipse(
            image,
            centre,
            axes,
            float(random.uniform(0, 180)),
            0,
            360,
            (62, 62, 66),
            -1,
            cv2.LINE_AA,
        )


def _manhole(random: Random, image: Image, scale: float) -> None:
    height, width = image.shape[:2]
    centre = [int(v) for v in random.uniform((0, 0), (width, height))]
    if random.random() < 0.5:
        radius = int(0.33 * scale)
        cv2.circle(image, centre, radius, (58, 60, 64), -1, cv2.LINE_AA)
        for ring in range(2, radius, max(int(0.07 * scale), 2)):
            cv2.circle(image, centre, ring, (92, 94, 98), 1, cv2.LINE_AA)
        return
    half = np.array([int(random.uniform(0.2, 0.4) * scale), int(random.uniform(0.15, 0.3) * scale)])
    cv2.rectangle(image, (centre - half).tolist(), (centre + half).tolist(), (50, 52, 55), -1)
    for x in range(centre[0] - half[0] + 2, centre[0] + half[0], max(int(0.06 * scale), 2)):
        cv2.line(
            image, (x, centre[1] - half[1] + 2), (x, centre[1] + half[1] - 2), (96, 98, 100), 1
        )


def _markings(plan: Plan, random: Random, image: Image, scale: float, pixel: _Pixel) -> None:
    """Worn white paint: zebra crossings, dashed lines, arrows."""
    shape = (image.shape[0], image.shape[1])
    cover = np.zeros(shape, np.uint8)
    for (x0, y0, x1, y1), along_x in plan.crossings:
        span = np.arange(y0 if along_x else x0, (y1 if along_x else x1) - 0.4, 1.0)
        for at in span:
            low, high = ((x0, at), (x1, at + 0.5)) if along_x else ((at, y0), (at + 0.5, y1))
            cv2.rectangle(cover, pixel(low[0], high[1]), pixel(high[0], low[1]), 255, -1)
    for x0, y0, x1, y1 in plan.lanes:
        length = float(np.hypot(x1 - x0, y1 - y0))
        for at in np.arange(1.0, length - 2.0, 5.0):
            ends = [
                pixel(x0 + (x1 - x0) * d / length, y0 + (y1 - y0) * d / length)
                for d in (at, at + 2.2)
            ]
            cv2.line(cover, ends[0], ends[1], 255, max(int(0.12 * scale), 1))
    worn = paint.fractal_noise(random, shape, 0.5 * scale, 5)
    painted = np.nonzero(cover)
    strength = np.clip((worn[painted] - 0.22) * 5, 0, 0.92)[:, None]
    image[painted] = (image[painted] * (1 - strength) + 222 * strength).astype(np.uint8)


def _pavers(random: Random, shape: tuple[int, int], scale: float) -> Image:
    """Concrete slabs, a few of them newer, stained or replaced."""
    size = 0.5 * scale
    rows, columns = (int(n / size) + 2 for n in shape)
    tone = random.normal(1.0, 0.07, (rows, columns)).astype(np.float32)
    tone *= np.where(random.random(tone.shape) < 0.04, 0.75, 1.0)
    y, x = np.arange(shape[0]) / size, np.arange(shape[1]) / size
    picture = tone[y.astype(int)[:, None], x.astype(int)[None, :]]
    joint = ((y % 1) < 0.05)[:, None] | ((x % 1) < 0.05)[None, :]
    picture = np.where(joint, 0.62, picture) * (
        0.85 + 0.3 * paint.fractal_noise(random, shape, 1.5 * scale, 5)
    )
    image = paint.coloured(
        (146, 154, 158), picture.astype(np.float32) * paint.speckle(random, shape, 0.04)
    )
    spots = int(shape[0] * shape[1] / scale**2 * 1.2)
    for x0, y0 in random.uniform((0, 0), shape[::-1], (spots, 2)):
        shade = float(random.uniform(70, 120))
        cv2.circle(
            image,
            (int(x0), int(y0)),
            max(int(random.uniform(0.01, 0.05) * scale), 1),
            (shade,) * 3,
            -1,
        )
    return image

"""Buildings in relief: walls with recessed openings, sills, cornices, balconies, awnings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kapture_ros.simulation import paint
from kapture_ros.simulation.facades import BUILDING_DEPTH, Coat, Design, Opening, paint_facade
from kapture_ros.simulation.mesh import Frame, MeshBuilder, Rect
from kapture_ros.simulation.paint import Colour, Random

_TILE = 2.2  # metres: walls are cut into pieces of this size, since light is baked at corners


def swatch(builder: MeshBuilder, random: Random, colour: Colour, contrast: float = 0.25) -> int:
    """A small texture of one worn colour, for things too small for a picture."""
    tone = 1.0 - contrast / 2 + contrast * paint.fractal_noise(random, (48, 48), 16, 4)
    return builder.texture(paint.coloured(colour, tone))


def add_building(
    builder: MeshBuilder, frame: Frame, design: Design, painter: Random, detail: float
) -> None:
    """Paint a building and put it at `frame` (lower left of its façade)."""
    coat = paint_facade(painter, design, detail)
    random = np.random.default_rng(design.seed)
    lower = (0.0, 0.0, design.width, design.ground)
    upper = (0.0, design.ground, design.width, design.height)
    accent = swatch(builder, random, coat.accent)
    trim = swatch(builder, random, paint.jitter(random, (185, 195, 200), 14))
    reveal = swatch(builder, random, paint.dimmed(coat.wall, 0.8))
    for area, image, openings in (
        (lower, coat.ground, design.ground_openings),
        (upper, coat.upper, design.upper_openings),
    ):
        texture = builder.texture(image)
        _wall(builder, frame, area, openings, texture)
        for opening in openings:
            _recess(builder, frame, area, opening, (texture, reveal))
    _shell(builder, frame, design, random, coat)
    _relief(builder, frame, design, random, (trim, accent))
    if "awning" in design.extras:
        _awning(builder, frame, design, random)
    if "blade" in design.extras:
        _blade_sign(builder, frame, design, random, coat.name)
    for area in design.balconies:
        _balcony(builder, frame, area, (trim, accent))


def _wall(
    builder: MeshBuilder, frame: Frame, area: Rect, openings: tuple[Opening, ...], texture: int
) -> None:
    """The wall around its openings, as pieces of at most a tile."""
    x0, y0, x1, y1 = area
    ys = {y0, y1} | {o.area[i] for o in openings for i in (1, 3)}
    ys |= set(np.linspace(y0, y1, max(int((y1 - y0) / _TILE), 1) + 1))
    rows = sorted(y for y in ys if y0 <= y <= y1)
    for low, high in pairwise(rows):
        middle = (low + high) / 2
        gaps = [o.area for o in openings if o.area[1] < middle < o.area[3]]
        gaps.sort()
        edges = [x0, *(x for gap in gaps for x in (gap[0], gap[2])), x1]
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            pieces = np.linspace(left, right, max(int((right - left) / _TILE), 1) + 1)
            for a, b in pairwise(pieces.tolist()):
                piece = (a, low, b, high)
                builder.panel(frame, piece, texture, _part(area, piece))


def _part(area: Rect, piece: Rect) -> Rect:
    """Where a piece of a façade lies in the texture of its area: left, top, right, bottom."""
    x0, y0, x1, y1 = area
    left, right = ((x - x0) / (x1 - x0) for x in (piece[0], piece[2]))
    bottom, top = ((y1 - y) / (y1 - y0) for y in (piece[1], piece[3]))
    return left, top, right, bottom


def _recess(
    builder: MeshBuilder, frame: Frame, area: Rect, opening: Opening, textures: tuple[int, int]
) -> None:
    picture, reveal = textures
    x0, y0, x1, y1 = opening.area
    depth = -opening.recess
    builder.panel(frame, opening.area, picture, _part(area, opening.area), depth)
    sides = [
        [[x0, y0, 0], [x0, y0, depth], [x0, y1, depth], [x0, y1, 0]],
        [[x1, y0, depth], [x1, y0, 0], [x1, y1, 0], [x1, y1, depth]],
        [[x0, y0, 0], [x1, y0, 0], [x1, y0, depth], [x0, y0, depth]],
        [[x0, y1, depth], [x1, y1, depth], [x1, y1, 0], [x0, y1, 0]],
    ]
    builder.quads(frame.points(sides), reveal)


def _shell(builder: MeshBuilder, frame: Frame, design: Design, random: Random, coat: Coat) -> None:
    """Side walls and roof; seen where a neighbour is lower."""
    if not design.shell:
        return
    w, h, depth = design.width, design.height, -BUILDING_DEPTH
    shape = (int(8 * h), int(8 * BUILDING_DEPTH))
    side = paint.MATERIALS[design.material](random, shape, 16.0, coat.wall)
    texture = builder.texture(paint.weather(random, side, 16.0, at_ground=False))
    cuts = np.linspace(0, h, max(int(h / 3), 1) + 1).tolist()
    for low, high in pairwise(cuts):
        walls = {
            "l": [[0, low, depth], [0, low, 0], [0, high, 0], [0, high, depth]],
            "r": [[w, low, 0], [w, low, depth], [w, high, depth], [w, high, 0]],
        }
        part = _part((0, 0, 1, h), (0, low, 1, high))
        for name in design.shell:
            if name in walls:
                builder.quads(frame.points([walls[name]]), texture, part)
    if "t" in design.shell:
        builder.quads(
            frame.points([[[w, 0, depth], [0, 0, depth], [0, h, depth], [w, h, depth]]]), texture
        )
        _roof(builder, frame, design, random, texture)


def _roof(builder: MeshBuilder, frame: Frame, design: Design, random: Random, gable: int) -> None:
    """A pitched roof of tiles or a flat one; often a chimney."""
    w, h, depth = design.width, design.height, -BUILDING_DEPTH
    colour = paint.jitter(random, (60, 70, 110) if random.random() < 0.5 else (80, 80, 85), 12)
    if random.random() < 0.5:
        ridge, middle = h + random.uniform(1.2, 2.6), depth / 2
        slopes = [
            [[-0.1, h, 0.25], [w + 0.1, h, 0.25], [w + 0.1, ridge, middle], [-0.1, ridge, middle]],
            [[w, h, depth], [0, h, depth], [0, ridge, middle], [w, ridge, middle]],
            [[0, h, depth], [0, h, 0], [0, ridge, middle], [0, ridge, middle]],
            [[w, h, 0], [w, h, depth], [w, ridge, middle], [w, ridge, middle]],
        ]
        tiles = builder.texture(paint.brick(random, (96, int(24 * w)), 24.0, colour))
        builder.quads(frame.points(slopes[:2]), tiles)
        builder.quads(frame.points(slopes[2:]), gable)
    else:
        flat = [[0, h, 0], [w, h, 0], [w, h, depth], [0, h, depth]]
        builder.quads(frame.points([flat]), swatch(builder, random, colour, 0.5))
    if random.random() < 0.6:
        x, z = random.uniform(0.5, max(w - 1.2, 0.6)), random.uniform(-6, -2)
        top = h + random.uniform(1.5, 3.2)
        chimney = swatch(builder, random, (70, 85, 140), 0.6)
        builder.box(frame, (x, h - 0.5, z), (x + 0.7, top, z + 0.7), chimney)


def _relief(
    builder: MeshBuilder, frame: Frame, design: Design, random: Random, textures: tuple[int, int]
) -> None:
    """Cornice, band between storeys, window sills, a downpipe, a cooler, pilasters."""
    trim, accent = textures
    w, extras = design.width, design.extras
    if "cornice" in extras:
        out = random.uniform(0.2, 0.4)
        for x in np.arange(0, w, 2.0):
            high = (min(x + 2.0, w), design.height, out)
            builder.box(frame, (x, design.height - 0.3, 0), high, trim, "fdtlr")
    if "band" in extras:
        for x in np.arange(0, w, 2.0):
            high = (min(x + 2.0, w), design.ground + 0.12, 0.10)
            builder.box(frame, (x, design.ground - 0.08, 0), high, trim, "fdt")
    if "sills" in extras:
        windows = [o for o in design.upper_openings + design.ground_openings if o.kind == "window"]
        for opening in windows:
            x0, y0, x1, _ = opening.area
            builder.box(frame, (x0 - 0.1, y0 - 0.1, 0), (x1 + 0.1, y0, 0.14), trim, "fdtlr")
    if "pilasters" in extras:
        for x in (0.0, w - 0.35):
            builder.box(frame, (x, 0, 0), (x + 0.35, design.height - 0.3, 0.12), trim, "flr")
    if "pipe" in extras:
        x = 0.25 if random.random() < 0.5 else w - 0.25
        points = frame.points([[x, 0.1, 0.1], [x, design.height - 0.2, 0.1]])
        builder.prism(points, [0.06, 0.06], accent, 6)
    if "cooler" in extras and design.upper_openings:
        unit = swatch(builder, random, (205, 208, 205), 0.5)
        picks = random.permutation(len(design.upper_openings))[: int(random.integers(1, 4))]
        for opening in (design.upper_openings[i] for i in picks):
            x, y = opening.area[0], opening.area[1] - 0.75
            builder.box(frame, (x, y, 0), (x + 0.8, y + 0.55, 0.35), unit, "flrtd")


def _awning(builder: MeshBuilder, frame: Frame, design: Design, random: Random) -> None:
    first, second = np.array(paint.vivid(random)), np.array((235.0, 238.0, 240.0))
    stripes = (np.arange(160) // 10 % 2).astype(float)[None, :, None]
    cloth = np.broadcast_to(first * stripes + second * (1 - stripes), (32, 160, 3))
    texture = builder.texture(
        paint.shaded(cloth.astype(np.uint8), paint.speckle(random, (32, 160), 0.04))
    )
    top, out, drop = design.ground - 0.85, random.uniform(0.8, 1.4), random.uniform(0.4, 0.7)
    w = design.width
    slope = [
        [0.2, top - drop, out],
        [w - 0.2, top - drop, out],
        [w - 0.2, top, 0.02],
        [0.2, top, 0.02],
    ]
    hem = [[0.2, top - drop - 0.25, out], [w - 0.2, top - drop - 0.25, out], slope[1], slope[0]]
    builder.quads(frame.points([slope, hem]), texture, [(0, 0, 1, 0.7), (0, 0.7, 1, 1)])


def _blade_sign(
    builder: MeshBuilder, frame: Frame, design: Design, random: Random, name: str
) -> None:
    """A sign at right angles to the wall, seen from along the street."""
    text = (
        name
        if design.kind in ("shop", "cafe")
        else f"{paint.invent_name(random)} {random.integers(2, 90)}"
    )
    tall, wide = random.uniform(0.5, 1.1), random.uniform(0.7, 1.2)
    shape = (int(tall * 80), int(wide * 80))
    picture = (
        paint.sign(random, shape, text) if random.random() < 0.6 else paint.poster(random, shape)
    )
    lit = np.full(shape, 160, np.uint8)
    texture = builder.texture(np.dstack([picture, lit]))
    middle = design.width / 2
    x, y = (
        random.uniform(min(0.4, middle), max(design.width - 0.4, middle)),
        design.ground - tall / 2 + random.uniform(-0.3, 0.8),
    )
    edge = swatch(builder, random, (60, 60, 60))
    builder.box(frame, (x - 0.05, y, 0.2), (x + 0.05, y + tall, 0.2 + wide), texture, "lr")
    builder.box(frame, (x - 0.05, y, 0.2), (x + 0.05, y + tall, 0.2 + wide), edge, "ftd")
    builder.box(
        frame, (x - 0.02, y + tall / 2, 0), (x + 0.02, y + tall / 2 + 0.04, 0.2), edge, "tlrd"
    )


def _balcony(builder: MeshBuilder, frame: Frame, area: Rect, textures: tuple[int, int]) -> None:
    trim, rail = textures
    x0, y0, x1, _ = area
    left, right, floor, out = x0 - 0.3, x1 + 0.3, y0 - 0.15, 0.75
    builder.box(frame, (left, floor - 0.14, 0), (right, floor, out), trim, "flrtd")
    builder.box(frame, (left, floor + 0.9, out - 0.05), (right, floor + 0.95, out), rail, "fbtd")
    for x in np.linspace(left, right, max(int((right - left) / 0.16), 2)):
        builder.box(
            frame, (x, floor, out - 0.04), (x + 0.03, floor + 0.9, out - 0.01), rail, "fblr"
        )
    for x in (left, right - 0.04):
        builder.box(frame, (x, floor + 0.9, 0), (x + 0.04, floor + 0.95, out), rail, "lrtd")

"""What is built along each side of a street: lots, buildings, yards, places that look alike."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from kapture_ros.simulation import furniture, paint
from kapture_ros.simulation.buildings import add_building, swatch
from kapture_ros.simulation.facades import BUILDING_DEPTH, Design, draw_up
from kapture_ros.simulation.layout import Side, generator
from kapture_ros.simulation.mesh import Frame, MeshBuilder
from kapture_ros.simulation.options import Changes, StreetOptions

# Keys of the generators, so that no two purposes share random numbers.
_WIDTHS, _DESIGN, _PAINT, _REPAINT, _END_WALL = range(10, 15)
_YARD_DEPTH = 6.0
# (side, first lot, lots) that a second side repeats at the same distance from its left end.
_REPEATED = (((8, 5, 3), 10), ((0, 1, 2), 6))


@dataclass(frozen=True, slots=True)
class Lot:
    """A piece of a side; `source` (side, index) names whose design it has."""

    x: float
    width: float
    source: tuple[int, int]


Lookalike = tuple[tuple[float, float], tuple[float, float]]


def divide(options: StreetOptions, sides: list[Side]) -> tuple[list[list[Lot]], list[Lookalike]]:
    """The lots of every side, and pairs of places (x, y) whose façades are the same."""
    lots = [_divide_side(options, side) for side in sides]
    alike: list[Lookalike] = []
    for (source, first, count), target in _REPEATED:
        copied = lots[source][first : first + count]
        begin, end = copied[0].x, copied[-1].x + copied[-1].width
        own = [lot for lot in lots[target] if lot.x + lot.width <= begin or lot.x >= end]
        fillers = []
        before = max((lot.x + lot.width for lot in own if lot.x < begin), default=0.0)
        after = min((lot.x for lot in own if lot.x >= end), default=sides[target].length)
        if begin - before > 0.1:
            fillers.append(Lot(before, begin - before, (target, 90)))
        if after - end > 0.1:
            fillers.append(Lot(end, after - end, (target, 91)))
        lots[target] = sorted([*own, *copied, *fillers], key=lambda lot: lot.x)
        for lot in copied:
            middle = [lot.x + lot.width / 2, 0.0, 3.0]
            places = (sides[number].frame.points(middle) for number in (source, target))
            first_place, second_place = ((float(p[0]), float(p[1])) for p in places)
            alike.append((first_place, second_place))
    return lots, alike


def _divide_side(options: StreetOptions, side: Side) -> list[Lot]:
    random = generator(options, _WIDTHS, side.number)
    begin, end = 0.0, side.length
    if side.corners:
        begin, end = BUILDING_DEPTH, side.length - BUILDING_DEPTH
    count = max(round((end - begin) / 9.5), 1)
    widths = random.uniform(0.6, 1.4, count)
    edges = begin + np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum() * (end - begin)
    return [
        Lot(a, b - a, (side.number, index))
        for index, (a, b) in enumerate(itertools.pairwise(edges.tolist()))
    ]


def build(
    builder: MeshBuilder, options: StreetOptions, changes: Changes, sides: list[Side]
) -> list[Lookalike]:
    """Build on every lot; returns the places that look alike."""
    lots, alike = divide(options, sides)
    heights = []
    for side, row in zip(sides, lots, strict=True):
        places = [(side, lot, lot in (row[0], row[-1])) for lot in row]
        designs = [_build_lot(builder, options, changes, place) for place in places]
        heights.append((designs[0].height, designs[-1].height))
    for side in sides:
        if side.corners:
            # The left end is the last building of one side, the right end another's first.
            left, right = heights[side.corners[0]][1], heights[side.corners[1]][0]
            _build_end_wall(builder, options, changes, (side, 0.0, left))
            _build_end_wall(builder, options, changes, (side, side.length - BUILDING_DEPTH, right))
    return alike


def _painter(options: StreetOptions, changes: Changes, source: tuple[int, int]) -> paint.Random:
    chance = generator(options, _REPAINT, *source).random()
    again = changes.day if chance < changes.repainted else 0
    return generator(options, _PAINT, *source, again)


def _build_lot(
    builder: MeshBuilder, options: StreetOptions, changes: Changes, place: tuple[Side, Lot, bool]
) -> Design:
    side, lot, at_corner = place
    random = generator(options, _DESIGN, *lot.source)
    painter = _painter(options, changes, lot.source)
    frame = side.frame.at(lot.x)
    if not at_corner and lot.width > 7.0 and random.random() < 0.12:
        _yard(builder, frame, lot.width, random)
        frame = frame.at(0.0, 0.0, -_YARD_DEPTH)
    elif not at_corner:
        frame = frame.at(0.0, 0.0, random.uniform(0.0, 0.15))
    design = draw_up(random, lot.width)
    if at_corner and side.convex:
        # The end wall of the corner building is a façade of the other street.
        design = dataclasses.replace(design, shell="rt" if lot.x < 0.1 else "lt")
    add_building(builder, frame, design, painter, options.detail)
    return design


def _build_end_wall(
    builder: MeshBuilder,
    options: StreetOptions,
    changes: Changes,
    wall: tuple[Side, float, float],
) -> None:
    """A façade on the side wall of a corner building."""
    side, x, height = wall
    source = (side.number, _END_WALL + int(x > 0))
    random = generator(options, _END_WALL, *source)
    design = dataclasses.replace(draw_up(random, BUILDING_DEPTH, height), shell="")
    painter = _painter(options, changes, source)
    add_building(builder, side.frame.at(x), design, painter, options.detail)


def _yard(builder: MeshBuilder, frame: Frame, width: float, random: paint.Random) -> None:
    """A wall or fence with trees behind it, between the houses."""
    green = 0.75 + 0.5 * paint.fractal_noise(random, (128, 128), 24, 5)
    grass = builder.texture(paint.coloured((58, 104, 84), green))
    lawn = [
        [0, 0.02, 0.1],
        [width, 0.02, 0.1],
        [width, 0.02, -_YARD_DEPTH],
        [0, 0.02, -_YARD_DEPTH],
    ]
    builder.quads(frame.points([lawn]), grass)
    height = random.uniform(0.7, 1.9)
    if random.random() < 0.6:
        shape = (int(64 * height), int(64 * width))
        picture = paint.brick(random, shape, 64.0, paint.WALL_COLOURS["brick"][1])
        for _ in range(3):
            paint.graffiti(random, picture, 64.0)
        wall = builder.texture(paint.weather(random, picture, 64.0, at_ground=True))
        builder.box(frame, (0.0, 0.0, -0.2), (width, height, 0.0), wall, "fbt")
    else:
        iron = swatch(builder, random, (52, 56, 50))
        for x in np.arange(0.1, width, 0.16):
            builder.box(frame, (x, 0.0, -0.05), (x + 0.03, height, -0.02), iron, "fblr")
        builder.box(frame, (0.0, height - 0.12, -0.06), (width, height - 0.08, -0.01), iron)
    for x in np.arange(random.uniform(1.2, 2.5), width - 1.0, 3.5):
        furniture.add_tree(builder, frame.at(x, 0.0, random.uniform(-4.5, -2.0)), random)
    if random.random() < 0.7 and width > 5:
        board = frame.at(random.uniform(0.5, width - 4.0), 0.0, -0.6)
        furniture.add_hoarding(builder, board, random, 3.2)

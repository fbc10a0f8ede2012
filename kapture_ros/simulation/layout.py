"""The map of the simulated street: two blocks, a road between them and a ring road around.

Metres in the map frame, x east and y north but for the datum's yaw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kapture_ros.simulation.ground import KERB, Plan
from kapture_ros.simulation.mesh import Frame, Rect
from kapture_ros.simulation.options import StreetOptions
from kapture_ros.transforms.geodesy import Datum

STREET_HALF = 9.0  # from the middle of the road to the façades
ROAD_HALF = 5.5
PARKING = 4.45  # to the middle of a parked car
RING: Rect = (0.0, 0.0, 150.0, 64.0)  # the middle of the ring road
MIDDLE_STREET = 72.0  # x of the street between the blocks
DATUM = Datum(45.2171, 5.7923, 248.0, 0.35)


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a street: `frame` is at its left end as seen from the street.

    Attributes:
        corners: the sides whose corner buildings show an end wall at the left and at the
            right end of this one; None where the corners are this side's own.
        convex: whether this side's corner buildings have such an end wall.
    """

    number: int
    frame: Frame
    length: float
    corners: tuple[int, int] | None = None
    convex: bool = False


def generator(options: StreetOptions, *keys: int) -> np.random.Generator:
    """The random numbers of one thing in one street, independent of all others."""
    return np.random.default_rng([options.street, *keys])


def blocks() -> tuple[Rect, Rect]:
    """The two built-up rectangles."""
    x0, y0, x1, y1 = RING
    s, m = STREET_HALF, MIDDLE_STREET
    return (x0 + s, y0 + s, m - s, y1 - s), (m + s, y0 + s, x1 - s, y1 - s)


def plan() -> Plan:
    """Road, pavements and markings."""
    x0, y0, x1, y1 = RING
    s, r = STREET_HALF, ROAD_HALF
    crossings: list[tuple[Rect, bool]] = [
        ((MIDDLE_STREET - r, y, MIDDLE_STREET + r, y + 2.5), False)
        for y in (y0 + r + 1.0, y1 - r - 3.5)
    ]
    for x in (40.0, 110.0):
        crossings += [((x, y - r, x + 2.5, y + r), True) for y in (y0, y1)]
    crossings += [((x - r, 32.0, x + r, 34.5), False) for x in (x0, x1)]
    lanes = [(x0 + s, y, x1 - s, y) for y in (y0, y1)]
    lanes += [(x, y0 + s, x, y1 - s) for x in (x0, MIDDLE_STREET, x1)]
    return Plan(
        bounds=(x0 - s, y0 - s, x1 + s, y1 + s),
        road=(x0 - r, y0 - r, x1 + r, y1 + r),
        blocks=blocks(),
        pavement=STREET_HALF - ROAD_HALF,
        crossings=tuple(crossings),
        lanes=tuple(lanes),
    )


def sides() -> list[Side]:
    """South, east, north and west of each block; then the same of the wall around all."""
    found: list[Side] = []
    for x0, y0, x1, y1 in blocks():
        south = len(found)
        north = south + 2
        found += [
            Side(south, _frame(x0, y0, 0), x1 - x0, convex=True),
            Side(south + 1, _frame(x1, y0, 90), y1 - y0, (south, north)),
            Side(north, _frame(x1, y1, 180), x1 - x0, convex=True),
            Side(south + 3, _frame(x0, y1, 270), y1 - y0, (north, south)),
        ]
    x0, y0, x1, y1 = plan().bounds
    first = len(found)
    return [
        *found,
        Side(first, _frame(x1, y0, 180), x1 - x0),
        Side(first + 1, _frame(x1, y1, 270), y1 - y0),
        Side(first + 2, _frame(x0, y1, 0), x1 - x0),
        Side(first + 3, _frame(x0, y0, 90), y1 - y0),
    ]


def _frame(x: float, y: float, yaw: float) -> Frame:
    return Frame.upright((x, y, KERB), np.radians(yaw))

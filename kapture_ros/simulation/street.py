"""A street ready to be driven through: `build_world` makes it from a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kapture_ros.simulation import furnish, layout, lots
from kapture_ros.simulation.ground import add_ground
from kapture_ros.simulation.mesh import MeshBuilder
from kapture_ros.simulation.options import Changes, StreetOptions
from kapture_ros.simulation.render import Renderer
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array


@dataclass(frozen=True, slots=True)
class World:
    """A street on one day.

    Attributes:
        access_points: (A, 3) positions of Wi-Fi access points, map frame.
        lookalikes: pairs of positions (x, y) on the pavement whose façades are the same.
    """

    renderer: Renderer
    datum: Datum
    access_points: Array
    lookalikes: tuple[lots.Lookalike, ...]


def build_world(options: StreetOptions, changes: Changes | None = None) -> World:
    """Build the street of that number, on an ordinary or another day."""
    changes = changes or Changes()
    builder = MeshBuilder()
    sides = layout.sides()
    add_ground(builder, layout.plan(), layout.generator(options, 0), options.detail)
    lookalikes = lots.build(builder, options, changes, sides)
    lamps = furnish.furnish(builder, options, sides)
    furnish.add_towers(builder, options)
    furnish.park(builder, options, changes)
    furnish.add_actors(builder, options, changes)
    renderer = Renderer(builder.finish(), lamps)
    return World(renderer, layout.DATUM, _access_points(options, sides), tuple(lookalikes))


def _access_points(options: StreetOptions, sides: list[layout.Side]) -> Array:
    """One in every other building, some metres behind its façade."""
    random = layout.generator(options, 1)
    points = [
        side.frame.points([lot.x + lot.width / 2, random.uniform(1.0, 6.0), random.uniform(-6, -1)])
        for side, row in zip(sides, lots.divide(options, sides)[0], strict=True)
        for lot in row[::2]
    ]
    return np.array(points)

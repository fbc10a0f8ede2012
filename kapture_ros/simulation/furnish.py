"""What stands in the street and goes through it: trees, lamps, parked cars, actors."""

from __future__ import annotations

import numpy as np

from kapture_ros.simulation import furniture, paint, vehicles
from kapture_ros.simulation.layout import (
    MIDDLE_STREET,
    PARKING,
    RING,
    STREET_HALF,
    Side,
    generator,
)
from kapture_ros.simulation.mesh import Frame, MeshBuilder
from kapture_ros.simulation.options import Changes, StreetOptions
from kapture_ros.transforms.se3 import Array

_TREES, _LAMPS, _SMALL, _TOWERS, _PARKED, _ACTORS = range(20, 26)
PAVEMENT = 3.5
STRIDES = (-0.45, 0.0, 0.45)  # angles of the legs, radians
PEOPLE = 6
VEHICLES = ("car", "van", "car", "car")


def furnish(builder: MeshBuilder, options: StreetOptions, sides: list[Side]) -> Array:
    """Trees, lamps and small things on the pavements; returns the lamps' lights (L, 3)."""
    lights = []
    for side in sides:
        random = generator(options, _TREES, side.number)
        for x in np.arange(random.uniform(2, 6), side.length - 2, 11.0) + random.normal(0, 0.8):
            if random.random() < 0.72:
                place = side.frame.at(x, 0, PAVEMENT - 0.75).turned(random.uniform(0, 6))
                furniture.add_tree(builder, place, random)
        random = generator(options, _LAMPS, side.number)
        for x in np.arange(random.uniform(6, 12), side.length - 3, 23.0):
            place = side.frame.at(x, 0, PAVEMENT - 0.4)
            lights.append(furniture.add_lamp(builder, place, random))
        _small_things(builder, generator(options, _SMALL, side.number), side)
    return np.array(lights)


def _small_things(builder: MeshBuilder, random: paint.Random, side: Side) -> None:
    kinds = (
        furniture.add_bench, furniture.add_bin, furniture.add_cabinet, furniture.add_bollard,
        furniture.add_road_sign, furniture.add_bollard, furniture.add_cabinet,
    )  # fmt: skip
    for x in np.arange(1.0, side.length - 1.0, 4.3):
        if random.random() < 0.25:
            continue
        kind = kinds[int(random.integers(len(kinds)))]
        at_wall = kind is furniture.add_cabinet and random.random() < 0.6
        place = side.frame.at(x + random.normal(0, 0.7), 0, 0.35 if at_wall else PAVEMENT - 0.55)
        kind(builder, place, random)
        if kind is furniture.add_bollard:
            for step in range(1, int(random.integers(2, 5))):
                kind(builder, place.at(1.1 * step), random)


def add_towers(builder: MeshBuilder, options: StreetOptions) -> None:
    """High buildings some streets away, above the roofs."""
    x0, y0, x1, y1 = RING
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2, 0.0])
    random = generator(options, _TOWERS)
    for angle in np.arange(7) * 2 * np.pi / 7 + random.normal(0, 0.25, 7):
        reach = np.array([np.cos(angle) * (x1 - x0) * 0.85, np.sin(angle) * (y1 - y0) * 1.35, 0.0])
        wide, tall = random.uniform(10, 20), random.uniform(24, 46)
        picture = _tower_picture(random, wide, tall)
        frame = Frame.upright(middle + reach * random.uniform(1.0, 1.3), random.uniform(0, np.pi))
        low, high = (-wide / 2, 0, -wide / 2), (wide / 2, tall, wide / 2)
        builder.box(frame, low, high, builder.texture(picture), "fblr")


def _tower_picture(random: paint.Random, wide: float, tall: float) -> np.ndarray:
    shape = (int(10 * tall), int(10 * wide))
    picture = paint.panels(random, shape, 10.0, paint.jitter(random, (160, 168, 172), 18))
    rows, columns = int(tall / 3), int(wide / random.uniform(1.8, 3.0))
    emission = np.zeros(shape, np.uint8)
    for row in range(rows):
        for column in range(columns):
            y, x = int((row + 0.3) * shape[0] / rows), int((column + 0.25) * shape[1] / columns)
            part = np.s_[y : y + 14, x : x + int(0.5 * shape[1] / columns)]
            picture[part] = paint.dimmed((110, 96, 84), random.uniform(0.6, 1.3))
            emission[part] = 130 if random.random() < 0.4 else 0
    return np.dstack([picture, emission])


def park(builder: MeshBuilder, options: StreetOptions, changes: Changes) -> None:
    """Cars at the kerbs, others every day."""
    random = generator(options, _PARKED, changes.day)
    x0, y0, x1, y1 = RING
    clear = STREET_HALF + 6.0
    rows = [((x0 + clear, y0), (x1 - clear, y0)), ((x1, y0 + clear), (x1, y1 - clear)),
            ((x1 - clear, y1), (x0 + clear, y1)), ((x0, y1 - clear), (x0, y0 + clear)),
            ((MIDDLE_STREET, y0 + clear), (MIDDLE_STREET, y1 - clear))]  # fmt: skip
    for begin, end in rows:
        along = np.subtract(end, begin)
        length = float(np.linalg.norm(along))
        yaw = float(np.arctan2(along[1], along[0]))
        for side in (1.0, -1.0):
            for at in np.arange(2.5, length - 2.5, 6.2):
                if random.random() > changes.parked:
                    continue
                road = Frame.upright((*begin, 0.0), yaw)
                place = road.at(
                    at + random.normal(0, 0.4), 0, side * (PARKING + random.normal(0, 0.1))
                )
                if _in_the_way(place.origin):
                    continue
                add = vehicles.add_van if random.random() < 0.14 else vehicles.add_car
                add(builder, place.turned(random.normal(0, 0.02)), random)


def _in_the_way(place: Array) -> bool:
    """On a crossing or in the mouth of the middle street."""
    x, y = place[:2]
    mouth = abs(x - MIDDLE_STREET) < 9.5 and (abs(y - RING[1]) < 6 or abs(y - RING[3]) < 6)
    along_x = any(abs(x - 1.25 - at) < 4.5 for at in (40.0, 110.0)) and not 9 < y < 55
    along_y = abs(y - 33.25) < 4.5 and (x < 9 or x > 141)
    return bool(mouth or along_x or along_y)


def add_actors(builder: MeshBuilder, options: StreetOptions, changes: Changes) -> None:
    """People in three phases of a step, and cars, each as a part of the mesh."""
    for person in range(PEOPLE):
        for phase, stride in enumerate(STRIDES):
            with builder.actor(f"person{person}.{phase}"):
                random = generator(options, _ACTORS, changes.day, person)
                vehicles.add_person(builder, vehicles.ACTOR_FRAME, random, stride)
    for index, kind in enumerate(VEHICLES):
        with builder.actor(f"vehicle{index}"):
            random = generator(options, _ACTORS, changes.day, 100 + index)
            add = vehicles.add_van if kind == "van" else vehicles.add_car
            add(builder, vehicles.ACTOR_FRAME, random)

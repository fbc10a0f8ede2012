"""What stands and moves in a street: trees, lamps, benches, cars, people."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.simulation import paint
from kapture_ros.simulation.buildings import swatch
from kapture_ros.simulation.mesh import Frame, Image, MeshBuilder
from kapture_ros.simulation.paint import Random
from kapture_ros.transforms.se3 import Array

LAMP_HEIGHT = 5.2


def _leaf_picture(random: Random) -> Image:
    """Leaves over leaves, darker below."""
    image = np.full((96, 96, 3), (18, 44, 26), np.uint8)
    tone = random.uniform(0.75, 1.15)
    hue = random.normal(0, 10, 3)
    for step in range(90):
        centre = tuple(int(v) for v in random.integers(0, 96, 2))
        light = tone * (0.5 + 0.5 * step / 90)
        green = np.clip(
            (np.array((40.0, 118.0, 76.0)) + hue + random.normal(0, 9, 3)) * light, 0, 255
        )
        axes = (int(random.integers(6, 12)), int(random.integers(3, 6)))
        cv2.ellipse(
            image,
            centre,
            axes,
            float(random.uniform(0, 180)),
            0,
            360,
            green.tolist(),
            -1,
            cv2.LINE_AA,
        )
    return image


def add_tree(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A trunk, limbs and a crown of small bunches of leaves."""
    bark_tone = 0.7 + 0.6 * paint.fractal_noise(random, (128, 64), 10, 4, 5)
    bark = builder.texture(paint.coloured(paint.jitter(random, (70, 86, 100), 10), bark_tone))
    height, reach = random.uniform(5.5, 8.5), random.uniform(1.5, 2.4)
    fork = height * random.uniform(0.32, 0.42)
    lean = random.normal(0, 0.12, 2)
    trunk = [[0, 0, 0], [lean[0] / 2, fork / 2, lean[1] / 2], [lean[0], fork, lean[1]]]
    thick = random.uniform(0.11, 0.2)
    builder.prism(frame.points(trunk), [thick * 1.4, thick, 0.85 * thick], bark, 9)
    bunches = []
    for _ in range(int(random.integers(6, 10))):
        angle, out = random.uniform(0, 2 * np.pi), random.uniform(0.25, 0.8) * reach
        tip = np.array(
            [
                lean[0] + out * np.cos(angle),
                random.uniform(fork + 0.9, height - 0.5),
                lean[1] + out * np.sin(angle),
            ]
        )
        builder.prism(
            frame.points(np.array([trunk[-1], tip])), [0.6 * thick, 0.15 * thick], bark, 5
        )
        bunches.append((tip, random.uniform(0.7, 1.15)))
    bunches.append((np.array([lean[0], height - 0.6, lean[1]]), 1.0))
    leaves = builder.texture(_leaf_picture(random))
    for centre, size in bunches:
        _bunch(builder, frame, random, leaves, (centre, size))


def _bunch(
    builder: MeshBuilder, frame: Frame, random: Random, texture: int, ball: tuple[Array, float]
) -> None:
    """Leafy patches on and in a ball."""
    centre, size = ball
    count = int(230 * size**2)
    direction = random.normal(0, 1, (count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = size * np.maximum(random.random(count), random.random(count)) ** 0.5
    at = centre + direction * radius[:, None] * [1.0, 0.8, 1.0]
    turn = Rotation.from_quat(random.normal(0, 1, (count, 4))).as_matrix()
    half = random.uniform(0.06, 0.14, (count, 1, 1))
    outline = np.array([[-1.3, 0, 0], [0, -0.7, 0], [1.3, 0, 0], [0, 0.7, 0]])
    corners = at[:, None] + half * np.einsum("nij,kj->nki", turn, outline)
    left, top = random.uniform(0, 0.6, (2, count))
    rects = np.stack([left, top, left + 0.4, top + 0.4], axis=1)
    # Deep inside and below less light arrives than baking at the corners could tell.
    shade = 0.35 + 0.5 * (radius / size) ** 2 + 0.15 * direction[:, 1]
    builder.quads(frame.points(corners), texture, rects, np.clip(shade, 0.2, 1.0))


def add_lamp(builder: MeshBuilder, frame: Frame, random: Random) -> Array:
    """A street lamp; returns where its light is (3,)."""
    metal = swatch(builder, random, paint.jitter(random, (62, 66, 62), 8), 0.5)
    builder.prism(
        frame.points(np.array([[0, 0, 0], [0, 0.9, 0], [0, LAMP_HEIGHT, 0]])),
        [0.09, 0.06, 0.045],
        metal,
    )
    arm = frame.points([[0, LAMP_HEIGHT, 0], [0, LAMP_HEIGHT + 0.15, 1.1]])
    builder.prism(arm, [0.04, 0.035], metal, 6)
    head = frame.at(0, LAMP_HEIGHT + 0.1, 1.1)
    builder.box(head, (-0.14, 0, -0.25), (0.14, 0.12, 0.35), metal, "fblrt")
    glow = np.dstack(
        [
            paint.coloured((200, 225, 235), np.ones((8, 8), np.float32)),
            np.full((8, 8), 255, np.uint8),
        ]
    )
    builder.box(head, (-0.14, 0, -0.25), (0.14, 0.12, 0.35), builder.texture(glow), "d")
    if random.random() < 0.6:
        bill = builder.texture(paint.poster(random, (84, 60)))
        builder.panel(frame.at(0, 1.3, 0.075), (-0.25, 0, 0.25, 0.7), bill)
    light: Array = frame.points([0, LAMP_HEIGHT - 0.1, 1.1])
    return light


def add_bench(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A bench with wooden slats."""
    wood = swatch(builder, random, paint.jitter(random, (50, 90, 140), 18), 0.7)
    iron = swatch(builder, random, (50, 52, 54))
    for z in (0.0, 0.15, 0.3):
        builder.box(frame, (-0.85, 0.42, z), (0.85, 0.46, z + 0.11), wood)
    for y in (0.55, 0.72):
        builder.box(frame, (-0.85, y, -0.06), (0.85, y + 0.12, -0.03), wood)
    for x in (-0.7, 0.62):
        builder.box(frame, (x, 0, 0), (x + 0.08, 0.42, 0.4), iron)
        builder.box(frame, (x, 0.42, -0.06), (x + 0.08, 0.85, -0.02), iron)


def add_bin(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A litter bin with a sticker or two."""
    image = paint.coloured(
        paint.jitter(random, (70, 90, 60), 30),
        0.8 + 0.4 * paint.fractal_noise(random, (96, 192), 24, 4),
    )
    for _ in range(int(random.integers(1, 4))):
        y, x = random.integers(0, 60), random.integers(0, 160)
        bill = paint.poster(random, (30, 26))
        image[y : y + 30, x : x + 26] = bill
    texture = builder.texture(image)
    points = frame.points([[0, 0.0, 0], [0, 0.85, 0], [0, 0.9, 0]])
    builder.prism(points, [0.22, 0.26, 0.05], texture, 12)


def add_cabinet(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A grey cabinet of a telephone company, with stickers and tags."""
    wide, tall = random.uniform(0.7, 1.4), random.uniform(0.9, 1.35)
    shape = (int(64 * tall), int(64 * wide))
    image = paint.panels(random, shape, 64.0, paint.jitter(random, (150, 160, 155), 14))
    paint.graffiti(random, image, 40.0)
    if random.random() < 0.5:
        bill = paint.poster(random, (30, 24))
        image[12:42, 8:32] = bill
    builder.box(frame, (-wide / 2, 0, -0.2), (wide / 2, tall, 0.2), builder.texture(image))


def add_bollard(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A post at the kerb."""
    stripes = np.full((32, 16, 3), (58, 60, 62), np.uint8)
    stripes[6:11] = (210, 215, 220)
    texture = builder.texture(paint.shaded(stripes, paint.speckle(random, (32, 16), 0.08)))
    builder.prism(
        frame.points(np.array([[0, 0, 0], [0, 0.85, 0], [0, 0.92, 0]])), [0.06, 0.06, 0.01], texture
    )


def add_road_sign(builder: MeshBuilder, frame: Frame, random: Random) -> None:
    """A pole with one or two signs, readable from along the street."""
    metal = swatch(builder, random, (150, 152, 152))
    builder.prism(frame.points(np.array([[0, 0, 0], [0, 2.9, 0]])), [0.035, 0.035], metal, 6)
    top = 2.85
    for _ in range(int(random.integers(1, 3))):
        wide, tall = random.uniform(0.5, 0.9), random.uniform(0.3, 0.65)
        shape = (int(90 * tall), int(90 * wide))
        if random.random() < 0.5:
            picture = paint.sign(random, shape, paint.invent_name(random).title())
        else:
            picture = np.full((*shape, 3), 235, np.uint8)
            paint.motif(random, picture)
            cv2.rectangle(picture, (0, 0), (shape[1] - 1, shape[0] - 1), (40, 40, 200), 5)
        texture = builder.texture(picture)
        builder.box(frame, (0.04, top - tall, -wide / 2), (0.06, top, wide / 2), texture, "lr")
        top -= tall + 0.06


def add_hoarding(builder: MeshBuilder, frame: Frame, random: Random, width: float) -> None:
    """An advertising board on two legs."""
    shape = (int(2.2 * 64), int(width * 64))
    picture = paint.poster(random, shape)
    builder.panel(frame, (0, 0.8, width, 3.0), builder.texture(picture), depth=0.05)
    edge = swatch(builder, random, (70, 72, 74))
    builder.box(frame, (0, 0.75, -0.05), (width, 3.05, 0.04), edge)
    for x in (0.3, width - 0.4):
        builder.box(frame, (x, 0, -0.05), (x + 0.1, 0.8, 0.04), edge)

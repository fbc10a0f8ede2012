"""Painted building fronts: what photographs lack and drives are full of, repetitive and sharp."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from image_bank import CANVAS, ImageBank


def add_facades(bank: ImageBank, count: int, seed: int) -> ImageBank:
    """The bank with `count` random facades appended."""
    streams = np.random.default_rng(seed).spawn(count)
    with ThreadPoolExecutor() as pool:
        painted = np.stack(list(pool.map(facade, streams)))
    device = bank.pixels.device
    pixels = torch.from_numpy(painted).to(device)
    sizes = torch.tensor([[CANVAS[1], CANVAS[0]]], device=device).float().expand(count, 2)
    names = tuple(f"facade/{number}/0" for number in range(count))
    return ImageBank(
        torch.cat([bank.pixels, pixels]),
        torch.cat([bank.sizes, sizes]),
        torch.cat([bank.share, torch.full((count,), 0.7, device=device)]),
        bank.names + names,
    )


def facade(rng: np.random.Generator) -> np.ndarray:
    """(480, 640, 3) RGB bytes."""
    height, width = CANVAS
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(60, 220) + rng.normal(0, 18, 3)
    image *= rough(rng, 0.12)[..., None]
    if rng.random() < 0.5:
        lay_bricks(image, rng)
    columns, rows = rng.integers(3, 9), rng.integers(2, 7)
    window_width = width / columns * rng.uniform(0.35, 0.7)
    window_height = height / rows * rng.uniform(0.4, 0.75)
    frame = rng.uniform(20, 255) + rng.normal(0, 10, 3)
    glass = rng.uniform(10, 120) + rng.normal(0, 15, 3)
    border = max(1, int(rng.uniform(0.03, 0.1) * window_width))
    for row in range(rows):
        for column in range(columns):
            left = int((column + 0.5) * width / columns - window_width / 2)
            top = int((row + 0.5) * height / rows - window_height / 2)
            paint_window(image, rng, (left, top, int(window_width), int(window_height)),
                         frame, glass, border)  # fmt: skip
    for _ in range(rng.integers(0, 5)):
        write_sign(image, rng)
    image = image * rough(rng, 0.08)[..., None] + rng.normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def rough(rng: np.random.Generator, contrast: float) -> np.ndarray:
    """(480, 640) factors round 1 with detail at several scales."""
    total = np.zeros(CANVAS, np.float32)
    for octave in range(2, 8):
        noise = rng.normal(0, 1, (CANVAS[0] >> octave or 1, CANVAS[1] >> octave or 1))
        total += cv2.resize(noise.astype(np.float32), CANVAS[::-1], interpolation=cv2.INTER_CUBIC)
    return 1 + contrast * total / total.std()


def lay_bricks(image: np.ndarray, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    brick = int(rng.integers(8, 22))
    mortar = image.mean((0, 1)) * rng.uniform(0.5, 1.5)
    for row, top in enumerate(range(0, height, brick)):
        image[top : top + 1 + brick // 10] = mortar
        for left in range(-brick * (row % 2), width, 2 * brick):
            inside = image[top : top + brick, max(left, 0) : left + 2 * brick]
            inside *= rng.normal(1, 0.08)
            if left >= 0:
                image[top : top + brick, left : left + 1 + brick // 10] = mortar


def paint_window(
    image: np.ndarray,
    rng: np.random.Generator,
    box: tuple[int, int, int, int],
    frame: np.ndarray,
    glass: np.ndarray,
    border: int,
) -> None:
    left, top, width, height = box
    image[top : top + height, left : left + width] = frame
    pane = glass * rng.uniform(0.6, 1.4) + rng.normal(0, 6, 3)
    inner = image[top + border : top + height - border, left + border : left + width - border]
    if inner.size == 0:
        return
    ramp = np.linspace(rng.uniform(0.7, 1), rng.uniform(1, 1.6), inner.shape[0])
    inner[:] = pane * ramp[:, None, None]
    if rng.random() < 0.3:  # a blind, a curtain
        inner[: int(inner.shape[0] * rng.uniform(0.2, 0.9))] = rng.uniform(80, 240, 3)
    middle = inner.shape[1] // 2
    inner[:, middle - border // 2 : middle + border // 2 + 1] = frame
    image[top + height : top + height + border + 2, left - 2 : left + width + 2] *= 0.6


def write_sign(image: np.ndarray, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    left, top = int(rng.integers(0, width - 160)), int(rng.integers(0, height - 50))
    size = (int(rng.integers(60, 160)), int(rng.integers(20, 50)))
    sign = np.empty((size[1], size[0], 3), np.uint8)
    sign[:] = rng.integers(0, 256, 3)
    ink = tuple(int(value) for value in rng.integers(0, 256, 3))
    text = "".join(chr(65 + int(letter)) for letter in rng.integers(0, 26, rng.integers(3, 9)))
    cv2.putText(sign, text, (4, size[1] - 8), int(rng.integers(0, 8)), size[1] / 38, ink,
                int(rng.integers(1, 3)), cv2.LINE_AA)  # fmt: skip
    image[top : top + size[1], left : left + size[0]] = sign

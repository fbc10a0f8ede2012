"""Training images in the memory of the training device, read from the packs of collect_images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

CANVAS = (480, 640)  # height, width that every image is fitted into
HELD_OUT_PERCENT = 4
SOURCE_SHARE = {
    "ietower": 0.5, "street": 0.5, "mslearn_vision": 0.3, "intel_sample_videos": 0.2,
}  # fmt: skip
"""Sources of many near-duplicate frames are drawn less often (1 for all others)."""


@dataclass(frozen=True, slots=True)
class ImageBank:
    """N images, each in the top left corner of its canvas.

    Attributes:
        pixels: (N, 480, 640, 3) bytes, RGB.
        sizes: (N, 2) width and height in pixels.
        share: (N,) how often to draw an image, relative to others.
        names: of the pack's entries, SOURCE/GROUP/INDEX.
    """

    pixels: Tensor
    sizes: Tensor
    share: Tensor
    names: tuple[str, ...]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of random images."""
        reached = self.share.cumsum(0)
        drawn = torch.rand(count, generator=generator, device=self.share.device) * reached[-1]
        return torch.searchsorted(reached, drawn).clamp(max=len(self.share) - 1)

    def subset(self, keep: Sequence[int]) -> ImageBank:
        """The images at these positions."""
        index = torch.as_tensor(keep, dtype=torch.long, device=self.pixels.device)
        names = tuple(self.names[i] for i in keep)
        return ImageBank(self.pixels[index], self.sizes[index], self.share[index], names)


def load_bank(packs: Sequence[Path], device: str, limit: int | None = None) -> ImageBank:
    """All images of the packs; `limit` takes that many, evenly spread."""
    entries: list[tuple[str, bytes]] = []
    for path in packs:
        with zipfile.ZipFile(path) as archive:
            entries += [(name.removesuffix(".webp"), archive.read(name)) for name in
                        archive.namelist()]  # fmt: skip
    if limit is not None and limit < len(entries):
        entries = [entries[i * len(entries) // limit] for i in range(limit)]
    pixels = torch.zeros(len(entries), *CANVAS, 3, dtype=torch.uint8)
    sizes = torch.zeros(len(entries), 2)

    def fill(row: int) -> None:
        image = decode(entries[row][1])
        height, width = image.shape[:2]
        pixels[row, :height, :width] = torch.from_numpy(image)
        sizes[row] = torch.tensor([width, height])

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(entries))))
    names = tuple(name for name, _ in entries)
    share = torch.tensor([SOURCE_SHARE.get(name.split("/")[0], 1.0) for name in names])
    return ImageBank(pixels.to(device), sizes.to(device), share.to(device), names)


def decode(data: bytes) -> np.ndarray:
    """(H, W, 3) RGB, fitted into the canvas."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    scale = min(1.0, CANVAS[0] / image.shape[0], CANVAS[1] / image.shape[1])
    if scale < 1:
        size = (int(image.shape[1] * scale), int(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def held_out(name: str) -> bool:
    """Whether an image is for validation: a fixed few of every source, whole groups."""
    source, group = name.split("/")[:2]
    return zlib.crc32(f"{source}/{group}".encode()) % 100 < HELD_OUT_PERCENT


def split(bank: ImageBank) -> tuple[ImageBank, ImageBank]:
    """Images to train with, images to validate with."""
    held = [i for i, name in enumerate(bank.names) if held_out(name)]
    rest = [i for i, name in enumerate(bank.names) if not held_out(name)]
    return bank.subset(rest), bank.subset(held)

"""Batches of places for AP-GeM: several views of each of many places.

The packs' names tell what shows the same place: SOURCE/GROUP/POSITION[_LAP], where positions
within the source's WINDOW are one place. Two places of a batch are never close positions of
one group; groups of one territory (a floor of a building) may look alike but are not mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from image_bank import ImageBank
from torch import Tensor
from view_pairs import sample_views, similarity_views

WINDOW = {
    "ietower": 3, "two_laps": 1, "street": 2, "polyhaven_demo": 1, "polyhaven_drei": 1,
    "udacity_lanes": 8, "intel_sample_videos": 10**6,
}  # fmt: skip
"""Positions up to this far apart show the same place; 0 (photos) for sources not named."""

APART = 5  # windows between two places of one group
PLACES_OF_A_WALK = 3
WALK_SHARE = 0.65  # of the places of a batch, as far as there are enough walks
ROW_SPREAD = 0.2  # views of a place look at parts of it up to this much of the image apart


@dataclass(frozen=True, slots=True)
class Group:
    """Images along one route: rows of the bank and their positions."""

    source: str
    territory: str
    rows: np.ndarray
    positions: np.ndarray


def find_groups(bank: ImageBank) -> list[Group]:
    """The groups of a bank."""
    members: dict[str, list[tuple[int, int]]] = {}
    for row, name in enumerate(bank.names):
        group, _, position = name.rpartition("/")
        members.setdefault(group, []).append((row, int(position.split("_")[0])))
    groups = []
    for name, items in members.items():
        source, group = name.split("/", 1)
        rows, positions = (np.array(column) for column in zip(*items, strict=True))
        territory = group.split("_")[0] if source == "ietower" else name
        groups.append(Group(source, territory, rows, positions))
    return groups


class PlaceSampler:
    """Draws batches; deterministic for a seed."""

    def __init__(self, bank: ImageBank, views: int, seed: int) -> None:
        self._bank = bank
        self._views = views
        self._rng = np.random.default_rng(seed)
        groups = find_groups(bank)
        self._walks = [group for group in groups if WINDOW.get(group.source, 0) > 0]
        self._photos = [group for group in groups if WINDOW.get(group.source, 0) == 0]
        self._generator = torch.Generator(bank.pixels.device).manual_seed(seed)

    def draw(self, places: int, size: int) -> tuple[Tensor, Tensor]:
        """Views (places · views, 3, size, size) in 0..1 and the place of each."""
        chosen: list[np.ndarray] = []
        territories: set[str] = set()
        for index in self._rng.permutation(len(self._walks)):
            walk = self._walks[index]
            if walk.territory in territories:
                continue
            territories.add(walk.territory)
            chosen += self._places_of(walk)
            if len(chosen) >= WALK_SHARE * places:
                break
        photos = self._rng.choice(len(self._photos), max(0, places - len(chosen)), replace=False)
        chosen += [np.repeat(self._photos[index].rows, self._views) for index in photos]
        rows = torch.from_numpy(np.concatenate(chosen[:places])).to(self._bank.pixels.device)
        labels = torch.arange(places, device=rows.device).repeat_interleave(self._views)
        return self._render(rows, size), labels

    def _places_of(self, walk: Group) -> list[np.ndarray]:
        """Rows of the views of a few places of one walk."""
        window = WINDOW[walk.source]
        centres: list[int] = []
        for position in self._rng.permutation(walk.positions):
            if all(abs(position - other) > APART * window for other in centres):
                centres.append(int(position))
            if len(centres) == PLACES_OF_A_WALK:
                break
        return [
            self._rng.choice(walk.rows[np.abs(walk.positions - centre) <= window], self._views)
            for centre in centres
        ]

    def _render(self, rows: Tensor, size: int) -> Tensor:
        """Square views; those of a place look at about the same part of the image."""
        device, generator = rows.device, self._generator
        count = len(rows)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

        shared = uniform(0, 1, count // self._views, 2).repeat_interleave(self._views, 0)
        part = (shared + uniform(-ROW_SPREAD, ROW_SPREAD, count, 2)).clamp(0, 1)
        extent = self._bank.sizes[rows]
        side = extent.min(1).values * uniform(0.7, 1.0, count)
        centre = side[:, None] / 2 + part * (extent - side[:, None])
        angle = math.radians(4) * torch.randn(count, generator=generator, device=device)
        tilt = uniform(-0.3, 0.3, count, 2) / size
        views = similarity_views(size, side / size, angle, centre, tilt)
        mirrored = uniform(0, 1, count // self._views).repeat_interleave(self._views) < 0.5
        images = sample_views(self._bank, rows, views, size)
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)

"""A spatial grid over points that lives in three flat arrays, so that it can be memory-mapped.

Cells are cubes; the arrays hold the occupied cells sorted by key, and the rows of each
cell one after another. A query touches only the pages of the cells it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BITS = 21  # per axis: ±1,048,576 cells, ±10,000 km at 10 m
HALF = 1 << (BITS - 1)


@dataclass(frozen=True, slots=True)
class SpatialGrid:
    """Rows of a point table by the cell they lie in.

    Attributes:
        cell: edge of a cell in metres (map units).
        keys: (C,) int64, occupied cells in ascending order.
        offsets: (C + 1,) int64, where a cell's rows begin in `rows`.
        rows: (N,) int32, rows of the table, cell by cell.
        points: (N, 3), the table itself.
    """

    cell: float
    keys: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    points: npt.NDArray[np.float64]

    @classmethod
    def build(cls, points: npt.NDArray[np.float64], cell: float) -> SpatialGrid:
        """Sort points (N, 3) into cells; non-finite points lie in no cell."""
        finite = np.flatnonzero(np.isfinite(points).all(axis=1))
        keys = _key(_cells(points[finite], cell))
        order = np.argsort(keys, kind="stable")
        unique, starts = np.unique(keys[order], return_index=True)
        offsets = np.append(starts, len(order)).astype(np.int64)
        return cls(cell, unique, offsets, finite[order].astype(np.int32), points)

    def within(self, center: npt.ArrayLike, radius: float) -> npt.NDArray[np.int64]:
        """Rows of the points at most `radius` from `center` (3,), ascending.

        With two coordinates in `center` (2,) the distance is horizontal.
        """
        middle = np.asarray(center, dtype=float)
        if len(self.keys) == 0:
            return np.empty(0, np.int64)
        low, high = self._box(middle, radius)
        x, y = np.meshgrid(
            np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij"
        )
        # Cells along z are neighbours in key order: one range of keys per column.
        column = np.stack([x.ravel(), y.ravel()], axis=1)
        first = np.searchsorted(self.keys, _key(_with_z(column, low[2])), side="left")
        last = np.searchsorted(self.keys, _key(_with_z(column, high[2])), side="right")
        spans = [
            self.rows[self.offsets[a] : self.offsets[b]]
            for a, b in zip(first, last, strict=True)
            if b > a
        ]
        if not spans:
            return np.empty(0, np.int64)
        rows = np.sort(np.concatenate(spans).astype(np.int64))
        offset = self.points[rows, : len(middle)] - middle
        near: npt.NDArray[np.int64] = rows[(offset**2).sum(axis=1) <= radius**2]
        return near

    def _box(
        self, middle: npt.NDArray[np.float64], radius: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Lowest and highest cell (3,) of the query, cut to what is occupied."""
        occupied = _unkey(np.array([self.keys[0], self.keys[-1]]))
        low = np.full(3, -HALF, np.int64)
        high = np.full(3, HALF - 1, np.int64)
        axes = slice(0, len(middle))
        low[axes] = _cells(middle - radius, self.cell)
        high[axes] = _cells(middle + radius, self.cell)
        # Only x, the leading part of the key, is bounded by the first and last cell.
        low[0], high[0] = max(low[0], occupied[0, 0]), min(high[0], occupied[1, 0])
        return low, high


def _cells(points: npt.NDArray[np.float64], cell: float) -> npt.NDArray[np.int64]:
    return np.clip(np.floor(points / cell), -HALF, HALF - 1).astype(np.int64)


def _with_z(column: npt.NDArray[np.int64], z: int) -> npt.NDArray[np.int64]:
    return np.concatenate([column, np.full((len(column), 1), z)], axis=1)


def _key(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    shifted = cells + HALF
    key: npt.NDArray[np.int64] = (
        (shifted[:, 0] << (2 * BITS)) | (shifted[:, 1] << BITS) | shifted[:, 2]
    )
    return key


def _unkey(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    mask = (1 << BITS) - 1
    cells = np.stack([keys >> (2 * BITS), (keys >> BITS) & mask, keys & mask], axis=1)
    return cells.astype(np.int64) - HALF

"""Which stamps one device has in one file: exactly, and in memory that hardly grows.

kapture overwrites silently when a (timestamp, device) comes twice, so every record is looked
up here first. Stamps nearly always grow, and then nothing has to be looked up; for the rest
the file itself is the memory: of each block of rows only its range is kept, some 30 bytes
for a thousand rows, and the block is read again when a stamp falls into that range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 1024
BLOCK_BYTES = 1 << 18
CACHED_BLOCKS = 8


class StampIndex:
    """The stamps of one device.

    Args:
        read_stamps: gives this device's stamps between two byte offsets of its file.
    """

    def __init__(self, read_stamps: Callable[[int, int], set[int]]) -> None:
        self.newest: int | None = None
        self.count = 0
        self._read = read_stamps
        self._pending: set[int] = set()
        self._block: set[int] = set()
        self._start = 0
        self._sealed: npt.NDArray[np.int64] = np.empty((0, 4), np.int64)
        self._cache: dict[int, set[int]] = {}

    def __contains__(self, stamp_ns: int) -> bool:
        if self.newest is None or stamp_ns > self.newest:
            return False
        if stamp_ns in self._pending or stamp_ns in self._block:
            return True
        first, last = self._sealed[:, 0], self._sealed[:, 1]
        candidates = np.flatnonzero((first <= stamp_ns) & (stamp_ns <= last))
        return any(stamp_ns in self._load(int(block)) for block in candidates)

    def reserve(self, stamp_ns: int) -> None:
        """A record was accepted; its row is not written yet."""
        self._pending.add(stamp_ns)
        self.newest = stamp_ns if self.newest is None else max(self.newest, stamp_ns)

    def release(self, stamp_ns: int) -> None:
        """An accepted record will not be written after all."""
        self._pending.discard(stamp_ns)

    def commit(self, stamp_ns: int, start: int, end: int) -> None:
        """A record's rows lie in the file between two byte offsets, after all earlier ones."""
        self._pending.discard(stamp_ns)
        self.newest = stamp_ns if self.newest is None else max(self.newest, stamp_ns)
        self.count += 1
        if not self._block:
            self._start = start
        self._block.add(stamp_ns)
        if len(self._block) >= BLOCK_ROWS or end - self._start >= BLOCK_BYTES:
            sealed = [[min(self._block), max(self._block), self._start, end]]
            self._sealed = np.append(self._sealed, np.array(sealed, np.int64), axis=0)
            self._block = set()

    def _load(self, block: int) -> set[int]:
        found = self._cache.pop(block, None)
        if found is None:
            found = self._read(int(self._sealed[block, 2]), int(self._sealed[block, 3]))
        self._cache[block] = found  # the one used last is at the end
        while len(self._cache) > CACHED_BLOCKS:
            del self._cache[next(iter(self._cache))]
        return found

"""The stamp index: exact about what is there, whatever the order, in bounded memory."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.dataset.stamps import BLOCK_ROWS, StampIndex


class File:
    """Stamps at byte offsets, eight bytes each."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.reads = 0

    def read(self, start: int, end: int) -> set[int]:
        self.reads += 1
        return set(self.stamps[start // 8 : end // 8])

    def append(self, index: StampIndex, stamp: int) -> None:
        start = len(self.stamps) * 8
        self.stamps.append(stamp)
        index.commit(stamp, start, start + 8)


@settings(deadline=None)
@given(st.lists(st.integers(-50, 3000), max_size=200), st.sampled_from([3, 7]), st.randoms())
def test_it_knows_exactly_what_was_committed(
    stamps: list[int], block: int, shuffle: random.Random
) -> None:
    import kapture_ros.dataset.stamps as module

    usual, module.BLOCK_ROWS = module.BLOCK_ROWS, block
    try:
        file = File()
        index = StampIndex(file.read)
        for stamp in stamps:
            assert (stamp in index) == (stamp in file.stamps)
            if stamp not in index:
                file.append(index, stamp)
        for stamp in range(-60, 3010, 7):
            assert (stamp in index) == (stamp in file.stamps)
    finally:
        module.BLOCK_ROWS = usual


def test_growing_stamps_need_no_reading() -> None:
    file = File()
    index = StampIndex(file.read)
    for stamp in range(0, 10 * BLOCK_ROWS, 2):
        assert stamp not in index
        file.append(index, stamp)
    assert file.reads == 0


def test_a_replayed_recording_reads_each_block_once() -> None:
    file = File()
    index = StampIndex(file.read)
    for stamp in range(5 * BLOCK_ROWS):
        file.append(index, stamp)
    assert all(stamp in index for stamp in range(5 * BLOCK_ROWS))
    assert file.reads == 5


def test_a_record_on_its_way_counts_as_there_until_it_fails(tmp_path: Path) -> None:
    index = StampIndex(lambda start, end: set())
    index.reserve(7)
    assert 7 in index
    index.release(7)
    assert 7 not in index

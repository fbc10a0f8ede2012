"""Statistics in constant memory say what the whole stream would say."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.recording.streaming import (
    RATE_BINS,
    RESERVOIR_SIZE,
    WORST_GAPS,
    Intervals,
    RateHistory,
    Reservoir,
    SequenceGaps,
)

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def fed(stamps: list[int]) -> Intervals:
    intervals = Intervals()
    for begin in range(0, len(stamps), 7):  # as batches come
        intervals.extend(stamps[max(0, begin - 1) : begin + 7])
    return intervals


@given(st.integers(1, 10_000_000_000), st.integers(1, 300))
def test_the_usual_interval_is_known_to_half_a_percent(interval: int, count: int) -> None:
    intervals = fed([START + number * interval for number in range(count + 1)])
    assert intervals.usual_s == pytest.approx(interval / SECOND, rel=0.006)
    assert intervals.gaps(3.0) == (0, [])


def test_gaps_are_counted_against_the_usual_interval_and_the_longest_are_placed() -> None:
    steps = [0.1] * 200
    for place, length in ((20, 0.25), (50, 0.35), (90, 4.0), (130, 1.5)):
        steps[place] = length
    stamps = [START, *(START + round(s * SECOND) for s in np.cumsum(steps))]
    count, worst = fed(stamps).gaps(3.0)
    assert count == 3, "0.25 s is less than three intervals"
    assert [round(length, 3) for _, length in worst] == [4.0, 1.5, 0.35]
    assert worst[0][0] == stamps[90]


@pytest.mark.parametrize("burst", [2, 3, 12])
def test_bursts_are_no_gaps(burst: int) -> None:
    """Joints that come as a message each, at once: ten times a second."""
    starts = [START + n * SECOND // 10 for n in range(100)]
    starts[60:] = [start + 2 * SECOND for start in starts[60:]]
    intervals = fed([start + number * 200_000 for start in starts for number in range(burst)])
    assert intervals.usual_s == pytest.approx(0.1, rel=0.03)
    assert intervals.rate_hz == pytest.approx(10 * burst, rel=0.03)
    count, worst = intervals.gaps(3.0)
    assert count == 1
    assert worst[0][1] == pytest.approx(2.1, abs=0.01)


def test_a_long_silence_does_not_become_usual() -> None:
    intervals = fed([START + n * SECOND // 10 + (n >= 40) * 60 * SECOND for n in range(80)])
    assert intervals.usual_s == pytest.approx(0.1, rel=0.006)
    assert intervals.gaps(3.0)[0] == 1


def test_only_the_worst_gaps_are_kept() -> None:
    steps = [0.1] * 500 + [float(length) for length in range(1, 21)]
    stamps = [START, *(START + round(s * SECOND) for s in np.cumsum(steps))]
    count, worst = fed(stamps).gaps(3.0)
    assert count == 20
    assert [round(length) for _, length in worst] == [20, 19, 18, 17, 16][:WORST_GAPS]


def test_without_two_stamps_nothing_is_said() -> None:
    assert Intervals().usual_s is None
    assert Intervals().rate_hz is None
    assert Intervals().gaps(3.0) == (0, [])


def test_a_sample_of_a_long_stream_gives_its_quantiles_and_exact_extremes() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 50_000)
    sample = Reservoir()
    for value in values:
        sample.add(float(value))
    assert (sample.smallest, sample.largest) == (values.min(), values.max())
    spread = 2.0 / math.sqrt(RESERVOIR_SIZE)
    assert sample.quantile(0.5) == pytest.approx(5.0, abs=5 * spread)


@given(
    st.lists(st.tuples(st.integers(1, 99), st.integers(2, 50)), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 1 << 30),
)
def test_losses_are_seen_in_the_numbers_of_messages(publishers, loss, seed) -> None:
    """Publishers that began earlier than we did, mixed; each ends with a message that arrives."""
    sent = [[*range(first, first + count)] for first, count in publishers]
    order = [place for place, numbers in enumerate(sent) for _ in numbers]
    chance = random.Random(seed)
    chance.shuffle(order)
    gaps, lost, counted, heard = SequenceGaps(len(publishers)), 0, 0, set()
    for place in order:
        number = sent[place].pop(0)
        if place in heard and sent[place] and chance.random() < loss:
            lost += 1
        else:
            heard.add(place)
            counted += gaps.add(number)
    if len(publishers) == 1 or lost == 0:
        assert counted == lost


def test_a_publisher_that_starts_again_or_joins_loses_nothing() -> None:
    gaps = SequenceGaps(1)
    assert [gaps.add(number) for number in (500, 501, 1, 502, 2, 505)] == [0, 0, 0, 0, 0, 2]


def test_nan_is_no_value() -> None:
    sample = Reservoir()
    sample.add(math.nan)
    assert sample.quantile(0.5) is None


def test_a_rate_history_keeps_its_size_and_its_counts() -> None:
    history = RateHistory()
    history.extend(START + number * SECOND for number in range(5_000))
    assert len(history.rates) <= RATE_BINS
    assert sum(history.rates) * history.bin_s == 5_000
    assert set(history.rates[:-1]) == {1.0}


def test_an_earlier_time_does_not_break_the_history() -> None:
    history = RateHistory()
    history.extend([START, START - 100 * SECOND])
    assert history.rates == [2.0]

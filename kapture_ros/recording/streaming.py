"""Statistics of endless streams in constant memory: quantiles, intervals, rates over time."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

BINS_PER_OCTAVE = 64
RESERVOIR_SIZE = 1000
RATE_BINS = 600
WORST_GAPS = 5
BURST_FACTOR = 3.0  # intervals this much longer than the median are gaps …
MOST_GAPS = 0.05  # … unless they are so many
MOST_PUBLISHERS = 64
NANOSECONDS = 1_000_000_000


class Reservoir:
    """A uniform sample of a stream (Vitter, 1985, algorithm R), and its exact extremes."""

    def __init__(self) -> None:
        self.count = 0
        self.smallest = math.inf
        self.largest = -math.inf
        self._sample: list[float] = []
        self._random = random.Random(0)

    def add(self, value: float) -> None:
        """Take a value; NaN is ignored."""
        self.extend((value,))

    def extend(self, values: Iterable[float]) -> None:
        """Take several values."""
        values = [value for value in values if not math.isnan(value)]
        if not values:
            return
        self.smallest = min(self.smallest, *values)
        self.largest = max(self.largest, *values)
        room = RESERVOIR_SIZE - len(self._sample)
        self._sample += values[:room]
        count = self.count + min(room, len(values))
        for value in values[room:]:
            count += 1
            place = int(self._random.random() * count)
            if place < RESERVOIR_SIZE:
                self._sample[place] = value
        self.count = count

    def quantile(self, fraction: float) -> float | None:
        """The value below which that fraction of the stream lies; None before the first."""
        if not self._sample:
            return None
        ordered = sorted(self._sample)
        return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]


class Intervals:
    """Times between successive stamps: the usual one, and the gaps.

    Kept as a histogram with bins 1 % wide, so that the usual interval can be known at the
    end and the gaps be counted against it.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self._worst: list[tuple[int, int]] = []  # (length, start), shortest first

    def extend(self, stamps: Sequence[int]) -> None:
        """Take the intervals between stamps, each later than the one before."""
        lengths = [end - start for start, end in itertools.pairwise(stamps)]
        log2 = math.log2
        self._bins.update([round(BINS_PER_OCTAVE * log2(length)) for length in lengths])
        shortest = self._worst[0][0] if len(self._worst) == WORST_GAPS else 0
        if max(lengths, default=0) > shortest:
            self._worst += zip(lengths, stamps, strict=False)
            self._worst = sorted(self._worst)[-WORST_GAPS:]

    @property
    def usual_s(self) -> float | None:
        """The usual interval in seconds, to 0.6 %; None before the first.

        The median, unless messages come in bursts: then the one in which half of the time
        passes, that is from burst to burst.
        """
        median = self._quantile(lambda place: 1.0)
        if median is None or self._longer_than(BURST_FACTOR * median) <= MOST_GAPS * self._count:
            return median
        return self._quantile(_seconds)

    @property
    def rate_hz(self) -> float | None:
        """Messages per second but for the gaps; None before the first interval."""
        usual = self.usual_s
        if usual is None:
            return None
        steady = {p: n for p, n in self._bins.items() if _seconds(p) <= BURST_FACTOR * usual}
        return sum(steady.values()) / sum(n * _seconds(place) for place, n in steady.items())

    def gaps(self, factor: float) -> tuple[int, list[tuple[int, float]]]:
        """How many intervals exceed `factor` usual ones; the longest: their start and seconds."""
        usual = self.usual_s
        if usual is None:
            return 0, []
        worst = [
            (start, length / NANOSECONDS)
            for length, start in reversed(self._worst)
            if length / NANOSECONDS > factor * usual
        ]
        return self._longer_than(factor * usual), worst

    @property
    def _count(self) -> int:
        return sum(self._bins.values())

    def _longer_than(self, seconds: float) -> int:
        return sum(n for place, n in self._bins.items() if _seconds(place) > seconds)

    def _quantile(self, weight: Callable[[int], float]) -> float | None:
        """The interval below which half of the weight lies."""
        total = sum(n * weight(place) for place, n in self._bins.items())
        seen = 0.0
        for place in sorted(self._bins):
            seen += self._bins[place] * weight(place)
            if 2 * seen >= total:
                return _seconds(place)
        return None


class SequenceGaps:
    """Losses, by the numbers that publishers give their messages.

    One topic may have several publishers, and nothing says which a message is from: it is taken
    to go on where the newest number is closest below its own. Of one publisher the losses are
    exact, of several about right, and none are seen where there are none.

    Args:
        publishers: how many there are already; where each of them stands shows by and by.
    """

    def __init__(self, publishers: int) -> None:
        self._publishers = publishers
        self._newest: list[int] = []  # of each publisher

    def add(self, number: int) -> int:
        """How many messages are missing just before this one."""
        newest = max((n for n in self._newest if n < number), default=None)
        is_new = newest != number - 1 and len(self._newest) < self._publishers
        if newest is None or is_new:
            self._newest = [*self._newest[1 - MOST_PUBLISHERS :], number]
            return 0
        self._newest[self._newest.index(newest)] = number
        return number - newest - 1


def _seconds(place: int) -> float:
    return float(2.0 ** (place / BINS_PER_OCTAVE)) / NANOSECONDS


class RateHistory:
    """Messages per second over time; bins widen as the recording grows."""

    def __init__(self) -> None:
        self.start_ns: int | None = None
        self.bin_s = 1
        self._counts: list[int] = []

    def extend(self, times_ns: Iterable[int]) -> None:
        """Messages arrived; times before the first count as the first."""
        for time_ns in times_ns:
            if self.start_ns is None:
                self.start_ns = time_ns
            place = max(0, time_ns - self.start_ns) // (self.bin_s * NANOSECONDS)
            if place >= len(self._counts):
                place = self._grown_to(place)
            self._counts[place] += 1

    def _grown_to(self, place: int) -> int:
        """Where a bin is after making room for it."""
        while place >= RATE_BINS:
            pairs = zip(self._counts[::2], [*self._counts[1::2], 0], strict=False)
            self._counts = [first + second for first, second in pairs]
            self.bin_s *= 2
            place //= 2
        self._counts.extend([0] * (place + 1 - len(self._counts)))
        return place

    @property
    def rates(self) -> list[float]:
        """Messages per second in each bin; the last bin may be incomplete."""
        return [count / self.bin_s for count in self._counts]

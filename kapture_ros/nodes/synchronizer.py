"""Images of several cameras become instants: those whose stamps are nearly the same.

Fed by the node's image callbacks in order of arrival. An instant is handed on when every
camera that is alive has its image in it, or when later ones overtake it. Nothing is held
back for a camera that went silent, and nothing waits on a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SILENT_AFTER = 5  # instants without an image of a camera: it is not waited for
INTERVALS = 20  # newest of a camera, of which a short one counts
FEWEST_INTERVALS = 4  # where images are lost the first may be several periods
SHORT = 0.1  # share of the intervals that are shorter than its period by jitter
SLOP_SHARE = 0.45  # of the shortest period: no image is near two of another camera
FIRST_SLOP_NS = 20_000_000  # until a period was measured
MAX_OPEN = 2  # instants that wait for images; a third lets the first go


@dataclass(slots=True)
class Instant(Generic[T]):
    """Images of one instant, by the number of their camera: stamp and content."""

    images: dict[int, tuple[int, T]] = field(default_factory=dict)

    @property
    def stamp_ns(self) -> int:
        """The first stamp of the images."""
        return min(stamp for stamp, _ in self.images.values())

    @property
    def spread_ns(self) -> int:
        """Between the first stamp and the last."""
        return max(stamp for stamp, _ in self.images.values()) - self.stamp_ns


class Synchronizer(Generic[T]):
    """Groups images of some cameras.

    Args:
        slop_ns: stamps of one instant differ by this at most; 0: by nearly half the
            shortest period measured of a camera.

    Attributes:
        spreads_ns: between first and last stamp of the newest instants.
    """

    def __init__(self, cameras: int, slop_ns: int = 0):
        self.spreads_ns: deque[int] = deque(maxlen=100)
        self._cameras = range(cameras)
        self._slop_ns = slop_ns
        self._newest: dict[int, int] = {}
        self._intervals = [deque[int](maxlen=INTERVALS) for _ in self._cameras]
        self._missed = [0] * cameras
        self._open: list[Instant[T]] = []
        self._handed: Instant[T] | None = None

    @property
    def slop_ns(self) -> int:
        """The slop in use."""
        if self._slop_ns:
            return self._slop_ns
        periods = [
            sorted(intervals)[int(SHORT * len(intervals))]
            for intervals in self._intervals
            if len(intervals) >= FEWEST_INTERVALS
        ]
        return int(SLOP_SHARE * min(periods)) if periods else FIRST_SLOP_NS

    @property
    def silent(self) -> tuple[int, ...]:
        """Cameras that are not waited for."""
        return tuple(c for c in self._cameras if self._missed[c] >= SILENT_AFTER)

    def add(self, camera: int, stamp_ns: int, image: T) -> list[Instant[T]]:
        """Take an image; the instants that are ready now, in order.

        An image is left out if it is no newer than its camera's last one, or if its instant
        was handed on without it.
        """
        newest = self._newest.get(camera)
        if newest is not None:
            if stamp_ns <= newest:
                return []
            self._intervals[camera].append(stamp_ns - newest)
        self._newest[camera] = stamp_ns
        self._missed[camera] = 0
        if self._handed is not None and self._too_late(self._handed, camera, stamp_ns):
            return []
        instant = next((i for i in self._open if self._fits(i, camera, stamp_ns)), None)
        if instant is None:
            instant = Instant()
            self._open.append(instant)
        instant.images[camera] = (stamp_ns, image)
        self._open.sort(key=lambda known: known.stamp_ns)
        if all(c in instant.images for c in self._cameras if c not in self.silent):
            return self._hand_on(self._open.index(instant) + 1)
        return self._hand_on(max(0, len(self._open) - MAX_OPEN))

    def _too_late(self, handed: Instant[T], camera: int, stamp_ns: int) -> bool:
        return stamp_ns < handed.stamp_ns or self._fits(handed, camera, stamp_ns)

    def _fits(self, instant: Instant[T], camera: int, stamp_ns: int) -> bool:
        if camera in instant.images:
            return False
        return all(abs(stamp_ns - stamp) <= self.slop_ns for stamp, _ in instant.images.values())

    def _hand_on(self, count: int) -> list[Instant[T]]:
        ready, self._open = self._open[:count], self._open[count:]
        for instant in ready:
            self._handed = instant
            self.spreads_ns.append(instant.spread_ns)
            for camera in self._cameras:
                self._missed[camera] += camera not in instant.images
        return ready

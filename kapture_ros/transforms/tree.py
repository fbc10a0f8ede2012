"""A tree of frames whose transforms change over time.

It is fed with what /tf and /tf_static carry, live or from a bag, and answers where one
frame was in another at a given time. Stamps are integer nanoseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

from kapture_ros.errors import DisconnectedFramesError, ExtrapolationError, UnknownFrameError
from kapture_ros.transforms.se3 import Transform, interpolate


@dataclass(slots=True)
class _Link:
    """How one frame hangs on its parent: one static transform, or samples in time."""

    parent: str
    static: Transform | None = None
    stamps: list[int] = field(default_factory=list)
    samples: list[Transform] = field(default_factory=list)

    def insert(self, stamp_ns: int, parent_from_child: Transform) -> None:
        at = bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.samples[at] = parent_from_child
            return
        self.stamps.insert(at, stamp_ns)
        self.samples.insert(at, parent_from_child)

    def forget_before(self, stamp_ns: int) -> None:
        # Whole halves at a time, so that the cost of deleting at the front is amortized.
        old = bisect_left(self.stamps, stamp_ns)
        if old > len(self.stamps) // 2:
            del self.stamps[:old], self.samples[:old]


class TransformTree:
    """Stamped transforms between named frames; may be fed and asked from several threads.

    Args:
        buffer_ns: how far back samples are kept, counted from a frame's newest one;
            None keeps all of them (bags).
        max_gap_ns: the longest gap between two samples that is interpolated across.
    """

    def __init__(self, buffer_ns: int | None = 10_000_000_000, max_gap_ns: int | None = None):
        self._links: dict[str, _Link] = {}
        self._frames: set[str] = set()
        self._buffer_ns = buffer_ns
        self._max_gap_ns = max_gap_ns
        self._lock = threading.Lock()

    @property
    def frames(self) -> frozenset[str]:
        """Every frame named so far."""
        with self._lock:
            return frozenset(self._frames)

    def parent(self, frame: str) -> str | None:
        """The frame that `frame` hangs on; None at a root or if unknown."""
        with self._lock:
            link = self._links.get(frame)
            return link.parent if link else None

    def insert(self, parent: str, child: str, stamp_ns: int, parent_from_child: Transform) -> None:
        """Add one sample of a moving transform.

        A child that moves to another parent, or was static, starts anew.

        Raises:
            DisconnectedFramesError: if the link would close a cycle.
        """
        with self._lock:
            link = self._links.get(child)
            if link is None or link.static is not None or link.parent != parent:
                self._refuse_cycle(parent, child)
                link = self._links[child] = _Link(parent)
                self._frames |= {parent, child}
            link.insert(stamp_ns, parent_from_child)
            if self._buffer_ns is not None:
                link.forget_before(link.stamps[-1] - self._buffer_ns)

    def insert_static(self, parent: str, child: str, parent_from_child: Transform) -> None:
        """Set a transform that holds at every time.

        Raises:
            DisconnectedFramesError: if the link would close a cycle.
        """
        with self._lock:
            self._refuse_cycle(parent, child)
            self._links[child] = _Link(parent, parent_from_child)
            self._frames |= {parent, child}

    def clear(self) -> None:
        """Forget the moving transforms (the clock jumped back); static ones stay."""
        with self._lock:
            self._links = {
                child: link for child, link in self._links.items() if link.static is not None
            }

    def lookup(self, target: str, source: str, stamp_ns: int) -> Transform:
        """`target_from_source` at a time, interpolated between the samples around it.

        Raises:
            UnknownFrameError: a frame was never named.
            DisconnectedFramesError: no chain of transforms links the two.
            ExtrapolationError: a link of the chain has no samples around that time.
        """
        with self._lock:
            return self._lookup(target, source, stamp_ns)

    def _lookup(self, target: str, source: str, stamp_ns: int) -> Transform:
        for frame in (target, source):
            if frame not in self._frames:
                known = ", ".join(sorted(self._frames)) or "none"
                raise UnknownFrameError(f"frame '{frame}' is in no transform; known: {known}")
        up_from_target = self._chain(target)
        up_from_source = self._chain(source)
        common = next((frame for frame in up_from_source if frame in up_from_target), None)
        if common is None:
            raise DisconnectedFramesError(
                f"no transform links '{source}' to '{target}': the one ends at "
                f"'{up_from_source[-1]}', the other at '{up_from_target[-1]}'"
            )
        common_from_source = self._climb(up_from_source, common, stamp_ns)
        common_from_target = self._climb(up_from_target, common, stamp_ns)
        return common_from_target.inverse() @ common_from_source

    def _chain(self, frame: str) -> list[str]:
        chain = [frame]
        while (link := self._links.get(chain[-1])) is not None:
            chain.append(link.parent)
        return chain

    def _refuse_cycle(self, parent: str, child: str) -> None:
        if child in self._chain(parent):
            raise DisconnectedFramesError(
                f"'{parent}' already hangs on '{child}'; the transform the other way round "
                "would close a cycle"
            )

    def _climb(self, chain: list[str], top: str, stamp_ns: int) -> Transform:
        top_from_frame = Transform()
        for frame in chain[: chain.index(top)]:
            top_from_frame = self._at(frame, stamp_ns) @ top_from_frame
        return top_from_frame

    def _at(self, child: str, stamp_ns: int) -> Transform:
        """`parent_from_child` at a time."""
        link = self._links[child]
        if link.static is not None:
            return link.static
        after = bisect_left(link.stamps, stamp_ns)
        if after < len(link.stamps) and link.stamps[after] == stamp_ns:
            return link.samples[after]
        name = f"transform '{link.parent}' to '{child}'"
        if after == 0:
            late = (link.stamps[0] - stamp_ns) / 1e9
            raise ExtrapolationError(f"{name} begins {late:.3f} s after the time asked for")
        if after == len(link.stamps):
            early = (stamp_ns - link.stamps[-1]) / 1e9
            raise ExtrapolationError(f"{name} ends {early:.3f} s before the time asked for")
        start, end = link.stamps[after - 1], link.stamps[after]
        if self._max_gap_ns is not None and end - start > self._max_gap_ns:
            raise ExtrapolationError(
                f"{name} has a gap of {(end - start) / 1e9:.3f} s around the time asked for "
                f"(at most {self._max_gap_ns / 1e9:g} s is interpolated)"
            )
        fraction = (stamp_ns - start) / (end - start)
        return interpolate(link.samples[after - 1], link.samples[after], fraction)

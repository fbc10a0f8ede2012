"""One place that poses come from, and where what it says is of another frame than before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kapture_ros.transforms import Transform, TransformTree
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.restarts import begins_anew, leapt

TF, GNSS = "tf", "gnss"
PREFERRED_WORLD = "map"


class Sample(NamedTuple):
    """`parent_from_child` at a stamp."""

    stamp_ns: int
    pose: Transform


@dataclass(slots=True)
class PoseSource:
    """The transforms of one source, and how to ask them.

    Attributes:
        name: `TF`, `GNSS` or a topic.
        world: the frame of the poses; "": the root above the sensor.
        child: the frame a topic moves; None for tf.
        newest: by child frame.
        datum: of GNSS.
        restarts: first stamps of what is of another frame than before.
        problems: that, in words.
    """

    name: str
    tree: TransformTree
    world: str = ""
    child: str | None = None
    newest: dict[str, Sample] = field(default_factory=dict)
    datum: Datum | None = None
    restarts: list[int] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    _leap: tuple[Sample, int] | None = None  # what was before the last one, and its stamp

    def forget(self) -> None:
        """Let nothing moving be known: what follows is of another frame, or time."""
        self.tree.clear()
        self.newest.clear()

    def carries(self, child: str, frames: Collection[str]) -> bool:
        """Whether poses of frames depend on one; a wheel, say, turns faster than any vehicle."""
        return child == self.child or any(child in self._chain(frame) for frame in frames)

    def leaps(self, child: str, sample: Sample) -> bool:
        """Whether a sample is farther from the one before than anything drives."""
        return self.name != GNSS and leapt(*self.newest[child], *sample)

    def note(self, parent: str, child: str, sample: Sample, statics: Collection[str]) -> None:
        """Take a sample that may be of another frame than those before; forgets those after a leap.

        One that the next one leaps back from was wrong by itself.

        Args:
            statics: frames that do not move.
        """
        before, leaps = self.newest[child], self.leaps(child, sample)
        if not leaps and (self.name == GNSS or not begins_anew(*before, *sample)):
            return
        # A map may correct itself; a transform that moves `parent` corrects what it carries.
        corrected = parent == PREFERRED_WORLD or any(
            frame not in statics and self.tree.parent(frame) is not None
            for frame in self._chain(parent)
        )
        last, self._leap = self._leap, (before, sample.stamp_ns) if leaps else None
        if leaps:
            self.forget()
        if corrected:
            return
        again = (
            f"{self.name}: '{child}' began anew in '{parent}' (odometry was started again, or is "
            "of another vehicle): poses before and after are taken for those of different drives"
        )
        if leaps and last and last[1] == before.stamp_ns and not leapt(*last[0], *sample):
            self.restarts.pop()
            self.problems[again] -= 1
            self.problems[f"{self.name}: a pose of '{child}' is far from those around it"] += 1
            return
        self.restarts.append(sample.stamp_ns)
        self.problems[again] += 1

    def _chain(self, frame: str) -> Iterator[str]:
        """A frame and all that it hangs on, up to the root."""
        above: str | None = frame
        while above is not None:
            yield above
            above = self.tree.parent(above)

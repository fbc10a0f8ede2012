"""How alike the map's own error is at two places: what fixes near each other have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from kapture_ros.transforms.se3 import Array, symmetric_root


@dataclass(frozen=True, slots=True)
class MapChange:
    """How the map's error changes along the way.

    First-order Gauss-Markov processes: over a long way it is independent again.

    Attributes:
        constant: (6, 6) of (δp, δθ), the part that was given or assumed, about the same everywhere.
        alike: metres at which half of the rest, which was measured, is another one; infinite:
            nobody knows, and it is taken for constant, too.
    """

    constant: Array = field(default_factory=lambda: np.zeros((6, 6)))
    alike: float = math.inf

    def parts(self, map_covariance: Array) -> tuple[Array, Array]:
        """Of a fix's: what is about the same everywhere, and what changes as was measured."""
        if not math.isfinite(self.alike):
            return map_covariance, np.zeros((6, 6))
        return self.constant, map_covariance - self.constant

    def share(self, metres: float) -> float:
        """Correlation of what was measured; in the mean over all ways `alike_share`."""
        return math.exp(-metres / (math.pi / 2 * self.alike))


UNKNOWN = MapChange()


def alike_share(metres: Array, alike: Array | float) -> Array:
    """Correlation of the map's error between places: smooth, with a long tail."""
    share: Array = 1 / (1 + (metres / alike) ** 2)
    return share


def difference_between(before: Array, after: Array, share: float, carried: Array) -> Array:
    """(6, 6) by which an error at one place differs from that at another, carried there.

    Args:
        before, after: (6, 6), of the errors.
        share: their correlation.
        carried: (6, 6), what a disturbance of the pose at the first place is at the second.
    """
    first, second = carried @ symmetric_root(before), symmetric_root(after)
    common = share * first @ second.T
    spread: Array = first @ first.T + second @ second.T - common - common.T
    return spread

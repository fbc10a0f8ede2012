"""The map's own error around a pose, by what was measured when the map was made.

`mapping.held_out` localized instants of the map without themselves and their neighbours. Their
errors grow with the distance to the nearest image that the map still had, and differ from place
to place: a few places may be ten times worse than all the others (poses that contradict each
other), and neither must they make the rest look bad nor the rest hide them. So the variance of a
place is that of the growth times a factor with an inverse-gamma prior; over all places the errors
have a Student distribution, to which the growth is fitted (Lange et al., JASA 1989), and around a
place the factor follows from the errors there. The localizer adds what follows to the covariance
of every pose. What bends a place as a whole does not show so: where mapping estimated the poses,
as much is added as is assumed of a map that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array

ENOUGH = 15  # instants that were held out: fewer do not tell how wrong a map is
REACH = 20.0  # metres from the nearest image; further away the error is taken as there
AROUND = 1.5  # times the usual distance to the nearest image: instants so near tell of a place
FREEDOM = 3.0  # degrees of freedom: how alike places are
UNMEASURED = (0.05, math.radians(0.1))  # one sigma of what does not show: metres, radians
LEAST = (1e-4, 1e-5)  # one sigma: metres, radians
LENGTHS = np.geomspace(0.02, 200.0, 60)  # metres in which errors may become others
BOUNDS = (-16.0, 2.0)  # of the logarithms of what is fitted


@dataclass(frozen=True, slots=True)
class Growth:
    """A standard deviation by the distance to the nearest image: √(start² + (slope · d)²).

    Of a place as good as most; its variance times a place's factor is that of the errors there.

    Attributes:
        start: metres or radians.
        slope: the same, a metre.
    """

    start: float
    slope: float

    @classmethod
    def fitted(cls, distance: Array, error: Array) -> Growth:
        """The most probable one; `error` (M,) is the root mean square over three axes."""
        square, far = np.maximum(error, LEAST[1]) ** 2, distance**2

        def surprise(logs: Array) -> float:
            variance = np.exp(2 * logs[0]) + np.exp(2 * logs[1]) * far
            tail = (FREEDOM + 3) * np.log1p(3 * square / (FREEDOM * variance))
            return float((3 * np.log(variance) + tail).sum())

        usual = 0.5 * math.log(float(np.median(square)))
        begin = [usual, usual - 0.5 * math.log(max(float(far.mean()), 1e-12))]
        bounds = [(BOUNDS[0] + usual, BOUNDS[1] + start) for start in begin]
        found = minimize(surprise, begin, method="L-BFGS-B", bounds=bounds).x
        return cls(*np.exp(found).tolist())

    def sigma(self, distance: Array) -> Array:
        """Standard deviations at distances (n,)."""
        sigmas: Array = np.hypot(self.start, self.slope * distance)
        return sigmas


class MapError:
    """The map's own error at any place.

    Args:
        metres, degrees: one sigma of every axis, whatever was measured; None: as measured.

    Attributes:
        measured: whether instants were held out.
        alike: metres at which half of the measured error is another one; infinite where the
            table does not tell.
    """

    def __init__(
        self, visual_map: VisualMap, metres: float | None = None, degrees: float | None = None
    ) -> None:
        self._map = visual_map
        self._given = (metres, None if degrees is None else math.radians(degrees))
        rows = visual_map.held_out
        self.measured = len(rows) >= ENOUGH
        bends = not self.measured or visual_map.manifest.poses_estimated
        self._bent = [
            (usual if bends else 0.0) if given is None else given
            for given, usual in zip(self._given, UNMEASURED, strict=True)
        ]
        self.alike = math.inf
        if not self.measured:
            return
        self._places, distance = rows[:, :3], rows[:, 3]
        errors = rows[:, 4], np.radians(rows[:, 5])
        self._growth = [Growth.fitted(distance, error) for error in errors]
        squares = [
            3 * (error / np.maximum(growth.sigma(distance), least)) ** 2
            for error, growth, least in zip(errors, self._growth, LEAST, strict=True)
        ]
        self._squares = squares[0] + squares[1]
        self.alike = _alike(rows, self._growth)
        # Nearer than half way to the next image nothing was tried.
        self._nearest = float(np.quantile(distance, 0.25)) / 2
        self._around = AROUND * max(float(np.median(distance)), 1e-3)

    @property
    def assumed(self) -> bool:
        """Whether a constant is assumed that nobody measured or gave."""
        return not self.measured and None in self._given

    @property
    def constant(self) -> Array:
        """(6, 6) of (δp, δθ), the part that was given or assumed: the same everywhere."""
        return _diagonal(self._bent)

    def covariance(self, center: Array) -> Array:
        """(6, 6) of (δp, δθ) for a camera at `center` (3,), in the map."""
        if None not in self._given or not self.measured:
            return self.constant
        near = self._map.image_grid.within(center, REACH)
        offsets = self._map.image_centers[near] - center
        distance = math.sqrt((offsets**2).sum(axis=1).min()) if len(near) else REACH
        distance = max(distance, self._nearest)
        factor = self._factor(center)
        measured = [
            max(float(growth.sigma(np.array(distance))) * math.sqrt(factor), least)
            for growth, least in zip(self._growth, LEAST, strict=True)
        ]
        here = [
            sigma if given is None else 0.0
            for sigma, given in zip(measured, self._given, strict=True)
        ]
        return _diagonal(here) + self.constant

    def _factor(self, center: Array) -> float:
        """The mean of what a place's variance is times that of most places."""
        away = ((self._places - center) ** 2).sum(axis=1) / (2 * self._around**2)
        weight = np.exp(-away)
        squares, freedom = float(weight @ self._squares), 6 * float(weight.sum())
        return (FREEDOM + squares) / (FREEDOM + freedom - 2)


def alike_share(metres: Array, alike: Array | float) -> Array:
    """Correlation of the map's error between places: smooth, with a long tail."""
    share: Array = 1 / (1 + (metres / alike) ** 2)
    return share


def _alike(rows: Array, growth: Sequence[Growth]) -> float:
    """Metres over which errors are alike: the most that the directions of the errors (H, 6) allow.

    Directions are alike, however much worse one place is than another. The scalar product of two
    that have nothing in common has a variance of 1/6.
    """
    sigmas = [
        np.maximum(g.sigma(rows[:, 3]), least) for g, least in zip(growth, LEAST, strict=True)
    ]
    errors = np.hstack(
        [rows[:, 6:9] / sigmas[0][:, None], np.radians(rows[:, 9:]) / sigmas[1][:, None]]
    )
    if not np.isfinite(errors).all():
        return math.inf
    directions = errors / np.maximum(np.linalg.norm(errors, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(rows), 1)
    apart = np.linalg.norm(rows[first, :3] - rows[second, :3], axis=1)
    found = (directions[first] * directions[second]).sum(axis=1)
    expected = alike_share(apart, LENGTHS[:, None])
    surprise = 3 * ((found - expected) ** 2).sum(axis=1)
    return float(LENGTHS[surprise <= surprise.min() + 0.5][-1])


def _diagonal(sigmas: Sequence[float]) -> Array:
    """(6, 6) of one sigma of position and orientation."""
    return np.diag(np.repeat(np.square(sigmas), 3))

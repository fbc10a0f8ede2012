"""The map's own error around a pose, by what was measured when the map was made.

`mapping.held_out` localized instants of the map without themselves and their neighbours. Their
errors grow with the distance to the nearest image that the map still had, and differ from place
to place. The localizer adds what follows to the covariance of every pose. What bends a place as
a whole does not show so: where mapping estimated the poses, as much is added as is assumed of a
map that was not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array

ENOUGH = 15  # instants that were held out: fewer do not tell how wrong a map is
REACH = 20.0  # metres from the nearest image; further away the error is taken as there
AROUND = 3.0  # times the usual distance to the nearest image: instants so near tell of a place
PRIOR = 2.0  # instants that what is usual in the map counts for at each place
UNMEASURED = (0.05, math.radians(0.1))  # one sigma of what does not show: metres, radians
LEAST = (1e-4, 1e-5)  # one sigma: metres, radians
BOUNDS = (-16.0, 2.0)  # of the logarithms of what is fitted


@dataclass(frozen=True, slots=True)
class Growth:
    """A standard deviation by the distance to the nearest image: √(start² + (slope · d)²).

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
            return float((np.log(variance) + square / variance).sum())

        usual = 0.5 * math.log(float(square.mean()))
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
    """

    def __init__(
        self, visual_map: VisualMap, metres: float | None = None, degrees: float | None = None
    ) -> None:
        self._map = visual_map
        self._given = (metres, None if degrees is None else math.radians(degrees))
        rows = visual_map.held_out
        self.measured = len(rows) >= ENOUGH
        if not self.measured:
            return
        self._bent = UNMEASURED if visual_map.manifest.poses_estimated else (0.0, 0.0)
        self._places, distance = rows[:, :3], rows[:, 3]
        errors = rows[:, 4], np.radians(rows[:, 5])
        self._growth = [Growth.fitted(distance, error) for error in errors]
        squares = [
            (error / np.maximum(growth.sigma(distance), least)) ** 2
            for error, growth, least in zip(errors, self._growth, LEAST, strict=True)
        ]
        self._excess = (squares[0] + squares[1]) / 2
        # Nearer than half way to the next image nothing was tried.
        self._nearest = float(np.quantile(distance, 0.25)) / 2
        self._around = AROUND * max(float(np.median(distance)), 1e-3)

    @property
    def assumed(self) -> bool:
        """Whether a constant is assumed that nobody measured or gave."""
        return not self.measured and None in self._given

    def covariance(self, center: Array) -> Array:
        """(6, 6) of (δp, δθ) for a camera at `center` (3,), in the map."""
        sigmas = np.array(self._sigmas(center))
        return np.diag(np.repeat(sigmas**2, 3))

    def _sigmas(self, center: Array) -> list[float]:
        if None not in self._given or not self.measured:
            return [
                usual if given is None else given
                for given, usual in zip(self._given, UNMEASURED, strict=True)
            ]
        near = self._map.image_grid.within(center, REACH)
        offsets = self._map.image_centers[near] - center
        distance = math.sqrt((offsets**2).sum(axis=1).min()) if len(near) else REACH
        distance = max(distance, self._nearest)
        away = ((self._places - center) ** 2).sum(axis=1) / (2 * self._around**2)
        weight = np.exp(-away)
        excess = (PRIOR + float(weight @ self._excess)) / (PRIOR + float(weight.sum()))
        measured = [
            max(float(growth.sigma(np.array(distance))) * math.sqrt(excess), least)
            for growth, least in zip(self._growth, LEAST, strict=True)
        ]
        return [
            math.hypot(sigma, bent) if given is None else given
            for sigma, bent, given in zip(measured, self._bent, self._given, strict=True)
        ]

"""The map's own error around a pose, by what was measured when the map was made.

`mapping.held_out` localized instants of the map without themselves and their neighbours. Their
errors have the shape of the covariances that their poses were told with, only larger: points are
wrong as keypoints are, and a view that tells little of a direction tells little of it however
wrong they are. They grow with the distance to the images that the map still had, and differ from
place to place: a few may be ten times worse than all the others (poses that contradict each other),
and neither must they make the rest look bad nor the rest hide them. So the covariance at a place is
that of most places times a factor with an inverse-gamma prior; over all places the errors have a
Student distribution, to which that of most places is fitted (Lange et al., JASA 1989), and around a
place the factor follows from the errors there. The localizer adds what follows to the covariance of
every pose. What bends a place as a whole does not show so: where mapping estimated the poses, as
much is added as is assumed of a map that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, minimize

from kapture_ros.localization.map_change import FREEDOM, MapChange, alike_share
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, symmetric_root

ENOUGH = 15  # instants that were held out: fewer do not tell how wrong a map is
REACH = 20.0  # metres from the map's images; further away the error is taken as there
AROUND = 1.5  # times the usual distance: instants so near tell of a place
NEAREST = 1e-3  # metres: less is no distance
MOST = 1.0  # power of the distance: twice as far, twice as wrong
UNMEASURED = (0.05, math.radians(0.1))  # one sigma of what does not show: metres, radians
LEAST = (1e-4, 1e-5)  # one sigma: metres, radians
LENGTHS = np.geomspace(0.02, 200.0, 60)  # metres in which errors may become others
BOUNDS = (-16.0, 10.0)  # of the logarithms of what is fitted
PACKED = np.triu_indices(6)  # of a covariance, in a table
DEGREES = np.repeat([1.0, math.radians(1.0)], 3)  # metres and degrees of a table
TINY = 1e-12  # a variance


@dataclass(frozen=True, slots=True)
class Spread:
    """What the error of most places is: times · own covariance + start², growing with distance.

    Its covariance times a place's factor is that of the errors there.

    Attributes:
        times: the covariance that a pose has if the map is exact.
        start: (2,) metres and radians, one sigma of every axis.
        growth: (2,) powers of the distance with which the errors of position and orientation grow.
        usual: metres, the distance at which they have the size given here.
    """

    times: float
    start: Array
    growth: Array
    usual: float

    @classmethod
    def fitted(cls, distance: Array, errors: Array, own: Array) -> Spread:
        """The most probable one.

        Args:
            distance: (H,) metres, see `second_nearest`; errors: (H, 6) of (δp, δθ);
            own: (H, 6, 6), zeros where nobody knows it.
        """
        usual = max(float(np.median(distance)), NEAREST)

        def surprise(values: Array) -> float:
            covariance = cls._of(values, usual).covariance(distance, own)
            tail = (FREEDOM + 6) * np.log1p(_squares(errors, covariance) / FREEDOM)
            return float((np.linalg.slogdet(covariance)[1] + tail).sum())

        sizes = np.maximum(np.median(np.abs(errors).reshape(-1, 2, 3), axis=(0, 2)), LEAST)
        least = [BOUNDS[0], *np.log(LEAST), 0.0, 0.0]
        most = [BOUNDS[1] if own.any() else BOUNDS[0], *BOUNDS[1:] * 2, MOST, MOST]
        begin = np.clip([0.0, *np.log(sizes), 0.0, 0.0], least, most)
        return cls._of(minimize(surprise, begin, bounds=Bounds(least, most)).x, usual)

    @classmethod
    def _of(cls, values: Array, usual: float) -> Spread:
        return cls(math.exp(values[0]), np.exp(values[1:3]), values[3:5], usual)

    def covariance(self, distance: Array, own: Array) -> Array:
        """(n, 6, 6) of (δp, δθ), by distances (n,) and own covariances (n, 6, 6)."""
        far = np.maximum(distance[:, None], NEAREST) / self.usual
        grown = np.repeat(far**self.growth, 3, axis=1)
        found: Array = self.times * own + _diagonal(self.start)
        return found * grown[:, :, None] * grown[:, None, :]


class MapError:
    """The map's own error at any place.

    Args:
        metres, degrees: one sigma of every axis, whatever was measured; None: as measured.

    Attributes:
        measured: whether instants were held out.
        alike: metres at which half of the measured error is another one, for position and
            orientation; infinite where the table does not tell.
        usual_own: (6, 6), what a pose near the map's images would have as its covariance if the
            map were exact; only where instants were held out.
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
        self.alike = math.inf, math.inf
        if not self.measured:
            return
        self._places, distance = rows[:, :3], rows[:, 3]
        errors, own = _errors(rows), _own(rows)
        self._most = Spread.fitted(distance, errors, own)
        covariance = self._most.covariance(distance, own)
        self._squares = _squares(errors, covariance)
        if np.isfinite(rows[:, 6:12]).all():
            self.alike = _alike(self._places, errors, covariance, own)
        # Nearer than half as far nothing was tried, nor with a worse view.
        self._nearest = float(np.quantile(distance, 0.25)) / 2
        self._widest = _sizes(own).max(axis=0)
        close = own[np.argsort(distance, kind="stable")[: len(own) // 4]]
        self.usual_own = close[np.argsort(_sizes(close)[:, 0])[len(close) // 2]]
        self._around = AROUND * self._most.usual

    @property
    def assumed(self) -> bool:
        """Whether a constant is assumed that nobody measured or gave."""
        return not self.measured and None in self._given

    @property
    def constant(self) -> Array:
        """(6, 6) of (δp, δθ), the part that was given or assumed: the same everywhere."""
        return _diagonal(self._bent)

    @property
    def change(self) -> MapChange:
        """How it changes along the way."""
        return MapChange(self.constant, self.alike)

    def covariance(self, center: Array, own: Array) -> Array:
        """(6, 6) of (δp, δθ) for a camera at `center` (3,), in the map.

        Args:
            own: (6, 6), the pose's covariance if the map were exact.
        """
        if None not in self._given or not self.measured:
            return self.constant
        near = self._map.image_grid.within(center, REACH)
        distance = max(second_nearest(self._map, near, center), self._nearest)
        wide = np.maximum(np.sqrt(_sizes(own[None])[0] / np.maximum(self._widest, TINY)), 1.0)
        tried = own / np.outer(np.repeat(wide, 3), np.repeat(wide, 3))
        measured = self._most.covariance(np.array([distance]), tried[None])[0]
        kept = np.repeat([given is None for given in self._given], 3)
        here: Array = self._factor(center) * measured * np.outer(kept, kept)
        return here + self.constant

    def _factor(self, center: Array) -> float:
        """The mean of what a place's variance is times that of most places."""
        away = ((self._places - center) ** 2).sum(axis=1) / (2 * self._around**2)
        weight = np.exp(-away)
        squares, freedom = float(weight @ self._squares), 6 * float(weight.sum())
        return (FREEDOM + squares) / (FREEDOM + freedom - 2)


def second_nearest(visual_map: VisualMap, images: npt.NDArray[np.integer], center: Array) -> float:
    """Metres from a place to the second nearest instant of some images; at most `REACH`.

    Errors grow where a map ends more than between its images, if the nearest one is as near.
    """
    offsets = visual_map.image_centers[images] - center
    away = np.sqrt((offsets**2).sum(axis=1))
    frames = visual_map.image_frames[images]
    others = away[frames != frames[away.argmin()]] if len(away) else away
    return float(others.min(initial=REACH))


def _alike(places: Array, errors: Array, covariance: Array, own: Array) -> tuple[float, float]:
    """Metres over which errors are alike: the most that the directions of the errors allow.

    Of position and of orientation: a pose errs sideways by the points it has just then, but in its
    pitch for as long as it sees the same ones. Directions are alike, however much worse one place
    is than another, but for what they have of the poses' own errors. The scalar product of two
    that have nothing in common has a variance of 1/3.

    Args:
        places: (H, 3), errors: (H, 6) there, covariance: (H, 6, 6) of most of them, and what of it
            is their own: (H, 6, 6).
    """
    root = symmetric_root(covariance)
    white = np.linalg.solve(root, errors[..., None])[..., 0].reshape(-1, 2, 3)
    directions = white / np.maximum(np.linalg.norm(white, axis=2, keepdims=True), 1e-12)
    theirs = np.linalg.solve(root, np.linalg.solve(root, own).transpose(0, 2, 1))
    common = np.sqrt(np.maximum(1 - _sizes(theirs), 0.0))
    first, second = np.triu_indices(len(places), 1)
    apart = np.linalg.norm(places[first] - places[second], axis=1)
    share = alike_share(apart, LENGTHS[:, None])
    found = []
    for of_pair, expected in zip(
        (directions[first] * directions[second]).sum(axis=2).T,
        (common[first] * common[second]).T,
        strict=True,
    ):
        surprise = 1.5 * ((of_pair - expected * share) ** 2).sum(axis=1)
        found.append(float(LENGTHS[surprise <= surprise.min() + 0.5][-1]))
    return found[0], found[1]


def _squares(errors: Array, covariance: Array) -> Array:
    """(n,) Mahalanobis distances squared of (n, 6)."""
    weighed = np.linalg.solve(covariance, errors[..., None])[..., 0]
    squares: Array = (errors * weighed).sum(axis=1)
    return squares


def _errors(rows: Array) -> Array:
    """(H, 6) of (δp, δθ): in older tables their size only."""
    errors = np.where(np.isfinite(rows[:, 6:12]), rows[:, 6:12], np.repeat(rows[:, 4:6], 3, axis=1))
    found: Array = errors * DEGREES
    return found


def _own(rows: Array) -> Array:
    """(H, 6, 6) of (δp, δθ): zeros in older tables."""
    own = np.zeros((len(rows), 6, 6))
    own[:, PACKED[0], PACKED[1]] = own[:, PACKED[1], PACKED[0]] = np.nan_to_num(rows[:, 12:33])
    own *= np.outer(DEGREES, DEGREES)
    return own


def _sizes(covariance: Array) -> Array:
    """(n, 2), the mean variance of position and orientation of (n, 6, 6)."""
    variances: Array = np.diagonal(covariance, axis1=1, axis2=2).reshape(-1, 2, 3).mean(axis=2)
    return variances


def _diagonal(sigmas: Sequence[float] | Array) -> Array:
    """(6, 6) of one sigma of position and orientation."""
    return np.diag(np.repeat(np.square(sigmas), 3))

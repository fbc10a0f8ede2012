"""Figures from a comparison: recall, error statistics, honesty, calibration, latency.

Failures count: recall is over all queries with a reference, answered or not. Queries without
a reference are counted apart and enter nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammainc, gammaincinv

from kapture_ros.errors import OptionError
from kapture_ros.evaluation.comparison import Comparison, Mask
from kapture_ros.evaluation.estimates import STAGES
from kapture_ros.transforms.se3 import Array


@dataclass(frozen=True, slots=True, order=True)
class Threshold:
    """Within this many metres and degrees; the wider in metres is the greater."""

    metres: float
    degrees: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """From `metres,degrees`.

        Raises:
            OptionError: if it is something else.
        """
        try:
            metres, degrees = (float(part) for part in text.split(","))
        except ValueError:
            metres = degrees = np.nan
        if not (metres > 0 and degrees > 0):
            raise OptionError(f"threshold '{text}' must be metres,degrees, such as 0.25,2")
        return cls(metres, degrees)

    def __str__(self) -> str:
        return f"{self.metres:g} m, {self.degrees:g}°"

    def admits(self, metres: Array, degrees: Array) -> Mask:
        """Which errors are within; NaN is not."""
        return np.asarray((metres <= self.metres) & (degrees <= self.degrees))


@dataclass(frozen=True, slots=True)
class Statistics:
    """The spread of a quantity."""

    count: int
    mean: float
    median: float
    p95: float
    maximum: float
    rmse: float


def statistics(values: Array) -> Statistics | None:
    """The spread of finite values; None if there are none."""
    if not values.size:
        return None
    median, p95 = np.percentile(values, [50, 95])
    rmse = np.sqrt(np.mean(values**2))
    numbers = (values.mean(), median, p95, values.max(), rmse)
    return Statistics(values.size, *(float(number) for number in numbers))


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of some queries with a reference.

    Attributes:
        recall: share within each threshold, failures counted as not.
        metres, degrees: errors of the localized ones.
        median_metres, median_degrees: of all, a failure being infinitely wrong; infinite
            where half failed.
    """

    queries: int
    localized: int
    recall: tuple[float, ...]
    metres: Statistics | None
    degrees: Statistics | None
    median_metres: float
    median_degrees: float


def accuracy(
    comparison: Comparison, thresholds: Sequence[Threshold], chosen: Mask | None = None
) -> Accuracy:
    """Accuracy over the queries with a reference, or over some of them."""
    known = comparison.known if chosen is None else comparison.known & chosen
    localized = known & comparison.accepted
    metres, degrees = comparison.metres, comparison.degrees
    count = int(known.sum())
    within = [threshold.admits(metres[localized], degrees[localized]) for threshold in thresholds]
    return Accuracy(
        queries=count,
        localized=int(localized.sum()),
        recall=tuple(float(inside.sum() / count) if count else np.nan for inside in within),
        metres=statistics(metres[localized]),
        degrees=statistics(degrees[localized]),
        median_metres=_median_with_failures(metres[localized], count),
        median_degrees=_median_with_failures(degrees[localized], count),
    )


def _median_with_failures(values: Array, count: int) -> float:
    if not count:
        return np.nan
    padded = np.sort(np.concatenate([values, np.full(count - len(values), np.inf)]))
    # Not np.median: the mean of two infinities or of a number and infinity is what is meant.
    return float((padded[(count - 1) // 2] + padded[count // 2]) / 2)


def accuracy_by_condition(
    comparison: Comparison, thresholds: Sequence[Threshold]
) -> dict[str, Accuracy]:
    """Accuracy per condition, in the order of their names; empty if none is named."""
    conditions = np.array([row.condition for row in comparison.rows])
    names = sorted(set(conditions[comparison.known]))
    if names in ([], [""]):
        return {}
    return {str(name): accuracy(comparison, thresholds, conditions == name) for name in names}


@dataclass(frozen=True, slots=True)
class Honesty:
    """Whether the localizer knew what it knew; over queries with a reference.

    Attributes:
        confidently_wrong: accepted, but beyond the widest threshold.
        needlessly_rejected: rejected, although its pose was within the widest threshold.
        reasons: how often each reason was given for a rejection.
    """

    accepted: int
    confidently_wrong: int
    rejected: int
    needlessly_rejected: int
    reasons: Mapping[str, int]


def confidently_wrong(comparison: Comparison, widest: Threshold) -> Mask:
    """(N,) which queries were accepted with a pose beyond the widest threshold."""
    right = widest.admits(comparison.metres, comparison.degrees)
    return comparison.accepted & comparison.known & ~right


def honesty(comparison: Comparison, widest: Threshold) -> Honesty:
    """Count right and wrong answers against right and wrong refusals."""
    accepted = comparison.accepted & comparison.known
    rejected = ~comparison.accepted & comparison.known
    right = widest.admits(comparison.metres, comparison.degrees)
    reasons = Counter(
        row.reason or "not given" for row, out in zip(comparison.rows, rejected, strict=True) if out
    )
    return Honesty(
        accepted=int(accepted.sum()),
        confidently_wrong=int(confidently_wrong(comparison, widest).sum()),
        rejected=int(rejected.sum()),
        needlessly_rejected=int((rejected & right).sum()),
        reasons=dict(reasons.most_common()),
    )


def chi2_quantile(probability: float, dof: float) -> float:
    """The value below which a chi-square variable lies with some probability."""
    return float(2.0 * gammaincinv(dof / 2.0, probability))


def chi2_probability(values: Array, dof: float) -> Array:
    """The probability that a chi-square variable is below each value."""
    return np.asarray(gammainc(dof / 2.0, values / 2.0))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Normalized estimation errors squared (NEES), eᵀ C⁻¹ e, against their chi-square law.

    Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation,
    section 5.4: the mean over N independent errors times N is chi-square with N·dof degrees
    of freedom. Successive frames are not independent: then the band is too narrow.

    Attributes:
        band: the two-sided 95 % band of the mean if the covariances are right.
        covered: share inside their own 95 % ellipsoid.
        sigma_scale: what to multiply standard deviations by, to be right on average;
            sigma_scale_median: the same from the median, which a few wrong poses do not move.
    """

    part: str
    dof: int
    count: int
    mean: float
    band: tuple[float, float]
    covered: float
    sigma_scale: float
    sigma_scale_median: float

    @property
    def consistent(self) -> bool:
        """Whether the mean is in its band."""
        return self.band[0] <= self.mean <= self.band[1]


PARTS = {"pose": slice(0, 6), "position": slice(0, 3), "rotation": slice(3, 6)}


def nees(comparison: Comparison, part: str = "pose") -> Array:
    """(N,) of the pose, or of its position or rotation alone.

    NaN where the query was not accepted or error or covariance are unknown.
    """
    chosen = PARTS[part]
    result = np.full(len(comparison.rows), np.nan)
    for index, (row, error) in enumerate(zip(comparison.rows, comparison.errors, strict=True)):
        if row.accepted and row.covariance is not None and np.isfinite(error).all():
            block = row.covariance[chosen, chosen]
            result[index] = error[chosen] @ np.linalg.solve(block, error[chosen])
    return result


def calibration(comparison: Comparison) -> tuple[Calibration, ...]:
    """For pose, position and rotation; empty if no accepted estimate has a covariance."""
    found = []
    for part, chosen in PARTS.items():
        values = nees(comparison, part)
        values = values[np.isfinite(values)]
        count, dof = values.size, chosen.stop - chosen.start
        if not count:
            return ()
        mean = float(values.mean())
        low, high = (chi2_quantile(p, count * dof) / count for p in (0.025, 0.975))
        covered = float((values <= chi2_quantile(0.95, dof)).mean())
        scale = float(np.sqrt(mean / dof))
        robust = float(np.sqrt(np.median(values) / chi2_quantile(0.5, dof)))
        found.append(Calibration(part, dof, count, mean, (low, high), covered, scale, robust))
    return tuple(found)


def latency(comparison: Comparison) -> dict[str, Statistics]:
    """Milliseconds by stage, over all queries where the stage ran."""
    found = {}
    for stage in STAGES:
        times = [row.latency_ms[stage] for row in comparison.rows if stage in row.latency_ms]
        spread = statistics(np.array(times, float))
        if spread is not None:
            found[stage] = spread
    return found

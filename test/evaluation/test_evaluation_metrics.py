"""Recall, medians, honesty and calibration: numbers computed by hand and by Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from kapture_ros.errors import InputError, OptionError
from kapture_ros.evaluation import metrics
from kapture_ros.evaluation.comparison import (
    Comparison,
    compare,
    rows_from_trajectory,
)
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.metrics import Threshold
from kapture_ros.evaluation.poses import PoseTable
from kapture_ros.transforms import Transform

THREE = tuple(Threshold.parse(text) for text in ("0.25,2", "0.5,5", "5,10"))


def test_recall_counts_failures_and_needs_both_position_and_rotation(localizer):
    comparison = localizer(
        metres=[0.1, 0.25, 0.3, 0.1, 9.0, None], degrees=[1.0, 1.0, 1.0, 4.0, 1.0, 0.0]
    )
    found = metrics.accuracy(comparison, THREE)
    assert found.recall == (pytest.approx(2 / 6), pytest.approx(4 / 6), pytest.approx(4 / 6))
    assert (found.queries, found.localized) == (6, 5)


def test_a_rejected_pose_is_not_localized_however_good_it_is(localizer):
    comparison = localizer(metres=[0.1, 0.1], accepted=[True, False])
    assert metrics.accuracy(comparison, THREE).recall == (0.5, 0.5, 0.5)


def test_queries_without_a_reference_enter_nothing(localizer):
    comparison = localizer(metres=[0.1, 0.1, None, 9.0], without_reference=(1, 3))
    found = metrics.accuracy(comparison, THREE)
    assert (found.queries, found.localized, found.recall) == (2, 1, (0.5, 0.5, 0.5))
    assert list(comparison.known) == [True, False, True, False]


@pytest.mark.parametrize(
    ("metres", "of_all", "of_localized"),
    [
        ([1.0, 2.0, 3.0], 2.0, 2.0),
        ([1.0, 2.0, 3.0, None], 2.5, 2.0),
        ([1.0, 2.0, None], 2.0, 1.5),
        ([1.0, 2.0, None, None], np.inf, 1.5),
        ([1.0, None, None], np.inf, 1.0),
    ],
)
def test_in_the_median_a_failure_is_infinitely_wrong(localizer, metres, of_all, of_localized):
    found = metrics.accuracy(localizer(metres=metres), THREE)
    assert found.median_metres == pytest.approx(of_all)
    assert found.metres.median == pytest.approx(of_localized)


def test_nothing_localized_is_zero_recall_and_no_statistics(localizer):
    found = metrics.accuracy(localizer(metres=[None, None]), THREE)
    assert found.recall == (0, 0, 0)
    assert found.metres is None
    assert found.median_degrees == np.inf


@given(
    metres=st.lists(st.none() | st.floats(0, 20), min_size=1, max_size=20),
    thresholds=st.lists(st.floats(0.01, 20), min_size=2, max_size=5).map(sorted),
)
def test_recall_grows_with_the_threshold_up_to_the_share_localized(localizer, metres, thresholds):
    comparison = localizer(metres=metres)
    found = metrics.accuracy(comparison, [Threshold(metre, 180) for metre in thresholds])
    assert list(found.recall) == sorted(found.recall)
    assert found.recall[-1] <= found.localized / found.queries


def test_conditions_are_apart_and_sum_up(localizer):
    comparison = localizer(
        metres=[0.1, 0.1, 0.3, None], conditions=["night", "day", "night", "night"]
    )
    found = metrics.accuracy_by_condition(comparison, THREE)
    assert list(found) == ["day", "night"]
    assert found["day"].recall == (1, 1, 1)
    assert found["night"].recall == (
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    assert metrics.accuracy_by_condition(localizer(metres=[0.1]), THREE) == {}


def test_honesty_tells_wrong_answers_from_wrong_refusals(localizer):
    comparison = localizer(
        metres=[0.1, 7.0, 0.1, 7.0, None], accepted=[True, True, False, False, False]
    )
    found = metrics.honesty(comparison, THREE[-1])
    assert (found.accepted, found.confidently_wrong) == (2, 1)
    assert (found.rejected, found.needlessly_rejected) == (3, 1)
    assert found.reasons == {"not given": 2, "few inliers": 1}


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "one,two", "0,5", "1,-5", "nan,1"])
def test_what_is_no_threshold_is_refused(text: str):
    with pytest.raises(OptionError, match="must be metres,degrees"):
        Threshold.parse(text)


@given(st.floats(0.001, 0.999), st.sampled_from([3, 6, 600]))
def test_chi_square_quantiles_agree_with_scipy(probability: float, dof: int):
    quantile = metrics.chi2_quantile(probability, dof)
    assert quantile == pytest.approx(chi2.ppf(probability, dof), rel=1e-9)
    assert metrics.chi2_probability(np.array(quantile), dof) == pytest.approx(probability)


def monte_carlo(perturb, count: int) -> Comparison:
    """Estimates around poses far from the origin, with covariances of every shape."""
    rng = np.random.default_rng(7)
    rows, true = [], {}
    for stamp in range(count):
        pose = Transform(Rotation.random(rng=rng), rng.uniform(-500, 500, 3))
        root = rng.normal(size=(6, 6)) * np.array([0.2] * 3 + [0.02] * 3)[:, None]
        covariance = root @ root.T
        true[stamp] = pose.inverse()
        estimate = perturb(pose, root @ rng.normal(size=6))
        rows.append(EstimateRow(stamp, "car", True, map_from_base=estimate, covariance=covariance))
    return compare(rows, PoseTable({"car": true}, {}, {}))


def in_fixed_axes(pose: Transform, error: np.ndarray) -> Transform:
    """REP-103's convention, written out in matrices."""
    x, y, z = error[3:]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.linalg.norm(error[3:])
    rodrigues = (
        np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rodrigues @ pose.rotation.as_matrix()
    matrix[:3, 3] = pose.translation + error[:3]
    return Transform.from_matrix(matrix)


def test_a_right_covariance_in_ros_convention_is_found_consistent():
    comparison = monte_carlo(in_fixed_axes, count=3000)
    for part in metrics.calibration(comparison):
        assert part.consistent, part
        assert part.covered == pytest.approx(0.95, abs=0.012)  # 3 sigma of 3000 draws
        assert part.sigma_scale == pytest.approx(1, abs=0.03)
        assert part.sigma_scale_median == pytest.approx(1, abs=0.05)
    values = np.sort(metrics.nees(comparison))
    distance = np.abs(chi2.cdf(values, 6) - (np.arange(3000) + 0.5) / 3000).max()
    assert distance < 1.63 / np.sqrt(3000)  # Kolmogorov-Smirnov at 1 %


@pytest.mark.parametrize(
    "perturb",
    [
        pytest.param(lambda pose, error: Transform.exp(error) @ pose, id="twist at the origin"),
        pytest.param(lambda pose, error: pose @ Transform.exp(error), id="twist in the base frame"),
        pytest.param(lambda pose, error: in_fixed_axes(pose, 1.1 * error), id="10 % too certain"),
        pytest.param(lambda pose, error: in_fixed_axes(pose, 0.9 * error), id="10 % too cautious"),
        pytest.param(
            lambda pose, error: in_fixed_axes(pose, error * [1, 1, 1, 2, 2, 2]), id="half angles"
        ),
    ],
)
def test_other_conventions_and_scales_are_found_out(perturb):
    pose = metrics.calibration(monte_carlo(perturb, count=800))[0]
    assert not pose.consistent


def test_calibration_is_of_accepted_estimates_with_covariance_and_reference(localizer):
    assert metrics.calibration(localizer(metres=[0.1, 0.2])) == ()


def test_no_overlap_names_both_sides(localizer):
    reference = PoseTable({"car": {5: Transform(), 9: Transform()}}, {}, {})
    row = EstimateRow(7, "robot", True, map_from_base=Transform())
    with pytest.raises(
        InputError,
        match=r"'robot', … at stamps 7 to 7; the reference has poses of 'car' at stamps 5 to 9"
        r".*--max-gap",
    ):
        compare([row], reference)
    with pytest.raises(InputError, match="the reference has no poses"):
        compare([row], PoseTable({}, {}, {}))
    with pytest.raises(InputError, match="no queries"):
        compare([], reference)


def test_a_trajectory_without_table_fails_where_it_has_no_pose():
    images = {"a.jpg": (1, "cam"), "b.jpg": (2, "cam")}
    reference = PoseTable({"cam": {1: Transform(), 2: Transform()}}, {}, images)
    estimate = PoseTable({"cam": {1: Transform.exp([-1, 0, 0, 0, 0, 0])}}, {}, {})
    rows = rows_from_trajectory(estimate, reference)
    assert [(row.query, row.accepted, row.reason) for row in rows] == [
        ("a.jpg", True, ""),
        ("b.jpg", False, "no pose"),
    ]
    comparison = compare(rows, reference)
    np.testing.assert_allclose(comparison.metres, [1, np.nan])
    without_images = PoseTable(reference.rows, {}, {})
    assert [row.query for row in rows_from_trajectory(estimate, without_images)] == ["cam", "cam"]


def test_latency_is_of_the_queries_where_the_stage_ran():
    rows = [
        EstimateRow(stamp, "car", False, latency_ms={"total": float(stamp)} if stamp else {})
        for stamp in range(5)
    ]
    comparison = compare(rows, PoseTable({"car": {1: Transform()}}, {}, {}))
    found = metrics.latency(comparison)
    assert list(found) == ["total"]
    assert (found["total"].count, found["total"].mean, found["total"].maximum) == (4, 2.5, 4)

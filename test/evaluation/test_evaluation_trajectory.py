"""Trajectory errors: known answers, and the same numbers as evo."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from kapture_ros.evaluation.comparison import compare
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.poses import PoseTable
from kapture_ros.evaluation.trajectory import (
    absolute_errors,
    align,
    frame_pairs,
    motion_errors,
    path_pairs,
    trajectory_errors,
)
from kapture_ros.transforms import Transform

positions = arrays(float, (8, 3), elements=st.floats(-100, 100))


@given(positions, arrays(float, 6, elements=st.floats(-1.8, 1.8)), st.floats(0.1, 10))
def test_alignment_undoes_any_similarity(reference, twist, scale: float):
    assume(np.linalg.svd(reference - reference.mean(axis=0))[1][1] > 1.0)
    moved = Transform.exp(twist).apply(reference) / scale
    found = align(moved, reference, with_scale=True)
    assert found is not None
    assert found[0] == pytest.approx(scale)
    np.testing.assert_allclose(found[1].apply(found[0] * moved), reference, atol=1e-6)


@given(positions, positions)
def test_more_freedom_never_makes_the_alignment_worse(estimated, reference):
    rmse = [error.metres.rmse for error in absolute_errors(estimated, reference)]
    assert all(freer <= stiffer + 1e-9 for stiffer, freer in pairwise(rmse))


def test_a_mirrored_trajectory_is_not_turned_into_its_mirror():
    reference = np.random.default_rng(1).normal(size=(20, 3))
    found = align(reference * [1, 1, -1], reference, with_scale=False)
    assert found is not None
    assert np.linalg.det(found[1].rotation.as_matrix()) == pytest.approx(1)


@pytest.mark.parametrize(
    "points", [np.zeros((2, 3)), np.outer(np.arange(9.0), [1, 2, 3]), 1e-241 * np.eye(3)]
)
def test_what_does_not_determine_an_alignment_is_left_unaligned(points: np.ndarray):
    assert align(points, points, with_scale=True) is None
    (only,) = absolute_errors(points + np.array([0, 3, 4]), points)
    assert (only.alignment, only.metres.rmse) == ("none", 5)


def test_pairs_over_a_path_lie_end_to_end():
    along_x = np.column_stack([[0, 1, 2, 2.5, 4, 5, 5.5], np.zeros((7, 2))])
    assert path_pairs(along_x, 2) == [(0, 2), (2, 4)]
    assert path_pairs(along_x, 100) == []
    assert frame_pairs(3) == [(0, 1), (1, 2)]


def test_a_motion_error_does_not_depend_on_where_the_motion_began():
    reference = [Transform(), Transform.exp([1, 0, 0, 0, 0, 0])]
    start = Transform.exp([5, 6, 7, 0.1, 0.2, 0.3])
    end = start @ Transform.exp([1.5, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(
        motion_errors([start, end], reference, [(0, 1)]), [[0.5, 0]], atol=1e-9
    )


def test_motions_are_taken_within_one_device():
    """Left and right camera alternate: the metre between them is no motion."""
    rows, table = [], {"left": {}, "right": {}}
    for stamp in range(6):
        device, side = ("left", 0.0) if stamp % 2 == 0 else ("right", 1.0)
        pose = Transform(Rotation.identity(), [stamp, side, 0])
        table[device][stamp] = pose.inverse()
        rows.append(EstimateRow(stamp, device, True, map_from_base=pose))
    _, relative = trajectory_errors(compare(rows, PoseTable(table, {}, {})), 2.0)
    assert [(error.over, error.metres.count) for error in relative] == [("1 frame", 4), ("2 m", 4)]
    assert all(error.metres.maximum < 1e-9 for error in relative)


def test_nothing_localized_has_no_trajectory():
    rows = [EstimateRow(0, "car", False)]
    comparison = compare(rows, PoseTable({"car": {0: Transform()}}, {}, {}))
    assert trajectory_errors(comparison, 1.0) == ((), ())


def winding_road() -> tuple[list[Transform], list[Transform]]:
    """A closed-form reference and a drifting, wobbling estimate of it."""
    reference, estimated = [], []
    for k in range(60):
        angle = 0.05 * k
        turn = Rotation.from_euler("zyx", [angle, 0.1 * np.sin(k), 0.05 * np.cos(2 * k)])
        place = np.array([30 * np.sin(angle), 20 * (1 - np.cos(angle)), 0.5 * np.sin(0.3 * k)])
        reference.append(Transform(turn, place))
        wobble = Rotation.from_rotvec([0.01 * np.sin(k), 0.02 * np.cos(k), 0.001 * k])
        drift = 0.1 * np.array([np.sin(1.7 * k), np.cos(2.3 * k), np.sin(0.9 * k)])
        estimated.append(Transform(wobble * turn, 1.03 * place + drift + [0.01 * k, 0, 0]))
    return estimated, reference


def our_numbers() -> dict[str, float]:
    estimated, reference = winding_road()
    stamps = range(len(reference))
    table = {stamp: pose.inverse() for stamp, pose in zip(stamps, reference, strict=True)}
    rows = [EstimateRow(s, "car", True, map_from_base=estimated[s]) for s in stamps]
    absolute, relative = trajectory_errors(compare(rows, PoseTable({"car": table}, {}, {})), 10.0)
    found = {f"ate {error.alignment}": error.metres.rmse for error in absolute}
    found["scale"] = absolute[-1].scale
    for error in relative:
        found[f"rpe {error.over} [m]"] = error.metres.rmse
        found[f"rpe {error.over} [deg]"] = error.degrees.rmse
    return found


# Computed with evo 1.38.1 by `evo_numbers` below.
FROM_EVO = {
    "ate none": 1.18745173982552,
    "ate SE(3)": 0.5302810331871433,
    "ate Sim(3)": 0.1468233765744506,
    "scale": 0.9696817470531056,
    "rpe 1 frame [m]": 0.18979092119818602,
    "rpe 1 frame [deg]": 0.8730562629464473,
    "rpe 10 m [m]": 0.544658934109926,
    "rpe 10 m [deg]": 1.5816878373846182,
}


def evo_numbers() -> dict[str, float]:
    from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType, Unit
    from evo.core.trajectory import PosePath3D

    estimated, reference = winding_road()
    true = PosePath3D(poses_se3=[pose.matrix() for pose in reference])
    found = {}

    def rmse(metric, path: PosePath3D) -> float:
        metric.process_data((true, path))
        return float(metric.get_statistic(StatisticsType.rmse))

    for name, freedom in (("none", None), ("SE(3)", False), ("Sim(3)", True)):
        path = PosePath3D(poses_se3=[pose.matrix() for pose in estimated])
        if freedom is not None:
            scale = path.align(true, correct_scale=freedom)[2]
        found[f"ate {name}"] = rmse(APE(PoseRelation.translation_part), path)
    found["scale"] = float(scale)
    path = PosePath3D(poses_se3=[pose.matrix() for pose in estimated])
    for over, delta, unit in (("1 frame", 1, Unit.frames), ("10 m", 10.0, Unit.meters)):
        options = {"delta": delta, "delta_unit": unit, "pairs_from_reference": True}
        found[f"rpe {over} [m]"] = rmse(RPE(PoseRelation.translation_part, **options), path)
        found[f"rpe {over} [deg]"] = rmse(RPE(PoseRelation.rotation_angle_deg, **options), path)
    return found


def test_the_numbers_agree_with_those_evo_gave():
    assert our_numbers() == pytest.approx(FROM_EVO, rel=1e-9)


def test_the_numbers_agree_with_the_evo_installed():
    pytest.importorskip("evo", reason="evo is not installed (pip install evo)")
    assert our_numbers() == pytest.approx(evo_numbers(), rel=1e-9)

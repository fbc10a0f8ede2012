"""SE(3): group laws, agreement with matrices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm

from kapture_ros.transforms import Transform, interpolate

metres = arrays(float, 3, elements=st.floats(-1e4, 1e4))
rotation_vectors = arrays(float, 3, elements=st.floats(-1.8, 1.8))  # angles below pi
twists = st.builds(lambda t, r: np.concatenate([t, r]), metres, rotation_vectors)
transforms = st.builds(Transform.exp, twists)


def assert_close(a: Transform, b: Transform) -> None:
    np.testing.assert_allclose(a.matrix(), b.matrix(), atol=1e-7)


@given(transforms, transforms, transforms)
def test_composition_is_associative_and_inverts(c_b: Transform, b_a: Transform, a_w: Transform):
    assert_close((c_b @ b_a) @ a_w, c_b @ (b_a @ a_w))
    assert_close(b_a @ b_a.inverse(), Transform())


@given(transforms, arrays(float, (5, 3), elements=st.floats(-1e3, 1e3)))
def test_applying_is_multiplying_with_the_matrix(b_from_a: Transform, points_a: np.ndarray):
    homogeneous = np.column_stack([points_a, np.ones(5)])
    expected = (homogeneous @ b_from_a.matrix().T)[:, :3]
    np.testing.assert_allclose(b_from_a.apply(points_a), expected, atol=1e-7)


@given(twists)
def test_exponential_is_the_matrix_exponential_and_log_undoes_it(twist: np.ndarray):
    generator = np.zeros((4, 4))
    x, y, z = twist[3:]
    generator[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    generator[:3, 3] = twist[:3]
    transform = Transform.exp(twist)
    np.testing.assert_allclose(transform.matrix(), expm(generator), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(transform.log(), twist, rtol=1e-6, atol=1e-6)


@given(transforms, arrays(float, 6, elements=st.floats(-1, 1)))
def test_adjoint_moves_a_twist_to_the_other_frame(b_from_a: Transform, twist_a: np.ndarray):
    moved = b_from_a @ Transform.exp(twist_a) @ b_from_a.inverse()
    assert_close(Transform.exp(b_from_a.adjoint() @ twist_a), moved)


@given(transforms)
def test_quaternion_is_scalar_first_canonical_and_round_trips(transform: Transform):
    assert transform.quaternion[0] >= 0
    again = Transform.from_quaternion(transform.quaternion, transform.translation)
    assert_close(again, transform)
    assert_close(Transform.from_matrix(transform.matrix()), transform)


def test_quaternion_order_is_w_x_y_z():
    quarter_turn_about_z = Transform.from_quaternion([np.sqrt(0.5), 0, 0, np.sqrt(0.5)], [1, 2, 3])
    np.testing.assert_allclose(quarter_turn_about_z.apply([1, 0, 0]), [1, 3, 3])


@given(transforms, transforms, st.floats(0, 1))
def test_interpolation_runs_at_constant_speed(start: Transform, end: Transform, fraction: float):
    middle = interpolate(start, end, fraction)
    length, angle = start.distance_to(end)
    travelled, turned = start.distance_to(middle)
    assert travelled == pytest.approx(fraction * length, abs=1e-6)
    if angle < 3.1:  # two ways round are equally short at pi
        assert turned == pytest.approx(fraction * angle, abs=1e-6)


def test_equality_compares_the_motion():
    half_turn = Transform.from_quaternion([1, 0, 0, 0], [1, 2, 3])
    assert half_turn == Transform.from_quaternion([-1, 0, 0, 0], [1, 2, 3])
    assert half_turn != Transform()
    assert half_turn != "a transform"


@pytest.mark.parametrize(
    ("quaternion", "translation"),
    [
        ([0, 0, 0, 0], [0, 0, 0]),
        ([np.nan, 0, 0, 1], [0, 0, 0]),
        ([1, 0, 0, 0], [0, np.inf, 0]),
        ([1, 0, 0], [0, 0, 0]),
    ],
)
def test_what_is_no_rigid_transform_is_refused(quaternion: list, translation: list):
    with pytest.raises(ValueError, match="transform"):
        Transform.from_quaternion(quaternion, translation)

"""SE(3): group laws, agreement with matrices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from kapture_ros.transforms import Transform, interpolate
from kapture_ros.transforms.se3 import (
    difference,
    disturb,
    largest_sigma,
    quaternions,
    rotations,
    turned_by,
    turned_covariance,
)

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


@given(rotation_vectors)
def test_a_turn_in_place_is_that_of_its_rotation_vector(vector: np.ndarray):
    expected = Rotation.from_rotvec(vector)
    assert_close(turned_by(vector), Transform(expected))
    np.testing.assert_allclose(Transform(expected).rotation_vector(), vector, atol=1e-9)
    other_sign = Transform._of((-1.0, 0.0, 0.0, -1e-3), np.zeros(3))
    assert other_sign.rotation_vector() == pytest.approx([0, 0, 2e-3])


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


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.diag([1.0, 1, -1, 1]), np.full((4, 4), np.nan), np.full((3, 4), np.inf)],
)
def test_what_is_no_rigid_matrix_is_refused(matrix: np.ndarray):
    with pytest.raises(ValueError):
        Transform.from_matrix(matrix)


def test_a_transform_keeps_its_own_numbers():
    position = np.array([1.0, 2, 3])
    for made in (
        Transform(None, position),
        Transform.from_quaternion([1, 0, 0, 0], position),
        Transform.from_matrix(np.column_stack([np.eye(3), position])),
    ):
        position[0] = 9.0
        assert made.translation[0] == 1.0
        position[0] = 1.0
    for result in (made, made.inverse(), made @ made, interpolate(made, made, 0.5)):
        with pytest.raises(ValueError, match="read-only"):
            result.translation[0] = 5.0


def test_half_turns_either_way_round_are_equal():
    """Their w is zero and tells nothing about the sign."""
    for axis in np.eye(3):
        one, other = (Transform.from_quaternion([0, *way], [0, 0, 0]) for way in (axis, -axis))
        assert one == other
        assert one.quaternion.max() == 1


@given(st.lists(transforms, min_size=1, max_size=5))
def test_many_quaternions_become_rotations_and_back(several: list[Transform]):
    wxyz = np.array([transform.quaternion for transform in several])
    matrices = np.array([transform.rotation_matrix() for transform in several])
    np.testing.assert_allclose(rotations(wxyz).as_matrix(), matrices, atol=1e-12)
    np.testing.assert_allclose(np.abs(quaternions(rotations(wxyz))), np.abs(wxyz), atol=1e-12)
    assert (quaternions(rotations(wxyz))[:, 0] >= 0).all()


def test_the_difference_of_a_turn_in_place_is_a_turn_and_no_shift():
    """However far from the map's origin: the rotation is about the base, not the origin."""
    true = Transform.from_quaternion([0.5, 0.5, 0.5, 0.5], [1000.0, 2000, 3])
    turned = Transform(Rotation.from_rotvec([0, 0, 0.1]) * true.rotation, true.translation)
    np.testing.assert_allclose(difference(turned, true), [0, 0, 0, 0, 0, 0.1], atol=1e-12)


@given(twists, arrays(float, 6, elements=st.floats(-1.5, 1.5)))
def test_the_difference_undoes_the_disturbance(pose: np.ndarray, error: np.ndarray):
    true = Transform.exp(pose)
    np.testing.assert_allclose(difference(disturb(true, error), true), error, atol=1e-7)


def test_covariances_turn_with_their_axes_and_keep_their_largest_sigma():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    rotation = Rotation.from_rotvec([0.3, -1.2, 0.7])
    turned = turned_covariance(root @ root.T, rotation.as_matrix())
    disturbances = root @ rng.normal(size=(6, 4))  # δp and δθ of four poses, one a column
    moved = np.vstack([rotation.apply(part.T).T for part in np.split(disturbances, 2)])
    before = np.linalg.solve(root @ root.T, disturbances)
    np.testing.assert_allclose(
        (moved * np.linalg.solve(turned, moved)).sum(axis=0), (disturbances * before).sum(axis=0)
    )
    assert largest_sigma(turned[:3, :3]) == pytest.approx(largest_sigma((root @ root.T)[:3, :3]))
    assert largest_sigma(rotation.as_matrix() @ np.diag([4.0, 9, 1]) @ rotation.as_matrix().T) == (
        pytest.approx(3.0)
    )

"""The transform tree: what it answers and how it says that it cannot."""

from __future__ import annotations

import contextlib
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.errors import (
    DisconnectedFramesError,
    ExtrapolationError,
    TransformError,
    UnknownFrameError,
)
from kapture_ros.transforms import Transform, TransformTree

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND  # 19 digits, as real stamps have


def moved(x: float, yaw: float = 0.0) -> Transform:
    return Transform.from_quaternion([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)], [x, 0, 0])


@pytest.fixture
def car() -> TransformTree:
    """map → odom → base_link → camera, and a lidar beside the camera; 1 m/s along x."""
    tree = TransformTree(buffer_ns=None)
    for second in range(11):
        tree.insert("map", "odom", START + second * SECOND, moved(100.0))
        tree.insert("odom", "base_link", START + second * SECOND, moved(float(second)))
    tree.insert_static("base_link", "camera", moved(2.0, yaw=np.pi / 2))
    tree.insert_static("base_link", "lidar", moved(0.5))
    return tree


def test_chain_over_moving_and_static_links_is_interpolated(car: TransformTree):
    map_from_camera = car.lookup("map", "camera", START + 2_500_000_000)
    np.testing.assert_allclose(map_from_camera.translation, [104.5, 0, 0])
    camera_from_map = car.lookup("camera", "map", START + 2_500_000_000)
    np.testing.assert_allclose(camera_from_map.matrix(), map_from_camera.inverse().matrix())


def test_frames_on_two_branches_meet_at_their_common_parent(car: TransformTree):
    """Nothing above the common parent is asked for, so any time will do."""
    camera_from_lidar = car.lookup("camera", "lidar", 0)
    np.testing.assert_allclose(camera_from_lidar.apply([0, 0, 0]), [0, 1.5, 0], atol=1e-12)
    assert car.lookup("camera", "camera", 0) == Transform()


def test_rotation_is_interpolated_along_the_sphere():
    tree = TransformTree()
    tree.insert("map", "car", 0, moved(0.0, yaw=0.0))
    tree.insert("map", "car", 100, moved(1.0, yaw=1.0))
    np.testing.assert_allclose(tree.lookup("map", "car", 25).rotation.as_rotvec(), [0, 0, 0.25])


@given(st.permutations(range(8)), st.integers(0, 7_000))
def test_order_of_arrival_does_not_matter(order: list[int], at: int):
    tree = TransformTree()
    for index in order:
        tree.insert("map", "car", index * 1000, moved(float(index)))
    assert tree.lookup("map", "car", at).translation[0] == pytest.approx(at / 1000)


def test_a_repeated_stamp_replaces_the_sample():
    tree = TransformTree()
    tree.insert("map", "car", 5, moved(1.0))
    tree.insert("map", "car", 5, moved(2.0))
    assert tree.lookup("map", "car", 5).translation[0] == 2.0


def test_the_buffer_is_bounded():
    tree = TransformTree(buffer_ns=10 * SECOND)
    for tenth in range(10_000):
        tree.insert("map", "car", tenth * SECOND // 10, moved(tenth / 10))
    newest = 999.9
    assert tree.lookup("map", "car", int((newest - 9.9) * 1e9)).translation[0] == pytest.approx(990)
    with pytest.raises(ExtrapolationError, match="begins"):
        tree.lookup("map", "car", int((newest - 25) * 1e9))


def test_an_unknown_frame_is_named_with_the_known_ones(car: TransformTree):
    with pytest.raises(UnknownFrameError, match=r"'kamera'.*known: base_link, camera, lidar"):
        car.lookup("map", "kamera", START)


def test_an_empty_tree_says_so():
    with pytest.raises(UnknownFrameError, match="known: none"):
        TransformTree().lookup("map", "base_link", 0)


def test_a_missing_link_is_named_by_its_two_ends(car: TransformTree):
    car.insert_static("trailer", "rear_camera", moved(1.0))
    with pytest.raises(DisconnectedFramesError, match="ends at 'trailer', the other at 'map'"):
        car.lookup("map", "rear_camera", START)


@pytest.mark.parametrize(
    ("offset", "words"), [(-1.5, "begins 1.500 s after"), (12.25, "ends 2.250 s before")]
)
def test_outside_the_samples_the_distance_is_told(car: TransformTree, offset: float, words: str):
    with pytest.raises(ExtrapolationError, match=f"'map' to 'odom' {words}"):
        car.lookup("map", "odom", START + int(offset * SECOND))


def test_a_long_gap_is_not_interpolated_across():
    tree = TransformTree(max_gap_ns=SECOND)
    tree.insert("map", "car", 0, moved(0.0))
    tree.insert("map", "car", 3 * SECOND, moved(3.0))
    assert tree.lookup("map", "car", 3 * SECOND).translation[0] == 3.0
    with pytest.raises(ExtrapolationError, match=r"gap of 3\.000 s"):
        tree.lookup("map", "car", SECOND)


def test_a_cycle_is_refused_and_the_tree_stays_usable(car: TransformTree):
    for insert in (car.insert_static, lambda p, c, t: car.insert(p, c, START, t)):
        with pytest.raises(DisconnectedFramesError, match="cycle"):
            insert("camera", "map", Transform())
        with pytest.raises(DisconnectedFramesError, match="cycle"):
            insert("map", "map", Transform())
    assert car.lookup("map", "base_link", START).translation[0] == 100.0


def test_a_child_that_changes_its_parent_starts_anew(car: TransformTree):
    car.insert("trailer", "base_link", START, moved(7.0))
    assert car.parent("base_link") == "trailer"
    assert car.lookup("trailer", "base_link", START).translation[0] == 7.0
    with pytest.raises(TransformError):
        car.lookup("odom", "base_link", START)


def test_a_clock_that_jumped_back_forgets_motion_but_not_mounting(car: TransformTree):
    car.clear()
    assert car.lookup("camera", "lidar", 0).translation[1] == pytest.approx(1.5)
    with pytest.raises(DisconnectedFramesError):
        car.lookup("odom", "base_link", START)


def test_one_thread_may_ask_while_another_feeds():
    """As in a node: /tf arrives in one thread, images are localized in another."""
    tree = TransformTree(buffer_ns=2_000)
    tree.insert("map", "car", 0, moved(0.0))
    fed = [0]

    def feed() -> None:
        for stamp in range(1, 30_000):
            tree.insert("map", "car", stamp, moved(float(stamp)))
            fed[0] = stamp

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    feeding = threading.Thread(target=feed)
    feeding.start()
    answers = 0
    try:
        while feeding.is_alive():
            for back in (0, 1, 500):
                stamp = max(0, fed[0] - back)
                with contextlib.suppress(ExtrapolationError):
                    assert tree.lookup("map", "car", stamp).translation[0] == stamp
                    answers += 1
    finally:
        sys.setswitchinterval(interval)
        feeding.join()
    assert answers > 100

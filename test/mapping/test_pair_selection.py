"""Pairs are the union of what retrieval, time, poses and rigs say: each pair once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.mapping import consistency
from kapture_ros.mapping.images import Camera, ImageTable
from kapture_ros.mapping.options import PairOptions
from kapture_ros.mapping.pairs import (
    choose_pairs,
    farther_than,
    near_pairs,
    read_pairs,
    retrieval_pairs,
    rig_pairs,
    sequence_pairs,
    union,
    write_pairs,
)
from kapture_ros.transforms.se3 import Transform


def row_of_images(count: int, cameras: int = 1) -> ImageTable:
    """Images a metre apart along x, all looking along y; `cameras` of them at an instant."""
    looking = Rotation.from_euler("x", -90, degrees=True)
    poses = []
    for k in range(count):
        pose = Transform(looking, np.array([k // cameras, 0.0, 0.0])).inverse()
        poses.append([*pose.quaternion, *pose.translation])
    names = [f"cam{c}" for c in range(cameras)]
    return ImageTable(
        names=tuple(f"{names[k % cameras]}/{k // cameras:04d}.jpg" for k in range(count)),
        cameras=tuple(Camera(n, "PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0)) for n in names),
        camera=(np.arange(count) % cameras).astype(np.int32),
        stamps=(np.arange(count) // cameras * 100_000_000).astype(np.int64),
        frames=(np.arange(count) // cameras).astype(np.int32),
        frame_rigs=("rig",) * -(-count // cameras),
        poses=np.array(poses),
        rigs={"rig": {name: Transform() for name in names}},
    )


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in pairs}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_a_union_is_sorted_symmetric_and_without_duplicates(found):
    pairs = np.array(found, np.int64).reshape(-1, 2)
    joined = union(pairs, pairs[:, ::-1], pairs)
    assert as_set(joined) == {(min(p), max(p)) for p in found if p[0] != p[1]}
    assert len(as_set(joined)) == len(joined)
    assert (joined[:, 0] < joined[:, 1]).all()
    assert joined.tolist() == sorted(joined.tolist())


@given(st.integers(2, 40), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_retrieval_gives_every_image_its_most_similar_ones(count, top_k, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    wanted = {
        tuple(sorted((row, int(other))))
        for row in range(count)
        for other in np.argsort(-scores[row])[: min(top_k, count - 1)]
    }
    assert as_set(retrieval_pairs(vectors, top_k)) == wanted


def test_retrieval_looks_beyond_the_pairs_known_already():
    angle = np.radians([0, 1, 2, 40])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    known = np.array([(0, 1), (1, 2), (0, 2)])
    assert as_set(retrieval_pairs(vectors, 1, apart_from=known)) == {(0, 3), (1, 3), (2, 3)}


def test_sequences_pair_neighbours_and_powers_of_two_of_each_camera():
    images = row_of_images(40, cameras=2)
    pairs = sequence_pairs(images, 3)
    assert (images.camera[pairs[:, 0]] == images.camera[pairs[:, 1]]).all()
    steps = {int(images.frames[j] - images.frames[i]) for i, j in pairs}
    assert steps == {1, 2, 3, 4, 8}
    assert len(sequence_pairs(images, 0)) == 0


def test_images_of_one_instant_are_all_paired():
    assert as_set(rig_pairs(row_of_images(6, cameras=3))) == {
        (0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5),
    }  # fmt: skip


def test_near_images_are_paired_if_they_look_the_same_way():
    images = row_of_images(6)
    directions = images.view_directions()
    assert directions[0] == pytest.approx([0.0, 1.0, 0.0])
    directions[3] = -directions[3]
    options = PairOptions(pose_top_k=10, pose_angle=60.0)
    near = near_pairs(images.centers(), directions, 1.5, options)
    assert as_set(near) == {(0, 1), (1, 2), (4, 5)}
    any_way = near_pairs(images.centers(), None, 1.5, options)
    assert as_set(any_way) == {(k, k + 1) for k in range(5)}


def test_unknown_positions_pair_with_nothing_and_contradict_nothing():
    positions = np.array([[0.0, 0, 0], [np.nan] * 3, [1.0, 0, 0], [500.0, 0, 0]])
    assert as_set(near_pairs(positions, None, 10.0, PairOptions())) == {(0, 2)}
    apart = farther_than(positions, np.array([(0, 1), (0, 2), (0, 3)]), 80.0)
    assert apart.tolist() == [False, False, True]


def test_alikes_that_gnss_puts_far_away_are_left_out():
    images = replace(row_of_images(4), poses=np.full((4, 7), np.nan))
    alike = np.eye(4)
    alike[3] = alike[0]
    positions = np.array([[0.0, 0, 0], [20.0, 0, 0], [40.0, 0, 0], [500.0, 0, 0]])
    options = PairOptions(retrieval_top_k=1, sequence_neighbours=0, gnss_distance=1.0)
    assert (0, 3) in as_set(choose_pairs(images, alike, None, options))
    assert (0, 3) not in as_set(choose_pairs(images, alike, positions, options))


def test_a_pairsfile_reads_back_and_names_kapture_images(tmp_path: Path):
    images = row_of_images(5)
    pairs = np.array([(0, 1), (1, 4)])
    write_pairs(tmp_path / "pairs.txt", images, pairs)
    text = (tmp_path / "pairs.txt").read_text()
    assert "cam0/0001.jpg, cam0/0004.jpg, 1\n" in text
    assert read_pairs(tmp_path / "pairs.txt", images).tolist() == pairs.tolist()
    (tmp_path / "pairs.txt").write_text("cam0/0000.jpg\n")
    with pytest.raises(InputError, match=r"pairs.txt, line 1"):
        read_pairs(tmp_path / "pairs.txt", images)


def test_neighbours_that_judge_the_poses_are_those_along_the_way():
    """Odometry that comes back to where it was, it says, need not be there."""
    images = row_of_images(200)
    poses = images.poses.copy()
    poses[100:, 4:] = poses[:100, 4:] + 0.1  # the second round, a little beside the first
    images = replace(images, poses=poses)
    pairs = np.stack(np.triu_indices(200, 1), axis=1).astype(np.int32)
    near = consistency._near_pairs(images, pairs)["cam0"]
    assert len(near)
    assert np.diff(pairs[near], axis=1).max() < 5

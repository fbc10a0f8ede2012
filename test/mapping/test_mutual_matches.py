"""Matches are mutual nearest neighbours, the same on CPU and GPU, kept as kapture keeps them."""

from __future__ import annotations

from pathlib import Path

import kapture.io.features
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.errors import InputError, OptionError
from kapture_ros.localization.matching import upload_padded
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.matching import (
    MatchStore,
    chosen_device,
    match_pairs,
    mutual_matches,
    mutual_matches_on_gpu,
    mutual_matches_with_each,
    padding,
    start_padded,
)
from kapture_ros.mapping.options import MatchOptions

SIZES = st.integers(0, 30)


def descriptors(count: int, seed: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, 8)))


@settings(max_examples=40)
@given(SIZES, SIZES, st.sampled_from([None, 0.9]), st.sampled_from([0.0, 0.5]))
def test_matches_are_each_others_nearest(n, m, ratio, least):
    first, second = descriptors(n, 1), descriptors(m, 2)
    matches, scores = mutual_matches(first, second, MatchOptions(ratio, least))
    similarity = first @ second.T
    wanted = []
    for i in range(n if m else 0):
        j = int(similarity[i].argmax())
        distance = np.sort(np.sqrt(np.maximum(2 - 2 * similarity[i], 0)))
        clear = ratio is None or m < 2 or distance[0] <= ratio * distance[1]
        if similarity[:, j].argmax() == i and similarity[i, j] >= least and clear:
            wanted.append((i, j))
    assert [tuple(pair) for pair in matches.tolist()] == wanted
    assert scores == pytest.approx([similarity[pair] for pair in wanted], abs=1e-6)


def test_the_product_for_a_gpu_finds_the_same_as_the_one_for_a_cpu():
    first, others = descriptors(60, 1), [descriptors(k, k) for k in (1, 40, 75)]
    for options in (MatchOptions(), MatchOptions(ratio=0.9), MatchOptions(min_similarity=0.6)):
        tensors = [torch.from_numpy(other) for other in others]
        found = mutual_matches_on_gpu(torch.from_numpy(first), tensors, options)
        for other, (matches, scores) in zip(others, found, strict=True):
            expected, similar = mutual_matches(first, other, options)
            assert matches.tolist() == expected.tolist()
            assert scores == pytest.approx(similar, abs=1e-6)


def test_half_precision_padded_as_for_a_gpu_finds_nearly_the_same():
    first, others = descriptors(60, 1), [descriptors(k, k).astype(np.float16) for k in (1, 40, 75)]
    padded = upload_padded(others, torch.device("cpu"), torch.float16)
    beyond = padding([len(other) for other in others], padded)
    half = torch.from_numpy(first).half()
    found = start_padded(half, padded, beyond, MatchOptions())().split(len(others))
    exact = mutual_matches_with_each(first, others, MatchOptions())
    for (matches, scores), (expected, similar) in zip(found, exact, strict=True):
        same = {tuple(pair) for pair in matches.tolist()} & {tuple(p) for p in expected.tolist()}
        assert len(same) >= 0.9 * max(len(matches), len(expected))
        assert np.sort(scores)[-5:] == pytest.approx(np.sort(similar)[-5:], abs=2e-3)


def test_all_cores_together_find_the_same_as_one():
    first, others = descriptors(700, 1), [descriptors(k, k) for k in (0, 1, 40, 75)]
    options = MatchOptions(ratio=0.9)
    for other, (matches, scores) in zip(
        others, mutual_matches_with_each(first, others, options), strict=True
    ):
        expected, similar = mutual_matches(first, other, options)
        assert matches.tolist() == expected.tolist()
        assert scores.tolist() == similar.tolist()


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(OptionError, match="use 'auto' or 'cpu'"):
        chosen_device(MatchOptions(device="cuda"))
    assert chosen_device(MatchOptions()).type == "cpu"


def test_matches_read_back_in_the_order_asked_for_and_by_kapture(tmp_path: Path):
    store = MatchStore(tmp_path, "r2d2")
    matches, scores = np.array([(3, 7), (5, 1)], np.int32), np.array([0.9, 0.8], np.float32)
    store.write("b/2.jpg", "a/1.jpg", matches, scores)
    assert store.read("b/2.jpg", "a/1.jpg")[0].tolist() == [[3, 7], [5, 1]]
    assert store.read("a/1.jpg", "b/2.jpg")[0].tolist() == [[7, 3], [1, 5]]
    path = kapture.io.features.get_matches_fullpath(("a/1.jpg", "b/2.jpg"), "r2d2", str(tmp_path))
    values = kapture.io.features.image_matches_from_file(path)
    assert values[:, :2].tolist() == [[7, 3], [1, 5]]


def test_damaged_and_missing_matches_say_what_to_do(tmp_path: Path):
    store = MatchStore(tmp_path, "r2d2")
    with pytest.raises(InputError, match="were not matched"):
        store.read("a.jpg", "b.jpg")
    store.write("a.jpg", "b.jpg", np.array([(3, 7)], np.int32), np.ones(1, np.float32))
    path = store.path("a.jpg", "b.jpg")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="delete it and map again"):
        store.read("a.jpg", "b.jpg")


def test_matching_goes_on_where_it_was_interrupted(tmp_path: Path, street):
    images = read_images(street.path)
    folder = FeatureFolder.in_dataset(street.path, "descriptors", "fake")
    store = MatchStore(tmp_path, "fake")
    pairs = np.array([(0, 1), (0, 2), (1, 2)])
    assert match_pairs(images, pairs[:2], folder, store, MatchOptions()) == 2
    assert match_pairs(images, pairs, folder, store, MatchOptions()) == 1
    assert match_pairs(images, pairs, folder, store, MatchOptions()) == 0

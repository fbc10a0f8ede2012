"""Nearest neighbours found by 8-bit products are those of single precision, of anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.mapping import matching
from kapture_ros.mapping.feature_files import unit_rows
from kapture_ros.mapping.matching import mutual_matches_with_each, search_by_floats
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.workers import Workspace

if matching.eight_bit_search() is None:
    pytest.skip("single precision is used on this machine", allow_module_level=True)

from kapture_ros.mapping.eight_bit import Rounded, largest_number, multiply, search_among

KINDS = ("random", "clustered", "sparse", "alike", "equal", "zero")
COUNTS = st.integers(1, 90)
WIDTHS = st.sampled_from((2, 3, 8, 64, 127, 128))


def described(kind: str, count: int, width: int, seed: int) -> np.ndarray:
    """Unit descriptors; networks make those that are `clustered` and `sparse`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, width))
    if kind == "clustered":  # some places of the image look much alike
        values = (
            0.3 * values
            + np.random.default_rng(0).normal(size=(5, width))[rng.integers(5, size=count)]
        )
    elif kind == "sparse":
        values *= rng.random(values.shape) ** 4
    elif kind == "alike":
        values = 1e-3 * values + 1
    elif kind == "equal":
        values[:] = values[0]
    elif kind == "zero":
        return np.zeros((count, width), np.float32)
    return unit_rows(values)


def assert_nearest(first: np.ndarray, second: np.ndarray, scratch: Workspace) -> None:
    """That what is found is as similar as what single precision finds: the same but for ties."""
    nearest, best, best_of_second = search_among(first)(second, scratch)
    _, wanted, wanted_of_second, _ = search_by_floats(first, second, MatchOptions(), Workspace())
    similarity = first @ second.T
    assert best == pytest.approx(wanted, abs=1e-6)
    assert similarity[np.arange(len(first)), nearest] == pytest.approx(wanted, abs=1e-6)
    assert best_of_second == pytest.approx(wanted_of_second, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), COUNTS, COUNTS, WIDTHS, st.integers(0, 99))
def test_the_nearest_are_those_of_single_precision(kind, other_kind, n, m, width, seed):
    first, second = described(kind, n, width, seed), described(other_kind, m, width, seed + 1)
    assert_nearest(first, second, Workspace())


def test_of_many_descriptors_the_matches_are_the_same_pairs():
    """Rows that are copies with noise, so that a third has a nearest neighbour that stands out."""
    first = described("sparse", 1500, 128, 0)
    noise = np.random.default_rng(1).normal(0, 0.03, (500, 128))
    second = np.concatenate([unit_rows(first[:500] + noise), described("sparse", 400, 128, 2)])
    scratch = Workspace()
    nearest, best, best_of_second = search_among(first)(second, scratch)
    wanted = search_by_floats(first, second, MatchOptions(), Workspace())
    assert nearest.tolist() == wanted[0].tolist()
    mutual = best >= best_of_second[nearest]
    assert mutual.tolist() == (wanted[1] >= wanted[2][wanted[0]]).tolist()
    assert np.count_nonzero(mutual[:500]) > 450


def test_of_equals_the_first_is_the_nearest():
    second = np.repeat(described("random", 20, 16, 0), 3, axis=0)
    nearest, _, _ = search_among(second)(second, Workspace())
    assert nearest.tolist() == np.repeat(np.arange(0, 60, 3), 3).tolist()


def test_memory_may_be_used_again_for_fewer_and_for_more():
    scratch = Workspace()
    for seed, (n, m) in enumerate([(60, 90), (9, 5), (80, 31), (2, 200)]):
        first, second = described("random", n, 64, seed), described("random", m, 64, seed + 9)
        assert_nearest(first, second, scratch)


def test_a_map_in_half_precision_that_cannot_be_written_to():
    first = described("clustered", 300, 128, 0)
    halves = [described("clustered", count, 128, count).astype(np.float16) for count in (1, 250)]
    exact = [half.astype(np.float32) for half in halves]
    for array in (first, *halves, *exact):
        array.flags.writeable = False
    wanted = mutual_matches_with_each(first, exact, MatchOptions(min_similarity=0.5))
    found = mutual_matches_with_each(first, halves, MatchOptions(min_similarity=0.5))
    for (pairs, similar), (wanted_pairs, wanted_similar) in zip(found, wanted, strict=True):
        assert pairs.tolist() == wanted_pairs.tolist()
        assert similar.tolist() == wanted_similar.tolist()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), COUNTS, WIDTHS)
def test_products_are_as_close_to_similarities_as_is_said(kind, other_kind, count, width):
    first, second = described(kind, count, width, 1), described(other_kind, count + 7, width, 2)
    one, other = (Rounded.of(values, Workspace()) for values in (first, second))
    products = np.empty((len(first), len(second)), np.int32)
    multiply(one.whole, other.whole, products)
    for rounded in (one, other):
        difference = rounded.exact - rounded.step * rounded.whole.astype(float)
        assert np.linalg.norm(difference, axis=1).max() <= rounded.error + 1e-6
        assert np.linalg.norm(rounded.exact, axis=1).max() <= rounded.length + 1e-6
    bound = one.error * (other.length + other.error) + one.length * other.error
    coarse = one.step * other.step * products
    assert np.abs(coarse - first.astype(float) @ second.T).max() <= bound + 1e-6


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_the_largest_numbers_do_not_overflow(signs):
    whole = np.full((40, 128), largest_number(), np.int8)
    products = np.empty((40, 40), np.int32)
    multiply(signs[0] * whole, signs[1] * whole, products)
    assert (products == signs[0] * signs[1] * 128 * largest_number() ** 2).all()


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_older_processors_find_the_same(instructions):
    """They add products in 16 bits, which numbers of up to 127 would overflow."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, __file__], env=environment, check=True, timeout=300)


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("compiled", "mapping.eight_bit"):
        monkeypatch.delitem(sys.modules, f"kapture_ros.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises ImportError
    matching.eight_bit_search.cache_clear()
    yield
    matching.eight_bit_search.cache_clear()


def test_without_numba_single_precision_finds_the_same(no_numba, monkeypatch):
    first, second = described("random", 300, 128, 0), described("random", 200, 128, 1)
    found = mutual_matches_with_each(first, [second], MatchOptions())[0]
    assert matching.eight_bit_search() is None
    monkeypatch.undo()
    matching.eight_bit_search.cache_clear()
    wanted = mutual_matches_with_each(first, [second], MatchOptions())[0]
    assert matching.eight_bit_search() is not None
    assert found[0].tolist() == wanted[0].tolist()
    assert found[1] == pytest.approx(wanted[1], abs=1e-6)


if __name__ == "__main__":  # by `test_older_processors_find_the_same`
    torch.set_num_threads(1)
    for seed in range(3):
        for kind in KINDS:
            first, second = described(kind, 200, 128, seed), described(kind, 150, 128, seed + 1)
            assert_nearest(first, second, Workspace())
    test_the_largest_numbers_do_not_overflow((1, 1))

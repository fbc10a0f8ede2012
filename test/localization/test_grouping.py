"""Groups found by a table are those that sorting finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.localization.grouping import count_distinct, first_of_each, ranks

KEYS = st.lists(st.integers(0, 20)).map(lambda keys: np.array(keys, np.int64))


@given(KEYS)
def test_the_first_of_each_key_in_order(keys) -> None:
    wanted = np.sort(np.unique(keys, return_index=True)[1])
    assert first_of_each(keys).tolist() == wanted.tolist()


@given(KEYS)
def test_keys_are_counted_once(keys) -> None:
    assert count_distinct(keys) == len(np.unique(keys))


@given(KEYS)
def test_keys_are_ranked_among_the_different_ones(keys) -> None:
    assert ranks(keys).tolist() == np.unique(keys, return_inverse=True)[1].tolist()

"""Groups among whole numbers, by marking places in a table instead of sorting or hashing.

For keys that are dense, as those of `refinement.Matches` are; `numpy.unique` takes ten times
as long.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def first_of_each(keys: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.intp]:
    """Where each key (N,), a small whole number, comes first: ascending places."""
    first = np.full(int(keys.max(initial=-1)) + 1, -1)
    # Of several values for one place the last is kept.
    first[keys[::-1]] = np.arange(len(keys) - 1, -1, -1)
    return np.sort(first[first >= 0])


def ranks(keys: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.intp]:
    """Of each key (N,), how many different ones are smaller."""
    return np.asarray(np.cumsum(np.bincount(keys) > 0)[keys] - 1)


def count_distinct(keys: npt.NDArray[np.signedinteger]) -> int:
    """How many different keys (N,), small whole numbers, there are."""
    return int(np.count_nonzero(np.bincount(keys)))

"""Nearest neighbours of descriptors on a CPU, found by 8-bit products and exact all the same.

A processor with instructions for it makes four times as many products of whole numbers as of
floats. How far such a product can be from the similarity is known, so it tells which pairs
may be the most similar ones of their row or their column: a few of a thousand. These are
compared by the descriptors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from kapture_ros.compiled import compiled
from kapture_ros.workers import Workspace

Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Rounded:
    """Descriptors of n keypoints, as they are and in whole numbers.

    Attributes:
        exact: (n, D)
        whole: (n, D); exact ≈ step · whole.
        error: length of the longest difference between a descriptor and what it became.
        length: that of the longest descriptor.
    """

    exact: Floats
    whole: Int8s
    step: float
    error: float
    length: float

    @classmethod
    def of(cls, exact: Floats, scratch: Workspace) -> Rounded:
        """Round descriptors of any length, into memory of `scratch`."""
        exact = np.require(exact, np.float32, ("C", "W"))
        whole = scratch.take("whole", *exact.shape, dtype=np.int8)
        step = max(exact.max(), -exact.min(), np.float32(1e-20)) / np.float32(largest_number())
        return cls(exact, whole, float(step), *_round(exact, step, whole))


def search_among(
    first: Floats,
) -> Callable[[Floats, Workspace], tuple[Int64s, Floats, Floats]]:
    """What finds the nearest neighbours of descriptors (n, D), D > 1, among others (m, D).

    Returns:
        A function of the others and of memory to use. It gives what single precision gives: the
        nearest of each of the first (n,), its similarity (n,), and that of the nearest of each
        of the second (m,).
    """
    rounded = Rounded.of(first, Workspace())
    return lambda second, scratch: _nearest(rounded, Rounded.of(second, scratch), scratch)


def _nearest(first: Rounded, second: Rounded, scratch: Workspace) -> tuple[Int64s, Floats, Floats]:
    products = scratch.take("products", len(first.whole), len(second.whole), dtype=np.int32)
    multiply(first.whole, second.whole, products)
    # |a·b - â·b̂| <= |a - â| |b̂| + |a| |b - b̂|; a thousandth more for the rounding of floats.
    bound = first.error * (second.length + second.error) + first.length * second.error
    margin = math.ceil(1.001 * 2 * bound / (first.step * second.step)) + 1
    rows, columns = (np.empty(count, np.int32) for count in products.shape)
    _largest(products, rows, columns)
    nearest = np.zeros(len(rows), np.int64)
    best, best_of_second = (np.full(count, -np.inf, np.float32) for count in products.shape)
    rows -= margin
    columns -= margin
    _compare(products, rows, columns, first.exact, second.exact, nearest, best, best_of_second)
    return nearest, best, best_of_second


def multiply(first: Int8s, second: Int8s, products: Int32s) -> None:
    """Write the products (n, m) of whole numbers of up to `largest_number`, (n, D) and (m, D).

    Raises:
        RuntimeError: if this PyTorch cannot do it.
    """
    # Not a public function, but the only one that gives sums of 32 bits.
    torch._int_mm(
        torch.from_numpy(first), torch.from_numpy(second).T, out=torch.from_numpy(products)
    )


@cache
def largest_number() -> int:
    """What the largest component becomes: the largest number of which products are right here.

    Without VNNI instructions oneDNN adds 128 to one of the factors and then pairs of products
    in 16 bits, which 2 · 79 · (128 + 79) fits.
    """
    extreme, products = np.full((2, 64), 127, np.int8), np.empty((2, 2), np.int32)
    multiply(extreme, extreme, products)
    return 127 if (products == 64 * 127**2).all() else 79


@compiled("UniTuple(f8, 2)(f4[:,::1], f4, i1[:,::1])", fastmath={"reassoc", "contract"})
def _round(exact: Floats, step: float, whole: Int8s) -> tuple[float, float]:
    """Write multiples of the step; returns the longest difference and the longest row."""
    error = length = np.float32(0)
    for i in range(len(exact)):
        values, numbers = exact[i], whole[i]
        squares = differences = np.float32(0)
        for c in range(len(values)):
            number = np.rint(values[c] / step)
            numbers[c] = np.int8(number)
            difference = values[c] - number * step
            differences += difference * difference
            squares += values[c] * values[c]
        error = max(error, differences)
        length = max(length, squares)
    return math.sqrt(error), math.sqrt(length)


@compiled("void(i4[:,::1], i4[::1], i4[::1])")
def _largest(products: Int32s, rows: Int32s, columns: Int32s) -> None:
    """Write the largest product of each row and of each column."""
    columns[:] = products[0]
    for i in range(len(products)):
        row = products[i]
        largest = row[0]
        for j in range(len(row)):
            largest = max(largest, row[j])
            columns[j] = max(columns[j], row[j])
        rows[i] = largest


@compiled(
    "void(i4[:,::1], i4[::1], i4[::1], f4[:,::1], f4[:,::1], i8[::1], f4[::1], f4[::1])",
    fastmath={"reassoc", "contract"},
)
def _compare(
    products: Int32s,
    rows: Int32s,
    columns: Int32s,
    first: Floats,
    second: Floats,
    nearest: Int64s,
    best: Floats,
    best_of_second: Floats,
) -> None:
    """The similarity of all pairs whose product reaches the limit of its row or its column.

    Args:
        products: (n, m)
        rows, columns: (n,) and (m,), the limits.
        first, second: descriptors (n, D) and (m, D).
        nearest, best, best_of_second: (n,), (n,), (m,): written where pairs are compared.
    """
    count = len(columns)
    near = np.zeros(-(-count // 8) * 8, np.bool_)
    of_eight = near.view(np.int64)  # most often none of eight: looked at as one number
    chosen = np.empty(count, np.int64)
    for i in range(len(products)):
        row = products[i]
        for j in range(count):
            near[j] = row[j] >= min(rows[i], columns[j])
        found = 0
        for eight in range(len(of_eight)):
            if of_eight[eight]:
                for j in range(8 * eight, 8 * eight + 8):
                    if near[j]:
                        chosen[found] = j
                        found += 1
        for j in chosen[:found]:
            one, other = first[i], second[j]
            similarity = np.float32(0)
            for c in range(len(one)):
                similarity += one[c] * other[c]
            if similarity > best[i]:
                best[i] = similarity
                nearest[i] = j
            best_of_second[j] = max(best_of_second[j], similarity)

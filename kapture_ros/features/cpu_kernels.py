"""What R2D2 does on a CPU besides matrix products, as machine code that numba compiles.

Most of it is Winograd's tiles into points and back. A tile is 6 × 6 pixels, each a vector of
channels, that lie `dilation` apart. Its 36 points are what a 3×3 convolution multiplies to
give 4 × 4 pixels, and a 2×2 one to give 5 × 5 (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016). Their interpolation points are 0, ±√½, ±√2 and
infinity: the rounding error is then 2 to 3 times that of a direct convolution, where whole
numbers would make it 4 to 7 times.

The transforms are written out as instructions on vectors of channels. As loops they would
stay scalar, since the compiler cannot know that the many places of a tile do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from kapture_ros.compiled import compiled

SIDE = 6
"""Pixels a tile, and points, in each direction."""
LANES = 8
"""Channels that are worked on at once; maps have a multiple of it."""
_PAIRS = ((1, 2), (3, 4))
_FINITE = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))  # pairs differ in sign


def weight_matrix(kernel: int) -> NDArray[np.float64]:
    """(6, kernel): from taps to points, in one direction."""
    rows = []
    for point in _FINITE:
        scale = np.prod([point - other for other in _FINITE if other != point])
        rows.append([point**power / scale for power in range(kernel)])
    return np.array([*rows, [0.0] * (kernel - 1) + [1.0]])


def _input_matrix() -> NDArray[np.float64]:
    """(6, 6): from pixels to points; the polynomials that vanish at all other points."""
    rows = []
    for point in _FINITE:
        others = [other for other in _FINITE if other != point]
        rows.append([*polynomial.polyfromroots(others), 0.0])
    return np.array([*rows, polynomial.polyfromroots(_FINITE)])


def _output_matrix(outputs: int) -> NDArray[np.float64]:
    """(outputs, 6): from points to pixels."""
    powers = [[point**power for point in _FINITE] for power in range(outputs)]
    at_infinity = [[0.0]] * (outputs - 1) + [[1.0]]
    return np.hstack([powers, at_infinity])


class _Vectors:
    """Instructions on vectors of channels, appended to a function in the making."""

    kind = ir.VectorType(ir.FloatType(), LANES)

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def place(self, array: Any, start: Any, *steps: tuple[Any, int]) -> Any:
        """The address of element start + Σ step · count."""
        for step, count in steps:
            offset = self._builder.mul(step, ir.Constant(step.type, count))
            start = self._builder.add(start, offset)
        pointer = self._builder.gep(array, [start])
        return self._builder.bitcast(pointer, self.kind.as_pointer())

    def load(self, *place: Any) -> Any:
        return self._builder.load(self.place(*place), align=4)

    def store(self, value: Any, *place: Any) -> None:
        self._builder.store(value, self.place(*place), align=4)

    def combine(self, factors: Sequence[float], values: Sequence[Any]) -> Any:
        """Σ factor · value."""
        total = None
        for factor, value in zip(factors, values, strict=True):
            if factor == 0:
                continue
            if factor != 1:
                value = self._builder.fmul(self._constant(factor), value, ("contract",))
            total = value if total is None else self._builder.fadd(total, value, ("contract",))
        return total

    def at_least(self, value: Any, least: Any) -> Any:
        """The maximum of every channel and a scalar."""
        undefined = ir.Constant(self.kind, ir.Undefined)
        first = self._builder.insert_element(undefined, least, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        spread = self._builder.shuffle_vector(first, undefined, lanes)
        return self._builder.select(self._builder.fcmp_ordered(">", value, spread), value, spread)

    def _constant(self, value: float) -> Any:
        return ir.Constant(self.kind, [float(np.float32(value))] * LANES)


def _to_points(vectors: _Vectors, pixels: Sequence[Any]) -> list[Any]:
    """Six pixels in a row to six points; a pair shares its even and its odd part."""
    matrix = _input_matrix()
    points = [vectors.combine(row, pixels) if index in (0, 5) else None
              for index, row in enumerate(matrix)]  # fmt: skip
    for plus, minus in _PAIRS:
        even = vectors.combine((matrix[plus] + matrix[minus]) / 2, pixels)
        odd = vectors.combine((matrix[plus] - matrix[minus]) / 2, pixels)
        points[plus] = vectors.combine((1, 1), (even, odd))
        points[minus] = vectors.combine((1, -1), (even, odd))
    return points


def _to_pixels(vectors: _Vectors, points: Sequence[Any], outputs: int) -> list[Any]:
    """Six points in a row to pixels; even powers look at sums of pairs, odd at differences."""
    pairs = [[points[plus], points[minus]] for plus, minus in _PAIRS]
    sums = [vectors.combine((1, 1), pair) for pair in pairs]
    differences = [vectors.combine((1, -1), pair) for pair in pairs]
    return [
        vectors.combine(
            row[[0, 1, 3, 5]],
            [points[0], *(differences if power % 2 else sums), points[5]],
        )
        for power, row in enumerate(_output_matrix(outputs))
    ]


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


@intrinsic
def _tile_to_points(  # type: ignore[no-untyped-def]
    _typing, source, start, row, column, points, first, step
):
    """One vector of channels of a tile of `source` to all 36 points."""
    integer = types.int64
    signature = types.void(source, integer, integer, integer, points, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(builder)
        pixels = _data(context, builder, signature.args[0], args[0])
        target = _data(context, builder, signature.args[4], args[4])
        across = range(SIDE)
        columns = [
            _to_points(
                vectors,
                [vectors.load(pixels, args[1], (args[2], y), (args[3], x)) for y in across],
            )
            for x in across
        ]
        for y in across:
            for x, value in enumerate(_to_points(vectors, [columns[x][y] for x in across])):
                vectors.store(value, target, args[5], (args[6], SIDE * y + x))
        return context.get_dummy_value()

    return signature, generate


def _tile_to_pixels(outputs: int) -> Any:
    """The intrinsic for tiles that give outputs × outputs pixels."""

    @intrinsic
    def transform(  # type: ignore[no-untyped-def]
        _typing, points, first, step, bias, channel, least, target, start, row, column
    ):
        integer = types.int64
        signature = types.void(
            points, integer, integer, bias, integer, types.float32, target, integer, integer,
            integer,
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vectors = _Vectors(builder)
            source, shift, pixels = (
                _data(context, builder, signature.args[index], args[index]) for index in (0, 3, 6)
            )
            added = vectors.load(shift, args[4])
            across = range(SIDE)
            rows = [
                _to_pixels(
                    vectors,
                    [vectors.load(source, args[1], (args[2], SIDE * y + x)) for x in across],
                    outputs,
                )
                for y in across
            ]
            for x in range(outputs):
                values = _to_pixels(vectors, [rows[y][x] for y in across], outputs)
                for y, value in enumerate(values):
                    biased = vectors.combine((1, 1), (value, added))
                    biased = vectors.at_least(biased, args[5])
                    vectors.store(biased, pixels, args[7], (args[8], y), (args[9], x))
            return context.get_dummy_value()

        return signature, generate

    return transform


_tile_to_4 = _tile_to_pixels(4)
_tile_to_5 = _tile_to_pixels(5)


@compiled("void(f4[:,:,::1], i8[:,::1], i8, f4[:,:,::1], f4[:,:,::1])")
def tiles_to_points(
    source: NDArray[np.float32],
    corners: NDArray[np.int64],
    dilation: int,
    points: NDArray[np.float32],
    patch: NDArray[np.float32],
) -> None:
    """Transform tiles of a map; what lies outside of it is zero.

    Args:
        source: (H, W, C)
        corners: (n, 2), row and column of each tile's first pixel.
        points: (36, at least n, C), written.
        patch: (6, 6, C), scratch.
    """
    height, width, channels = source.shape
    flat, flat_points, flat_patch = source.ravel(), points.ravel(), patch.ravel()
    step = points.shape[1] * channels
    row, column = dilation * width * channels, dilation * channels
    reach = (SIDE - 1) * dilation
    for tile in range(len(corners)):
        top, left = corners[tile, 0], corners[tile, 1]
        first = tile * channels
        if 0 <= top < height - reach and 0 <= left < width - reach:
            start = (top * width + left) * channels
            for c in range(0, channels, LANES):
                _tile_to_points(flat, start + c, row, column, flat_points, first + c, step)
            continue
        for y in range(SIDE):
            for x in range(SIDE):
                down, right = top + y * dilation, left + x * dilation
                inside = 0 <= down < height and 0 <= right < width
                for c in range(channels):
                    patch[y, x, c] = source[down, right, c] if inside else np.float32(0)
        for c in range(0, channels, LANES):
            _tile_to_points(flat_patch, c, SIDE * channels, channels, flat_points, first + c, step)


@compiled("void(f4[:,:,::1], f4[::1], b1, i8[:,::1], i8, f4[:,:,::1], f4[:,:,::1])")
def points_to_tiles(
    products: NDArray[np.float32],
    bias: NDArray[np.float32],
    relu: bool,
    corners: NDArray[np.int64],
    dilation: int,
    target: NDArray[np.float32],
    patch: NDArray[np.float32],
) -> None:
    """Transform back and write what lies inside the map.

    Args:
        products: (36, at least n, C)
        bias: (C,)
        relu: negative results become 0.
        corners: (n, 2), row and column of the first pixel that each tile gives.
        target: (H, W, C), written.
        patch: (m, m, C), scratch; a tile gives m × m pixels, m = 4 or 5.
    """
    height, width, channels = target.shape
    flat, flat_products, flat_patch = target.ravel(), products.ravel(), patch.ravel()
    step = products.shape[1] * channels
    outputs = len(patch)
    reach = (outputs - 1) * dilation
    least = np.float32(0 if relu else -np.inf)
    for tile in range(len(corners)):
        top, left = corners[tile, 0], corners[tile, 1]
        first = tile * channels
        inside = top < height - reach and left < width - reach
        place, start = flat, (top * width + left) * channels
        row, column = dilation * width * channels, dilation * channels
        if not inside:
            place, start, row, column = flat_patch, 0, outputs * channels, channels
        for c in range(0, channels, LANES):
            if outputs == 4:
                _tile_to_4(
                    flat_products, first + c, step, bias, c, least, place, start + c, row, column
                )
            else:
                _tile_to_5(
                    flat_products, first + c, step, bias, c, least, place, start + c, row, column
                )
        if not inside:
            for y in range(top, min(height, top + reach + 1), dilation):
                for x in range(left, min(width, left + reach + 1), dilation):
                    for c in range(channels):
                        target[y, x, c] = patch[(y - top) // dilation, (x - left) // dilation, c]


@compiled("void(f4[:,::1], f4[:,::1], f4[:,::1])", fastmath={"reassoc", "contract"})
def products_with_squares(
    features: NDArray[np.float32], weight: NDArray[np.float32], products: NDArray[np.float32]
) -> None:
    """What linear heads say about squared features, in one go through them.

    Args:
        features: (n, D)
        weight: (3, D)
        products: (n, 3), written.
    """
    for row in range(len(features)):
        first = second = third = np.float32(0)
        for c in range(features.shape[1]):
            square = features[row, c] * features[row, c]
            first += square * weight[0, c]
            second += square * weight[1, c]
            third += square * weight[2, c]
        products[row, 0] = first
        products[row, 1] = second
        products[row, 2] = third

"""Dilated 3×3 and 2×2 convolutions on the CPU with 1.5 times fewer multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: minimal
filtering F(2, 3), and F(3, 2), which shares its input transform, along y. Four input rows
give two (three) output rows; with dilation d they are d rows apart. Along x the taps are
matrix products of shifted rows, since transforming both ways moves more memory than it
saves arithmetic. The image is worked through in bands that stay in the cache, by one
thread each; buffers are kept, since allocating them costs as much as computing.
The additions are exact enough for float32 only.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

_Band = TypeVar("_Band")

_POINTS = 4
# Rows of the input transform: each is the sum or difference of two of the four inputs.
_INPUT_ROWS = ((torch.sub, 0, 2), (torch.add, 1, 2), (torch.sub, 2, 1), (torch.sub, 3, 1))
_WEIGHT_TRANSFORM = {
    3: ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)),
    2: ((1.0, 0.0), (0.5, 0.5), (0.5, -0.5), (0.0, 1.0)),
}
_BIAS_POINT = 1  # enters every output once
_BAND_BYTES = 3 << 20


class Workspace:
    """Buffers by name that grow to the largest size asked for and are then reused."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor with unspecified content, valid until the name is taken again."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size)
        return buffer[:size].view(shape)


class BandWorkers:
    """Threads that work on bands, each on one core and with scratch memory of its own.

    Splitting each of the many small operations of a band over all cores instead would make
    the cores wait for each other, without end when something else runs on one of them.
    """

    def __init__(self) -> None:
        count = torch.get_num_threads()
        self._scratch = threading.local()
        # Nothing of the threads refers to the pool: forgotten, it ends them.
        self._pool = ThreadPoolExecutor(count, "bands", _begin, (self._scratch,))
        started = threading.Barrier(count)
        list(self._pool.map(lambda _: started.wait(), range(count)))
        torch.set_num_threads(count)  # what _begin set also became the default of new threads

    def run(self, work: Callable[[Workspace, _Band], None], bands: Iterable[_Band]) -> None:
        """Call `work(scratch, band)` for every band; returns when all are done."""
        list(self._pool.map(lambda band: work(self._scratch.workspace, band), bands))


def _begin(scratch: threading.local) -> None:
    """A thread of `BandWorkers` starts."""
    torch.set_num_threads(1)
    scratch.workspace = Workspace()


@dataclass(frozen=True, slots=True)
class PaddedMap:
    """A feature map inside a larger buffer.

    Attributes:
        buffer: (rows, columns, channels); the map starts at [pad, pad].
    """

    buffer: Tensor
    pad: int
    height: int
    width: int

    @property
    def map(self) -> Tensor:
        """The map itself, (height, width, channels)."""
        rows = slice(self.pad, self.pad + self.height)
        return self.buffer[rows, self.pad : self.pad + self.width]

    def clear_margins(self) -> None:
        """Set everything around the map to zero."""
        bottom, right = self.pad + self.height, self.pad + self.width
        self.buffer[: self.pad].zero_()
        self.buffer[bottom:].zero_()
        self.buffer[:, : self.pad].zero_()
        self.buffer[:, right:].zero_()


class DirectConv:
    """What WinogradConv does, as it comes: for few channels."""

    def __init__(self, weight: Tensor, bias: Tensor, *, dilation: int, relu: bool) -> None:
        """Keep the weight (Cout, Cin, k, k)."""
        self.out_channels, self.in_channels, kernel, _ = weight.shape
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = bias
        self._relu = relu
        self._dilation = dilation
        self.padding = (kernel - 1) * dilation // 2
        self._reach = (kernel - 1) * dilation

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are written."""
        return height, width

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are read, from the buffer's corner."""
        return height + self._reach, width + self._reach

    def __call__(self, source: PaddedMap, target: PaddedMap, workers: BandWorkers) -> None:
        """Convolve `source`, whose padding is this layer's and zero, into `target`."""
        rows = max(1, _BAND_BYTES // (4 * source.width * self.out_channels))

        def convolve(_scratch: Workspace, top: int) -> None:
            bottom = min(top + rows, source.height)
            band = source.buffer[top : bottom + self._reach, : source.width + self._reach]
            result = nn.functional.conv2d(
                band.permute(2, 0, 1)[None], self._weight, self._bias, dilation=self._dilation
            )[0].permute(1, 2, 0)
            output = target.map[top:bottom]
            if self._relu:
                torch.clamp(result, min=0, out=output)
            else:
                output.copy_(result)

        workers.run(convolve, range(0, source.height, rows))


class WinogradConv:
    """One convolution of stride 1 that keeps the size, with bias, with or without ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor, *, dilation: int, relu: bool) -> None:
        """Transform the weight (Cout, Cin, k, k), k = 2 or 3; 2 needs an even dilation."""
        self.out_channels, self.in_channels, kernel, _ = weight.shape
        transform = torch.tensor(_WEIGHT_TRANSFORM[kernel], dtype=torch.float64)
        # (k, 4, Cin, Cout): taps along x, points along y
        self._weight = torch.einsum("pj,ocjx->xpco", transform, weight.double()).float()
        self._bias = bias
        self._relu = relu
        self._dilation = dilation
        self._outputs = _POINTS + 1 - kernel
        self._reach = (kernel - 1) * dilation
        self.padding = self._reach // 2

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are written: whole groups of rows."""
        step = self._outputs * self._dilation
        return -(-height // step) * step, width

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are read, from the buffer's corner."""
        return self.output_size(height, width)[0] + self._reach, width + self._reach

    def __call__(self, source: PaddedMap, target: PaddedMap, workers: BandWorkers) -> None:
        """Convolve `source`, whose padding is this layer's and zero, into `target`.

        Rows below the target's map are overwritten with what whole groups give.
        """
        d, step = self._dilation, self._outputs * self._dilation
        width = source.width + self._reach
        row_bytes = 4 * _POINTS * width * max(self.in_channels, self.out_channels)
        rows = max(1, _BAND_BYTES // row_bytes)
        groups, phases = max(1, rows // d), min(rows, d)
        end = self.output_size(source.height, source.width)[0]

        def convolve(scratch: Workspace, start: tuple[int, int]) -> None:
            top, phase = start
            band = (min(groups, (end - top) // step), min(phases, d - phase))
            points = self._transform_input(source.buffer[top + phase :], (*band, width), scratch)
            products = self._multiply(points, scratch).view(_POINTS, *band, width, -1)
            output = target.buffer[target.pad + top + phase :, target.pad :]
            self._transform_output(products[:, :, :, : source.width], output)

        workers.run(convolve, itertools.product(range(0, end, groups * step), range(0, d, phases)))

    def _transform_input(
        self, rows: Tensor, shape: tuple[int, int, int], scratch: Workspace
    ) -> Tensor:
        """(4, groups · phases · width, Cin): the points of rows that lie d apart."""
        d, (row, column, _) = self._dilation, rows.stride()
        size, stride = (*shape, self.in_channels), (self._outputs * d * row, row, column, 1)
        inputs = [rows[d * point :].as_strided(size, stride) for point in range(_POINTS)]
        points = scratch.take("points", _POINTS, *size)
        for out, (combine, a, b) in zip(points, _INPUT_ROWS, strict=True):
            combine(inputs[a], inputs[b], out=out)
        return points.view(_POINTS, -1, self.in_channels)

    def _multiply(self, points: Tensor, scratch: Workspace) -> Tensor:
        """(4, …, Cout): for every point, the sum over the taps along x.

        A tap looks at all pixels shifted as one list; what crosses from one row into the
        next lands in the padding of the columns.
        """
        products = scratch.take("products", *points.shape[:2], self.out_channels)
        count = points.shape[1] - self._reach
        target = products[:, :count]
        for tap, weight in enumerate(self._weight):
            shifted = points[:, tap * self._dilation :][:, :count]
            if tap == 0:
                torch.bmm(shifted, weight, out=target)
            else:
                target.baddbmm_(shifted, weight)
        products[_BIAS_POINT].add_(self._bias)
        return products

    def _transform_output(self, products: Tensor, output: Tensor) -> None:
        """p1 ± p2, plus p0 for the first and p3 for the last of the rows that lie d apart."""
        d, (row, column, _) = self._dilation, output.stride()
        stride = (self._outputs * d * row, row, column, 1)
        first, plus, minus, last = products
        rows = [
            output[d * index :].as_strided(plus.shape, stride) for index in range(self._outputs)
        ]
        for index, out in enumerate(rows):
            combine = torch.sub if index % 2 else torch.add
            combine(plus, minus, out=out)
        rows[0].add_(first)
        rows[-1].add_(last)
        if self._relu:
            for out in rows:
                out.clamp_(min=0)

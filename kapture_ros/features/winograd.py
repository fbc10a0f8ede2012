"""Dilated 3×3 and 2×2 convolutions on the CPU with 2.25 times fewer multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: minimal
filtering F(2×2, 3×3), and F(3×3, 2×2), which shares its input transform. Four inputs give
two (three) outputs along each axis. With dilation d, the inputs of a tile are d pixels
apart, so d tiles interleave along each axis. The image is worked through in bands that
stay in the cache, by one thread each; all buffers are kept, since allocating them costs as
much as computing. The additions are exact enough for float32 only.
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
_BIAS_PRODUCT = 5  # row 1, column 1: enters every output of a tile once
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
        self._pool = ThreadPoolExecutor(count, "bands", self._begin)
        started = threading.Barrier(count)
        list(self._pool.map(lambda _: started.wait(), range(count)))
        torch.set_num_threads(count)  # what _begin set also became the default of new threads

    def _begin(self) -> None:
        torch.set_num_threads(1)
        self._scratch.workspace = Workspace()

    def run(self, work: Callable[[Workspace, _Band], None], bands: Iterable[_Band]) -> None:
        """Call `work(scratch, band)` for every band; returns when all are done."""
        list(self._pool.map(lambda band: work(self._scratch.workspace, band), bands))


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


@dataclass(frozen=True, slots=True)
class _Tiles:
    """How tiles cover a map: `down` × `across` groups of dilation × dilation tiles."""

    down: int
    across: int
    outputs: int
    dilation: int

    @property
    def step(self) -> int:
        """Pixels from one group of tiles to the next."""
        return self.outputs * self.dilation

    @property
    def overhang(self) -> int:
        """Pixels that the inputs of a group reach beyond its outputs."""
        return (_POINTS - self.outputs) * self.dilation


class DirectConv:
    """What WinogradConv does, as it comes: for few channels, or an odd dilation."""

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
        products = torch.einsum("ij,ocjk,lk->ilco", transform, weight.double(), transform)
        self._weight = products.reshape(_POINTS**2, self.in_channels, self.out_channels).float()
        self._bias = bias
        self._relu = relu
        self._outputs = _POINTS + 1 - kernel
        self.dilation = dilation
        self.padding = (kernel - 1) * dilation // 2

    def tiles(self, height: int, width: int) -> _Tiles:
        """The tiling of a map of this size."""
        step = self._outputs * self.dilation
        return _Tiles(-(-height // step), -(-width // step), self._outputs, self.dilation)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are written: whole tiles."""
        tiles = self.tiles(height, width)
        return tiles.down * tiles.step, tiles.across * tiles.step

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that are read, from the buffer's corner."""
        tiles = self.tiles(height, width)
        return (
            tiles.down * tiles.step + tiles.overhang,
            tiles.across * tiles.step + tiles.overhang,
        )

    def __call__(self, source: PaddedMap, target: PaddedMap, workers: BandWorkers) -> None:
        """Convolve `source`, whose padding is this layer's and zero, into `target`.

        Pixels beyond the target's map are overwritten with what whole tiles give.
        """
        tiles = self.tiles(source.height, source.width)
        phases, groups = _band_shape(tiles, self.in_channels)

        def convolve(scratch: Workspace, start: tuple[int, int]) -> None:
            first, phase = start
            top = first * tiles.step + phase
            band = (min(groups, tiles.down - first), min(phases, tiles.dilation - phase))
            transformed = self._transform_input(source.buffer[top:], tiles, band, scratch)
            shape = (_POINTS**2, transformed.shape[1], self.out_channels)
            products = scratch.take("products", *shape)
            torch.bmm(transformed, self._weight, out=products)
            products[_BIAS_PRODUCT].add_(self._bias)
            output = target.buffer[target.pad + top :, target.pad :]
            self._transform_output(products, output, tiles, band, scratch)

        starts = itertools.product(range(0, tiles.down, groups), range(0, tiles.dilation, phases))
        workers.run(convolve, starts)

    def _transform_input(
        self, rows: Tensor, tiles: _Tiles, band: tuple[int, int], scratch: Workspace
    ) -> Tensor:
        """(16, tiles, Cin) of one band: first along y, then along x."""
        d, channels = tiles.dilation, self.in_channels
        width = tiles.across * tiles.step + tiles.overhang
        stride = rows.stride(0)
        inputs = [
            rows[d * point :].as_strided(
                (*band, width, channels), (tiles.step * stride, stride, channels, 1)
            )
            for point in range(_POINTS)
        ]
        half = scratch.take("half", _POINTS, *band, width, channels)
        for out, (combine, a, b) in zip(half, _INPUT_ROWS, strict=True):
            combine(inputs[a], inputs[b], out=out)
        columns = [
            half[:, :, :, d * point :].as_strided(
                (_POINTS, *band, tiles.across, d, channels),
                (*half.stride()[:3], tiles.step * channels, channels, 1),
            )
            for point in range(_POINTS)
        ]
        shape = (_POINTS, _POINTS, *band, tiles.across, d, channels)
        full = scratch.take("transformed", *shape)
        for out, (combine, a, b) in zip(full.unbind(1), _INPUT_ROWS, strict=True):
            combine(columns[a], columns[b], out=out)
        return full.view(_POINTS**2, -1, channels)

    def _transform_output(
        self,
        products: Tensor,
        output: Tensor,
        tiles: _Tiles,
        band: tuple[int, int],
        scratch: Workspace,
    ) -> None:
        """Products (16, tiles, Cout) of one band to pixels, along y, then along x."""
        d, m, channels = tiles.dilation, tiles.outputs, self.out_channels
        shape = (*band, tiles.across, d, channels)
        half = scratch.take("half", m, _POINTS, *shape)
        planes = products.view(_POINTS, _POINTS, *shape)
        _combine_outputs(planes.unbind(0), half.unbind(0))
        row, column = output.stride(0), output.stride(1)
        strides = (d * row, tiles.step * row, row, tiles.step * column, column, 1)
        pixels = [output[:, d * index :].as_strided((m, *shape), strides) for index in range(m)]
        _combine_outputs(half.unbind(1), pixels)
        if self._relu:
            for view in pixels:
                view.clamp_(min=0)


def _band_shape(tiles: _Tiles, channels: int) -> tuple[int, int]:
    """Phases (rows below each other) and groups of tiles per band that fit the cache."""
    bytes_per_row = _POINTS**2 * tiles.across * tiles.dilation * channels * 4
    rows = max(1, _BAND_BYTES // bytes_per_row)
    if rows < 2 * tiles.dilation:
        return min(rows, tiles.dilation), 1
    return tiles.dilation, rows // tiles.dilation


def _combine_outputs(
    products: tuple[Tensor, ...], outputs: tuple[Tensor, ...] | list[Tensor]
) -> None:
    """p1 ± p2, plus p0 for the first and p3 for the last output."""
    for index, out in enumerate(outputs):
        combine = torch.sub if index % 2 else torch.add
        combine(products[1], products[2], out=out)
    outputs[0].add_(products[0])
    outputs[-1].add_(products[3])

"""3×3 and 2×2 convolutions on the CPU with 4 and 2.8 times fewer multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: minimal
filtering F(4×4, 3×3) and F(5×5, 2×2), of which `cpu_kernels` does the additions and
PyTorch's matrix product the multiplications. Pixels of a tile may lie apart (dilation):
each is one run of channels in memory, wherever it is. Tiles go through in groups that stay
in a core's cache; a core does one group at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kapture_ros.features.cpu_kernels import (
    LANES,
    SIDE,
    points_to_tiles,
    tiles_to_points,
    weight_matrix,
)
from kapture_ros.workers import Workers, Workspace

_POINTS = SIDE * SIDE
_GROUP_BYTES = 2 << 20
"""How much of the points of a group of tiles, before and after the product, a cache keeps."""


class WinogradConv:
    """One convolution of stride 1 that keeps the size, with bias, with or without ReLU.

    Attributes:
        in_channels, out_channels: of the maps it takes and gives: those of the weight,
            rounded up to whole vectors; the rest is 0.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, dilation: int, relu: bool) -> None:
        """Transform the weight (Cout, Cin, k, k), k = 2 or 3."""
        outs, ins, kernel, _ = weight.shape
        self.in_channels, self.out_channels = (-(-count // LANES) * LANES for count in (ins, outs))
        matrix = torch.tensor(weight_matrix(kernel))
        points = torch.einsum("yi,xj,ocij->yxco", matrix, matrix, weight.double())
        self._weight = torch.zeros(_POINTS, self.in_channels, self.out_channels)
        self._weight[:, :ins, :outs] = points.flatten(0, 1)
        self._bias = np.zeros(self.out_channels, np.float32)
        self._bias[:outs] = bias.numpy()
        self._relu = relu
        self._dilation = dilation
        self._padding = (kernel - 1) * dilation // 2
        self._outputs = SIDE + 1 - kernel
        # An odd number: points a power of two apart would share a few places of the cache.
        tiles = _GROUP_BYTES // (4 * _POINTS * (self.in_channels + self.out_channels))
        self._tiles = max(1, tiles) | 1

    def __call__(
        self, source: NDArray[np.float32], target: NDArray[np.float32], workers: Workers
    ) -> None:
        """Convolve `source` (H, W, Cin), with zeros around it, into `target` (H, W, Cout)."""
        corners = self._corners(*source.shape[:2])

        def convolve(scratch: Workspace, first: int) -> None:
            chosen = corners[first : first + self._tiles]
            points = scratch.take("points", _POINTS, self._tiles, self.in_channels)
            products = scratch.take("products", _POINTS, self._tiles, self.out_channels)
            patch = scratch.take("patch", SIDE, SIDE, self.in_channels)
            tiles_to_points(source, chosen - self._padding, self._dilation, points, patch)
            torch.bmm(torch.from_numpy(points), self._weight, out=torch.from_numpy(products))
            patch = scratch.take("patch", self._outputs, self._outputs, self.out_channels)
            points_to_tiles(products, self._bias, self._relu, chosen, self._dilation, target, patch)

        workers.run(convolve, range(0, len(corners), self._tiles))

    def _corners(self, height: int, width: int) -> NDArray[np.int64]:
        """(N, 2): row and column of the first pixel of every tile."""
        step = self._outputs * self._dilation
        rows, columns = (
            (np.arange(0, size, step)[:, None] + np.arange(self._dilation)).ravel()
            for size in (height, width)
        )
        rows, columns = rows[rows < height], columns[columns < width]
        return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)

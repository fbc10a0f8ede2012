"""R2D2 made ready to run: batch norm folded, heads as one product, the fastest exact way.

`prepare` chooses the way; each turns normalised images into `RawMaps`, from which
`detection` takes keypoints.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kapture_ros.features.r2d2_network import (
    R2D2Net,
    reliability_of,
    repeatability_of,
    upsample,
)
from kapture_ros.features.runtime import Runtime
from kapture_ros.workers import Workers, Workspace

log = logging.getLogger(__name__)

_CACHE_BYTES = {"cpu": 4 << 20, "cuda": 24 << 20}
"""How much of the squared features is made at a time, so that it stays in the cache."""


class RawMaps(NamedTuple):
    """What the network says about B images; valid until it is asked again.

    Attributes:
        features: (B, h, w, D), descriptors before scaling to unit length, one a cell of
            stride × stride pixels.
        reliability, repeatability: (B, h · stride, w · stride) float32.
    """

    features: Tensor
    reliability: Tensor
    repeatability: Tensor


class Engine(Protocol):
    """A way of running the network.

    Attributes:
        how: in words.
        stride: pixels per cell of the features.
    """

    how: str
    stride: int

    def __call__(self, images: Tensor) -> RawMaps:
        """Maps of normalised float32 images (B, 3, H, W)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution (batch norm folded in) and what follows it."""

    weight: Tensor
    bias: Tensor
    dilation: int
    relu: bool = False
    pool: int = 1

    @property
    def padding(self) -> int:
        """Pixels of zeros on the left and above, for an output of the input's size."""
        return (self.weight.shape[2] - 1) * self.dilation // 2


def prepare(network: R2D2Net, runtime: Runtime) -> Engine:
    """The fastest way for this device and precision, by benchmarks/features.py."""
    if runtime.device.type != "cpu" or runtime.dtype != torch.float32:
        return FoldedR2D2(network, runtime)
    try:
        return WinogradR2D2(network)
    except ImportError as error:
        log.warning("numba does not run here, R2D2 takes several times as long: %s", error)
        engine = FoldedR2D2(network, runtime)
        engine.how += ", since numba does not run here"
        return engine


def fold(network: R2D2Net) -> list[Layer]:
    """The body as plain layers; batch norm in evaluation mode is a scale and a shift."""
    return _folded(network.body, network.config.downsample)


def fold_detector(network: R2D2Net) -> list[Layer]:
    """Likewise the detector of the stem variant; of the others nothing."""
    head = network.repeatability_head
    return _folded(head) if isinstance(head, nn.Sequential) else []


def _folded(modules: nn.Sequential, downsample: int = 1) -> list[Layer]:
    layers: list[Layer] = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            layers.append(Layer(module.weight.data, module.bias.data, module.dilation[0]))
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = _with_norm(layers[-1], module)
        elif isinstance(module, nn.ReLU):
            layers[-1] = replace(layers[-1], relu=True)
        elif isinstance(module, nn.MaxPool2d):
            layers[-1] = replace(layers[-1], pool=downsample)
    return layers


def _with_norm(layer: Layer, norm: nn.BatchNorm2d) -> Layer:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    weight = layer.weight.double() * scale.view(-1, 1, 1, 1)
    bias = (layer.bias.double() - norm.running_mean.double()) * scale
    return replace(layer, weight=weight.float(), bias=bias.float())


class Heads:
    """The detector: what the features say about reliability and repeatability."""

    def __init__(self, network: R2D2Net, device: torch.device) -> None:
        self.stride, self._stem = network.config.stride, network.config.stem
        heads: list[nn.Module] = [network.reliability_head]
        if network.config.stem == 1:
            heads.append(network.repeatability_head)
        state = [head.state_dict() for head in heads]
        self.fused = _fused_products() if device.type == "cuda" and self.stride == 1 else None
        self.weight = torch.cat([part["weight"] for part in state]).flatten(1).to(device)
        self.bias = torch.cat([part["bias"] for part in state]).to(device)

    def maps(self, features: Tensor, detected: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reliability and repeatability (B, H, W).

        Args:
            features: (B, h, w, D)
            detected: (B, 1, H / stem, W / stem) logits of the stem variant's detector.
        """
        if detected is not None:
            logits = self._logits(features).permute(0, 3, 1, 2)
            reliability = reliability_of(upsample(logits, self.stride))
            return reliability[:, 0], repeatability_of(upsample(detected, self._stem))[:, 0]
        if self.fused is not None and features.is_contiguous():
            unreliable, reliable, repeatable = self.fused(features, self.weight, self.bias)
            return torch.sigmoid(reliable - unreliable), repeatability_of(repeatable)
        logits = torch.cat(self._logits_by_band(features), dim=1)
        return reliability_of(logits[..., :2].movedim(3, 1))[:, 0], repeatability_of(logits[..., 2])

    def _logits(self, features: Tensor) -> Tensor:
        """(B, h, w, D) to (B, h, w, 3), or 2 if repeatability is read off elsewhere."""
        wide = features.float()
        squared = wide * wide if wide is features else wide.square_()
        return nn.functional.linear(squared, self.weight, self.bias)

    def _upsampled(self, features: Tensor) -> Tensor:
        if self.stride == 1:
            return features
        full = upsample(features.float().permute(0, 3, 1, 2), self.stride)
        return full.permute(0, 2, 3, 1)

    def _logits_by_band(self, features: Tensor) -> list[Tensor]:
        """The full-resolution logits in bands of rows, whose squares stay in the cache."""
        halo = 1 if self.stride > 1 else 0  # rows that bilinear upsampling looks at
        bands = []
        row_bytes = 4 * self.stride**2 * features[:, 0].numel()
        step = max(1, _CACHE_BYTES[features.device.type] // row_bytes)
        for first in range(0, features.shape[1], step):
            last = min(first + step, features.shape[1])
            above = min(halo, first)
            full = self._upsampled(features[:, first - above : last + halo])
            own = slice(above * self.stride, (above + last - first) * self.stride)
            bands.append(self._logits(full[:, own]))
        return bands


def _fused_products() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """The heads as one kernel, if this machine can compile it."""
    if importlib.util.find_spec("triton") is None or not (
        shutil.which("cc") or shutil.which("gcc")
    ):
        return None
    from kapture_ros.features.cuda_heads import products_with_squares

    return products_with_squares


class FoldedR2D2:
    """Plain convolutions, channels last; for GPUs and for bfloat16 on a CPU.

    With bfloat16 the last convolution is float32, and the detector's always: its output
    decides which of two neighbours is the peak, and few bits make ties of them.
    """

    def __init__(self, network: R2D2Net, runtime: Runtime) -> None:
        self.how = "folded channels-last convolutions"
        self.stride = network.config.stride
        self._stem = network.config.stem
        self._heads = Heads(network, runtime.device)
        if self._heads.fused is not None:
            self.how += ", heads in Triton"
        self._layers, self._detector = (
            [_moved(layer, runtime.device, runtime.dtype) for layer in layers]
            for layers in (fold(network), fold_detector(network))
        )
        self._linear: list[Layer] = []
        if runtime.dtype == torch.bfloat16:
            self._layers[-1] = _moved(fold(network)[-1], runtime.device, torch.float32)
        elif runtime.device.type == "cuda":
            # The last layers, which no ReLU parts, share one addition of what their biases make.
            while not self._layers[-1].relu:
                self._linear.insert(0, self._layers.pop())
        if self._detector:
            last = fold_detector(network)[-1]
            self._detector[-1] = _moved(last, runtime.device, torch.float32)

    def __call__(self, images: Tensor) -> RawMaps:
        """Maps of normalised float32 images (B, 3, H, W)."""
        maps = _folded_into_channels(images, self._stem, self.stride // self._stem)
        detected = None
        for layer in self._layers:
            maps = maps.to(layer.weight.dtype, memory_format=torch.channels_last)
            maps = convolve(maps, layer)
            if layer.pool > 1:
                if self._detector:
                    detected = self._detect(maps)
                maps = nn.functional.max_pool2d(maps, layer.pool)
        maps = convolve_linearly(maps, self._linear)
        features = maps.permute(0, 2, 3, 1)
        return RawMaps(features, *self._heads.maps(features, detected))

    def _detect(self, maps: Tensor) -> Tensor:
        for layer in self._detector:
            maps = convolve(maps.to(layer.weight.dtype), layer)
        return maps


def convolve(maps: Tensor, layer: Layer) -> Tensor:
    """Convolution, bias and, if the layer has one, ReLU."""
    if maps.is_cuda and layer.relu:
        # One kernel, a third of the time of three: memory is what takes long.
        padding, dilation = (layer.padding,) * 2, (layer.dilation,) * 2
        return torch.cudnn_convolution_relu(
            maps, layer.weight, layer.bias, (1, 1), padding, dilation, 1
        )
    out = _convolved(maps, layer, layer.bias)
    return nn.functional.relu_(out) if layer.relu else out


def convolve_linearly(maps: Tensor, layers: list[Layer]) -> Tensor:
    """Convolutions that no ReLU parts, (B, C, H, W) to (B, D, H, W).

    On a GPU the addition of a bias costs as much as a convolution. What all biases make
    together depends on the place only near the border, where zeros are looked at: it is found
    on a small map and added once.
    """
    if not layers:
        return maps
    height, width = maps.shape[2:]
    halo = sum(layer.padding for layer in layers[1:])
    small = maps.new_zeros(1, maps.shape[1], min(height, 2 * halo + 1), min(width, 2 * halo + 1))
    for layer in layers:
        maps, small = _convolved(maps, layer, None), _convolved(small, layer, layer.bias)
    rows = _stretched(small, width).contiguous(memory_format=torch.channels_last)
    if height <= 2 * halo:
        return maps.add_(rows)
    maps[:, :, :halo].add_(rows[:, :, :halo])
    maps[:, :, halo : height - halo].add_(rows[:, :, halo : halo + 1])
    maps[:, :, height - halo :].add_(rows[:, :, halo + 1 :])
    return maps


def _stretched(maps: Tensor, width: int) -> Tensor:
    """Maps whose middle column is repeated until they are so wide."""
    if maps.shape[3] >= width:
        return maps
    middle = maps.shape[3] // 2
    place = torch.arange(width, device=maps.device)
    column = place.clamp(max=middle) + (place - (width - 1 - middle)).clamp(min=0)
    return maps.index_select(3, column)


def _convolved(maps: Tensor, layer: Layer, bias: Tensor | None) -> Tensor:
    return nn.functional.conv2d(
        maps, layer.weight, bias, padding=layer.padding, dilation=layer.dilation
    )


def _moved(layer: Layer, device: torch.device, dtype: torch.dtype) -> Layer:
    weight = layer.weight.to(device, dtype, memory_format=torch.channels_last)
    return replace(layer, weight=weight, bias=layer.bias.to(device, dtype))


def _folded_into_channels(images: Tensor, stem: int, downsample: int) -> Tensor:
    if stem == 1:
        return images
    stride = stem * downsample
    height, width = (size // stride * stride for size in images.shape[2:])
    return nn.functional.pixel_unshuffle(images[:, :, :height, :width], stem)


class _CompiledHeads(Heads):
    """The same on a CPU, without writing down the squares."""

    def __init__(self, network: R2D2Net, workers: Workers) -> None:
        from kapture_ros.features.cpu_kernels import products_with_squares

        super().__init__(network, torch.device("cpu"))
        self._multiply = products_with_squares
        self._workers = workers
        self._three = np.zeros((3, self.weight.shape[1]), np.float32)
        self._three[: len(self.weight)] = self.weight.numpy()

    def _logits(self, features: Tensor) -> Tensor:
        (rows,) = features.numpy()
        products = np.empty((*rows.shape[:2], 3), np.float32)

        def multiply(_scratch: Workspace, row: int) -> None:
            self._multiply(np.ascontiguousarray(rows[row]), self._three, products[row])

        self._workers.run(multiply, range(len(rows)))
        return torch.from_numpy(products[None, ..., : len(self.bias)]).add_(self.bias)


class WinogradR2D2:
    """Float32 on a CPU, one image at a time, in Winograd's form.

    Raises:
        ImportError: if numba does not run here.
    """

    def __init__(self, network: R2D2Net) -> None:
        # Takes a second to import, and compiles when it is used for the first time.
        from kapture_ros.features.winograd import WinogradConv

        self.how = "Winograd convolutions"
        self.stride = network.config.stride
        self._stem = network.config.stem
        self._size = network.config.descriptor_size
        self._workers = Workers()
        self._heads = _CompiledHeads(network, self._workers)
        self._layers = fold(network)
        detector = fold_detector(network)
        self._last = detector.pop() if detector else None
        self._convs, self._detector = (
            [
                WinogradConv(layer.weight, layer.bias, dilation=layer.dilation, relu=layer.relu)
                for layer in layers
            ]
            for layers in (self._layers, detector)
        )
        self._workspace = Workspace()

    def __call__(self, images: Tensor) -> RawMaps:
        """Maps of one normalised float32 image (1, 3, H, W)."""
        (image,) = _folded_into_channels(images, self._stem, self.stride // self._stem)
        names = itertools.cycle(("even", "odd"))  # each step reads one and writes the other
        source = self._map(next(names), image.shape[1], image.shape[2], self._convs[0].in_channels)
        source.fill(0)
        source[..., : len(image)] = image.permute(1, 2, 0).numpy()
        detected = None
        for layer, conv in zip(self._layers, self._convs, strict=True):
            height, width, _ = source.shape
            target = self._map(next(names), height, width, conv.out_channels)
            conv(source, target, self._workers)
            if layer.pool > 1:
                full, size = target, (height // layer.pool, width // layer.pool)
                if self._last is not None:
                    detected = self._detect(full, self._last)
                target = self._map(next(names), *size, conv.out_channels)
                _pool(full, target, layer.pool)
            source = target
        features = torch.from_numpy(source)[None, ..., : self._size]
        return RawMaps(features, *self._heads.maps(features, detected))

    def _detect(self, source: NDArray[np.float32], last: Layer) -> Tensor:
        """Logits (1, 1, h, w) from maps (h, w, C)."""
        for index, conv in enumerate(self._detector):
            height, width, _ = source.shape
            target = self._map(f"detector {index}", height, width, conv.out_channels)
            conv(source, target, self._workers)
            source = target
        weight = last.weight[0, :, 0, 0]
        return (torch.from_numpy(source)[..., : len(weight)] @ weight + last.bias)[None, None]

    def _map(self, name: str, height: int, width: int, channels: int) -> NDArray[np.float32]:
        return self._workspace.take(name, height, width, channels)


def _pool(full: NDArray[np.float32], pooled: NDArray[np.float32], size: int) -> None:
    """The maximum of every size × size block of (H, W, C); a rest at the border is left out."""
    rows, columns = (size * side for side in pooled.shape[:2])
    first, *others = (
        torch.from_numpy(full[down:rows:size, right:columns:size])
        for down in range(size)
        for right in range(size)
    )
    target = torch.from_numpy(pooled).copy_(first)
    for block in others:
        torch.maximum(target, block, out=target)

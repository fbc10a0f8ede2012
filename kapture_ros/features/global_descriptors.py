"""Global descriptors: images in, one AP-GeM vector of unit length per image out.

Revaud et al., "Learning with Average Precision", ICCV 2019. Used by the extraction into
datasets and by the localizer's retrieval.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kapture_ros.errors import InputError, OptionError
from kapture_ros.features.apgem_network import ApGemNet, BasicBlock, Bottleneck
from kapture_ros.features.cuda_graphs import Deferred, Recorded
from kapture_ros.features.images import MAX_BATCH, batches
from kapture_ros.features.options import ApGemOptions, RuntimeOptions
from kapture_ros.features.r2d2_network import normalise_images
from kapture_ros.features.runtime import resolve
from kapture_ros.features.weights_file import (
    NetworkFile,
    Whitening,
    find_weights,
    load_network,
    type_name,
)


class ApGemExtractor:
    """A network made ready for one device; may be called from several threads.

    Attributes:
        options: as given.
        type_name: name of the kapture feature type: model, hash of its weights, settings.
            Equal names mean vectors that can be compared.
        descriptor_size: D.
        runtime: what runs, in words: device, precision, way of computing.
        batch_size: images that are computed at once, if they are of one size.
    """

    def __init__(
        self,
        weights: str | Path,
        options: ApGemOptions | None = None,
        runtime: RuntimeOptions | None = None,
    ) -> None:
        """Load a network.

        Args:
            weights: name of installed weights, or a file.

        Raises:
            InputError: if the weights are missing, damaged, or not of AP-GeM.
            OptionError: if the device, precision or whitening is not available.
        """
        path = find_weights(weights)
        loaded = load_network(path)
        if not isinstance(loaded.network, ApGemNet):
            raise InputError(f"{path} holds R2D2, expected AP-GeM")
        self.options = options or ApGemOptions()
        self.type_name = type_name(loaded, f"{self.options.global_max_size}px", self.options)
        target = resolve(runtime or RuntimeOptions())
        self._dtype = target.dtype
        self.batch_size = 1 if target.device.type == "cpu" else MAX_BATCH
        self._network = fold(loaded.network).to(target.device)
        if target.device.type == "cuda":
            _fuse_blocks(self._network)
        # Pooling and what follows stay float32: half precision overflows and costs nothing less.
        self._network.trunk.to(target.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._whitening = _chosen_whitening(loaded, self.options, target.device)
        self.descriptor_size = loaded.network.config.descriptor_size
        if self._whitening is not None:
            self.descriptor_size = len(self._whitening.components)
        self.runtime = f"{target}, folded channels-last convolutions"
        self._run: Deferred | Recorded = Deferred(self._describe)
        if target.device.type == "cuda":
            self._run = Recorded(self._describe, target.device)
            self.runtime += ", recorded as CUDA graphs"

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Descriptors (N, D) of images (H, W, 3) RGB or (H, W) grey.

        Raises:
            InputError: if an image is not of that kind.
        """
        return self.start(images)()

    def start(self, images: Sequence[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float32]]:
        """As `extract`: a GPU begins, and what is returned waits for it. A CPU begins then."""
        started = [
            (places, self._run.start(pixels))
            for places, pixels, _ in batches(images, [None] * len(images), self.batch_size)
        ]

        def wait() -> NDArray[np.float32]:
            found = np.empty((len(images), self.descriptor_size), np.float32)
            for places, run in started:
                (vectors,) = run()
                found[places] = vectors.numpy()
            return found

        return wait

    @torch.no_grad()
    def _describe(self, pixels: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W) uint8 to (B, D)."""
        images = normalise_images(pixels)
        shrink = min(1.0, self.options.global_max_size / max(images.shape[2:]))
        parts = []
        for scale in self.options.global_scales:
            scaled = _resized(images, shrink * scale)
            features = self._network.trunk(
                scaled.to(self._dtype, memory_format=torch.channels_last)
            )
            parts.append(self._network.head(features.float()))
        vectors = pool_scales(torch.stack(parts), self.options.global_scale_power)
        if self._whitening is not None:
            vectors = whiten(vectors, self._whitening, self.options.whitening_power)
        return (vectors,)


def pool_scales(vectors: Tensor, power: float) -> Tensor:
    """Signed generalised mean of (S, B, D) over scales, then unit length, (B, D)."""
    if len(vectors) > 1:
        mean = _signed_power(vectors, power).mean(dim=0)
        vectors = _signed_power(mean, 1 / power)[None]
    return nn.functional.normalize(vectors[0], dim=1)


def _signed_power(values: Tensor, power: float) -> Tensor:
    return values.abs().clamp(min=1e-6).pow(power) * values.sign()


def whiten(vectors: Tensor, whitening: Whitening, power: float) -> Tensor:
    """Vectors (B, D) along the principal directions, evened out, of unit length."""
    wide = (vectors.double() - whitening.mean) @ whitening.components.T
    if whitening.scales:
        wide = wide / whitening.variance.pow(power)
    return nn.functional.normalize(wide, dim=1).float()


def _chosen_whitening(
    loaded: NetworkFile, options: ApGemOptions, device: torch.device
) -> Whitening | None:
    if not options.whitening:
        return None
    found = loaded.whitenings.get(options.whitening)
    if found is None:
        known = ", ".join(loaded.whitenings) or "none"
        raise OptionError(f"'whitening' is {options.whitening!r} but {loaded.name} holds {known}")
    kept = options.whitening_size or len(found.components)
    if kept > len(found.components):
        raise OptionError(
            f"'whitening_size' is {kept} but {options.whitening!r} has {len(found.components)}"
        )
    return Whitening(
        found.mean.to(device),
        found.components[:kept].to(device),
        found.variance[:kept].to(device),
        found.scales,
    )


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return nn.functional.interpolate(images, size, mode="bilinear", antialias=scale < 1)


def fold(network: ApGemNet) -> ApGemNet:
    """A copy whose batch norms are folded into the convolutions before them."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return folded


class _FusedBlock(nn.Module):
    """A ResNet block with its norms folded, on a GPU: bias, shortcut and ReLU are part of the
    convolutions, since memory is what takes long.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        self.convs = nn.ModuleList([block.conv1, block.conv2])
        if isinstance(block, Bottleneck):
            self.convs.append(block.conv3)
        self.shortcut = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """As the block."""
        out = x
        *others, last = (
            (conv.weight, conv.bias, conv.stride, (conv.kernel_size[0] // 2,) * 2)
            for conv in self.convs
            if isinstance(conv, nn.Conv2d)
        )
        for weight, bias, stride, padding in others:
            out = torch.cudnn_convolution_relu(out, weight, bias, stride, padding, (1, 1), 1)
        weight, bias, stride, padding = last
        return torch.cudnn_convolution_add_relu(
            out, weight, self.shortcut(x), 1.0, bias, stride, padding, (1, 1), 1
        )


def _fuse_blocks(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, BasicBlock | Bottleneck):
            setattr(network, name, _FusedBlock(child))
        else:
            _fuse_blocks(child)

"""R2D2 as a plain network: built from a small config, fed with images, returns dense maps.

Revaud et al., "R2D2: Repeatable and Reliable Detector and Descriptor", NeurIPS 2019. The
architecture and the layout of the published checkpoints follow that paper and its release,
so that those checkpoints load strictly; `naver_config` and `naver_state` translate them.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from kapture_ros.errors import InputError

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""RGB statistics (ImageNet) that images in 0..1 are normalised with."""

PATCH_SIZE = 32
"""Side of the image patch that one descriptor describes, in pixels at scale 1."""
_FINE_END = 9
"""Modules of the body before the pooling, of the stem variant."""


@dataclass(frozen=True, slots=True)
class R2D2Config:
    """What determines an R2D2 network.

    Attributes:
        width: channels of the first layers in units of 8 (4 in N16, 6 in N8_big).
        descriptor_size: length of a descriptor.
        downsample: 1 keeps full resolution throughout by dilation (the paper); 2 and more
            pool after the third layer (the "fast" family).
        quad_relu: ReLU also after the 2×2 convolutions.
        stem: 1 feeds the image as it is; 2 and more fold blocks of that many pixels square
            into channels first, and the detector stays at that resolution (our own
            variant, an order of magnitude fewer operations; it needs `downsample`).
    """

    width: int = 4
    descriptor_size: int = 128
    downsample: int = 1
    quad_relu: bool = False
    stem: int = 1

    def __post_init__(self) -> None:
        """Check that there is a network of these sizes."""
        if min(self.width, self.descriptor_size, self.downsample, self.stem) < 1:
            raise InputError(f"not a description of an R2D2 network: {self}")

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the body's output."""
        return self.stem * self.downsample

    def metadata(self) -> dict[str, str]:
        """The config as text, for the header of a weights file."""
        return {key: str(int(value)) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> R2D2Config:
        """Inverse of `metadata`.

        Raises:
            InputError: if a field is missing or not a whole number, or they do not go together.
        """
        try:
            config = cls(
                int(metadata["width"]),
                int(metadata["descriptor_size"]),
                int(metadata["downsample"]),
                bool(int(metadata["quad_relu"])),
                int(metadata["stem"]),
            )
        except (KeyError, ValueError) as error:
            raise InputError(f"not a description of an R2D2 network: {error}") from error
        if config.stem > 1 and config.downsample == 1:
            raise InputError("not a description of an R2D2 network: a stem needs downsampling")
        return config


class DenseFeatures(NamedTuple):
    """One row per image; H and W are the image's, rounded down to a multiple of the stride.

    Attributes:
        descriptors: (B, D, H, W), of unit length along D.
        reliability: (B, 1, H, W) in 0..1, how distinctive the descriptor is.
        repeatability: (B, 1, H, W) in 0..1, how likely a keypoint is found here again.
    """

    descriptors: Tensor
    reliability: Tensor
    repeatability: Tensor


class R2D2Net(nn.Module):
    """Image to dense descriptors, reliability and repeatability.

    In the published variants both heads look at the squared full-resolution descriptor. In
    the stem variant the detector looks at the maps before the pooling.
    """

    def __init__(self, config: R2D2Config | None = None) -> None:
        super().__init__()
        self.config = config or R2D2Config()
        self.body = _build_body(self.config)
        size = self.config.descriptor_size
        self.reliability_head = nn.Conv2d(size, 2, kernel_size=1)
        self.repeatability_head: nn.Module
        if self.config.stem > 1:
            self.repeatability_head = _build_fine_head(self.config)
        else:
            self.repeatability_head = nn.Conv2d(size, 1, kernel_size=1)

    def forward(self, images: Tensor) -> DenseFeatures:
        """Dense features of normalised images.

        Args:
            images: (B, 3, H, W), RGB, (value in 0..1 − IMAGE_MEAN) / IMAGE_STD.
        """
        if self.config.stem > 1:
            return self._forward_folded(images)
        raw = upsample(self.body(images), self.config.stride)
        squared = raw * raw
        return DenseFeatures(
            nn.functional.normalize(raw, dim=1),
            reliability_of(self.reliability_head(squared)),
            repeatability_of(self.repeatability_head(squared)),
        )

    def _forward_folded(self, images: Tensor) -> DenseFeatures:
        stride = self.config.stride
        height, width = (size // stride * stride for size in images.shape[2:])
        raw, repeatability = self.folded(images[:, :, :height, :width])
        return DenseFeatures(
            nn.functional.normalize(upsample(raw, stride), dim=1),
            reliability_of(upsample(self.reliability_head(raw * raw), stride)),
            repeatability_of(repeatability),
        )

    def fine_maps(self, images: Tensor) -> Tensor:
        """The maps before the pooling, which the stem variant's detector looks at."""
        stem = nn.functional.pixel_unshuffle(images, self.config.stem)
        return cast(Tensor, self.body[:_FINE_END](stem))

    def folded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw descriptors, one a cell, and the logits of repeatability, one a pixel, of the
        stem variant; the images' sides are multiples of the stride.
        """
        fine = self.fine_maps(images)
        logits = self.repeatability_head(fine)
        return self.body[_FINE_END:](fine), upsample(logits, self.config.stem)


def upsample(maps: Tensor, factor: int) -> Tensor:
    """Bilinear, pixel centres at +0.5."""
    if factor == 1:
        return maps
    return nn.functional.interpolate(
        maps, scale_factor=factor, mode="bilinear", align_corners=False
    )


def reliability_of(logits: Tensor) -> Tensor:
    """(B, 2, …) to (B, 1, …): the softmax probability of the second class."""
    return nn.functional.softmax(logits, dim=1)[:, 1:2]


def repeatability_of(logits: Tensor) -> Tensor:
    """x / (1 + x) of the softplus: in 0..1, with fewer plateaus than a sigmoid."""
    positive = nn.functional.softplus(logits)
    return positive / (1 + positive)


def _build_body(config: R2D2Config) -> nn.Sequential:
    """The trunk; a stride of the paper is expressed as dilation of all later layers."""
    layers: list[nn.Module] = []
    channels = 3 * config.stem**2
    dilation = 1

    def convolve(out: int, kernel: int = 3, *, norm: bool = True, relu: bool = True) -> None:
        nonlocal channels
        padding = (kernel - 1) * dilation // 2
        layers.append(nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation))
        if norm:
            layers.append(nn.BatchNorm2d(out, affine=False))
        if relu:
            layers.append(nn.ReLU(inplace=True))
        channels = out

    unit = 8 * config.width
    convolve(unit)
    convolve(unit)
    convolve(2 * unit)
    if config.downsample > 1:
        layers.append(nn.MaxPool2d(config.downsample))
    else:
        dilation *= 2
    convolve(2 * unit)
    convolve(4 * unit)
    dilation *= 2
    convolve(4 * unit)
    # Three 2×2 convolutions in place of L2-Net's 8×8 one.
    convolve(4 * unit, kernel=2, relu=config.quad_relu)
    dilation *= 2
    convolve(4 * unit, kernel=2, relu=config.quad_relu)
    dilation *= 2
    convolve(config.descriptor_size, kernel=2, norm=False, relu=False)
    return nn.Sequential(*layers)


def _build_fine_head(config: R2D2Config) -> nn.Sequential:
    """Logits of repeatability from the maps before the pooling.

    Whatever looks at coarser maps learns to put keypoints at the same places of every cell.
    """
    channels, hidden = 16 * config.width, 8 * config.width
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel_size=3, padding=1),
        nn.BatchNorm2d(hidden, affine=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, 16, kernel_size=3, padding=2, dilation=2),
        nn.BatchNorm2d(16, affine=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 1, kernel_size=1),
    )


_NAVER_FAMILIES = {"Quad_L2Net_ConfCFS": 1, "Fast_Quad_L2Net_ConfCFS": 2}
_NAVER_OPTIONS = {
    "dim": "descriptor_size",
    "mchan": "width",
    "relu22": "quad_relu",
    "downsample_factor": "downsample",
}
_NAVER_KEYS = {"ops": "body", "clf": "reliability_head", "sal": "repeatability_head"}


def naver_config(net: object) -> R2D2Config:
    """The config that a published checkpoint's `net` entry, `Family(option=value, …)`, names.

    The text is parsed as a literal call, never evaluated.

    Raises:
        InputError: if it is anything but a known family with known literal options.
    """
    if not isinstance(net, str):  # a checkpoint holds anything
        raise InputError("a network description that is no text")
    try:
        call = ast.parse(net.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise InputError(f"not a network description: {net[:200]!r}")
        values = {_NAVER_OPTIONS[str(k.arg)]: ast.literal_eval(k.value) for k in call.keywords}
        downsample = _NAVER_FAMILIES[call.func.id]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"not a network description: {net[:200]!r}") from error
    except KeyError as error:
        known = ", ".join((*_NAVER_FAMILIES, *_NAVER_OPTIONS))
        raise InputError(f"{net!r}: unknown {error}; known are {known}") from error
    if not all(isinstance(value, int) for value in values.values()):
        raise InputError(f"{net!r}: options must be whole numbers")
    return R2D2Config(**{"downsample": downsample, **values})


def naver_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint's `state_dict` under this module's names."""
    renamed = {}
    for key, value in state.items():
        part, _, rest = key.removeprefix("module.").partition(".")
        renamed[f"{_NAVER_KEYS.get(part, part)}.{rest}"] = value
    return renamed


def count_macs(net: R2D2Net, height: int, width: int) -> int:
    """Multiply-accumulates of the convolutions for one image of this size."""
    macs = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal macs
        macs += output[0, 0].numel() * sum(p.numel() for p in module.parameters() if p.dim() > 1)

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return macs


def normalise_images(images: Tensor) -> Tensor:
    """Bytes (B, 3, H, W), RGB, to the float32 that the network takes."""
    mean, std = _image_statistics(images.device)
    return images.float().div_(255).sub_(mean).div_(std)


@functools.cache  # a copy to a GPU cannot be part of a CUDA graph
def _image_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device) for values in (IMAGE_MEAN, IMAGE_STD))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)

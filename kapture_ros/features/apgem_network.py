"""AP-GeM as a plain network: trunk, GeM pooling, linear layer, one unit vector per image.

Revaud et al., "Learning with Average Precision: Training Image Retrieval with a Listwise
Loss", ICCV 2019. Trunks: ResNet (He et al., CVPR 2016) and MobileNetV2 (Sandler et al.,
CVPR 2018). `naver_config` and `naver_state` translate the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kapture_ros.errors import InputError

TRUNK_CHANNELS = {"resnet18": 512, "resnet50": 2048, "resnet101": 2048, "mobilenet_v2": 1280}
_RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
# Rows of the MobileNetV2 paper's table 2: expansion, channels, repeats, first stride.
_MOBILENET_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True, slots=True)
class ApGemConfig:
    """What determines an AP-GeM network.

    Attributes:
        trunk: one of TRUNK_CHANNELS.
        descriptor_size: length of the descriptor.
        gem_power: initial (untrained) power of the pooling.
        norm_features: L2-normalise the pooled vector before the linear layer.
        linear: whether there is a linear layer; without, the pooled vector is returned.
    """

    trunk: str = "resnet101"
    descriptor_size: int = 2048
    gem_power: float = 3.0
    norm_features: bool = False
    linear: bool = True

    def __post_init__(self) -> None:
        """Check the trunk's name and the size."""
        if self.trunk not in TRUNK_CHANNELS:
            known = ", ".join(TRUNK_CHANNELS)
            raise InputError(f"unknown AP-GeM trunk {self.trunk!r}; known are {known}")
        if self.descriptor_size < 1:
            raise InputError(f"not a description of an AP-GeM network: {self}")

    def metadata(self) -> dict[str, str]:
        """The config as text, for the header of a weights file."""
        return {
            "trunk": self.trunk,
            "descriptor_size": str(self.descriptor_size),
            "gem_power": repr(self.gem_power),
            "norm_features": str(int(self.norm_features)),
            "linear": str(int(self.linear)),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ApGemConfig:
        """Inverse of `metadata`.

        Raises:
            InputError: if a field is missing or malformed.
        """
        try:
            return cls(
                metadata["trunk"],
                int(metadata["descriptor_size"]),
                float(metadata["gem_power"]),
                bool(int(metadata["norm_features"])),
                bool(int(metadata["linear"])),
            )
        except (KeyError, ValueError) as error:
            raise InputError(f"not a description of an AP-GeM network: {error}") from error


class ApGemNet(nn.Module):
    """Image to one global descriptor of unit length."""

    def __init__(self, config: ApGemConfig = ApGemConfig()) -> None:
        super().__init__()
        self.config = config
        channels = TRUNK_CHANNELS[config.trunk]
        self.trunk = _build_trunk(config.trunk)
        self.pool = GeM(config.gem_power)
        self.fc = nn.Linear(channels, config.descriptor_size) if config.linear else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Global descriptors (B, D) of normalised images (B, 3, H, W), as for R2D2."""
        return self.head(self.trunk(images))

    def head(self, features: Tensor) -> Tensor:
        """Global descriptors (B, D) of the trunk's features (B, C, h, w)."""
        pooled = self.pool(features)
        if self.config.norm_features:
            pooled = nn.functional.normalize(pooled, dim=1)
        return nn.functional.normalize(self.fc(pooled), dim=1)


class GeM(nn.Module):
    """Generalised mean over the image with a learned power (Radenovic et al., PAMI 2018)."""

    def __init__(self, power: float, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), power))
        self.epsilon = epsilon

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C)."""
        # Half precision overflows at x**3 for x > 40, so the pooling is always float32.
        powered = features.float().clamp(min=self.epsilon).pow(self.p.float())
        return powered.mean(dim=(2, 3)).pow(1 / self.p.float()).to(features.dtype)


def _build_trunk(name: str) -> nn.Sequential:
    if name == "mobilenet_v2":
        return _mobilenet_v2()
    return _resnet(_RESNET_BLOCKS[name], basic=name == "resnet18")


def _conv(inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    pad = kernel // 2
    return nn.Conv2d(inp, out, kernel, stride, padding=pad, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, inp: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inp, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inp, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inp, H, W) to (B, planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        return nn.functional.relu(out)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions beside a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, inp: int, planes: int, stride: int) -> None:
        super().__init__()
        out = planes * self.expansion
        self.conv1 = _conv(inp, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, out, 1)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inp, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inp, H, W) to (B, 4 · planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self.downsample(x)
        return nn.functional.relu(out)


def _shortcut(inp: int, out: int, stride: int) -> nn.Module:
    if inp == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(inp, out, 1, stride), nn.BatchNorm2d(out))


def _resnet(blocks: tuple[int, ...], *, basic: bool) -> nn.Sequential:
    kind = BasicBlock if basic else Bottleneck
    trunk = nn.Sequential()
    trunk.add_module("conv1", _conv(3, 64, 7, 2))
    trunk.add_module("bn1", nn.BatchNorm2d(64))
    trunk.add_module("relu", nn.ReLU(inplace=True))
    trunk.add_module("maxpool", nn.MaxPool2d(3, 2, padding=1))
    channels = 64
    for stage, count in enumerate(blocks):
        layer = nn.Sequential()
        planes = 64 << stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            layer.append(kind(channels, planes, stride))
            channels = planes * kind.expansion
        trunk.add_module(f"layer{stage + 1}", layer)
    return trunk


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 linear projection (MobileNetV2)."""

    def __init__(self, inp: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inp * expansion
        layers = list(_conv_bn_relu6(inp, hidden, 1)) if expansion > 1 else []
        layers += _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)
        layers += [_conv(hidden, out, 1), nn.BatchNorm2d(out)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        """(B, inp, H, W) to (B, out, H / stride, W / stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _conv_bn_relu6(
    inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    conv = _conv(inp, out, kernel, stride, groups)
    return conv, nn.BatchNorm2d(out), nn.ReLU6(inplace=True)


def _mobilenet_v2() -> nn.Sequential:
    trunk = nn.Sequential(nn.Sequential(*_conv_bn_relu6(3, 32, 3, 2)))
    channels = 32
    for expansion, out, repeats, first_stride in _MOBILENET_ROWS:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            trunk.append(InvertedResidual(channels, out, stride, expansion))
            channels = out
    trunk.append(nn.Sequential(*_conv_bn_relu6(channels, TRUNK_CHANNELS["mobilenet_v2"], 1)))
    return trunk


def naver_config(options: Mapping[str, Any]) -> ApGemConfig:
    """The config that a published checkpoint's `model_options` describe.

    Raises:
        InputError: for a trunk or a pooling that is not supported.
    """
    trunk = str(options.get("arch", "")).removesuffix("_rmac")
    if trunk not in _RESNET_BLOCKS:
        known = ", ".join(f"{name}_rmac" for name in _RESNET_BLOCKS)
        raise InputError(f"unsupported architecture {options.get('arch')!r}; known are {known}")
    pooling = str(options.get("pooling", "gem"))
    if not pooling.startswith("gem") or options.get("center_bias"):
        raise InputError(f"unsupported pooling {pooling!r} (only GeM without centre bias)")
    linear = not options.get("without_fc")
    return ApGemConfig(
        trunk,
        int(options.get("out_dim", 2048)) if linear else TRUNK_CHANNELS[trunk],
        float(options.get("gemp", 3)),
        bool(options.get("norm_features")),
        linear,
    )


def naver_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint's `state_dict` under this module's names."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        name = name.replace("adpool.", "pool.", 1)
        renamed[name if name.startswith(("fc.", "pool.")) else f"trunk.{name}"] = value
    return renamed

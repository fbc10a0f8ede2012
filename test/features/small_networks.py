"""Small networks with lively weights, and a picture with something to see in it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net
from kapture_ros.features.weights_file import save_network


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise at all sizes, in colour."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for level in range(6):
        coarse = rng.uniform(-1, 1, (2 + (height >> level), 2 + (width >> level), 3))
        total += cv2.resize(coarse.astype(np.float32), (width, height)) * 1.3**level
    return cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def enliven(network: nn.Module, seed: int = 0) -> None:
    """Statistics as after training, so that batch norm does something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    network.eval().requires_grad_(False)


def local_network(config: R2D2Config, seed: int = 0) -> R2D2Net:
    network = R2D2Net(config)
    enliven(network, seed)
    return network


def save_local(path: Path, config: R2D2Config, seed: int = 0) -> Path:
    """A weights file of a small R2D2."""
    save_network(path, local_network(config, seed), version="1", licence="BSD-3-Clause")
    return path


def global_network(trunk: str = "mobilenet_v2", size: int = 32) -> ApGemNet:
    network = ApGemNet(ApGemConfig(trunk, size, norm_features=True))
    enliven(network)
    return network


def save_global(path: Path, trunk: str = "mobilenet_v2") -> Path:
    """A weights file of AP-GeM."""
    save_network(path, global_network(trunk), version="1", licence="BSD-3-Clause")
    return path

"""Changes of light, sensor and compression, drawn anew for every view of a batch."""

from __future__ import annotations

import math

import torch
from compiling import constant
from torch import Tensor
from torch.nn import functional

# Luminance table of the JPEG standard (ITU-T T.81, table K.1), used for all channels.
_JPEG_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def change_photometry(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in 0..1 to the same, each image with its own light, tint, blur and noise."""
    count, device = len(images), images.device

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        values = torch.rand(count, channels, 1, 1, generator=generator, device=device)
        return low + (high - low) * values

    def chance(percent: float) -> Tensor:
        return uniform(0, 100) < percent

    changed = torch.where(chance(50), images * light_field(images, generator), images)
    changed = changed.clamp(min=1e-4) ** uniform(-0.5, 0.5).exp()
    grey = changed.mean(1, keepdim=True)
    changed = grey + (changed - grey) * torch.where(chance(10), 0.0, uniform(0.4, 1.5))
    night = chance(10)
    tint = torch.where(night, uniform(0.35, 1.0, 3) * uniform(0.25, 0.7), uniform(0.85, 1.18, 3))
    changed = changed * tint
    mean = changed.mean((1, 2, 3), keepdim=True)
    changed = (changed - mean) * uniform(-0.4, 0.35).exp() + mean + uniform(-0.1, 0.1)
    changed = torch.where(chance(40), blur(changed, uniform(0.3, 1.2)), changed)
    noise = torch.randn(changed.shape, generator=generator, device=device)
    changed = changed + noise * uniform(0, 1) ** 2 * torch.where(night, 0.07, 0.035)
    changed = changed.clamp(0, 1)
    return torch.where(chance(50), jpeg(changed, uniform(0.2, 1.5)), changed)


def light_field(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) factors: smooth light and shade, and the edge of one hard shadow."""
    count, _, height, width = images.shape
    device = images.device
    knots = torch.randn(count, 1, 4, 4, generator=generator, device=device).mul(0.25).exp()
    smooth = functional.interpolate(knots, (height, width), mode="bicubic").clamp(min=0.2)
    random = torch.rand(count, 3, generator=generator, device=device)
    angle = 2 * math.pi * random[:, 0]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height, device=device),
                          torch.linspace(-1, 1, width, device=device), indexing="ij")  # fmt: skip
    side = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    edge = torch.sigmoid(60 * (side - (random[:, 1] - 0.3)[:, None, None]))
    depth = 0.6 * random[:, 2][:, None, None]
    return smooth * (1 - depth * edge)[:, None]


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma (B, 1, 1, 1) of its own for each image, radius 3."""
    steps = torch.arange(-3, 4, device=images.device)
    kernel = torch.exp(-0.5 * (steps / sigma.flatten()[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    count, channels, height, width = images.shape
    flat = images.reshape(1, count * channels, height, width)
    flat = functional.pad(flat, (3, 3, 3, 3), mode="reflect")
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    flat = functional.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    return flat.view_as(images)


def jpeg(images: Tensor, strength: Tensor) -> Tensor:
    """Quantised 8×8 cosine transforms, `strength` times the standard table; sides divide by 8."""
    device = images.device
    k = torch.arange(8, device=device)
    basis = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    step = constant(_JPEG_TABLE, device) / 255 * strength[..., None, None]
    count, channels, height, width = images.shape
    blocks = images.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = torch.round(basis @ (blocks - 0.5) @ basis.T / step) * step
    decoded = (basis.T @ coefficients @ basis + 0.5).transpose(3, 4)
    return decoded.reshape(images.shape).clamp(0, 1)

"""Two views of one photograph under random homographies, with exact correspondence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from compiling import constant
from image_bank import ImageBank
from torch import Tensor
from torch.nn import functional

SUPERSAMPLING = 2  # of each axis: reduced views must not alias


@dataclass(frozen=True, slots=True)
class ViewPairs:
    """B pairs of square views and where the pixels of the first are in the second.

    Attributes:
        first: (B, 3, S, S) in 0..1.
        second: likewise.
        flow: (B, S, S, 2) x, y in the second view of every pixel of the first.
        valid: (B, S, S) whether that place is inside both images and seen in both.
    """

    first: Tensor
    second: Tensor
    flow: Tensor
    valid: Tensor


def pixel_grid(size: int, device: torch.device | str, samples: int = 1) -> Tensor:
    """(n, n, 2) x, y of pixel centres, `samples` to a pixel along each axis."""
    steps = (torch.arange(size * samples, device=device) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], -1)


def transform(homography: Tensor, points: Tensor) -> Tensor:
    """(B, 3, 3) applied to (n, n, 2) or (B, n, n, 2)."""
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    if homogeneous.dim() == 3:
        homogeneous = homogeneous.expand(len(homography), -1, -1, -1)
    moved = torch.einsum("bij,bhwj->bhwi", homography, homogeneous)
    return moved[..., :2] / moved[..., 2:].clamp(min=1e-3)


def homography_pairs(
    bank: ImageBank, indices: Tensor, size: int, generator: torch.Generator
) -> ViewPairs:
    """Views of the images at `indices`: scales within ×2.5, small rotations, tilts."""
    device = bank.pixels.device
    count = len(indices)
    extent = bank.sizes[indices]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    # Pixels of the photograph per pixel of the view; up to the whole photograph.
    largest = (extent.min(1).values / size).clamp(max=2.5)
    base = 0.8 + (largest - 0.8).clamp(min=0) * uniform(0, 1)
    half = base[:, None] * size / 2
    centre = half + (extent - 2 * half).clamp(min=0) * uniform(0, 1, 2)

    image_from_view = []
    for ratio in (uniform(-0.25, 0.25).exp(), uniform(-0.65, 0.65).exp()):
        scale = base * ratio
        angle = math.radians(12) * torch.randn(count, generator=generator, device=device)
        shift = centre + uniform(-0.12, 0.12, 2) * size * scale[:, None]
        stretch = uniform(-0.3, 0.3).exp()
        tilt = uniform(-0.5, 0.5, 2) / size
        image_from_view.append(_homography(size, scale, angle, shift, stretch, tilt))
    first_grid = transform(image_from_view[0], pixel_grid(size, device))
    flow = transform(_inverse(image_from_view[1]) @ image_from_view[0], pixel_grid(size, device))
    inside_photo = ((first_grid >= 0) & (first_grid <= extent[:, None, None] - 1)).all(-1)
    inside_view = ((flow >= 0) & (flow <= size - 1)).all(-1)
    views = [sample_views(bank, indices, h, size) for h in image_from_view]
    return ViewPairs(views[0], views[1], flow, inside_photo & inside_view)


def _homography(
    size: int, scale: Tensor, angle: Tensor, centre: Tensor, stretch: Tensor, tilt: Tensor
) -> Tensor:
    """(B, 3, 3) from a view's pixels to the photograph's."""
    count, device = len(scale), scale.device
    to_centre = torch.eye(3, device=device).repeat(count, 1, 1)
    to_centre[:, :2, 2] = -(size - 1) / 2
    perspective = torch.eye(3, device=device).repeat(count, 1, 1)
    perspective[:, 2, :2] = tilt
    affine = torch.eye(3, device=device).repeat(count, 1, 1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine[:, 0, 0], affine[:, 0, 1] = cos * stretch, -sin
    affine[:, 1, 0], affine[:, 1, 1] = sin * stretch, cos
    affine[:, :2, 2] = centre
    return affine @ perspective @ to_centre


def _inverse(matrices: Tensor) -> Tensor:
    """Of (B, 3, 3) up to scale, by the adjugate; torch.linalg.inv waits for the device."""
    one, two, three = matrices.unbind(1)
    return torch.stack(
        [torch.linalg.cross(two, three), torch.linalg.cross(three, one),
         torch.linalg.cross(one, two)], 2
    )  # fmt: skip


def similarity_views(
    size: int, scale: Tensor, angle: Tensor, centre: Tensor, tilt: Tensor
) -> Tensor:
    """(B, 3, 3) like `_homography`, without stretching."""
    return _homography(size, scale, angle, centre, torch.ones_like(scale), tilt)


def sample_views(bank: ImageBank, indices: Tensor, image_from_view: Tensor, size: int) -> Tensor:
    """Square views (B, 3, S, S) in 0..1 of the images at `indices`."""
    grid = transform(image_from_view, pixel_grid(size, indices.device, SUPERSAMPLING))
    # Beyond the photograph its border is repeated; those pixels are invalid anyway.
    grid = torch.minimum(grid.clamp(min=0), bank.sizes[indices][:, None, None] - 1)
    height, width = bank.pixels.shape[1:3]
    unit = (grid + 0.5) * 2 / constant((width, height), grid.device) - 1
    source = bank.pixels[indices].permute(0, 3, 1, 2).float() / 255
    view = functional.grid_sample(source, unit, mode="bilinear", align_corners=False)
    return functional.avg_pool2d(view, SUPERSAMPLING)


def concatenate(parts: list[ViewPairs]) -> ViewPairs:
    """One batch of several."""
    return ViewPairs(
        torch.cat([part.first for part in parts]),
        torch.cat([part.second for part in parts]),
        torch.cat([part.flow for part in parts]),
        torch.cat([part.valid for part in parts]),
    )

"""The three losses of R2D2 (Revaud et al., NeurIPS 2019, section 3) on batches of view pairs.

Repeatability: the maps of both views, one warped onto the other, look alike in every patch.
Peakiness: every patch has a peak. Reliability: the average precision with which a descriptor
finds its counterpart among distractors, bought out at a fixed price where it is poor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from average_precision import NOT_COUNTED, average_precision, to_unit_range
from torch import Tensor
from torch.nn import functional

from kapture_ros.features.r2d2_network import DenseFeatures


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Settings of the losses; lengths in pixels.

    Attributes:
        patch: side of the patches of repeatability and peakiness.
        step: grid of queries and of distractors.
        border: width of the frame without queries and distractors.
        near: within it of the true place lies the positive (the best match counts).
        ring: inner and outer radius of the distractors round the true place.
        group: images whose descriptors are each other's distractors.
        bins: of the similarity in the quantised average precision.
        base: precision below which a descriptor is better declared unreliable.
    """

    patch: int = 16
    step: int = 8
    border: int = 16
    near: float = 3.0
    ring: tuple[float, float] = (5.0, 7.0)
    group: int = 8
    bins: int = 20
    base: float = 0.5


def to_unit(pixels: Tensor, size: int) -> Tensor:
    """Pixel positions to the -1..1 of grid_sample without aligned corners."""
    return (pixels + 0.5) * 2 / size - 1


def sample(maps: Tensor, pixels: Tensor) -> Tensor:
    """(B, C, S, S) maps at (B, n, m, 2) positions: (B, C, n, m), bilinear."""
    return functional.grid_sample(maps, to_unit(pixels, maps.shape[-1]), align_corners=False)


def repeatability_loss(
    first: Tensor, second: Tensor, flow: Tensor, valid: Tensor, patch: int
) -> Tensor:
    """1 − the mean cosine of corresponding patches of both repeatability maps (B, 1, S, S)."""
    seen = valid[:, None].float()
    one = _patches(first * seen, patch)
    two = _patches(sample(second, flow) * seen, patch)
    share = functional.avg_pool2d(seen, patch, stride=patch // 2).flatten(1)
    cosine = functional.cosine_similarity(one, two, dim=1, eps=1e-6)
    return 1 - (cosine * share).sum() / share.sum().clamp(min=1)


def _patches(maps: Tensor, patch: int) -> Tensor:
    return functional.unfold(maps, patch, stride=patch // 2)


def peakiness_loss(repeatability: Tensor, patch: int) -> Tensor:
    """1 − the mean over patches of maximum minus mean."""
    smooth = functional.avg_pool2d(repeatability, 3, stride=1, padding=1)
    highest = functional.max_pool2d(smooth, patch + 1, stride=1, padding=patch // 2)
    mean = functional.avg_pool2d(smooth, patch + 1, stride=1, padding=patch // 2)
    return 1 - (highest - mean).mean()


def reliability_loss(
    first: DenseFeatures,
    second: DenseFeatures,
    flow: Tensor,
    valid: Tensor,
    options: LossOptions,
    plain: float,
) -> tuple[Tensor, Tensor]:
    """Mean of 1 − (AP · r + base · (1 − r)), and the mean AP itself for the log.

    `plain` (0..1) is the weight of 1 − AP alone in its place: from scratch every descriptor is
    poor at first, and declaring all of them unreliable would be the end of learning.
    """
    size = flow.shape[1]
    steps = torch.arange(options.border, size - options.border, options.step, device=flow.device)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    queries = first.descriptors[:, :, rows, columns].transpose(1, 2)
    distractors = second.descriptors[:, :, rows, columns].transpose(1, 2)
    where = flow[:, rows, columns]
    usable = valid[:, rows, columns]
    reliable = _reliability_at(first, second, where, rows, columns)
    place = torch.stack([columns, rows], -1).float()
    apart = torch.cdist(where, place.expand(len(where), -1, -1)) > options.ring[0]
    precision = torch.cat(
        [
            _precision_of_group(
                queries[part], distractors[part], second.descriptors[part], where[part],
                apart[part], options,
            )
            for part in (slice(i, i + options.group) for i in range(0, len(flow), options.group))
        ]
    )  # fmt: skip
    value = precision * reliable + options.base * (1 - reliable)
    value = plain * precision + (1 - plain) * value
    count = usable.sum().clamp(min=1)
    return 1 - (value * usable).sum() / count, (precision.detach() * usable).sum() / count


def _reliability_at(
    first: DenseFeatures, second: DenseFeatures, where: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    one = first.reliability[:, 0, rows, columns]
    two = sample(second.reliability, where[:, :, None])[:, 0, :, 0]
    return (one + two) / 2


def _precision_of_group(
    queries: Tensor,
    distractors: Tensor,
    second: Tensor,
    where: Tensor,
    apart: Tensor,
    options: LossOptions,
) -> Tensor:
    """(G, Q) average precision; queries (G, Q, D) and distractors (G, Q, D) of G images."""
    images, count, depth = queries.shape
    near = _offsets(0, options.near, queries.device)
    ring = _offsets(*options.ring, queries.device)
    around = torch.cat([near, ring])
    # (G, Q, offsets): similarity with the surroundings of the true place, from the map itself.
    local = sample(second, where[:, :, None] + around)
    local = to_unit_range(torch.einsum("gqd,gdqo->gqo", queries, local))
    positive = local[..., : len(near)].amax(-1)
    flat = queries.reshape(-1, depth) @ distractors.reshape(-1, depth).T
    unknown = torch.zeros(images, count, images, count, device=queries.device, dtype=torch.bool)
    own = torch.arange(images, device=queries.device)
    unknown[own, :, own] = ~apart
    far = to_unit_range(flat).masked_fill(unknown.view_as(flat), NOT_COUNTED)
    negative = torch.cat([far, local[..., len(near) :].flatten(0, 1)], 1)
    return average_precision(positive.view(-1, 1), negative, options.bins).view(images, count)


def _offsets(inner: float, outer: float, device: torch.device) -> Tensor:
    """(n, 2) whole pixel offsets with inner ≤ length ≤ outer."""
    reach = int(outer)
    steps = torch.arange(-reach, reach + 1, device=device)
    offsets = torch.cartesian_prod(steps, steps).float()
    length = offsets.norm(dim=1)
    return offsets[(length >= inner) & (length <= outer)]

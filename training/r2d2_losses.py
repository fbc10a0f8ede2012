"""The three losses of R2D2 (Revaud et al., NeurIPS 2019, section 3) on batches of view pairs.

Repeatability: the maps of both views, one warped onto the other, look alike in every patch.
Peakiness: every patch has a peak. Reliability: the average precision with which a descriptor
finds its counterpart among distractors, bought out at a fixed price where it is poor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from average_precision import NOT_COUNTED, average_precision, to_unit_range
from compiling import constant
from torch import Tensor
from torch.nn import functional

from kapture_ros.features.r2d2_network import (
    R2D2Net,
    reliability_of,
    repeatability_of,
    upsample,
)


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Settings of the losses; lengths in pixels.

    Attributes:
        patch: side of the patches of repeatability and peakiness.
        radius: of the squares in which peaks are compared.
        softness: of the maximum in them, in units of repeatability.
        localization: weight of that loss.
        step: grid of queries and of distractors.
        border: width of the frame without queries and distractors.
        near: the positive is the best match at the true place and this far beside it.
        ring: radius of the distractors round the true place. The paper has 5 to 7 pixels.
        group: images whose descriptors are each other's distractors.
        bins: of the similarity in the quantised average precision.
        base: precision below which a descriptor is better declared unreliable; as long as the
            mean of a batch is less than that, the mean. A network that starts from nothing
            would declare all its poor descriptors unreliable, and that is the end of learning.
        plain: weight of 1 − AP alone beside it, so that the unreliable ones go on learning.
    """

    patch: int = 16
    radius: int = 3
    softness: float = 0.1
    localization: float = 1.0
    step: int = 8
    border: int = 16
    near: float = 2.0
    ring: float = 7.0
    group: int = 8
    bins: int = 20
    base: float = 0.5
    plain: float = 0.2


class CoarseFeatures(NamedTuple):
    """What R2D2Net gives, but descriptors as computed: coarse, and not of unit length.

    Enlarging 128 channels to full resolution would take most of the time of a step.

    Attributes:
        descriptors: (B, D, S / stride, S / stride).
        reliability: (B, 1, S, S) in 0..1.
        repeatability: (B, 1, S, S) in 0..1.
    """

    descriptors: Tensor
    reliability: Tensor
    repeatability: Tensor


def coarse_features(net: R2D2Net, images: Tensor) -> CoarseFeatures:
    """The features of a network with a folded stem for normalised images (B, 3, S, S)."""
    raw, repeatability = net.folded(images)
    reliability = upsample(net.reliability_head(raw * raw).float(), net.config.stride)
    return CoarseFeatures(raw.float(), reliability_of(reliability),
                          repeatability_of(repeatability.float()))  # fmt: skip


def to_unit(pixels: Tensor, size: int) -> Tensor:
    """Pixel positions to the -1..1 of grid_sample without aligned corners."""
    return (pixels + 0.5) * 2 / size - 1


def sample(maps: Tensor, pixels: Tensor, size: int) -> Tensor:
    """Maps (B, C, h, w) of views of side `size` at pixels (B, n, m, 2): (B, C, n, m).

    Bilinear as in enlarging the map, whatever its resolution.
    """
    return functional.grid_sample(
        maps, to_unit(pixels, size), padding_mode="border", align_corners=False
    )


def descriptors_at(maps: Tensor, pixels: Tensor, size: int) -> Tensor:
    """Unit descriptors (B, n, m, D) at pixels (B, n, m, 2)."""
    return functional.normalize(sample(maps, pixels, size).permute(0, 2, 3, 1), dim=-1)


def repeatability_loss(
    first: Tensor, second: Tensor, flow: Tensor, valid: Tensor, patch: int
) -> Tensor:
    """1 − the mean cosine of corresponding patches of both repeatability maps (B, 1, S, S)."""
    seen = valid[:, None].float()
    one = _patches(first * seen, patch)
    two = _patches(sample(second, flow, flow.shape[1]) * seen, patch)
    share = functional.avg_pool2d(seen, patch, stride=patch // 2).flatten(1)
    cosine = functional.cosine_similarity(one, two, dim=1, eps=1e-6)
    return 1 - (cosine * share).sum() / share.sum().clamp(min=1)


def _patches(maps: Tensor, patch: int) -> Tensor:
    return functional.unfold(maps, patch, stride=patch // 2)


def peakiness_loss(repeatability: Tensor, patch: int) -> Tensor:
    """1 − the mean over patches of maximum minus mean."""
    smooth = functional.avg_pool2d(repeatability, 3, stride=1, padding=1)
    highest = mean = smooth
    for side in ((patch + 1, 1), (1, patch + 1)):  # one axis after the other is the same, faster
        half = (side[0] // 2, side[1] // 2)
        highest = functional.max_pool2d(highest, side, stride=1, padding=half)
        mean = functional.avg_pool2d(mean, side, stride=1, padding=half)
    return 1 - (highest - mean).mean()


def localization_loss(
    first: Tensor, second: Tensor, flow: Tensor, valid: Tensor, options: LossOptions
) -> Tensor:
    """How far from the true place the second map says that the peaks of the first are, 0..1.

    The cosine of whole patches hardly minds a peak a pixel off. The mean distance is over a
    square round the true place, in units of half its side; weights are a softmax of the map.
    """
    size, radius = flow.shape[1], options.radius
    heights, peaks = functional.max_pool2d(first.detach(), options.step, return_indices=True)
    heights, peaks = heights.flatten(1), peaks.flatten(1)
    where = flow.flatten(1, 2).gather(1, peaks[..., None].expand(-1, -1, 2))
    weight = heights * valid.flatten(1).gather(1, peaks)
    steps = range(-radius, radius + 1)
    around = constant(tuple((float(x), float(y)) for y in steps for x in steps), flow.device)
    seen = sample(second, where[:, :, None] + around, size)[:, 0]
    distance = (functional.softmax(seen / options.softness, -1) * around.norm(dim=1)).sum(-1)
    return (distance * weight).sum() / weight.sum().clamp(min=1) / radius


def reliability_loss(
    first: CoarseFeatures,
    second: CoarseFeatures,
    flow: Tensor,
    valid: Tensor,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:
    """Mean of 1 − (AP · r + base · (1 − r)), mixed with 1 − AP; and the AP for the log."""
    size = flow.shape[1]
    steps = torch.arange(options.border, size - options.border, options.step, device=flow.device)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    place = torch.stack([columns, rows], -1).float().expand(len(flow), -1, -1)
    where, usable = flow[:, rows, columns], valid[:, rows, columns]
    queries = descriptors_at(first.descriptors, place[:, :, None], size)[:, :, 0]
    distractors = descriptors_at(second.descriptors, place[:, :, None], size)[:, :, 0]
    around = constant(_circle(options.near) + _circle(options.ring), flow.device)
    local = descriptors_at(second.descriptors, where[:, :, None] + around, size)
    local = to_unit_range(torch.einsum("bqd,bqod->bqo", queries, local))
    positive = local[..., : len(around) // 2].amax(-1)
    ring = local[..., len(around) // 2 + 1 :]
    apart = torch.cdist(where, place) > options.ring / 2
    precision = torch.cat(
        [
            _precision_of_group(queries[g], distractors[g], positive[g], ring[g], apart[g],
                                options.bins)
            for g in (slice(i, i + options.group) for i in range(0, len(flow), options.group))
        ]
    )  # fmt: skip
    one = first.reliability[:, 0, rows, columns]
    two = sample(second.reliability, where[:, :, None], size)[:, 0, :, 0]
    reliable = (one + two) / 2
    count = usable.sum().clamp(min=1)
    mean = (precision.detach() * usable).sum() / count
    value = precision * reliable + mean.clamp(max=options.base) * (1 - reliable)
    value = options.plain * precision + (1 - options.plain) * value
    return 1 - (value * usable).sum() / count, mean


def _precision_of_group(
    queries: Tensor, distractors: Tensor, positive: Tensor, ring: Tensor, apart: Tensor, bins: int
) -> Tensor:
    """(G, Q) average precision of the queries (G, Q, D) of G images.

    Args:
        distractors: (G, Q, D) from the second views, all of the group for every query.
        positive: (G, Q) similarity with the true place.
        ring: (G, Q, n) similarities with distractors beside it.
        apart: (G, Q, Q) which of the own image's distractors are not the true place.
    """
    images, count, depth = queries.shape
    far = to_unit_range(queries.reshape(-1, depth) @ distractors.reshape(-1, depth).T)
    own = torch.arange(images, device=queries.device)
    unknown = torch.zeros(images, count, images, count, device=queries.device, dtype=torch.bool)
    unknown[own, :, own] = ~apart
    far = far.masked_fill(unknown.view_as(far), NOT_COUNTED)
    negative = torch.cat([far, ring.reshape(images * count, -1)], 1)
    return average_precision(positive.view(-1, 1), negative, bins).view(images, count)


def _circle(radius: float) -> tuple[tuple[float, float], ...]:
    """Nine offsets: none, then eight round the circle."""
    angles = [eighth * math.pi / 4 for eighth in range(8)]
    return (0.0, 0.0), *((radius * math.cos(a), radius * math.sin(a)) for a in angles)

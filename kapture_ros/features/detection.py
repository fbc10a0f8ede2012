"""From the network's maps to keypoints: scales, local maxima, the best, their descriptors.

Shapes depend on sizes and options only, never on the content, so that a GPU can run the
whole as one recorded graph.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kapture_ros.features.options import R2D2Options
from kapture_ros.features.r2d2_inference import Engine
from kapture_ros.features.r2d2_network import PATCH_SIZE, normalise_images


class Candidates(NamedTuple):
    """Keypoints of B images, best first; a score of 0 marks an empty place.

    Attributes:
        keypoints: (B, K, 3) float32: x, y in pixels of the image as given, the centre of
            the upper left pixel at (0, 0), and the side of the patch described.
        descriptors: (B, K, D) float32, of unit length.
        scores: (B, K) float32, reliability × repeatability.
    """

    keypoints: Tensor
    descriptors: Tensor
    scores: Tensor


@torch.no_grad()
def detect(
    engine: Engine, options: R2D2Options, images: Tensor, masks: Tensor | None = None
) -> Candidates:
    """Keypoints of images of one size.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        masks: (B, H, W) bool, true where keypoints may be.
    """
    height, width = images.shape[2:]
    found = []
    for level, scale in _pyramid(normalise_images(images), options):
        maps = engine(level)
        scores = peak_scores(maps.reliability, maps.repeatability, options)
        if masks is not None:
            size = (level.shape[2], level.shape[3])
            small = nn.functional.interpolate(masks[:, None].float(), size)[:, 0]
            scores *= small[:, : scores.shape[1], : scores.shape[2]]
        best, index = _top(scores.flatten(1), options.top_k)
        x, y = index % scores.shape[2], index // scores.shape[2]
        ratio = (width / level.shape[3], height / level.shape[2])
        # NAVER's pyramid scales pixel indices; a single scale maps pixel centres.
        shift = 0.0 if options.pyramid else 0.5
        keypoints = torch.stack(
            (
                (x + shift) * ratio[0] - shift,
                (y + shift) * ratio[1] - shift,
                torch.full_like(best, PATCH_SIZE / scale),
            ),
            dim=-1,
        )
        descriptors = sample_descriptors(maps.features, x, y, engine.stride)
        found.append(Candidates(keypoints, descriptors, best))
    return found[0] if len(found) == 1 else _merge(found, options.top_k)


def _pyramid(image: Tensor, options: R2D2Options) -> Iterator[tuple[Tensor, float]]:
    """The image at every scale to look at, with the scale.

    Each scale is made from the one before, as in NAVER's release, whose bounds have a
    tolerance of 0.001 and whose sizes round half to even.
    """
    height, width = image.shape[2:]
    longest = max(height, width)
    if not options.pyramid:
        scale = min(1.0, options.max_size / longest)
        if scale < 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            image = nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
        yield image, scale
        return
    scale = 1.0
    smallest = max(options.min_scale, options.min_size / longest)
    while scale + 0.001 >= smallest:
        if scale - 0.001 <= options.max_size / longest:
            yield image, scale
        scale /= options.scale_step
        size = (round(height * scale), round(width * scale))
        image = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)


def peak_scores(reliability: Tensor, repeatability: Tensor, options: R2D2Options) -> Tensor:
    """Reliability × repeatability at the keypoints, 0 elsewhere; all (B, H, W).

    A keypoint is at least as repeatable as all of the square of `nms_radius` round it.
    """
    peaks = repeatability == _highest_around(repeatability, options.nms_radius)
    peaks &= repeatability >= options.repeatability
    peaks &= reliability >= options.reliability
    return reliability * repeatability * peaks


def _highest_around(maps: Tensor, radius: int) -> Tensor:
    """The maximum of the square round every pixel of (B, H, W), of values from 0.

    Maxima of shifted maps are far faster than `max_pool2d` on a CPU.
    """
    padded = nn.functional.pad(maps, (radius,) * 4)
    for axis in (1, 2):
        size = padded.shape[axis] - 2 * radius
        shifted = [padded.narrow(axis, start, size) for start in range(2 * radius + 1)]
        padded = functools.reduce(torch.maximum, shifted)
    return padded


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest (B, K) of (B, N), with their indices."""
    if scores.device.type != "cpu":
        return scores.topk(min(count, scores.shape[1]))
    # Few pixels are peaks: finding them first is much faster than ranking all pixels.
    (peaks,) = scores.any(0).nonzero(as_tuple=True)
    best, index = scores[:, peaks].topk(min(count, len(peaks)))
    return best, peaks[index]


def sample_descriptors(features: Tensor, x: Tensor, y: Tensor, stride: int) -> Tensor:
    """Unit descriptors (B, K, D) at pixels x, y (B, K) of features (B, h, w, D)."""
    if stride == 1:
        raw = _rows_at(features, x, y)
    else:
        # Bilinear between cell centres, as upsampling would do it.
        u = ((x + 0.5) / stride - 0.5).clamp(0, features.shape[2] - 1)
        v = ((y + 0.5) / stride - 0.5).clamp(0, features.shape[1] - 1)
        left, top = u.long(), v.long()
        right = (left + 1).clamp(max=features.shape[2] - 1)
        bottom = (top + 1).clamp(max=features.shape[1] - 1)
        a, b = (u - left)[..., None], (v - top)[..., None]
        upper = _rows_at(features, left, top) * (1 - a) + _rows_at(features, right, top) * a
        lower = _rows_at(features, left, bottom) * (1 - a) + _rows_at(features, right, bottom) * a
        raw = upper * (1 - b) + lower * b
    return nn.functional.normalize(raw, dim=-1)


def _rows_at(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    batch = torch.arange(len(features), device=features.device)[:, None]
    return features[batch, y, x].float()


def _merge(found: list[Candidates], count: int) -> Candidates:
    """The best of all scales."""
    scores = torch.cat([part.scores for part in found], dim=1)
    best, index = scores.topk(min(count, scores.shape[1]))
    batch = torch.arange(len(scores), device=scores.device)[:, None]
    return Candidates(
        torch.cat([part.keypoints for part in found], dim=1)[batch, index],
        torch.cat([part.descriptors for part in found], dim=1)[batch, index],
        best,
    )

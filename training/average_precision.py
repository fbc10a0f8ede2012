"""Average precision as a loss (He et al., "Local Descriptors Optimized for Average Precision",
CVPR 2018), which both R2D2 and AP-GeM are trained with."""

from __future__ import annotations

from typing import Any

import torch
from compiling import compiled
from torch import Tensor

NOT_COUNTED = -1.0


def to_unit_range(cosine: Tensor) -> Tensor:
    """Cosines of unit vectors to 0..1; opposed ones are as bad as unrelated ones."""
    return cosine.float().clamp(min=0, max=1)


class SoftHistogram(torch.autograd.Function):
    """How many of N similarities fall into each bin, shared linearly between two bins.

    Written out because autograd would keep 20 copies of a matrix of ten million entries.
    """

    @staticmethod
    def forward(ctx: Any, similarity: Tensor, bins: int) -> Tensor:
        """(Q, N) similarities in 0..1, negative where not to be counted, to (Q, bins)."""
        ctx.save_for_backward(similarity)
        ctx.bins = bins
        return _soft_histogram(similarity, bins)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The slope between a similarity's two bins."""
        (similarity,) = ctx.saved_tensors
        (gradient,) = gradients
        above = ((1 - similarity) * (ctx.bins - 1)).long().clamp(0, ctx.bins - 2)
        slope = gradient.gather(1, above) - gradient.gather(1, above + 1)
        return slope * (ctx.bins - 1) * (similarity >= 0), None


@compiled
def _soft_histogram(similarity: Tensor, bins: int) -> Tensor:
    columns = []
    for index in range(bins):
        edge = 1 - index / (bins - 1)
        columns.append((1 - (similarity - edge).abs() * (bins - 1)).clamp(min=0).sum(1))
    return torch.stack(columns, 1)


def average_precision(positive: Tensor, negative: Tensor, bins: int) -> Tensor:
    """Differentiable average precision of Q queries, (Q,).

    Similarities in 0..1 are assigned softly to equal bins; precision is read bin by bin.

    Args:
        positive: (Q, P) similarity with true counterparts; NOT_COUNTED where there is none.
        negative: (Q, N) with distractors, likewise.
    """
    hits = SoftHistogram.apply(positive, bins)
    misses = SoftHistogram.apply(negative, bins)
    recalled, rejected = hits.cumsum(1), misses.cumsum(1)
    precision = recalled / (1e-8 + recalled + rejected)
    return (precision * hits).sum(1) / hits.sum(1).clamp(min=1e-6)

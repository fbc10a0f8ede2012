"""What R2D2's heads make of the features on a GPU, in one pass over them.

Imported only where Triton is at hand and has the C compiler that it needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 32  # pixels a program


@triton.jit  # type: ignore[untyped-decorator]
def _square_products(  # type: ignore[no-untyped-def]
    features, weights, biases, logits, pixels, size: tl.constexpr, rows: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, size)
    inside = row < pixels
    places = features + row[:, None] * size + column[None, :]
    value = tl.load(places, mask=inside[:, None], other=0.0).to(tl.float32)
    squared = value * value
    for head in tl.static_range(3):
        weight = tl.load(weights + head * size + column)
        logit = tl.sum(squared * weight[None, :], axis=1) + tl.load(biases + head)
        tl.store(logits + head * pixels + row, logit, mask=inside)


def products_with_squares(features: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Logits (3, …) of contiguous features (…, D) of any precision; D is a power of two.

    Args:
        weights: (3, D) float32.
        biases: (3,) float32.
    """
    pixels, size = features[..., 0].numel(), features.shape[-1]
    logits = torch.empty(3, *features.shape[:-1], device=features.device)
    programs = (triton.cdiv(pixels, _ROWS),)
    _square_products[programs](features, weights, biases, logits, pixels, size, _ROWS)
    return logits

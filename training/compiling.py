"""Fuses the elementwise loops of the training on a GPU; on a CPU they run as written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose loops are unrolled into few kernels where there is a GPU."""
    return torch.compile(function, dynamic=False) if torch.cuda.is_available() else function

"""What makes a training step fast on a GPU: fused loops, one launch a step; on a CPU it runs as
written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 8  # cuDNN, the compiler and the allocator settle


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose loops are unrolled into few kernels where there is a GPU."""
    return torch.compile(function, dynamic=False) if torch.cuda.is_available() else function


@functools.cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Numbers, nested in tuples, on the device; copies from the host cannot be recorded."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def recorded(
    step: Callable[[], dict[str, Tensor]], generator: torch.Generator
) -> Callable[[], dict[str, Tensor]]:
    """A step as a CUDA graph: its hundreds of small kernels are launched at once.

    Some steps are made on the way. The step returns the same tensors every time, draws its
    random numbers from `generator`, and nothing in it waits for the device.
    """
    if generator.device.type != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        values = step()

    def replay() -> dict[str, Tensor]:
        graph.replay()
        return values

    return replay

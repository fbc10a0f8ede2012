"""Runs a function of tensors as a recorded CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

_WARM_UPS = 3
_KEPT = 4
"""Recordings kept: each holds the memory of all intermediate results of one input size."""

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]
Shapes: TypeAlias = tuple[torch.Size | None, ...]


@dataclass(frozen=True, slots=True)
class _Recording:
    """Host buffers are pinned, and their transfers are part of the graph."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]


class Recorded:
    """Calls `function`, whose work depends on the shapes of its inputs only.

    An input shape seen for the second time is recorded, and replayed from then on: a
    camera's images all have one size, while a folder of photos may hold hundreds.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function = function
        self._device = device
        self._seen: set[Shapes] = set()
        self._recordings: OrderedDict[Shapes, _Recording] = OrderedDict()

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """CPU tensors to CPU tensors (valid until the next call); None is passed on."""
        shapes = tuple(None if item is None else item.shape for item in inputs)
        with torch.cuda.device(self._device), torch.no_grad():
            if shapes in self._recordings:
                self._recordings.move_to_end(shapes)
            elif shapes in self._seen:
                self._recordings[shapes] = self._record(inputs)
                if len(self._recordings) > _KEPT:
                    self._recordings.popitem(last=False)
            else:
                self._seen.add(shapes)
                with _exact_float32(benchmark=False):
                    outputs = self._function(*(_moved(item, self._device) for item in inputs))
                return tuple(item.cpu() for item in outputs)
            recording = self._recordings[shapes]
            for kept, given in zip(recording.inputs, inputs, strict=True):
                if kept is not None and given is not None:
                    # One core copies faster than many agree on it, if they are busy otherwise.
                    np.copyto(kept.numpy(), given.numpy())
            recording.graph.replay()
            torch.cuda.current_stream().synchronize()
            return recording.outputs

    def _record(self, inputs: tuple[Tensor | None, ...]) -> _Recording:
        pinned = tuple(None if item is None else item.pin_memory() for item in inputs)

        def compute() -> tuple[Tensor, ...]:
            return self._function(*(_moved(item, self._device) for item in pinned))

        with _exact_float32(benchmark=True):
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # kernels are chosen outside the recording
                for _ in range(_WARM_UPS):
                    computed = compute()
            torch.cuda.current_stream().wait_stream(side)
            outputs = tuple(torch.empty_like(item, device="cpu").pin_memory() for item in computed)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for host, item in zip(outputs, compute(), strict=True):
                    host.copy_(item, non_blocking=True)
        return _Recording(graph, pinned, outputs)


def _exact_float32(*, benchmark: bool) -> contextlib.AbstractContextManager[None]:
    """cuDNN without TF32, which is float32 in name only; benchmark tries all its kernels."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=False)


def _moved(item: Tensor | None, device: torch.device) -> Tensor | None:
    return None if item is None else item.to(device, non_blocking=True)

"""Runs a function of tensors as a recorded CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

_WARM_UPS = 3
_KEPT = 4
"""Recordings kept: each holds the memory of all intermediate results of one input size."""

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]
Shapes: TypeAlias = tuple[torch.Size | None, ...]


@dataclass(frozen=True, slots=True)
class _Recording:
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
        """The outputs, on the device; valid until the next call.

        Args:
            inputs: on any device; None is passed on.
        """
        shapes = tuple(None if item is None else item.shape for item in inputs)
        with torch.cuda.device(self._device):
            if shapes not in self._recordings:
                if shapes not in self._seen:
                    self._seen.add(shapes)
                    return self._function(*(self._moved(item) for item in inputs))
                self._recordings[shapes] = self._record(inputs)
                if len(self._recordings) > _KEPT:
                    self._recordings.popitem(last=False)
            self._recordings.move_to_end(shapes)
            recording = self._recordings[shapes]
            for kept, given in zip(recording.inputs, inputs, strict=True):
                if kept is not None and given is not None:
                    kept.copy_(given)
            recording.graph.replay()
            return recording.outputs

    def _moved(self, item: Tensor | None) -> Tensor | None:
        return None if item is None else item.to(self._device)

    def _record(self, inputs: tuple[Tensor | None, ...]) -> _Recording:
        kept = tuple(None if item is None else item.to(self._device, copy=True) for item in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their kernels outside the recording
            for _ in range(_WARM_UPS):
                self._function(*kept)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*kept)
        return _Recording(graph, kept, outputs)

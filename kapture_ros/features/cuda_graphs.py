"""Starts a function of tensors: on a GPU as a recorded CUDA graph, one launch instead of
hundreds, while the caller goes on; on a CPU when its result is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import threading
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

Tensors: TypeAlias = tuple[Tensor, ...]
Function: TypeAlias = Callable[..., Tensors]
Shapes: TypeAlias = tuple[torch.Size | None, ...]


@functools.cache
def network_stream(device: torch.device) -> torch.cuda.Stream:
    """Where networks run one after the other, beside the other work of a GPU.

    Side by side they would end together: a small kernel waits until a large one lets it in.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Run:
    """A started function: CPU tensors on demand; may be asked from any thread."""

    def __init__(self, collect: Callable[[], Tensors]) -> None:
        self._collect = collect
        self._lock = threading.Lock()
        self._found: Tensors | None = None

    def __call__(self) -> Tensors:
        """Wait for the results, and keep them."""
        with self._lock:
            if self._found is None:
                self._found = self._collect()
            return self._found


class Deferred:
    """Calls a function when its result is asked for, one call at a time: what a CPU can do."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._lock = threading.Lock()

    def start(self, *inputs: Tensor | None) -> Run:
        """As `Recorded.start`, but nothing happens yet: the inputs must stay as they are."""

        def collect() -> Tensors:
            with self._lock:
                return self._function(*inputs)

        return Run(collect)


@dataclass(slots=True)
class _Recording:
    """Host buffers are pinned, and their transfers are part of the graph.

    Attributes:
        last: who started it last; its results are in `outputs`.
    """

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor | None, ...]
    outputs: Tensors
    done: torch.cuda.Event
    last: Run | None = None


class Recorded:
    """Calls `function`, whose work depends on the shapes of its inputs only.

    An input shape seen for the second time is recorded, and replayed from then on: a
    camera's images all have one size, while a folder of photos may hold hundreds. May be
    called from several threads.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function = function
        self._device = device
        self._stream = network_stream(device)
        self._seen: set[Shapes] = set()
        self._recordings: OrderedDict[Shapes, _Recording] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, *inputs: Tensor | None) -> Run:
        """Begin with CPU tensors; None is passed on. What is recorded runs in the background."""
        shapes = tuple(None if item is None else item.shape for item in inputs)
        with self._lock, torch.cuda.device(self._device), torch.no_grad():
            if shapes in self._recordings:
                self._recordings.move_to_end(shapes)
            elif shapes in self._seen:
                self._recordings[shapes] = self._record(inputs)
                if len(self._recordings) > _KEPT:
                    self._recordings.popitem(last=False)
            else:
                self._seen.add(shapes)
                with _exact_float32(benchmark=False), torch.cuda.stream(self._stream):
                    outputs = self._function(*(_moved(item, self._device) for item in inputs))
                    found = tuple(item.cpu() for item in outputs)
                return Run(lambda: found)
            return self._replay(self._recordings[shapes], inputs)

    def _replay(self, recording: _Recording, inputs: tuple[Tensor | None, ...]) -> Run:
        if recording.last is not None:
            recording.last()  # its results are about to be overwritten
        for kept, given in zip(recording.inputs, inputs, strict=True):
            if kept is not None and given is not None:
                # By NumPy: one core copies faster than many agree on it, if they are busy.
                np.copyto(kept.numpy(), given.numpy())
        with torch.cuda.stream(self._stream):
            recording.graph.replay()
            recording.done.record()

        def collect() -> Tensors:
            recording.done.synchronize()
            return tuple(torch.from_numpy(item.numpy().copy()) for item in recording.outputs)

        recording.last = Run(collect)
        return recording.last

    def _record(self, inputs: tuple[Tensor | None, ...]) -> _Recording:
        pinned = tuple(None if item is None else item.pin_memory() for item in inputs)

        def compute() -> Tensors:
            return self._function(*(_moved(item, self._device) for item in pinned))

        with _exact_float32(benchmark=True):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):  # kernels are chosen outside the recording
                for _ in range(_WARM_UPS):
                    computed = compute()
            outputs = tuple(torch.empty_like(item, device="cpu").pin_memory() for item in computed)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                for host, item in zip(outputs, compute(), strict=True):
                    host.copy_(item, non_blocking=True)
        return _Recording(graph, pinned, outputs, torch.cuda.Event())  # type: ignore[no-untyped-call]


def _exact_float32(*, benchmark: bool) -> contextlib.AbstractContextManager[None]:
    """cuDNN without TF32, which is float32 in name only; benchmark tries all its kernels."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=False)


def _moved(item: Tensor | None, device: torch.device) -> Tensor | None:
    return None if item is None else item.to(device, non_blocking=True)

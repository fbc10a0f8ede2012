"""Threads for many small pieces of work on a CPU, each with scratch memory of its own.

The networks and the matcher hand them products of matrices.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Workspace:
    """Buffers by name that grow to the largest size asked for and are then reused."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def take(self, name: str, *shape: int, dtype: type[np.number] = np.float32) -> NDArray[Any]:
        """An array with unspecified finite content, valid until the name is taken again.

        Args:
            dtype: the same for a name at all times.
        """
        size = int(np.prod(shape))
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            # By NumPy, which asks the system for huge pages; PyTorch does not.
            buffer = self._buffers[name] = np.zeros(size, dtype)
        return buffer[:size].reshape(shape)


class Workers:
    """Threads that work side by side, each on one core and with scratch memory of its own.

    Splitting each of the many small operations over all cores instead would make the cores
    wait for each other, without end when something else runs on one of them.
    """

    def __init__(self) -> None:
        self._count = torch.get_num_threads()
        self._scratch = threading.local()
        # Nothing of the threads refers to the pool: forgotten, it ends them.
        self._pool = ThreadPoolExecutor(self._count, "workers", _begin, (self._scratch,))
        started = threading.Barrier(self._count)
        list(self._pool.map(lambda _: started.wait(), range(self._count)))
        torch.set_num_threads(self._count)  # what _begin set is also the default of new threads

    def run(self, work: Callable[[Workspace, int], None], items: Iterable[int]) -> None:
        """Call `work(scratch, item)` for every item; returns when all are done."""
        waiting = iter(items)  # of which each thread takes the next

        def work_on(_: int) -> None:
            for item in waiting:
                work(self._scratch.workspace, item)

        list(self._pool.map(work_on, range(self._count)))


@functools.cache
def shared_workers() -> Workers:
    """Those of the process, started when they are first asked for."""
    return Workers()


def _begin(scratch: threading.local) -> None:
    """A thread of `Workers` starts."""
    torch.set_num_threads(1)
    scratch.workspace = Workspace()

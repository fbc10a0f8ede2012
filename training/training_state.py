"""What both trainings share: the time budget, the learning rate, the log and the checkpoint."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

CHECKPOINT_SECONDS = 60


@dataclass(slots=True)
class Clock:
    """Seconds trained, over all calls: the schedule follows time, not steps.

    Attributes:
        budget: seconds of the whole training.
        until: seconds after which this call stops, earlier calls included.
        before: seconds trained in earlier calls.
    """

    budget: float
    until: float
    before: float = 0.0
    started: float = 0.0

    def start(self, call_seconds: float) -> None:
        """Begin this call, which may take this long."""
        self.started = time.monotonic()
        self.until = self.before + call_seconds

    @property
    def trained(self) -> float:
        """Seconds trained so far."""
        return self.before + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 at the start of the training, 1 at its end."""
        return min(1.0, self.trained / self.budget)

    @property
    def over(self) -> bool:
        """Whether the training or this call is at its end."""
        return self.trained >= min(self.budget, self.until)


def learning_rate_factor(progress: float, warm_up: float = 0.03) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    if progress < warm_up:
        return max(progress / warm_up, 1e-2)
    rest = (progress - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * rest)) / 2


def make_optimizer(
    groups: list[dict[str, Any]], *, weight_decay: float, device: str
) -> torch.optim.AdamW:
    """AdamW over groups with their `peak`; rates are tensors, which a recorded step reads."""
    for group in groups:
        group["lr"] = torch.tensor(group["peak"], device=device)
    return torch.optim.AdamW(groups, weight_decay=weight_decay, capturable=device != "cpu")


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Scale the `peak` of every parameter group, whose rate is a tensor."""
    for group in optimizer.param_groups:
        group["lr"].fill_(group["peak"] * factor)


def save_checkpoint(
    path: Path, net: nn.Module, optimizer: Optimizer, step: int, clock: Clock
) -> None:
    """Everything needed to go on, written so that a kill leaves the last one whole."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": clock.trained,
        },
        partial,
    )
    partial.replace(path)


def resume(path: Path, net: nn.Module, optimizer: Optimizer, clock: Clock) -> int:
    """Restore a checkpoint; returns the step to go on with."""
    device = next(net.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    clock.before = state["seconds"]
    return int(state["step"])


class Log:
    """A CSV file of means over the steps since its last row, echoed to the terminal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """One step's values; nothing is synchronised with the device yet."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, torch.zeros_like(value)) + value.detach()
        self._count += 1

    def write(self, **columns: float) -> None:
        """A row: these columns, then the means of what was added."""
        means = {key: float(value) / self._count for key, value in self._sums.items()}
        row = {**columns, **means}
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
        self._sums, self._count = {}, 0

"""Where and how precisely networks run: chosen from options, stated in every result."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from kapture_ros.errors import OptionError
from kapture_ros.features.options import RuntimeOptions


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the options came to on this machine."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)}), {precision}"
        return f"{self.device}, {precision}"


def resolve(options: RuntimeOptions) -> Runtime:
    """Check what was asked for against the machine; nothing is replaced silently.

    Raises:
        OptionError: if the device or the precision is not available.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"'device' is {name!r} but must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        return Runtime(_available_gpu(device), _gpu_precision(options.precision))
    if device.type != "cpu":
        raise OptionError(f"'device' is {name!r} but must be auto, cpu, cuda or cuda:N")
    return Runtime(device, _cpu_precision(options.precision))


def _available_gpu(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        raise OptionError(
            f"'device' is {device} but torch {torch.__version__} sees {count} CUDA devices;"
            " choose another or cpu"
        )
    return torch.device("cuda", index)


def _gpu_precision(precision: str) -> torch.dtype:
    return torch.float16 if precision == "auto" else _dtype(precision)


def _cpu_precision(precision: str) -> torch.dtype:
    if precision == "auto":
        return torch.float32
    if precision == "float16":
        raise OptionError("'precision' float16 needs a CUDA device; use float32 or bfloat16")
    if precision == "bfloat16" and not _cpu_multiplies_bfloat16():
        raise OptionError("'precision' is bfloat16 but this CPU has no bfloat16 arithmetic")
    return _dtype(precision)


def _dtype(precision: str) -> torch.dtype:
    dtype = getattr(torch, precision)
    assert isinstance(dtype, torch.dtype)
    return dtype


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    """Emulated bfloat16 is slower than float32, so only the real thing counts."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    flags = cpuinfo.read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags

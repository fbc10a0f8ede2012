"""Reads PyTorch checkpoint files (zip and legacy) without running anything they contain.

A checkpoint is a pickle, and a pickle is a program. This reader admits exactly what
NAVER's published R2D2 and AP-GeM checkpoints consist of (tensors, NumPy arrays, plain
containers, scikit-learn PCA objects as inert data) and refuses everything else by name, and
what is made to exhaust memory or the stack. `torch.load` is not used: its safe mode cannot
read these files.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from kapture_ros.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
}
_PCA_MODULES = ("sklearn.decomposition.pca", "sklearn.decomposition._pca")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_MOST_TUPLES = 20_000
"""Tuples in a pickle; ResNet-101 has some thousands. Many more, one in the other, would
overflow the stack where Python does not look."""
_PLAIN_DTYPE = re.compile(r"[<=|]?[fiub][1248]")


class UnsafeCheckpointError(InputError):
    """A checkpoint contains something other than data; nothing of it was run."""


class PickledPca:
    """A scikit-learn PCA as plain attributes (`mean_`, `components_`, …), no behaviour."""


class _PickledArray:
    """A NumPy array on its way out of the pickle; `_unwrap` replaces it by `array`."""

    array: np.ndarray[Any, Any]

    def __setstate__(self, state: tuple[int, tuple[int, ...], _PickledDtype, bool, bytes]) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(data, dtype.numpy)
        self.array = flat.reshape(shape, order="F" if fortran else "C").copy()


class _PickledDtype:
    """A NumPy number type; pickles first name it, then state its byte order."""

    def __init__(self, code: str, *_flags: object) -> None:
        if not _PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"array of type {code!r}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary that a checkpoint file holds, tensors on the CPU.

    Raises:
        UnsafeCheckpointError: if it contains a class or function that is not admitted.
        InputError: if it is missing, damaged or something else.
    """
    try:
        with path.open("rb") as file:
            content = _unwrap(_read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file))
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} is refused: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises anything at all
        raise InputError(f"{path} is not a readable checkpoint: {error!r}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dictionary, found {type(content).__name__}")
    return content


def _read_zip(file: BinaryIO) -> object:
    """The layout since torch 1.6: `NAME/data.pkl` and a file `NAME/data/KEY` a storage."""
    with zipfile.ZipFile(file) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("compressed entries")
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix(".pkl")

        def read_storage(key: str, storage: Tensor) -> None:
            _fill(storage, archive.read(f"{folder}/{key}"))

        with archive.open(pickled) as stream:
            return _unpickle(stream, _size_of(file), read_storage)


def _read_legacy(file: BinaryIO) -> object:
    """The layout before: four pickles, the names of the storages, then their bytes."""
    storages: dict[str, Tensor] = {}
    size = _size_of(file)

    def load() -> Any:
        return _unpickle(file, size, storages.__setitem__)

    file.seek(0)
    if load() != _LEGACY_MAGIC:
        raise ValueError("neither a zip archive nor a legacy checkpoint")
    load()  # version of the protocol
    load()  # type sizes of the machine that wrote it
    content = load()
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        if count != storage.numel():
            raise ValueError(f"storage {key} has {count} values, expected {storage.numel()}")
        _fill(storage, file.read(count * storage.element_size()))
    return content


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _fill(storage: Tensor, data: bytes) -> None:
    if len(data) != storage.numel() * storage.element_size():
        raise ValueError("a storage is truncated")
    if data:
        storage.copy_(torch.frombuffer(bytearray(data), dtype=storage.dtype))


def _unpickle(file: Any, max_bytes: int, read_storage: Callable[[str, Tensor], None]) -> Any:
    """One pickle of a stream, after a look at its instructions."""
    start, tuples = file.tell(), 0
    for code, argument, _ in pickletools.genops(file):
        tuples += code.name.startswith("TUPLE")
        if tuples > _MOST_TUPLES or (code.name.endswith("PUT") and int(str(argument)) > max_bytes):
            raise ValueError("a pickle made to exhaust memory")
    file.seek(start)
    return _Unpickler(file, max_bytes, read_storage).load()


class _Unpickler(pickle.Unpickler):
    """Resolves names to inert stand-ins of this file, never to imports."""

    def __init__(
        self, file: Any, max_bytes: int, read_storage: Callable[[str, Tensor], None]
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._max_bytes = max_bytes
        self._read_storage = read_storage
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
            UnsafeCheckpointError: if there is none.
        """
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        # Made anew each time, here and below, since a pickle can also write to what it names.
        if module in _PCA_MODULES and name == "PCA":
            return type("PCA", (PickledPca,), {})
        key = (_ARRAY_MODULES[0] if module in _ARRAY_MODULES else module, name)
        admitted: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "defaultdict"): lambda _factory: {},
            ("__builtin__", "list"): None,  # as the argument of defaultdict
            ("__builtin__", "bytes"): lambda: b"",
            ("_codecs", "encode"): lambda *args: _encode(*args),  # how protocol 2 stores bytes
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _rebuild_tensor(*args),
            ("numpy", "ndarray"): None,  # as the argument of _reconstruct
            ("numpy", "dtype"): lambda *args: _PickledDtype(*args),
            (_ARRAY_MODULES[0], "_reconstruct"): lambda *_args: _PickledArray(),
            (_ARRAY_MODULES[0], "scalar"): lambda dtype, data: np.frombuffer(data, dtype.numpy)[
                0
            ].item(),
        }
        if key not in admitted:
            raise UnsafeCheckpointError(
                f"it contains {module}.{name}, which is not plain data; nothing of it was run"
            )
        return admitted[key]

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a tensor refers to, as a vector."""
        tag, dtype, key, _device, count = pid[:5]
        if tag != "storage" or any(item is not None for item in pid[5:]):
            raise ValueError(f"unknown reference {pid!r}")
        if key not in self._storages:
            if not 0 <= count * dtype.itemsize <= self._max_bytes:
                raise ValueError(f"storage {key} is larger than the file")
            self._storages[key] = torch.empty(count, dtype=dtype)
            self._read_storage(key, self._storages[key])
        return self._storages[key]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_flags: object
) -> Tensor:
    if math.prod(size) > storage.numel():
        raise ValueError("a tensor is larger than its storage")
    return storage.as_strided(size, stride, offset)  # checks the bounds


def _unwrap(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Arrays in place of their stand-ins, throughout nested containers.

    Args:
        seen: by id, what was unwrapped, and to what: the same may be there many times.
    """
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)][1]
    result = value
    if isinstance(value, _PickledArray):
        result = value.array
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _unwrap(item, seen)
    elif isinstance(value, list | tuple):
        result = type(value)(_unwrap(item, seen) for item in value)
    elif isinstance(value, PickledPca):
        vars(value).update(_unwrap(vars(value), seen))
    seen[id(value)] = value, result
    return result

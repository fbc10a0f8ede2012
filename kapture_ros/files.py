"""Writing outputs so that nothing half-written ever looks whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from kapture_ros.errors import OutputError


@contextlib.contextmanager
def new_output(
    path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> Iterator[Path]:
    """A fresh folder that becomes `path` only when the block ends without an error.

    The work happens in a sibling `.NAME.partial`, which is removed on failure.

    Args:
        inputs: what it is made from, which must not lie in what is replaced.

    Raises:
        OutputError: if `path` exists and `overwrite` is false, holds an input, or cannot be
            written.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or pass --overwrite")
    keep_inputs(path, inputs)
    partial = path.parent / f".{path.name}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield partial
    except BaseException:  # an interrupt leaves nothing half done behind, either
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    partial.rename(path)


def keep_inputs(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that would take the place of what it is made from.

    Raises:
        OutputError: naming the input that is `path` or lies in it.
    """
    for item in inputs:
        if item.resolve().is_relative_to(path.resolve()):
            raise OutputError(f"writing {path} would delete {item}: choose another name")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file by new content: a reader sees the old or the new one, never half.

    Raises:
        OutputError: if it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}") from error

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
    place = path if path.name not in ("", "..") else path.resolve()  # `.` has no name
    partial = place.parent / f".{place.name}.partial"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
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
    if place.is_dir() and not place.is_symlink():
        remove_folder(place)
    elif place.exists():
        place.unlink()
    if not place.exists():
        partial.rename(place)
        return
    for item in partial.iterdir():
        item.rename(place / item.name)
    partial.rmdir()


def remove_folder(path: Path) -> None:
    """Delete a folder; the one that the process is in stays, without what it held."""
    if not path.samefile(Path.cwd()):
        shutil.rmtree(path)
        return
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


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

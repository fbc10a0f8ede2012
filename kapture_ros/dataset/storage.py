"""Files that survive being killed: lines appended whole, files whole or known not to be."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from kapture_ros.errors import OutputError

PARTIAL = ".partial"
IN_PLACE = "files without a row may be torn\n"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def output_error(path: Path, error: OSError) -> OutputError:
    """A write that failed, in words that say what to do."""
    if error.errno in DISK_FULL:
        return OutputError(
            f"no space left to write {path}; what was acknowledged is on disk: free some space "
            "and resume"
        )
    return OutputError(f"cannot write {path}: {error.strerror}")


class AppendFile:
    """A text file that only grows, line by line, without a buffer in this process.

    Raises:
        OutputError: if it cannot be opened or written; a line is there whole or not at all.
    """

    def __init__(self, path: Path, header: str = "") -> None:
        self.path = path
        self.dirty = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise output_error(path, error) from error
        self.size = os.fstat(self._descriptor).st_size
        if self.size == 0 and header:
            self.append(header.encode())

    def append(self, data: bytes) -> tuple[int, int]:
        """Append whole lines; returns the byte offsets they lie between."""
        start = self.size
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            os.ftruncate(self._descriptor, start)  # shrinking needs no space
            raise output_error(self.path, error) from error
        self.dirty = True
        self.size = start + len(data)
        return start, self.size

    def sync(self) -> None:
        """Have the operating system bring it to the disk."""
        if not self.dirty:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.dirty = False

    def close(self) -> None:
        """No more lines."""
        os.close(self._descriptor)


def write_file(
    folder: str, name: str, data: bytes | memoryview, *, in_place: bool, sync: bool
) -> None:
    """Write a file under a temporary name, then give it its own; or `in_place`, a tenth faster.

    Plain strings and descriptors: `Path` costs more than writing a small image does.

    Raises:
        OutputError: if that fails; nothing is left behind.
    """
    path = f"{folder}/{name}"
    temporary = path if in_place else f"{folder}/.{name}{PARTIAL}"
    try:
        try:
            descriptor = _create(folder, temporary)
            try:
                rest = memoryview(data)
                while rest:  # once, but for disks that are nearly full
                    rest = rest[os.write(descriptor, rest) :]
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not in_place:
                os.replace(temporary, path)  # noqa: PTH105  (see above)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(Path(folder))
    except OSError as error:
        raise output_error(Path(path), error) from error


def _create(folder: str, path: str) -> int:
    """A descriptor of a new file; the folder is made when it turns out to be missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def partial_name(path: Path) -> Path:
    """The temporary name of a file that is being written."""
    return path.with_name(f".{path.name}{PARTIAL}")


def sync_folder(folder: Path) -> None:
    """Have the names in a folder brought to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """Marks a dataset as being written; falls with the process, its file stays behind then.

    Attributes:
        in_place: whether the process that was killed here wrote files in place.

    Raises:
        OutputError: if another process writes there, or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("a+")
        except OSError as error:
            raise output_error(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise OutputError(
                f"{path.parent.parent} is being written by another process; stop it first"
            ) from None
        self._file.seek(0)
        self.in_place = self._file.read() == IN_PLACE

    def note(self, *, in_place: bool) -> None:
        """Say for whoever comes after a kill how files are written from now on.

        Raises:
            OutputError: if that cannot be written.
        """
        try:
            self._file.truncate(0)
            self._file.write(IN_PLACE if in_place else "")
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    def release(self, *, finished: bool) -> None:
        """Give up the lock; `finished` says that nothing needs repair."""
        if finished:
            self.path.unlink(missing_ok=True)
        self._file.close()

"""Local and global features on disk, in kapture's layout: one binary file an image.

Found either in a dataset (`reconstruction/keypoints/TYPE/IMAGE.kpt`) or in a folder of
their own as NAVER ships them (`local_features/TYPE/keypoints/IMAGE.kpt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError, OutputError

SUFFIXES = {"keypoints": ".kpt", "descriptors": ".desc", "global_features": ".gfeat"}
DTYPES = ("float32", "float64", "int32", "uint8")
HEADER = "# kapture format: 1.1\n"
COLUMNS = {
    "keypoints": ("name", "dtype", "dsize"),
    "descriptors": ("name", "dtype", "dsize", "keypoints_type", "metric_type"),
    "global_features": ("name", "dtype", "dsize", "metric_type"),
}


@dataclass(frozen=True, slots=True)
class FeatureFolder:
    """The features of one type of many images.

    Attributes:
        kind: keypoints, descriptors or global_features.
        type_name: kapture's type, the name of the folder.
        values: the row of the type's header file, by column name.
    """

    folder: Path
    kind: str
    type_name: str
    values: dict[str, str]

    @classmethod
    def in_dataset(cls, dataset: Path, kind: str, type_name: str) -> FeatureFolder:
        """Open `reconstruction/KIND/TYPE` of a kapture dataset.

        Raises:
            InputError: if it is missing or its header is wrong.
        """
        return cls.open(dataset / "reconstruction" / kind / type_name, kind, type_name)

    @classmethod
    def open(cls, folder: Path, kind: str, type_name: str) -> FeatureFolder:
        """Open any folder that holds a header and feature files.

        Raises:
            InputError: if it is missing or its header is wrong.
        """
        header = folder / f"{kind}.txt"
        try:
            lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise InputError(f"no {kind} of type '{type_name}': {header} is missing") from error
        rows = [line for line in lines if line.strip() and not line.startswith("#")]
        fields = [value.strip() for value in rows[0].split(",")] if rows else []
        if len(fields) != len(COLUMNS[kind]):
            raise InputError(f"{header}: expected one row '{', '.join(COLUMNS[kind])}'")
        values = dict(zip(COLUMNS[kind], fields, strict=True))
        if values["dtype"] not in DTYPES or not values["dsize"].isdecimal():
            raise InputError(f"{header}: unknown dtype or dsize in '{rows[0]}'")
        return cls(folder, kind, type_name, values)

    @classmethod
    def create(
        cls, dataset: Path, kind: str, type_name: str, values: dict[str, str]
    ) -> FeatureFolder:
        """Begin a type in a kapture dataset: the folder and its header.

        Raises:
            OutputError: if it cannot be written.
        """
        folder = dataset / "reconstruction" / kind / checked_name(type_name)
        row = ", ".join(values[column] for column in COLUMNS[kind])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{kind}.txt").write_text(
                f"{HEADER}# {', '.join(COLUMNS[kind])}\n{row}\n", encoding="utf-8"
            )
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from error
        return cls(folder, kind, type_name, values)

    @property
    def width(self) -> int:
        """Values per keypoint (or per image for global features)."""
        return int(self.values["dsize"])

    def path(self, image_name: str) -> Path:
        """The file of one image.

        Raises:
            InputError: if the name would leave the folder.
        """
        return self.folder / (checked_name(image_name) + SUFFIXES[self.kind])

    def has(self, image_name: str) -> bool:
        """Whether the image has features of this type."""
        return self.path(image_name).is_file()

    def count(self, image_name: str) -> int:
        """How many rows the image's file holds, without reading it; 0 if there is none."""
        path = self.path(image_name)
        row = self.width * np.dtype(self.values["dtype"]).itemsize
        return path.stat().st_size // row if path.is_file() else 0

    def read(self, image_name: str) -> npt.NDArray[Any]:
        """The features (n, width) of one image.

        Raises:
            InputError: if there are none, or the file is cut off or not finite.
        """
        path = self.path(image_name)
        try:
            values = np.fromfile(path, dtype=self.values["dtype"])
        except OSError as error:
            raise InputError(f"image {image_name} has no {self.kind} ({path})") from error
        if values.size % self.width:
            raise InputError(f"{path} is cut off: delete it and extract again")
        if not np.isfinite(values).all():
            raise InputError(f"{path} holds NaN or infinity: delete it and extract again")
        return values.reshape(-1, self.width)

    def write(self, image_name: str, values: npt.NDArray[Any]) -> None:
        """Write the features (n, width) of one image.

        Raises:
            OutputError: if they cannot be written.
        """
        path = self.path(image_name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(np.ascontiguousarray(values, self.values["dtype"]).tobytes())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error


def feature_types(dataset: Path, kind: str) -> list[str]:
    """The names of all types of a kind in a kapture dataset."""
    headers = (dataset / "reconstruction" / kind).glob(f"*/{kind}.txt")
    return sorted(header.parent.name for header in headers)


def checked_name(name: str) -> str:
    """The name itself, unless it would leave the folder it is put in.

    Raises:
        InputError: on `..`, an absolute path, a backslash or a NUL.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise InputError(f"'{name}' is not a name inside the dataset ('..' or absolute)")
    return name


def unit_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows scaled to unit length, float32; rows of nearly zero length become zero."""
    rows = np.asarray(values, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directed = norms > 1e-12
    return np.ascontiguousarray(np.where(directed, rows / np.where(directed, norms, 1), 0))

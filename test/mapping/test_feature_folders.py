"""Feature files are kapture's; damaged ones and names that lead outside are refused."""

from __future__ import annotations

from pathlib import Path

import kapture
import kapture.io.features
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.errors import InputError
from kapture_ros.mapping.feature_files import FeatureFolder, checked_name, feature_types, unit_rows

VALUES = {"name": "r2d2", "dtype": "float32", "dsize": "3"}


def folder(tmp_path: Path) -> FeatureFolder:
    return FeatureFolder.create(tmp_path, "keypoints", "r2d2", VALUES)


def test_kapture_reads_what_we_write(tmp_path: Path):
    written = folder(tmp_path)
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    written.write("a/b.jpg", values)
    path = kapture.io.features.get_features_fullpath(
        kapture.Keypoints, "r2d2", str(tmp_path), "a/b.jpg"
    )
    assert (kapture.io.features.image_keypoints_from_file(path, np.float32, 3) == values).all()
    opened = FeatureFolder.in_dataset(tmp_path, "keypoints", "r2d2")
    assert (opened.read("a/b.jpg") == values).all()
    assert (opened.count("a/b.jpg"), opened.count("c.jpg")) == (4, 0)
    assert feature_types(tmp_path, "keypoints") == ["r2d2"]


def test_damaged_features_are_named(tmp_path: Path):
    written = folder(tmp_path)
    with pytest.raises(InputError, match=r"image a.jpg has no keypoints"):
        written.read("a.jpg")
    written.write("a.jpg", np.zeros((4, 3)))
    written.path("a.jpg").write_bytes(written.path("a.jpg").read_bytes()[:-4])
    with pytest.raises(InputError, match="is cut off: delete it and extract again"):
        written.read("a.jpg")
    written.write("a.jpg", np.full((4, 3), np.nan))
    with pytest.raises(InputError, match="NaN or infinity"):
        written.read("a.jpg")


@pytest.mark.parametrize(
    "row",
    [
        "",
        "r2d2, float16, 3",
        "r2d2, float32",
        "r2d2, float32, x",
        "r2d2, float32, ²",
        "\udcff\udcfe",
    ],
)
def test_a_header_that_is_not_kaptures_is_refused(tmp_path: Path, row: str):
    written = folder(tmp_path)
    content = f"# kapture format: 1.1\n{row}\n".encode(errors="surrogateescape")
    (written.folder / "keypoints.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"keypoints.txt"):
        FeatureFolder.in_dataset(tmp_path, "keypoints", "r2d2")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "", "a\\b", "a\0b"])
def test_names_never_lead_outside(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="not a name inside"):
        checked_name(name)
    with pytest.raises(InputError, match="not a name inside"):
        folder(tmp_path).write(name, np.zeros((1, 3)))


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), max_size=5))
def test_unit_rows_have_length_one_or_zero(rows):
    length = np.linalg.norm(unit_rows(np.array(rows).reshape(-1, 3)), axis=1)
    assert ((np.abs(length - 1) < 1e-5) | (length < 1e-5)).all()

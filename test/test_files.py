"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kapture_ros.errors import OutputError
from kapture_ros.files import new_output, write_atomically


def test_the_folder_appears_only_at_the_end(tmp_path: Path):
    target = tmp_path / "deep" / "dataset"
    with new_output(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert os.listdir(target.parent) == ["dataset"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), new_output(tmp_path / "dataset") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_what_exists_is_kept_unless_overwriting(tmp_path: Path):
    target = tmp_path / "dataset"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"), new_output(target):
        pass
    with pytest.raises(RuntimeError), new_output(target, overwrite=True):
        raise RuntimeError
    assert os.listdir(target) == ["old"], "a failed overwrite keeps the old output"
    with new_output(target, overwrite=True) as folder:
        (folder / "new").touch()
    assert os.listdir(target) == ["new"]


def test_an_output_never_takes_the_place_of_its_inputs(tmp_path: Path):
    source = tmp_path / "drives" / "map"
    source.mkdir(parents=True)
    for target in (source, tmp_path / "drives", tmp_path / "drives/map/../../drives"):
        with (
            pytest.raises(OutputError, match=r"would delete .*map: choose another name"),
            new_output(target, overwrite=True, inputs=[source]),
        ):
            pass
    with new_output(tmp_path / "drives/mapped", overwrite=True, inputs=[source]):
        pass
    assert source.is_dir()


def test_the_folder_one_is_in_is_replaced_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = tmp_path / "map"
    (here / "deep").mkdir(parents=True)
    (here / "deep/old").touch()
    monkeypatch.chdir(here)
    with new_output(Path(), overwrite=True) as folder:
        (folder / "new").touch()
        assert os.listdir(here) == ["deep"], "nothing is written into the old one"
    assert os.listdir(".") == ["new"], "the process is still in it"
    assert os.listdir(tmp_path) == ["map"]
    with new_output(Path("../map"), overwrite=True) as folder:
        (folder / "newer").touch()
    assert os.listdir(here) == ["newer"]
    with new_output(Path("../map/.."), overwrite=True) as folder:
        (folder / "newest").touch()
    assert os.listdir(tmp_path) == ["newest"]


def test_a_leftover_of_a_killed_run_is_replaced(tmp_path: Path):
    (tmp_path / ".dataset.partial").mkdir()
    (tmp_path / ".dataset.partial" / "stale").touch()
    with new_output(tmp_path / "dataset"):
        pass
    assert os.listdir(tmp_path / "dataset") == []


@pytest.mark.parametrize("parent", ["file/below", "/proc/nowhere"])
def test_an_unwritable_place_is_named(tmp_path: Path, parent: str):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), new_output(tmp_path / parent / "out"):
        pass


def test_replacing_a_file_is_atomic(tmp_path: Path):
    path = tmp_path / "report.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["report.json"]
    with pytest.raises(OutputError, match=r"cannot write .*none"):
        write_atomically(tmp_path / "none" / "report.json", "text")

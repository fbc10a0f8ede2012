"""The images of a kapture dataset as one table: poses by rigs, instants, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kapture_ros.errors import InputError
from kapture_ros.mapping.images import read_images

HEADER = "# kapture format: 1.1\n"
CAMERA = "camera, PINHOLE, 640, 480, 500, 500, 320, 240"
TURN = "0.7071067811865476, 0, 0.7071067811865476, 0"


def dataset(tmp_path: Path, **tables: str) -> Path:
    parts = {
        "sensors": f"left, , {CAMERA}\nright, , {CAMERA}\nalone, , {CAMERA}\n",
        "rigs": "car, head, 1, 0, 0, 0, 0, 0, -2\n"
        "head, left, 1, 0, 0, 0, 0.5, 0, 0\nhead, right, 1, 0, 0, 0, -0.5, 0, 0\n",
        "records_camera": "10, left, l10.jpg\n10, right, r10.jpg\n20, left, l20.jpg\n"
        "10, alone, a10.jpg\n",
        "trajectories": f"10, car, {TURN}, 1, 2, 3\n10, alone, 1, 0, 0, 0, 7, 8, 9\n",
    }
    (tmp_path / "sensors").mkdir()
    for name, rows in (parts | tables).items():
        if rows is not None:
            (tmp_path / f"sensors/{name}.txt").write_text(HEADER + rows)
    return tmp_path


def test_poses_come_through_rigs_of_rigs(tmp_path: Path):
    images = read_images(dataset(tmp_path))
    assert images.names == ("a10.jpg", "l10.jpg", "r10.jpg", "l20.jpg")
    assert images.posed.tolist() == [True, True, True, False]
    left, right = images.cam_from_map(1), images.cam_from_map(2)
    assert left.translation == pytest.approx([1.5, 2, 1])
    assert right.translation == pytest.approx([0.5, 2, 1])
    assert images.cam_from_map(0).translation == pytest.approx([7, 8, 9])
    assert images.centers()[0] == pytest.approx([-7, -8, -9])
    assert np.isnan(images.centers()[3]).all()


def test_one_rig_at_one_stamp_is_one_instant(tmp_path: Path):
    images = read_images(dataset(tmp_path))
    assert images.frames[1] == images.frames[2]
    assert len(set(images.frames.tolist())) == 3
    assert [images.frame_rigs[frame] for frame in images.frames] == ["alone", "car", "car", "car"]


def test_a_selection_numbers_its_instants_anew(tmp_path: Path):
    part = read_images(dataset(tmp_path)).select([2, 3])
    assert part.names == ("r10.jpg", "l20.jpg")
    assert part.frames.tolist() == [0, 1]
    assert part.frame_rigs == ("car", "car")


def test_a_pose_with_a_missing_part_is_no_pose(tmp_path: Path):
    images = read_images(dataset(tmp_path, trajectories="10, alone, , , , , 7, 8, 9\n"))
    assert not images.posed.any()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"records_camera": ""}, "has no images"),
        ({"records_camera": "10, left, a.jpg\n20, left, a.jpg\n"}, "listed twice"),
        ({"records_camera": "10, lidar, a.jpg\n"}, "'lidar' has images but is no camera"),
        ({"records_camera": None}, r"records_camera.txt is missing"),
        ({"sensors": None}, "is no kapture dataset"),
        ({"trajectories": "10, car, x, 0, 0, 0, 0, 0, 0\n"}, "not a valid kapture file"),
        ({"rigs": "a, b, 1, 0, 0, 0, 0, 0, 0\nb, a, 1, 0, 0, 0, 0, 0, 0\n"}, "in a circle"),
    ],
)
def test_what_is_not_kapture_is_refused_by_name(tmp_path: Path, tables, message):
    with pytest.raises(InputError, match=message):
        read_images(dataset(tmp_path, **tables))

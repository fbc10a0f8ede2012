"""The simulated drive in every kind of bag gives one and the same dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_comparison import differences

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset


@pytest.mark.slow
def test_bags_of_one_simulated_drive_give_equal_datasets(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    size = ["--duration", "3", "--width", "64", "--height", "48", "--detail", "0.1"]
    rates = ["--depth-rate", "2", "--rate", "5"]
    formats = ["--formats", "mcap", "db3", "ros1"]
    assert main(["simulate", str(drive), *size, *rates, *formats]) == 0
    for name in ("lap1", "lap1_db3", "lap1.bag"):
        out = tmp_path / f"dataset_{name.replace('.', '_')}"
        assert main(["convert", str(drive / name), str(out)]) == 0
        assert main(["verify", str(drive / name), str(out)]) == 0
    assert differences(tmp_path / "dataset_lap1", tmp_path / "dataset_lap1_db3") == []
    assert differences(tmp_path / "dataset_lap1", tmp_path / "dataset_lap1_bag") == []
    _check_poses(tmp_path / "dataset_lap1")


def _check_poses(path: Path) -> None:
    """Every image but those at the ends has a pose, on the path that odometry reported."""
    dataset = open_dataset(path)
    images = [r.stamp_ns for r in dataset.records("camera.front.image_raw.compressed")]
    rows = {row.stamp_ns: row for row in dataset.trajectory()}
    assert len(images) >= 14 and len(set(images) & set(rows)) >= len(images) - 1
    odometry = {r.stamp_ns: r.parent_from_child for r in dataset.records("odom")}
    stamps = np.array(sorted(odometry))
    for stamp, row in rows.items():
        nearest = odometry[int(stamps[np.argmin(abs(stamps - stamp))])]
        metres, radians = row.device_from_world.inverse().distance_to(nearest)
        assert metres < 0.2 and radians < 0.05  # 20 ms at 8 m/s

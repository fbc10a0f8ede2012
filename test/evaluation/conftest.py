"""Small kapture datasets and localizers with known errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import kapture
import kapture.io.csv as kapture_csv
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.evaluation.comparison import Comparison, compare
from kapture_ros.evaluation.estimates import EstimateRow
from kapture_ros.evaluation.poses import PoseTable
from kapture_ros.transforms import Transform

START = 1_700_000_000_000_000_000  # 19 digits, as real stamps have

Poses = Mapping[tuple[int, str], Transform]


def _pose(transform: Transform) -> kapture.PoseTransform:
    return kapture.PoseTransform(transform.quaternion, transform.translation)


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Writes device_from_world poses, sensor_from_rig mounts and image names with kapture."""

    def write(
        folder: Path,
        poses: Poses,
        rigs: Poses | None = None,
        images: Mapping[tuple[int, str], str] | None = None,
    ) -> Path:
        sensors = folder / "sensors"
        (sensors / "records_data").mkdir(parents=True)
        trajectories = kapture.Trajectories()
        for (stamp, device), transform in poses.items():
            trajectories[stamp, device] = _pose(transform)
        kapture_csv.trajectories_to_file(str(sensors / "trajectories.txt"), trajectories)
        if rigs:
            mounts = kapture.Rigs()
            for (rig, sensor), transform in rigs.items():
                mounts[rig, sensor] = _pose(transform)
            kapture_csv.rigs_to_file(str(sensors / "rigs.txt"), mounts)
        if images:
            records = kapture.RecordsCamera()
            for (stamp, sensor), name in images.items():
                records[stamp, sensor] = name
            kapture_csv.records_camera_to_file(str(sensors / "records_camera.txt"), records)
        return folder

    return write


@pytest.fixture(scope="session")
def localizer() -> Callable[..., Comparison]:
    """Queries one second apart along x whose estimates are off by given metres and degrees."""

    def run(
        metres: list[float | None],
        degrees: list[float] | None = None,
        accepted: list[bool] | None = None,
        conditions: list[str] | None = None,
        without_reference: tuple[int, ...] = (),
    ) -> Comparison:
        rows, true = [], {}
        for index, offset in enumerate(metres):
            stamp = START + index * 1_000_000_000
            pose = Transform(Rotation.from_euler("z", 30 * index, degrees=True), [index, 0.0, 0.0])
            if index not in without_reference:
                true[stamp] = pose.inverse()
            angle = np.deg2rad(degrees[index]) if degrees else 0.0
            estimate = None
            if offset is not None:
                turn = Rotation.from_rotvec([angle, 0, 0])
                estimate = Transform(
                    turn * pose.rotation, pose.translation + np.array([0, 0, offset])
                )
            rows.append(
                EstimateRow(
                    stamp,
                    "car",
                    accepted[index] if accepted else offset is not None,
                    reason="" if offset is not None else "few inliers",
                    map_from_base=estimate,
                    condition=conditions[index] if conditions else "",
                )
            )
        return compare(rows, PoseTable({"car": true}, {}, {}))

    return run

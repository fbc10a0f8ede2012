"""Maps that many tests look at; built once a worker, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from drive_scene import Drive, DriveOptions, make_drive

from kapture_ros.mapping.manifest import Manifest
from kapture_ros.mapping.options import MapSettings, PairOptions
from kapture_ros.mapping.pipeline import build_map


@dataclass(frozen=True)
class Mapped:
    drive: Drive
    path: Path
    manifest: Manifest


@pytest.fixture(scope="session")
def few_pairs() -> MapSettings:
    """Enough for a short street, and quick."""
    return MapSettings(PairOptions(retrieval_top_k=4, sequence_neighbours=2, pose_top_k=3))


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory, few_pairs: MapSettings) -> Mapped:
    """Fourteen instants of two cameras with exact poses and GNSS."""
    folder = tmp_path_factory.mktemp("street")
    drive = make_drive(folder / "drive", DriveOptions(frames=14, points=900, poses="truth"))
    manifest = build_map([drive.path], folder / "map", few_pairs)
    return Mapped(drive, folder / "map", manifest)


@pytest.fixture(scope="session")
def lap(tmp_path_factory: pytest.TempPathFactory, few_pairs: MapSettings) -> Mapped:
    """Once round the block with odometry that drifts, and GNSS."""
    folder = tmp_path_factory.mktemp("lap")
    drive = make_drive(folder / "drive", DriveOptions(points=900))
    manifest = build_map([drive.path], folder / "map", few_pairs)
    return Mapped(drive, folder / "map", manifest)

"""NAVER's weights give the features that NAVER stored with its sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kapture_ros.features.images import read_image
from kapture_ros.features.local import LocalFeatures, R2D2Extractor
from kapture_ros.features.options import R2D2Options, RuntimeOptions

SETTINGS = R2D2Options(
    top_k=500, nms_radius=1, pyramid=True, min_size=256, max_size=1024, min_scale=0.3
)
IMAGE = "testing/gallery_light1_occlusion1/frames/rgb/camera_0/rgb_00267.jpg"


@pytest.fixture(scope="module")
def found(shared_data: Path, shared_weights: Path) -> LocalFeatures:
    extractor = R2D2Extractor(
        shared_weights / "r2d2_WASF_N16.pt", SETTINGS, RuntimeOptions("cpu", "float32")
    )
    pixels = read_image(shared_data / "virtual_gallery/query/sensors/records_data" / IMAGE)
    return extractor.extract([pixels])[0]


@pytest.fixture(scope="module")
def stored(shared_data: Path) -> dict[str, np.ndarray]:
    folder = shared_data / "virtual_gallery/local_features/r2d2_500"
    keypoints = np.fromfile(folder / "keypoints" / f"{IMAGE}.kpt", np.float32)
    descriptors = np.fromfile(folder / "descriptors" / f"{IMAGE}.desc", np.float32)
    return {"keypoints": keypoints.reshape(-1, 3), "descriptors": descriptors.reshape(-1, 128)}


@pytest.mark.slow
@pytest.mark.timeout(900)  # 300 GFLOP, on a machine that may be busy
def test_keypoints_scales_and_descriptors_are_navers(
    found: LocalFeatures, stored: dict[str, np.ndarray]
) -> None:
    assert len(found.keypoints) == len(stored["keypoints"]) == 500
    away = np.abs(stored["keypoints"][:, None] - found.keypoints[None]).max(axis=2)
    same = away.min(axis=1) < 0.01  # px, and the size of the patch with it
    assert same.mean() >= 0.998
    ours = found.descriptors[away.argmin(axis=1)[same]]
    assert np.abs(ours - stored["descriptors"][same]).max() < 1e-4

"""NAVER's sample of Virtual Gallery, with its own features: no worse a map than hloc's."""

from __future__ import annotations

from pathlib import Path

from kapture_ros.mapping.options import MapSettings
from kapture_ros.mapping.pipeline import build_map


def test_the_gallery_is_mapped_at_least_as_well_as_by_hloc(shared_data: Path, tmp_path: Path):
    gallery = shared_data / "virtual_gallery"
    settings = MapSettings(
        local_features=gallery / "local_features/r2d2_500",
        global_features=gallery / "global_features/AP-GeM-LM18",
    )
    manifest = build_map([gallery / "mapping"], tmp_path / "map", settings)
    (placed,) = [s for s in manifest.record["steps"] if s["step"].startswith("reconstruct")]
    # hloc 1.4 with pycolmap 4.2 on the same features: 619 points, 6.05, 0.865 px.
    assert placed["images"] == 12
    assert placed["points"] >= 619
    assert placed["mean track"] >= 6.05
    assert placed["reprojection px"] <= 0.865

"""Maps grow by drives, shrink to a budget, are judged, and travel to COLMAP and back."""

from __future__ import annotations

import csv
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from drive_scene import DATUM, Drive, DriveOptions, make_drive

from kapture_ros.cli.main import main
from kapture_ros.dataset.camera_models import PIXEL_CENTER
from kapture_ros.errors import InputError, OutputError
from kapture_ros.localization.localizer import Localizer
from kapture_ros.mapping.coverage import write_coverage
from kapture_ros.mapping.exchange import export_map, import_map
from kapture_ros.mapping.extend import extend_map
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.manifest import read_manifest
from kapture_ros.mapping.options import CoverageOptions, MapSettings, PruneOptions
from kapture_ros.mapping.prune import prune_map
from kapture_ros.mapping.report import View, level_axes, summary
from kapture_ros.mapping.structure import read_structure
from kapture_ros.mapping.visual_map import VisualMap

LATER = DriveOptions(frames=7, points=900, side=1.0, seed=5, gnss=False)


@pytest.fixture
def copy(street, tmp_path: Path) -> Path:
    return Path(shutil.copytree(street.path, tmp_path / "map"))


def added_errors(map_dir: Path, drive: Drive) -> np.ndarray:
    """Metres between the images of a drive that was added and where they were taken."""
    images, datum = read_images(map_dir), read_manifest(map_dir).datum
    added = [row for row, name in enumerate(images.names) if name.startswith("later/")]
    here = DATUM.map_from_geodetic(*datum.geodetic_from_map(images.centers()[added]))
    truth = np.array([drive.true_center(images.names[row]) for row in added])
    return np.linalg.norm(here - truth, axis=1)


def lines_of(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


def test_a_drive_added_is_placed_by_each_part_of_its_odometry(copy, street, tmp_path, few_pairs):
    drive = make_drive(tmp_path / "later", replace(LATER, restart=3))
    extend_map(copy, drive.path, few_pairs)
    found = added_errors(copy, drive)
    assert len(found) == 14
    assert found.max() < 0.3, "as one drive, an instant lies 9 m beside where it was"


def test_a_drive_added_leaves_the_old_images_alone(copy: Path, street, tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "later", LATER)
    extend_map(copy, drive.path, few_pairs)
    records = "sensors/records_camera.txt"
    assert lines_of(street.path / records) <= lines_of(copy / records)
    old, new = read_images(street.path), read_images(copy)
    rows = [new.names.index(name) for name in old.names]
    assert new.poses[rows] == pytest.approx(old.poses, abs=1e-9)
    for kind in ("keypoints/fake", "descriptors/fake", "global_features/fakeplace"):
        for path in (street.path / "reconstruction" / kind).rglob("*.*"):
            same = copy / path.relative_to(street.path)
            assert same.read_bytes() == path.read_bytes()

    found = added_errors(copy, drive)
    assert len(found) >= 12
    assert np.median(found) < 0.15
    structure = read_structure(copy, new, "fake")
    is_new = np.array([name.startswith("later/") for name in new.names])[structure.images]
    both = np.intersect1d(structure.points[is_new], structure.points[~is_new])
    assert len(both) > 50
    assert read_manifest(copy).sessions == ("drive", "later")
    with pytest.raises(InputError, match="has a session 'later' already"):
        extend_map(copy, drive.path, few_pairs)


def test_a_drive_elsewhere_is_refused_and_the_map_stays(copy: Path, tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "later", replace(LATER, frames=4, poses="none"))
    for path in (drive.path / "reconstruction/descriptors").rglob("*.desc"):
        values = np.random.default_rng(0).normal(size=path.stat().st_size // 4)
        values.astype(np.float32).tofile(path)
    before = VisualMap.load(copy).map_id
    with pytest.raises(InputError, match=r"no image of .*later was localized"):
        extend_map(copy, drive.path, few_pairs)
    assert VisualMap.load(copy).map_id == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later", "map"]


def test_pruning_keeps_to_its_budget_and_the_map_localizes(copy: Path, tmp_path: Path):
    before = VisualMap.load(copy)
    prune_map(copy, PruneOptions(max_images=16, max_points=300))
    after = VisualMap.load(copy)
    assert 2 <= len(after) <= 16 < len(before)
    assert 10 <= len(after.points) <= 300 < len(before.points)
    assert set(after.image_names) <= set(before.image_names)
    assert (after.points.track_length >= 2).all()
    kept = [before.image_names.index(name) for name in after.image_names]
    assert after.image_poses == pytest.approx(before.image_poses[kept])
    assert after.datum == before.datum


def test_nothing_is_pruned_that_is_needed(copy: Path):
    before = VisualMap.load(copy)
    prune_map(copy, PruneOptions(min_gain=0.0))
    assert len(VisualMap.load(copy)) == len(before)


def test_coverage_tells_how_images_held_out_are_localized(street, tmp_path: Path):
    table = write_coverage(street.path, tmp_path / "report", CoverageOptions(every=3), False)
    rows = list(csv.DictReader((tmp_path / "report/coverage.csv").open()))
    assert len(rows) == 5
    assert all(row["reason"] == "ACCEPTED" for row in rows[1:-1])
    assert np.median([float(row["error_m"]) for row in rows]) < 0.1
    assert (tmp_path / "report/coverage.md").read_text() == table + "\n"
    assert "| 0–25 |" in table
    assert (tmp_path / "report/coverage.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="exists already"):
        write_coverage(street.path, tmp_path / "report", CoverageOptions(), False)


def test_coverage_of_few_instants_holds_one_out(street, tmp_path: Path):
    text = write_coverage(street.path, tmp_path / "report", CoverageOptions(every=1000), False)
    assert "1 localized against the rest" in text


def test_maps_are_drawn_from_above_whichever_axis_is_up(street):
    loaded = VisualMap.load(street.path)
    assert level_axes(loaded) == [0, 1]
    loaded.image_poses = np.tile([1.0, 0, 0, 0, 0, 0, 0], (len(loaded), 1))  # y down, as KITTI's
    assert level_axes(loaded) == [0, 2]


def test_far_points_do_not_make_the_drive_small():
    centers = np.array([[0.0, 0.0], [100.0, 50.0]])
    points = np.vstack([np.random.default_rng(0).uniform(-20, 120, (90, 2)), np.full((9, 2), 5e4)])
    view = View.of(centers, points)
    assert (view.low > -40).all()
    assert (view.high < 140).all()
    assert (view.low < centers.min(axis=0)).all()
    assert (view.high > centers.max(axis=0)).all()


def test_colmap_sees_the_map_half_a_pixel_on(street, tmp_path: Path):
    export_map(street.path, tmp_path / "out")
    model = pycolmap.Reconstruction(tmp_path / "out/colmap")
    loaded = VisualMap.load(street.path)
    assert model.num_reg_images() == len(loaded)
    assert model.num_points3D() == len(loaded.points)
    principal = next(iter(model.cameras.values())).params[2:]
    assert principal == pytest.approx(np.array([320.0, 240.0]) + PIXEL_CENTER)
    image = next(i for i in model.images.values() if i.name == loaded.image_names[0])
    seen = [p.xy for p in image.points2D if p.has_point3D()]
    assert np.array(seen) == pytest.approx(loaded.features(0).keypoints + PIXEL_CENTER, abs=1e-3)
    # Shifting both leaves the rays, hence the errors, as they were.
    assert model.compute_mean_reprojection_error() < 0.8
    assert (tmp_path / "out/points.ply").read_bytes().startswith(b"ply")


def test_an_export_comes_back_the_same(street, tmp_path: Path):
    export_map(street.path, tmp_path / "out")
    import_map(tmp_path / "out", tmp_path / "again", MapSettings())
    before, after = VisualMap.load(street.path), VisualMap.load(tmp_path / "again")
    rows = [after.image_names.index(name) for name in before.image_names]
    assert len(after) == len(before)
    assert after.datum == before.datum
    assert after.feature_types == before.feature_types
    assert after.image_centers[rows] == pytest.approx(before.image_centers, abs=1e-6)
    assert after.camera(0).params == pytest.approx(before.camera(0).params)
    assert len(after.rigs) == len(before.rigs)
    for row in (0, 9):
        assert after.features(rows[row]).keypoints == pytest.approx(before.features(row).keypoints)
        theirs = after.points.xyz[after.features(rows[row]).points]
        ours = before.points.xyz[before.features(row).points]
        assert theirs == pytest.approx(ours, abs=1e-5)


def test_a_kapture_reconstruction_becomes_a_map(copy: Path, street, tmp_path: Path):
    shutil.rmtree(copy / "index")
    (copy / "map.yaml").unlink()
    import_map(copy, tmp_path / "imported", MapSettings())
    before, after = VisualMap.load(street.path), VisualMap.load(tmp_path / "imported")
    assert after.image_names == before.image_names
    assert (after.points.xyz == before.points.xyz).all()
    assert len(after.gnss.stamps) == 0  # without map.yaml there is no datum to place them


def test_a_model_of_others_is_of_unknown_scale_until_told(street, tmp_path: Path, caplog):
    export_map(street.path, tmp_path / "out")
    (tmp_path / "out/map.yaml").unlink()
    import_map(tmp_path / "out", tmp_path / "map", MapSettings())
    assert "scale UNKNOWN" in summary(tmp_path / "map")
    assert "warning: a COLMAP model does not tell its unit" in summary(tmp_path / "map")
    with caplog.at_level(logging.WARNING):
        Localizer(VisualMap.load(tmp_path / "map"))
    assert "the scale of the map is unknown" in caplog.text
    drive = make_drive(tmp_path / "later", LATER)
    with pytest.raises(InputError, match=r"the odometry and rigs of .*later are in metres"):
        extend_map(tmp_path / "map", drive.path, MapSettings())
    path = tmp_path / "map/map.yaml"
    path.write_text(path.read_text().replace("metric: false", "metric: true"))
    caplog.clear()
    Localizer(VisualMap.load(tmp_path / "map"))
    assert "scale" not in caplog.text


def test_images_of_a_colmap_model_count_in_the_order_of_their_names(street, tmp_path: Path):
    """COLMAP numbers them as they were read, not in time."""
    export_map(street.path, tmp_path / "out")
    before = pycolmap.Reconstruction(tmp_path / "out/colmap")
    after, count = pycolmap.Reconstruction(), before.num_images()
    for camera in before.cameras.values():
        after.add_camera_with_trivial_rig(camera)
    for image in before.images.values():
        backwards = pycolmap.Image(
            name=image.name, camera_id=image.camera_id, image_id=count + 1 - image.image_id,
            keypoints=np.array([point.xy for point in image.points2D]),
        )  # fmt: skip
        after.add_image_with_trivial_frame(backwards, image.cam_from_world())
    for point in before.points3D.values():
        seen = [
            pycolmap.TrackElement(count + 1 - element.image_id, element.point2D_idx)
            for element in point.track.elements
        ]
        after.add_point3D(point.xyz, pycolmap.Track(seen), point.color)
    after.write_binary(tmp_path / "out/colmap")
    import_map(tmp_path / "out", tmp_path / "map", MapSettings())
    images = read_images(tmp_path / "map")
    assert images.stamps.tolist() == list(range(count))
    assert list(images.names) == sorted(images.names)
    loaded, known = VisualMap.load(tmp_path / "map"), VisualMap.load(street.path)
    row = loaded.image_names.index(known.image_names[3])
    assert len(loaded.features(row).points) == len(known.features(3).points)


def test_what_is_no_reconstruction_cannot_be_imported(street, tmp_path: Path):
    with pytest.raises(InputError, match="neither a COLMAP model nor a kapture reconstruction"):
        import_map(street.drive.path, tmp_path / "map", MapSettings())
    export_map(street.path, tmp_path / "out")
    for kind in ("local_features", "global_features"):
        shutil.move(tmp_path / "out" / kind, tmp_path / kind)
    with pytest.raises(InputError, match="pass --local-features and --global-features"):
        import_map(tmp_path / "out", tmp_path / "map", MapSettings())
    nothing = tmp_path / "nothing"
    shutil.copytree(tmp_path / "out", nothing)
    pycolmap.Reconstruction().write_binary(nothing / "colmap")
    features = MapSettings(
        local_features=tmp_path / "local_features/fake",
        global_features=tmp_path / "global_features/fakeplace",
    )
    with pytest.raises(InputError, match="has no posed images with points"):
        import_map(nothing, tmp_path / "map", features)
    points = tmp_path / "out/colmap/points3D.bin"
    points.write_bytes(points.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"points3D\.bin is cut off"):
        import_map(tmp_path / "out/colmap", tmp_path / "map", MapSettings())


def test_the_command_line_does_each(street, tmp_path: Path, capsys: pytest.CaptureFixture):
    def run(*words: object) -> str:
        assert main([*map(str, words)]) == 0
        return capsys.readouterr().out

    assert "images 28, cameras 2, instants 14" in run("info", street.path, "--plot", tmp_path)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "points.ply" in run("map", "export", street.path, tmp_path / "out")
    assert "scale metric" in run("map", "import", tmp_path / "out", tmp_path / "map")
    assert "images 10" in run("map", "prune", tmp_path / "map", "--max-images", 10)
    assert main(["map", "prune"]) == 1
    assert "wants MAP" in capsys.readouterr().err
    assert main(["map", str(tmp_path / "map")]) == 1
    assert "at least DATASET and MAP" in capsys.readouterr().err
    assert main(["map", "prune", str(tmp_path)]) == 1
    assert "is no map" in capsys.readouterr().err

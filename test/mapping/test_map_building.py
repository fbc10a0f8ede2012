"""From a drive to a map: accuracy, georeference, resuming, and what NAVER's library reads."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import kapture
import kapture.io.csv
import numpy as np
import pytest
from drive_scene import DATUM, START_NS, STEP_NS, DriveOptions, make_drive
from scipy.spatial.transform import Rotation

from kapture_ros.dataset.tables import pose_row
from kapture_ros.errors import InputError, OutputError
from kapture_ros.mapping import pipeline
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.manifest import read_manifest
from kapture_ros.mapping.options import MapSettings, PairOptions, PoseOptions, PruneOptions
from kapture_ros.mapping.pairs import read_pairs
from kapture_ros.mapping.pipeline import build_map
from kapture_ros.mapping.prune import prune_map
from kapture_ros.mapping.sessions import FeatureSource, read_session
from kapture_ros.mapping.structure import read_structure
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Transform


def errors(map_dir: Path, drive) -> np.ndarray:
    """Metres between the map's cameras and the truth, over the Earth."""
    images, datum = read_images(map_dir), read_manifest(map_dir).datum
    here = DATUM.map_from_geodetic(*datum.geodetic_from_map(images.centers()))
    truth = np.array([drive.true_center(name) for name in images.names])
    return np.linalg.norm(here - truth, axis=1)


def test_drift_is_corrected_by_images_and_gnss(lap):
    odometry = np.array([pose.translation for pose in lap.drive.odometry])
    start = lap.drive.truth[0]
    truth = np.array([(start.inverse() @ pose).translation for pose in lap.drive.truth])
    raw = np.median(np.linalg.norm(odometry - truth, axis=1))
    found = errors(lap.path, lap.drive)
    assert raw > 2.0
    assert np.median(found) <= 0.15
    assert found.max() <= 0.3
    assert len(found) == 100


def test_odometry_that_was_started_again_does_not_bend_the_map(tmp_path: Path, few_pairs):
    """As one drive, instants lie up to 57 m beside where they were."""
    drive = make_drive(tmp_path / "drive", DriveOptions(points=900, restart=25))
    build_map([drive.path], tmp_path / "map", few_pairs)
    found = errors(tmp_path / "map", drive)
    assert len(found) == 100
    assert np.median(found) <= 0.15
    assert found.max() <= 0.3


def test_a_rest_that_gnss_does_not_place_costs_the_map_no_datum(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", DriveOptions(frames=26, points=900, restart=25))
    record = build_map([drive.path], tmp_path / "map", few_pairs).record
    why = "2 images are left out: odometry was started again there"
    assert record["warnings"][0].startswith(why)
    found = errors(tmp_path / "map", drive)
    assert np.isfinite(found).sum() == 50
    assert np.nanmax(found) <= 0.4


def test_restarts_of_other_parts_of_a_recording_do_not_count(tmp_path: Path):
    """Each part that a recording was split into has the report of all."""
    drive = make_drive(tmp_path / "drive", DriveOptions(frames=4, points=100))
    poses = {"restarts": [START_NS - STEP_NS, START_NS, START_NS + 4 * STEP_NS]}
    (drive.path / "report.json").write_text(json.dumps({"sessions": [{"poses": poses}]}))
    session = read_session(drive.path, "", FeatureSource(), prefixed=False, gnss_sigma=1.0)
    assert session.restarts == ()
    assert len(session.fixes_by_drive) == 1


def test_fixed_poses_of_odometry_that_was_started_again_are_warned_of(tmp_path: Path, few_pairs):
    options = DriveOptions(frames=8, points=900, poses="truth", restart=4)
    drive = make_drive(tmp_path / "drive", options)
    fixed = replace(few_pairs, poses=PoseOptions("fixed"))
    (warning,) = build_map([drive.path], tmp_path / "map", fixed).record["warnings"]
    assert "was started again" in warning


def test_exact_poses_are_kept_as_they_are(street):
    given, mapped = read_images(street.drive.path), read_images(street.path)
    assert mapped.names == given.names
    assert mapped.poses == pytest.approx(given.poses, abs=1e-6)
    assert np.median(errors(street.path, street.drive)) < 0.1


def test_a_first_pose_that_errs_does_not_turn_the_map(tmp_path: Path, few_pairs):
    options = DriveOptions(frames=14, points=900, poses="truth", gnss=False)
    drive = make_drive(tmp_path / "drive", options)
    exact = read_images(drive.path)
    wrong = Transform(Rotation.from_euler("zx", [0.8, 0.6], degrees=True))
    table = drive.path / "sensors/trajectories.txt"
    lines = table.read_text().splitlines()
    first = lines[2].split(", ")
    lines[2] = ", ".join([*first[:2], *pose_row(wrong @ drive.truth[0].inverse())])
    table.write_text("\n".join([*lines, ""]))
    build_map([drive.path], tmp_path / "map", replace(few_pairs, poses=PoseOptions("refine")))

    mapped = read_images(tmp_path / "map")
    turns = [
        np.degrees(mapped.cam_from_map(row).inverse().distance_to(truth.inverse())[1])
        for row, truth in enumerate(map(exact.cam_from_map, range(len(exact))))
    ]
    assert np.median(turns) < 0.2
    offsets = np.linalg.norm(mapped.centers() - exact.centers(), axis=1)
    assert np.median(offsets) < 0.1


def test_points_are_where_the_house_fronts_are(street):
    images = read_images(street.path)
    xyz = read_structure(street.path, images, "fake").xyz
    nearest = [np.linalg.norm(street.drive.points - point, axis=1).min() for point in xyz]
    assert len(xyz) > 200
    assert np.median(nearest) < 0.1


def test_the_map_is_a_kapture_dataset(street, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        read = kapture.io.csv.kapture_from_dir(str(street.path))
    assert not caplog.records
    loaded = VisualMap.load(street.path)
    assert len(read.points3d) == len(loaded.points)
    assert read.observations.observations_number() == len(loaded.observation_points)
    assert set(read.keypoints["fake"]) == set(loaded.image_names)
    assert set(read.descriptors["fake"]) == set(read.global_features["fakeplace"])
    assert len(read.records_gnss) == 14
    assert not (street.path / "build").exists()


def test_the_record_says_how_the_map_was_made(street):
    record = read_manifest(street.path).record
    steps = {step["step"]: step for step in record["steps"]}
    assert list(steps) == [
        "extract", "collect", "pairs", "match", "check poses", "check mounting", "verify",
        "reconstruct (fixed poses)", "write",
    ]  # fmt: skip
    assert all(step["seconds"] >= 0 for step in steps.values())
    assert steps["write"]["points"] == len(VisualMap.load(street.path).points)
    assert record["settings"]["pairs"]["retrieval_top_k"] == 4
    assert set(record["versions"]) == {"kapture_ros", "pycolmap", "numpy", "python"}
    assert record["warnings"] == []


def test_a_drive_without_features_gets_them_on_the_way(shared_data: Path, tmp_path: Path):
    views = sorted((shared_data / "kitti_00").glob("*.jpg"))[:5]
    poses = np.loadtxt(shared_data / "kitti_00/poses.txt").reshape(-1, 3, 4)
    sensors = tmp_path / "drive/sensors"
    (sensors / "records_data").mkdir(parents=True)
    lens = "PINHOLE, 1241, 376, 718.856, 718.856, 607.1928, 185.2157"
    rows = [Transform.from_matrix(pose).inverse() for pose in poses[:5]]
    tables = {
        "sensors": [f"camera, , camera, {lens}"],
        "records_camera": [f"{k}, camera, {view.name}" for k, view in enumerate(views)],
        "trajectories": [f"{k}, camera, " + ", ".join(pose_row(p)) for k, p in enumerate(rows)],
    }
    for name, lines in tables.items():
        text = "\n".join(["# kapture format: 1.1", *lines, ""])
        (sensors / f"{name}.txt").write_text(text)
    for view in views:
        shutil.copy(view, sensors / "records_data")
    manifest = build_map([tmp_path / "drive"], tmp_path / "map", MapSettings())
    assert manifest.record["steps"][0]["images"] == 5
    assert manifest.features.keypoints.startswith("r2d2-fast-free-")
    assert manifest.features.global_features.startswith("apgem-small-free-")
    assert len(VisualMap.load(tmp_path / "map").points) > 200


def test_without_poses_the_loop_closes_and_gnss_gives_the_scale(tmp_path: Path):
    drive = make_drive(
        tmp_path / "drive", DriveOptions(frames=48, points=1400, poses="none", rig=False)
    )
    settings = MapSettings(PairOptions(retrieval_top_k=6, sequence_neighbours=3))
    manifest = build_map([drive.path], tmp_path / "map", settings)
    images = read_images(tmp_path / "map")
    assert images.posed.all()
    assert manifest.metric
    truth = np.array([drive.true_center(name) for name in images.names])
    size = [np.linalg.norm(p - p.mean(axis=0)) for p in (images.centers(), truth)]
    assert abs(size[0] / size[1] - 1) <= 0.01
    assert np.median(errors(tmp_path / "map", drive)) < 0.5


def test_a_single_camera_alone_makes_a_map_of_unknown_scale(tmp_path: Path, few_pairs):
    options = DriveOptions(frames=12, step=2.0, points=900, poses="none", gnss=False, rig=False)
    drive = make_drive(tmp_path / "drive", options)
    manifest = build_map([drive.path], tmp_path / "map", few_pairs)
    assert not manifest.metric
    assert manifest.datum is None
    assert any("not metric" in warning for warning in manifest.record["warnings"])


@pytest.mark.parametrize("stereo", [True, False])
def test_a_rig_alone_has_a_scale_if_its_cameras_see_the_same(tmp_path: Path, few_pairs, stereo):
    options = DriveOptions(frames=12, step=2.0, points=900, poses="none", gnss=False, stereo=stereo)
    drive = make_drive(tmp_path / "drive", options)
    manifest = build_map([drive.path], tmp_path / "map", few_pairs)
    assert manifest.metric is stereo
    if stereo:
        images = read_images(tmp_path / "map")
        front = [row for row, name in enumerate(images.names) if name.startswith("front")]
        way = np.linalg.norm(np.diff(images.centers()[front], axis=0), axis=1).sum()
        truth = np.array([drive.true_center(images.names[row]) for row in front])
        assert way == pytest.approx(np.linalg.norm(np.diff(truth, axis=0), axis=1).sum(), rel=0.02)


def test_a_vehicle_that_stands_does_not_tell_how_wrong_its_map_is(tmp_path: Path, few_pairs):
    options = DriveOptions(frames=20, step=1e-4, points=900, poses="truth", gnss=False, stereo=True)
    drive = make_drive(tmp_path / "drive", options)
    build_map([drive.path], tmp_path / "map", few_pairs)
    visual_map = VisualMap.load(tmp_path / "map")
    assert len(np.unique(visual_map.image_frames)) == 20
    assert len(visual_map.held_out) == 0


def test_several_drives_make_one_map(tmp_path: Path, few_pairs):
    options = DriveOptions(frames=10, points=900, poses="truth")
    morning = make_drive(tmp_path / "morning", options)
    evening = make_drive(tmp_path / "evening", replace(options, side=1.0, seed=4))
    manifest = build_map([morning.path, evening.path], tmp_path / "map", few_pairs)
    assert manifest.sessions == ("morning", "evening")
    images = read_images(tmp_path / "map")
    assert {name.split("/")[0] for name in images.names} == {"morning", "evening"}
    assert {camera.sensor_id for camera in images.cameras} == {
        "morning.front", "morning.left", "evening.front", "evening.left",
    }  # fmt: skip
    structure = read_structure(tmp_path / "map", images, "fake")
    drive_of = np.array([name.startswith("evening") for name in images.names])[structure.images]
    seen_by = [np.bincount(structure.points[drive_of == d], minlength=len(structure.xyz))
               for d in (False, True)]  # fmt: skip
    assert ((seen_by[0] > 0) & (seen_by[1] > 0)).sum() > 0.3 * len(structure.xyz)


def interrupt(monkeypatch, step: str, street, target: Path, settings: MapSettings) -> None:
    """Break a build off where a step begins."""

    def interrupted(*_args, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_map([street.drive.path], target, settings)


def test_an_interrupted_run_goes_on_and_ends_the_same(
    tmp_path: Path, street, few_pairs, monkeypatch
):
    target = tmp_path / "map"
    interrupt(monkeypatch, "verify_step", street, target, few_pairs)
    assert not (target / "map.yaml").exists()
    images = read_images(street.drive.path)
    assert len(read_pairs(target / "build/pairs.txt", images)) > 50

    manifest = build_map([street.drive.path], target, few_pairs)
    steps = {step["step"]: step for step in manifest.record["steps"]}
    assert steps["match"]["newly matched"] == 0
    for name in ("sensors/trajectories.txt", "reconstruction/points3d.txt"):
        assert (target / name).read_text() == (street.path / name).read_text()


def test_other_settings_begin_anew(tmp_path: Path, street, few_pairs, monkeypatch):
    interrupt(monkeypatch, "verify_step", street, tmp_path / "map", few_pairs)
    other = replace(few_pairs, poses=PoseOptions(poses="fixed"))
    manifest = build_map([street.drive.path], tmp_path / "map", other)
    steps = {step["step"]: step for step in manifest.record["steps"]}
    assert steps["match"]["newly matched"] == steps["match"]["pairs"]


def test_nothing_is_overwritten_unasked(tmp_path: Path, street, few_pairs):
    shutil.copytree(street.path, tmp_path / "map")
    with pytest.raises(OutputError, match="is a map already"):
        build_map([street.drive.path], tmp_path / "map", few_pairs)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="not an unfinished map"):
        build_map([street.drive.path], tmp_path / "photos", few_pairs)
    assert (tmp_path / "photos/a.jpg").read_bytes() == b"mine"
    with pytest.raises(OutputError, match="not an unfinished map"):
        build_map([street.drive.path], tmp_path / "photos/a.jpg", few_pairs)


def test_a_map_stays_while_what_replaces_it_cannot_be_read(tmp_path: Path, street, few_pairs):
    shutil.copytree(street.path, tmp_path / "map")
    with pytest.raises(InputError, match="is no kapture dataset"):
        build_map([tmp_path / "typo"], tmp_path / "map", few_pairs, overwrite=True)
    with pytest.raises(OutputError, match="would delete"):
        build_map([tmp_path / "map"], tmp_path / "map", few_pairs, overwrite=True)
    assert (tmp_path / "map/map.yaml").is_file()


def test_a_map_is_replaced_from_within(tmp_path: Path, street, few_pairs, monkeypatch):
    shutil.copytree(street.path, tmp_path / "map")
    monkeypatch.chdir(tmp_path / "map")
    build_map([street.drive.path], Path(), few_pairs, overwrite=True)
    prune_map(Path(), PruneOptions(max_images=10))
    assert len(VisualMap.load(tmp_path / "map")) == 10


def test_a_map_that_was_not_measured_to_the_end_is_not_finished(
    tmp_path: Path, street, few_pairs, monkeypatch
):
    interrupt(monkeypatch, "measure_map", street, tmp_path / "map", few_pairs)
    other = replace(few_pairs, poses=PoseOptions(poses="refine"))
    with pytest.raises(OutputError, match="is a map already"):
        build_map([street.drive.path], tmp_path / "map", other)
    manifest = build_map([street.drive.path], tmp_path / "map", few_pairs)
    steps = {step["step"]: step for step in manifest.record["steps"]}
    assert steps["match"]["newly matched"] == 0
    assert not (tmp_path / "map/build").exists()

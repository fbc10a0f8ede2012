"""What cannot become a map is refused, saying why and what to do; what is odd is reported."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from drive_scene import DriveOptions, make_drive
from PIL import Image

from kapture_ros.errors import InputError, OutputError
from kapture_ros.mapping import pipeline
from kapture_ros.mapping.extend import extend_map
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.manifest import read_manifest
from kapture_ros.mapping.options import InputOptions, PoseOptions
from kapture_ros.mapping.pipeline import build_map

SHORT = DriveOptions(frames=5, points=900, poses="truth", gnss=False)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return make_drive(tmp_path / "drive", SHORT).path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def uncalibrate(dataset: Path, focal: float = 320.0) -> None:
    known = f"PINHOLE, 640, 480, {focal}, {focal}, 320.0, 240.0"
    change(dataset / "sensors/sensors.txt", known, "UNKNOWN_CAMERA, 640, 480")


def test_uncalibrated_cameras_are_refused_with_the_cure(short: Path, tmp_path: Path, few_pairs):
    uncalibrate(short)
    with pytest.raises(InputError, match=r"'front' has no calibration.*--estimate-intrinsics"):
        build_map([short], tmp_path / "map", few_pairs)


def test_estimated_intrinsics_come_close(tmp_path: Path, few_pairs):
    options = replace(SHORT, frames=14, step=2.0, points=2000, rig=False, focal=680.0)
    drive = make_drive(tmp_path / "drive", options)
    uncalibrate(drive.path, 680.0)
    settings = replace(few_pairs, inputs=InputOptions(estimate_intrinsics=True))
    build_map([drive.path], tmp_path / "map", settings)
    (camera,) = read_images(tmp_path / "map").cameras
    assert camera.model == "SIMPLE_RADIAL"
    assert camera.focal == pytest.approx(680, rel=0.03)


def test_a_calibration_that_is_not_finite_is_refused(short: Path, tmp_path: Path, few_pairs):
    change(short / "sensors/sensors.txt", "PINHOLE, 640, 480, 320.0", "PINHOLE, 640, 480, nan")
    with pytest.raises(InputError, match="calibration of 'front' is not finite"):
        build_map([short], tmp_path / "map", few_pairs)


def test_one_image_is_not_enough(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", replace(SHORT, frames=1, rig=False))
    with pytest.raises(InputError, match="needs at least two that overlap"):
        build_map([drive.path], tmp_path / "map", few_pairs)


def test_images_without_overlap_are_refused(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", replace(SHORT, frames=3, step=60.0, rig=False))
    with pytest.raises(InputError, match="the images do not overlap"):
        build_map([drive.path], tmp_path / "map", few_pairs)


def test_poses_that_are_not_there_cannot_be_kept(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", replace(SHORT, poses="none"))
    with pytest.raises(InputError, match=r"trajectories\.txt has no pose"):
        build_map(
            [drive.path], tmp_path / "map", replace(few_pairs, poses=PoseOptions(poses="fixed"))
        )


def test_inverted_poses_are_noticed(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", replace(SHORT, frames=10, step=2.0))
    path = drive.path / "sensors/trajectories.txt"
    lines = path.read_text().splitlines()
    turned = []
    for line in lines:
        fields = line.split(", ")
        if len(fields) == 9:  # map_from_rig where rig_from_map is expected
            pose = drive.truth[len(turned)]
            fields[2:] = [str(v) for v in (*pose.quaternion, *pose.translation)]
            turned.append(line)
        lines[lines.index(line)] = ", ".join(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"must be camera \(or rig\) from world"):
        build_map([drive.path], tmp_path / "map", few_pairs)


def test_wrong_extrinsics_are_reported_by_camera(tmp_path: Path, few_pairs):
    options = replace(SHORT, frames=14, step=2.0, wrong_extrinsics_deg=8.0)
    drive = make_drive(tmp_path / "drive", options)
    manifest = build_map([drive.path], tmp_path / "map", few_pairs)
    (told,) = (w for w in manifest.record["warnings"] if "extrinsics" in w)
    assert told.startswith("camera 'left': only")


@pytest.mark.parametrize("kind", ["keypoints", "descriptors", "global_features"])
def test_corrupt_features_are_named(short: Path, tmp_path: Path, few_pairs, kind: str):
    (path,) = (short / "reconstruction" / kind).glob("*/front/00002.jpg.*")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=rf"{path.name} is cut off: delete it and extract again"):
        build_map([short], tmp_path / "map", few_pairs)


def test_images_without_features_are_counted(short: Path, tmp_path: Path, few_pairs):
    for path in (short / "reconstruction/keypoints").glob("*/front/*.kpt"):
        path.unlink()
    with pytest.raises(InputError, match=r"5 of 10 images .* have no keypoints .*extract"):
        build_map([short], tmp_path / "map", few_pairs)


def test_images_whose_files_are_damaged_or_gone_are_left_out(
    short: Path, tmp_path: Path, few_pairs
):
    for name in read_images(short).names:
        file = short / "sensors/records_data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480)).save(file)
    (short / "sensors/records_data/front/00002.jpg").write_bytes(b"\xff\xd8 cut off")
    (short / "sensors/records_data/left/00003.jpg").unlink()
    for gone in ("front/00002", "left/00003"):
        for path in (short / "reconstruction").glob(f"*/*/{gone}.*"):
            path.unlink()
    manifest = build_map([short], tmp_path / "map", few_pairs)
    assert len(read_images(tmp_path / "map")) == 8
    told = "2 images of .*drive cannot be read and are left out .*front/00002.jpg"
    assert any(re.search(told, warning) for warning in manifest.record["warnings"])


def test_features_of_other_settings_are_not_completed_by_the_usual_ones(
    short: Path, tmp_path: Path, few_pairs
):
    others = "r2d2-fast-free-02296514-top800_1024px_aadeaa"  # as `extract --top-k 800` names them
    for kind in ("keypoints", "descriptors"):
        folder = short / "reconstruction" / kind
        (folder / "fake").rename(folder / others)
    (path,) = (short / "reconstruction/keypoints").glob("*/front/00002.jpg.kpt")
    path.unlink()
    with pytest.raises(InputError, match=r"1 of 10 images .* have no keypoints .*extract"):
        build_map([short], tmp_path / "map", few_pairs)
    assert [p.name for p in (short / "reconstruction/keypoints").iterdir()] == [others]


def test_drives_with_different_features_do_not_mix(tmp_path: Path, few_pairs):
    first = make_drive(tmp_path / "first", SHORT).path
    second = make_drive(tmp_path / "second", SHORT).path
    for kind in ("keypoints", "descriptors"):
        folder = second / "reconstruction" / kind
        (folder / "fake").rename(folder / "other")
    with pytest.raises(InputError, match="extract both with one setting"):
        build_map([first, second], tmp_path / "map", few_pairs)
    build_map([first], tmp_path / "map", few_pairs)
    with pytest.raises(InputError, match="the map's of type 'fake'"):
        extend_map(tmp_path / "map", second, few_pairs)


def test_a_type_is_chosen_where_there_are_several(short: Path, tmp_path: Path, few_pairs):
    for kind in ("keypoints", "descriptors"):
        folder = short / "reconstruction" / kind
        shutil.copytree(folder / "fake", folder / "other")
    with pytest.raises(InputError, match=r"several types.*fake, other.*--local-type"):
        build_map([short], tmp_path / "map", few_pairs)
    missing = replace(few_pairs, inputs=InputOptions(local_type="third"))
    with pytest.raises(InputError, match="'third', only fake, other"):
        build_map([short], tmp_path / "map", missing)
    chosen = replace(few_pairs, inputs=InputOptions(local_type="other"))
    build_map([short], tmp_path / "map", chosen)
    assert read_manifest(tmp_path / "map").features.descriptors == "other"


@pytest.mark.parametrize("name", ["../../evil.jpg", "/tmp/evil.jpg"])
def test_image_names_never_lead_outside_the_map(short: Path, tmp_path: Path, few_pairs, name: str):
    change(short / "sensors/records_camera.txt", "front/00000.jpg", name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="not a name inside the dataset"):
        build_map([short], tmp_path / "map", few_pairs)
    assert sorted(tmp_path.iterdir()) == before


def test_all_drives_are_looked_at_before_features_are_extracted(
    short: Path, tmp_path: Path, few_pairs, monkeypatch
):
    def extracted(*args):
        raise AssertionError("hours went into it")

    monkeypatch.setattr(pipeline, "extract_missing", extracted)
    with pytest.raises(InputError, match="typo is no kapture dataset"):
        build_map([short, tmp_path / "typo"], tmp_path / "map", few_pairs)
    uncalibrate(short)
    with pytest.raises(InputError, match="no calibration"):
        build_map([short], tmp_path / "map", few_pairs)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").touch()
    with pytest.raises(OutputError, match="not empty"):
        build_map([short], tmp_path / "full", few_pairs)


def test_equal_folder_names_cannot_tell_drives_apart(tmp_path: Path, few_pairs):
    drives = [make_drive(tmp_path / part / "lap", SHORT).path for part in ("a", "b")]
    with pytest.raises(InputError, match="different names, not lap, lap"):
        build_map(drives, tmp_path / "map", few_pairs)


def test_too_few_fixes_leave_the_map_off_the_earth(tmp_path: Path, few_pairs):
    drive = make_drive(tmp_path / "drive", replace(SHORT, gnss=True, frames=8, step=2.0))
    records = drive.path / "sensors/records_gnss.txt"
    rows = records.read_text().splitlines()
    records.write_text("\n".join(rows[:4]) + "\n")
    manifest = build_map([drive.path], tmp_path / "map", few_pairs)
    assert manifest.datum is None
    assert any("no datum" in warning for warning in manifest.record["warnings"])

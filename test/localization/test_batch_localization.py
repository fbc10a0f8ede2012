"""`kapture_ros localize`: whole query sets, their files, and going on after an interruption."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import kapture.io.csv as kapture_csv
import numpy as np
import pytest
from PIL import Image
from synthetic_map import (
    ANTENNA_IN_RIG,
    DATUM,
    QUERY_CAMERAS,
    TYPES,
    base_at,
    make_query_dataset,
    make_world,
)

from kapture_ros.cli.main import main
from kapture_ros.evaluation.estimates import matches_path, read_estimates, read_matches
from kapture_ros.localization.drives import drives_of
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.query import Reason
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.sessions import FeatureSource

TRUTH = [base_at(x, street, side) for x, street, side in ((9, 0, 0.5), (21, 0, 0), (30, 1, -0.5))]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "map")


@pytest.fixture(scope="module")
def query(tmp_path_factory, world):
    folder = tmp_path_factory.mktemp("query") / "query"
    make_query_dataset(folder, world, TRUTH, gnss=True)
    return folder


def localize(world, query, out, *arguments: str) -> int:
    return main(["localize", str(world.map.path), str(query), str(out), *arguments])


def test_a_rig_is_localized_as_one_and_evaluated(world, query, tmp_path, capsys) -> None:
    assert localize(world, query, tmp_path / "out", "--matches") == 0
    assert "3 of 3 queries localized" in capsys.readouterr().out
    rows = read_estimates(tmp_path / "out" / "estimates.csv")
    assert [row.query for row in rows] == ["rig"] * 3
    for row, truth in zip(rows, TRUTH, strict=True):
        assert row.accepted
        assert row.map_from_base.distance_to(truth)[0] < 0.05
        pair = read_matches(matches_path(tmp_path / "out", row.stamp_ns, row.query))
        assert pair.query_image.startswith(("front/", "side/"))
        assert pair.inlier.sum() > 10
    arguments = [str(tmp_path / "out"), str(query), str(tmp_path / "report")]
    assert main(["evaluate", *arguments]) == 0
    assert "100.0%" in capsys.readouterr().out


def test_images_are_localized_one_by_one(world, query, tmp_path) -> None:
    assert localize(world, query, tmp_path / "out", "--no-rigs") == 0
    rows = {row.query: row for row in read_estimates(tmp_path / "out" / "estimates.csv")}
    assert len(rows) == 6
    for number, truth in enumerate(TRUTH):
        # The map looks ahead only: what the side camera shows was never seen from there.
        row = rows[f"front/{number:03d}.jpg"]
        center = truth @ QUERY_CAMERAS["front"].inverse()
        assert row.map_from_base.distance_to(center)[0] < 0.1
    pairs = (tmp_path / "out" / "pairs.txt").read_text().splitlines()
    assert {line.split(", ")[0] for line in pairs[2:]} == set(rows)


def test_lengths_are_not_mixed_with_a_map_of_unknown_scale(world, query, tmp_path, capsys) -> None:
    scaleless = Path(shutil.copytree(world.map.path, tmp_path / "scaleless"))
    manifest = scaleless / "map.yaml"
    manifest.write_text(manifest.read_text().replace("metric: true", "metric: false"))
    arguments = ["localize", str(scaleless), str(query), str(tmp_path / "out")]
    assert main([*arguments, "--sequence", "--no-rigs"]) == 1
    assert "is of unknown scale, and motions are in metres" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "mountings of cameras (--no-rigs does without) are in metres" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--no-rigs"]) == 0


def test_retrieval_is_judged_by_the_pairs_that_were_left(world, query, tmp_path, capsys) -> None:
    for rigs, told in (("--no-rigs", True), ("--rigs", False)):
        out = tmp_path / rigs
        localize(world, query, out, rigs)
        arguments = [str(out), str(query), str(tmp_path / f"report{rigs}")]
        assert main(["evaluate", *arguments, "--map", str(world.map.path)]) == 0
        assert ("## Retrieval recall" in capsys.readouterr().out) == told


def test_matches_are_drawn_beside_the_images_of_the_drive(world, query, tmp_path) -> None:
    rng = np.random.default_rng(0)
    shown = tmp_path / "query"
    shutil.copytree(query, shown)
    drive = tmp_path / "drive"
    for folder, names in ((shown, ("front/000.jpg",)), (drive, world.map.image_names)):
        for name in names:
            path = folder / "sensors" / "records_data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(path)
    localize(world, shown, tmp_path / "out", "--no-rigs", "--matches")
    arguments = [str(tmp_path / "out"), str(shown), str(tmp_path / "report")]
    arguments += ["--map", str(world.map.path), "--map-images", str(drive)]
    assert main(["evaluate", *arguments]) == 0
    page = (tmp_path / "report" / "evaluation.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    pictures = [worst["picture"] for worst in data["worst"] if worst["picture"]]
    assert [(picture["width"], len(picture["lines"]) > 10) for picture in pictures] == [(966, True)]


def test_trajectories_open_in_navers_library(world, query, tmp_path) -> None:
    localize(world, query, tmp_path / "out")
    found = kapture_csv.kapture_from_dir(str(tmp_path / "out"))
    assert len(found.records_camera) == 3
    for (_, device, pose), truth in zip(_poses(found), TRUTH, strict=True):
        assert device == "rig"
        center = -np.asarray(pose.inverse().t).ravel() + truth.translation
        assert np.linalg.norm(center) < 0.05


def _poses(found):
    return [
        (stamp, device, pose)
        for stamp, devices in sorted(found.trajectories.items())
        for device, pose in devices.items()
    ]


@pytest.mark.parametrize(
    ("style", "name"), [("path", "front/000.jpg"), ("file", "000.jpg"), ("camera", "front/000.jpg")]
)
def test_the_benchmarks_text_has_a_line_an_image(world, query, tmp_path, style, name) -> None:
    localize(world, query, tmp_path / "out", "--ltvl-names", style)
    lines = (tmp_path / "out" / "visuallocalization.txt").read_text().splitlines()
    assert len(lines) == 6
    cells = lines[0].split(" ")
    assert cells[0] == name
    expected = QUERY_CAMERAS["front"] @ TRUTH[0].inverse()
    assert [float(v) for v in cells[5:]] == pytest.approx(expected.translation.tolist(), abs=0.05)
    quaternion = np.array([float(v) for v in cells[1:5]])
    assert abs(quaternion @ expected.quaternion) == pytest.approx(1.0, abs=1e-5)


def test_an_interrupted_run_goes_on(world, query, tmp_path) -> None:
    localize(world, query, tmp_path / "whole")
    localize(world, query, tmp_path / "cut")
    table = tmp_path / "cut" / "estimates.csv"
    text = table.read_text()
    lines = text.splitlines(keepends=True)
    table.write_text("".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
    first = lines[1]
    assert localize(world, query, tmp_path / "cut") == 0
    resumed = table.read_text().splitlines(keepends=True)
    assert resumed[1] == first, "what was done is not done again"
    assert [row.map_from_base for row in read_estimates(table)] == [
        row.map_from_base for row in read_estimates(tmp_path / "whole" / "estimates.csv")
    ]


def test_an_interrupted_run_keeps_what_a_single_camera_on_a_rig_retrieved(
    world, query, tmp_path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(query, alone)
    images = alone / "sensors" / "records_camera.txt"
    rows = [line for line in images.read_text().splitlines() if ", side, " not in line]
    images.write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    localize(world, alone, out)
    assert [row.query for row in read_estimates(out / "estimates.csv")] == ["rig"] * 3
    whole = (out / "pairs.txt").read_text()
    table = out / "estimates.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    assert localize(world, alone, out) == 0
    assert (out / "pairs.txt").read_text() == whole


def test_other_settings_do_not_mix_into_a_folder(world, query, tmp_path, capsys) -> None:
    localize(world, query, tmp_path / "out")
    assert localize(world, query, tmp_path / "out", "--top-k", "3") == 1
    assert "other settings" in capsys.readouterr().err
    assert localize(world, query, tmp_path / "out", "--top-k", "3", "--overwrite") == 0


def test_another_drive_does_not_mix_into_a_folder(world, query, tmp_path, capsys) -> None:
    localize(world, query, tmp_path / "out")
    before = (tmp_path / "out" / "estimates.csv").read_text()
    other = tmp_path / "other"
    shutil.copytree(query, other)
    images = other / "sensors" / "records_camera.txt"
    head, *rows = images.read_text().splitlines()
    images.write_text("\n".join([head, *rows[:-2]]) + "\n")
    assert localize(world, other, tmp_path / "out") == 1
    assert f"answers to queries that {other} does not have" in capsys.readouterr().err
    assert (tmp_path / "out" / "estimates.csv").read_text() == before
    assert localize(world, other, tmp_path / "out", "--overwrite") == 0


def test_the_folder_one_is_in_is_begun_anew(world, query, tmp_path, monkeypatch) -> None:
    localize(world, query, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    assert localize(world, query, Path(), "--top-k", "3", "--overwrite") == 0
    assert (tmp_path / "out" / "estimates.csv").is_file()


def test_a_foreign_folder_is_left_alone(world, query, tmp_path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert localize(world, query, tmp_path) == 1
    assert "no output of this command" in capsys.readouterr().err
    assert localize(world, query, tmp_path, "--overwrite") == 1
    assert localize(world, query, tmp_path / "thesis.txt") == 1
    assert "no output of this command" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_coarse_poses_are_marked(world, query, tmp_path) -> None:
    arguments = ("--pipeline", "approximation", "--no-rigs", "--approximation", "bdi")
    localize(world, query, tmp_path / "out", *arguments)
    rows = read_estimates(tmp_path / "out" / "estimates.csv")
    assert {row.reason for row in rows} == {"COARSE"}
    assert all(row.covariance is None for row in rows)


def test_a_preset_is_the_base_of_given_options(world, query, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("min_inliers: 100000\n")
    out = tmp_path / "out"
    assert localize(world, query, out, "--preset", "naver", "--config", str(config)) == 0
    assert {r.reason for r in read_estimates(out / "estimates.csv")} == {"TOO_FEW_INLIERS"}


def test_features_of_another_type_are_refused_by_name(world, query, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("sensors", "reconstruction"):
        (other / name).symlink_to(query / name)
    renamed = tmp_path / "features" / "foreign"
    renamed.mkdir(parents=True)
    for kind, type_name in (("keypoints", "synthetic-kp"), ("descriptors", "synthetic-desc")):
        (renamed / kind).symlink_to(query / "reconstruction" / kind / type_name)
    assert localize(world, other, tmp_path / "out", "--local-features", str(renamed)) == 1
    assert "'foreign'" in capsys.readouterr().err


@pytest.fixture
def images_only(tmp_path, query):
    """The query dataset as a recorder leaves it: no features, and one image file is torn."""
    dataset = tmp_path / "images_only"
    shutil.copytree(query / "sensors", dataset / "sensors")
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for info in QuerySet(query, FeatureSource(), TYPES, rigs=False).infos:
        path = dataset / "sensors" / "records_data" / info.images[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    torn = dataset / "sensors" / "records_data" / "front" / "001.jpg"
    torn.write_bytes(torn.read_bytes()[:1000])
    return dataset


def test_without_features_the_images_are_the_queries(images_only, world) -> None:
    queries = QuerySet(images_only, FeatureSource(), TYPES)
    assert not queries.has_features
    seen = {
        name: image.pixels
        for number, info in enumerate(queries.infos)
        for name, image in zip(info.images, queries[number].images, strict=True)
    }
    assert len(seen) == 6
    assert seen["front/001.jpg"] is None, "one torn file does not end the run"
    assert seen["side/001.jpg"].shape == (480, 640, 3)
    torn = Localizer(world.map).localize(queries[1])
    assert torn.reason is Reason.BAD_INPUT


def test_a_map_of_features_of_unknown_origin_asks_for_features(
    world, images_only, tmp_path, capsys
) -> None:
    assert localize(world, images_only, tmp_path / "out") == 1
    assert "'synthetic-desc'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_of_several_feature_types_the_maps_own_is_taken(world, query, tmp_path) -> None:
    both = tmp_path / "both"
    shutil.copytree(query, both)
    FeatureFolder.create(
        both, "keypoints", "another", {"name": "x", "dtype": "float32", "dsize": "2"}
    )
    assert localize(world, both, tmp_path / "out") == 0
    assert all(row.accepted for row in read_estimates(tmp_path / "out" / "estimates.csv"))


def test_the_antenna_comes_from_the_rig(world, query) -> None:
    queries = QuerySet(query, FeatureSource(), world.map.feature_types)
    assert queries[0].gnss.lever_arm == pytest.approx(ANTENNA_IN_RIG)
    single = QuerySet(query, FeatureSource(), world.map.feature_types, rigs=False)
    device = single.infos[0].device
    expected = QUERY_CAMERAS[device].apply(ANTENNA_IN_RIG)
    assert single[0].gnss.lever_arm == pytest.approx(expected)
    place = world.map.datum.map_from_geodetic(
        queries[0].gnss.latitude, queries[0].gnss.longitude, queries[0].gnss.altitude
    )[0]
    assert place == pytest.approx(TRUTH[0].apply(ANTENNA_IN_RIG), abs=1e-3)


def test_the_imu_of_the_rig_is_read_in_the_axes_of_the_base(world, query, tmp_path) -> None:
    dataset = tmp_path / "with_imu"
    shutil.copytree(query, dataset)
    sensors = dataset / "sensors"
    assert QuerySet(dataset, FeatureSource(), world.map.feature_types).imu("rig") == []
    half = np.sqrt(0.5)  # the sensor's x axis looks to the left
    for name in ("imu-gyroscope", "imu-accelerometer"):
        kind = name.removeprefix("imu-")
        with (sensors / "sensors.txt").open("a") as file:
            file.write(f"{name}, , {kind}\n")
        with (sensors / "rigs.txt").open("a") as file:
            file.write(f"rig, {name}, {half}, 0, 0, {-half}, 0, 0, 0\n")
    header = "# kapture format: 1.1\n"
    start = 1_700_000_000_000_000_000
    rows = [f"{start + n * 10_000_000}, imu-gyroscope, 0.1, 0.2, {n}\n" for n in range(5)]
    (sensors / "records_gyroscope.txt").write_text(header + "".join(rows))
    rows = [f"{start + n * 20_000_000}, imu-accelerometer, {n}, 0, 9.8\n" for n in range(3)]
    (sensors / "records_accelerometer.txt").write_text(header + "".join(rows))
    queries = QuerySet(dataset, FeatureSource(), world.map.feature_types)
    samples = queries.imu("rig")
    assert [sample.stamp_ns - start for sample in samples] == [n * 10_000_000 for n in range(5)]
    assert samples[3].turn_rate == pytest.approx([-0.2, 0.1, 3])
    assert samples[3].acceleration == pytest.approx([0, 1.5, 9.8])
    (drive,) = drives_of(queries, given_motion=True)
    assert len(drive.imu) == 5
    assert drives_of(queries, given_motion=False)[0].imu == ()


def test_odometry_that_was_started_again_begins_another_drive(world, query, tmp_path) -> None:
    dataset = tmp_path / "again"
    shutil.copytree(query, dataset)
    stamps = [info.stamp_ns for info in QuerySet(query, FeatureSource(), TYPES).infos]
    report = {"sessions": [{"poses": {"restarts": [stamps[2]]}}]}
    (dataset / "report.json").write_text(json.dumps(report))
    parts = {True: [], False: []}
    for folder, told in ((query, False), (dataset, True)):
        for drive in drives_of(QuerySet(folder, FeatureSource(), TYPES), given_motion=True):
            parts[told].append(drive.numbers)
    assert parts[False] == [tuple(range(len(stamps)))]
    assert parts[True] == [(0, 1), tuple(range(2, len(stamps)))]
    by_images = drives_of(QuerySet(dataset, FeatureSource(), TYPES), given_motion=False)
    assert [drive.numbers for drive in by_images] == parts[False], "images go on all the same"


def test_the_position_is_that_at_the_time_of_the_images(world, query, tmp_path) -> None:
    """At 10 m/s, the nearest fix of a good receiver would contradict every right pose."""
    moving = tmp_path / "moving"
    shutil.copytree(query, moving)
    table = moving / "sensors" / "records_gnss.txt"
    stamp = QuerySet(query, FeatureSource(), world.map.feature_types).infos[1].stamp_ns
    antenna = TRUTH[1].apply(ANTENNA_IN_RIG)
    rows = []
    for ms in (-400, -100, 100, 300):
        at = DATUM.geodetic_from_map(antenna + np.array([0.010 * ms, 0, 0]))
        lat, lon, alt = (float(value[0]) for value in at)
        rows.append(f"{stamp + ms * 1_000_000}, gps, {lon!r}, {lat!r}, {alt!r}, 0, 1.0\n")
    table.write_text("# kapture format: 1.1\n" + "".join(rows))
    fixes = [QuerySet(moving, FeatureSource(), world.map.feature_types)[n].gnss for n in range(3)]
    geodetic = (fixes[1].latitude, fixes[1].longitude, fixes[1].altitude)
    assert DATUM.map_from_geodetic(*geodetic)[0] == pytest.approx(antenna, abs=1e-3)
    known = np.diag([25, 25, 100])  # of fixes that do not say how good they are
    assert np.sqrt(np.diag(fixes[1].covariance - known)).max() < 0.02
    # The first image is 100 ms before all fixes: 1 m at 10 m/s.
    assert np.sqrt(np.diag(fixes[0].covariance - known)) == pytest.approx([1, 1, 1])
    assert fixes[2] is None, "none is near"


def test_images_of_a_rig_milliseconds_apart_are_one_instant(world, query, tmp_path) -> None:
    staggered = tmp_path / "staggered"
    shutil.copytree(query, staggered)
    table = staggered / "sensors" / "records_camera.txt"
    lines = [line.split(", ") for line in table.read_text().splitlines() if line[0] != "#"]
    late = [[str(int(s) + 2_000_000 * (c == "side")), c, path] for s, c, path in lines]
    table.write_text("\n".join(["# kapture format: 1.1", *map(", ".join, late)]) + "\n")
    assert localize(world, staggered, tmp_path / "out") == 0
    estimates = read_estimates(tmp_path / "out" / "estimates.csv")
    assert [row.query for row in estimates] == ["rig"] * 3
    found = kapture_csv.kapture_from_dir(str(tmp_path / "out"))
    assert sorted(found.trajectories) == sorted({int(stamp) for stamp, _, _ in late})
    assert localize(world, staggered, tmp_path / "apart", "--rig-slop", "0.001") == 0
    apart = read_estimates(tmp_path / "apart" / "estimates.csv")
    assert len(apart) == 6

"""The index holds what the kapture files say, and is built again when they change."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kapture_ros.errors import InputError
from kapture_ros.mapping import retrieval_index
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.index import StaleIndexError, damaged_arrays
from kapture_ros.mapping.priors import positions_at
from kapture_ros.mapping.structure import OBSERVATIONS, POINTS, read_structure
from kapture_ros.mapping.visual_map import VisualMap


@pytest.fixture
def copy(street, tmp_path: Path) -> Path:
    return Path(shutil.copytree(street.path, tmp_path / "map"))


def test_arrays_are_what_the_text_files_say(street):
    loaded = VisualMap.load(street.path)
    images = read_images(street.path)
    structure = read_structure(street.path, images, "fake")
    assert loaded.image_names == images.names
    assert loaded.image_poses == pytest.approx(images.poses)
    assert loaded.points.xyz == pytest.approx(structure.xyz)
    assert loaded.points.track_length.tolist() == np.bincount(structure.points).tolist()
    row = 5
    features = loaded.features(row)
    part = slice(structure.offsets[row], structure.offsets[row + 1])
    assert features.points.tolist() == structure.points[part].tolist()
    keypoints = FeatureFolder.in_dataset(street.path, "keypoints", "fake")
    pixels = keypoints.read(images.names[row])[structure.keypoints[part]]
    assert features.keypoints == pytest.approx(pixels, abs=1e-4)
    assert np.linalg.norm(features.descriptors.astype(float), axis=1) == pytest.approx(
        np.ones(len(pixels)), abs=2e-3
    )
    for observation in loaded.point_observations(0):
        assert loaded.observation_points[observation] == 0
    seen = loaded.observing_images(np.flatnonzero(loaded.observation_points == 0))
    assert len(seen) == loaded.points.track_length[0]


def test_scans_between_drives_have_no_place(street):
    """Half-way between where one drive ended and the next began nobody may have been."""
    images = read_images(street.path)
    kept = images.select((images.frames < 3) | (images.frames > 10))  # 32 m apart
    ends, begins = int(kept.stamps[kept.frames == 2][0]), int(kept.stamps[kept.frames == 3][0])
    hour = 3600 * 10**9
    later = replace(kept, stamps=kept.stamps + np.where(kept.frames > 2, hour, 0))
    stamps = np.array([ends - 10**8, ends, ends + hour // 2, begins + hour, begins + hour + 10**8])
    placed = np.isfinite(positions_at(later, stamps)).all(axis=1)
    assert placed.tolist() == [True, True, False, True, True]
    assert np.isfinite(positions_at(kept, np.array([ends + 10**8]))).all(), "images were left out"


def test_points_project_to_where_they_are_observed(street):
    loaded = VisualMap.load(street.path)
    features = loaded.features(3)
    local = loaded.cam_from_map(3).apply(loaded.points.xyz[features.points])
    focal, cx, cy = (loaded.camera(3).params[k] for k in (0, 2, 3))
    pixels = focal * local[:, :2] / local[:, 2:] + [cx, cy]
    assert np.median(np.linalg.norm(pixels - features.keypoints, axis=1)) < 1.0


def test_points_seen_often_are_known_better(street):
    points = VisualMap.load(street.path).points
    deviation = np.sqrt(points.covariance[:, [0, 3, 5]].sum(axis=1))
    often = points.track_length > 8
    assert np.median(deviation[often]) < np.median(deviation[~often])
    nearest = [np.linalg.norm(street.drive.points - xyz, axis=1).min() for xyz in points.xyz]
    # Half a pixel of noise; the covariance is that of one.
    assert 0.2 < np.median(np.array(nearest) / deviation) < 1.0


def test_loading_again_builds_nothing(copy: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        first = VisualMap.load(copy)
        (copy / "map.yaml").touch()  # another time, the same content
        assert VisualMap.load(copy).map_id == first.map_id
    assert not [record for record in caplog.records if "building the index" in record.message]


def test_a_changed_map_gets_a_new_index(copy: Path, caplog: pytest.LogCaptureFixture):
    before = VisualMap.load(copy)
    text = (copy / POINTS).read_text().splitlines()
    moved = text[2].split(", ")
    text[2] = ", ".join(["999.0", *moved[1:]])
    (copy / POINTS).write_text("\n".join(text) + "\n")
    after = VisualMap.load(copy)
    assert f"{POINTS} has changed" in caplog.text
    assert after.map_id != before.map_id
    assert after.points.xyz[0, 0] == 999.0


@pytest.mark.parametrize("damage", ["cut", "missing", "header", "version"])
def test_a_damaged_index_is_built_again(copy: Path, damage: str):
    wanted = VisualMap.load(copy).points.xyz.copy()
    path, header = copy / "index/point_xyz.npy", copy / "index/header.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "header":
        header.write_text(header.read_text()[:50])
    else:
        header.write_text(header.read_text().replace('"format": 1', '"format": 0'))
    assert (VisualMap.load(copy).points.xyz == wanted).all()


def test_flipped_bits_are_found_when_looked_for(copy: Path):
    assert damaged_arrays(copy) == []
    path = copy / "index/point_xyz.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert damaged_arrays(copy) == ["point_xyz"]
    shutil.rmtree(copy / "index")
    with pytest.raises(StaleIndexError):
        damaged_arrays(copy)


def test_features_and_points_that_do_not_belong_together_are_refused(copy: Path):
    folder = FeatureFolder.in_dataset(copy, "keypoints", "fake")
    name = VisualMap.load(copy).image_names[0]
    values = folder.read(name)[:3]
    folder.path(name).unlink()  # it is a hard link
    folder.write(name, values)
    shutil.rmtree(copy / "index")
    with pytest.raises(InputError, match="do not belong together"):
        VisualMap.load(copy)


@pytest.mark.parametrize(
    "row", ["0, fake, {0}", "x, fake, {0}, 1", "0, fake, {0}, x", "9999, fake, {0}, 0"]
)
def test_damaged_observations_are_named(copy: Path, row: str):
    row = row.format(VisualMap.load(copy).image_names[0])
    with (copy / OBSERVATIONS).open("a") as file:
        file.write(row + "\n")
    with pytest.raises(InputError, match=r"observations\.txt"):
        VisualMap.load(copy)


def test_large_maps_search_lists_that_recall_nearly_all(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(retrieval_index, "EXACT_LIMIT", 1000)
    rng = np.random.default_rng(0)
    places = rng.normal(size=(60, 32))
    vectors = np.repeat(places, 50, axis=0) + 0.5 * rng.normal(size=(3000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    measured = retrieval_index.build_lists(vectors, tmp_path / "global.faiss")
    assert measured["recall"] >= 0.99
    assert 0 < measured["probed"] < measured["lists"]
    loaded = retrieval_index.RetrievalIndex.load(vectors, tmp_path / "global.faiss")
    assert loaded.lists is not None
    exact = retrieval_index.RetrievalIndex(vectors)
    shared = [len(set(loaded.search(vectors[row], 10)[0]) & set(exact.search(vectors[row], 10)[0]))
              for row in range(0, 3000, 100)]  # fmt: skip
    assert np.mean(shared) > 9.5
    gated, _ = loaded.search(vectors[0], 5, rows=np.array([7, 8, 9]))
    assert set(gated) == {7, 8, 9}
    # Another file: the loaded one is mapped, and its threads read ahead.
    (tmp_path / "damaged.faiss").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        retrieval_index.RetrievalIndex.load(vectors, tmp_path / "damaged.faiss")

"""Extraction fills a dataset with kapture features, once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_networks import save_global, save_local, texture

from kapture_ros.cli.main import main
from kapture_ros.errors import InputError, OptionError
from kapture_ros.features import extraction
from kapture_ros.features.extraction import Extracted, ExtractionSettings, extract_dataset
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.images import read_image
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import ApGemOptions, R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_network import R2D2Config
from kapture_ros.localization.extractor import NetworkExtractor, extractor_for
from kapture_ros.mapping.manifest import FeatureTypes

SIZE = (60, 80)
ALL = R2D2Options(top_k=50, reliability=0, repeatability=0)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three instants of a front and a rear camera, the images in folders of their own."""
    sensors = tmp_path / "drive" / "sensors"
    (sensors / "records_data").mkdir(parents=True)
    head = "# kapture format: 1.1\n"
    cameras = [f"{name}, {name}, camera, PINHOLE, 80, 60, 50, 50, 40, 30" for name in CAMERAS]
    (sensors / "sensors.txt").write_text(head + "\n".join(cameras) + "\n")
    rows = []
    for stamp in range(3):
        for number, name in enumerate(CAMERAS):
            rows.append(f"{stamp}, {name}, {name}/{stamp}.png")
            path = sensors / "records_data" / name / f"{stamp}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), texture(*SIZE, seed=2 * stamp + number))
    (sensors / "records_camera.txt").write_text(head + "\n".join(rows) + "\n")
    return tmp_path / "drive"


CAMERAS = ("front", "rear")
NAMES = tuple(f"{camera}/{stamp}.png" for stamp in range(3) for camera in CAMERAS)


@pytest.fixture
def chosen(tmp_path: Path) -> ExtractionSettings:
    return ExtractionSettings(
        local=str(save_local(tmp_path / "tiny-local.safetensors", R2D2Config(width=1))),
        global_=str(save_global(tmp_path / "tiny-global.safetensors")),
        r2d2=ALL,
        apgem=ApGemOptions(global_max_size=64),
        runtime=RuntimeOptions("cpu"),
    )


def features_of(dataset: Path, done: Extracted, kind: str) -> dict[str, Path]:
    """Feature files by image name."""
    folder = dataset / "reconstruction" / kind / done.types[kind]
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".txt"
    }


def test_kapture_reads_what_the_networks_gave(dataset: Path, chosen: ExtractionSettings) -> None:
    kapture_csv = pytest.importorskip("kapture.io.csv")
    features = pytest.importorskip("kapture.io.features")
    done = extract_dataset(dataset, chosen)
    assert (done.made, done.finished, dict(done.unreadable)) == (6, 0, {})
    data = kapture_csv.kapture_from_dir(str(dataset))
    (local,), (described,) = data.keypoints, data.global_features
    assert list(data.descriptors) == [local]
    assert data.descriptors[local].keypoints_type == local
    assert data.keypoints[local] == data.descriptors[local] == set(NAMES)
    assert data.global_features[described] == set(NAMES)
    pixels = read_image(dataset / "sensors/records_data" / NAMES[3])
    (wanted,) = R2D2Extractor(chosen.local, ALL, chosen.runtime).extract([pixels])
    (vector,) = ApGemExtractor(chosen.global_, chosen.apgem, chosen.runtime).extract([pixels])
    readers = {
        "keypoints": (features.image_keypoints_from_file, wanted.keypoints),
        "descriptors": (features.image_descriptors_from_file, wanted.descriptors),
        "global_features": (features.image_global_features_from_file, vector[None]),
    }
    for kind, (reader, expected) in readers.items():
        path = features_of(dataset, done, kind)[NAMES[3]]
        kept = reader(str(path), np.float32, expected.shape[1])
        np.testing.assert_array_equal(kept, expected)


def test_a_second_run_finds_all_done(dataset: Path, chosen: ExtractionSettings) -> None:
    first = extract_dataset(dataset, chosen)
    files = {kind: features_of(dataset, first, kind) for kind in first.types}
    stamps = [path.stat().st_mtime_ns for found in files.values() for path in found.values()]
    again = extract_dataset(dataset, chosen)
    assert (again.made, again.finished) == (0, 6)
    assert stamps == [p.stat().st_mtime_ns for found in files.values() for p in found.values()]


@pytest.mark.parametrize(
    ("kind", "keep"),
    [("keypoints", 24), ("descriptors", 7), ("descriptors", 0), ("global_features", 0)],
)
def test_an_image_with_a_torn_file_is_done_again(
    dataset: Path, chosen: ExtractionSettings, kind: str, keep: int
) -> None:
    first = extract_dataset(dataset, chosen)
    path = features_of(dataset, first, kind)[NAMES[2]]
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    again = extract_dataset(dataset, chosen)
    assert (again.made, again.finished) == (1, 5)
    assert path.read_bytes() == whole


def test_an_interrupted_run_goes_on_where_it_was(
    dataset: Path, chosen: ExtractionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Path] = []

    def read(path: Path) -> np.ndarray:
        looked_at.append(path)
        return read_image(path)

    def interrupted(path: Path) -> np.ndarray:
        if path.name == "1.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(extraction, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_dataset(dataset, chosen)
    looked_at.clear()
    monkeypatch.setattr(extraction, "read_image", read)
    done = extract_dataset(dataset, chosen)
    assert (done.made, done.finished) == (4, 2)
    assert len(looked_at) == 4


def test_corrupt_images_are_left_out_and_named(
    dataset: Path, chosen: ExtractionSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    records = dataset / "sensors/records_data"
    torn = records / NAMES[1]
    torn.write_bytes(torn.read_bytes()[:500])
    (records / NAMES[4]).unlink()
    command = ["extract", str(dataset), "--local", chosen.local, "--global", chosen.global_]
    thresholds = ["--reliability", "0", "--repeatability", "0", "--device", "cpu"]
    assert main([*command, *thresholds]) == 3
    shown = capsys.readouterr().out
    assert "4 images done" in shown
    assert f"{torn} cannot be decoded" in shown
    assert f"{records / NAMES[4]} is missing" in shown
    assert "cpu, float32" in shown
    assert len(list((dataset / "reconstruction").rglob("*.kpt"))) == 4


def test_masks_keep_keypoints_off_what_they_cover_in_their_camera(
    dataset: Path, chosen: ExtractionSettings, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.full(SIZE, 255, np.uint8)
    mask[30:] = 0  # the bonnet
    cv2.imwrite(str(masks / "front.png"), mask)
    free = extract_dataset(dataset, chosen)
    masked = extract_dataset(
        dataset, ExtractionSettings(chosen.local, "", ALL, runtime=chosen.runtime, masks=masks)
    )
    assert masked.types["keypoints"].startswith(f"{free.types['keypoints']}_masked_")
    for name, path in features_of(dataset, masked, "keypoints").items():
        keypoints = np.fromfile(path, np.float32).reshape(-1, 3)
        assert len(keypoints) == 50
        assert (keypoints[:, 1] < 30).all() == name.startswith("front")


def test_masks_that_fit_no_camera_are_refused(
    dataset: Path, chosen: ExtractionSettings, tmp_path: Path
) -> None:
    settings = ExtractionSettings(chosen.local, "", ALL, masks=tmp_path)
    with pytest.raises(InputError, match=r"holds no mask; expected some of front\.png, rear\.png"):
        extract_dataset(dataset, settings)
    cv2.imwrite(str(tmp_path / "rear.png"), np.zeros((10, 10), np.uint8))
    with pytest.raises(InputError, match=r"10×10 but images of 'rear' are 80×60"):
        extract_dataset(dataset, settings)


def test_other_settings_make_another_type_beside_the_first(
    dataset: Path, chosen: ExtractionSettings
) -> None:
    base = ExtractionSettings(chosen.local, "", ALL, runtime=chosen.runtime)
    fewer = R2D2Options(top_k=20, reliability=0, repeatability=0)
    first = extract_dataset(dataset, base)
    second = extract_dataset(
        dataset, ExtractionSettings(chosen.local, "", fewer, runtime=chosen.runtime)
    )
    assert second.made == 6
    assert first.types["keypoints"] != second.types["keypoints"]
    assert "top50" in first.types["keypoints"] and "top20" in second.types["keypoints"]


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    dataset: Path, chosen: ExtractionSettings
) -> None:
    with pytest.raises(InputError, match="no weights 'apgem3'; known are"):
        extract_dataset(dataset, ExtractionSettings(chosen.local, "apgem3"))
    with pytest.raises(InputError, match="holds AP-GeM, expected R2D2"):
        extract_dataset(dataset, ExtractionSettings(chosen.global_, ""))
    with pytest.raises(OptionError, match="nothing to extract"):
        extract_dataset(dataset, ExtractionSettings("", ""))
    assert not (dataset / "reconstruction").exists()


def test_queries_take_the_networks_that_the_map_was_made_with(
    dataset: Path, chosen: ExtractionSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = extract_dataset(dataset, chosen)
    types = FeatureTypes(**done.types)
    installed = tmp_path / "data" / "kapture_ros" / "weights"
    installed.mkdir(parents=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(InputError, match="no weights 'tiny-local'"):
        extractor_for(types, runtime=chosen.runtime)
    for path in (chosen.local, chosen.global_):
        Path(path).rename(installed / Path(path).name)
    extractor = extractor_for(types, ALL, chosen.apgem, chosen.runtime)
    image = read_image(dataset / "sensors/records_data" / NAMES[0])
    found = extractor.start([image], describe=True)[0].wait()
    stored = np.fromfile(features_of(dataset, done, "descriptors")[NAMES[0]], np.float32)
    np.testing.assert_array_equal(found.descriptors.ravel(), stored)
    assert found.types == extractor.types == types
    assert set(found.global_descriptors) == {types.global_features}
    stored = np.fromfile(features_of(dataset, done, "global_features")[NAMES[0]], np.float32)
    np.testing.assert_array_equal(found.global_descriptors[types.global_features], stored)


def test_the_whole_image_is_described_only_when_somebody_asks(
    chosen: ExtractionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracking matches around the prediction and needs no retrieval."""
    local = R2D2Extractor(chosen.local, ALL, chosen.runtime)
    described = ApGemExtractor(chosen.global_, chosen.apgem, chosen.runtime)
    types = FeatureTypes(local.type_name, local.type_name, described.type_name)
    calls = []
    network = described.extract
    monkeypatch.setattr(described, "extract", lambda images: calls.append(1) or network(images))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (started,) = NetworkExtractor(types, local, described).start([image], describe=False)
    found = started.wait()
    assert types.global_features in found.global_descriptors
    assert "another" not in found.global_descriptors
    assert found.global_descriptors.get("another") is None
    assert not calls
    first = found.global_descriptors[types.global_features]
    assert found.global_descriptors[types.global_features] is first
    assert len(calls) == 1


def test_queries_with_other_networks_or_settings_are_refused(
    chosen: ExtractionSettings, tmp_path: Path
) -> None:
    local = R2D2Extractor(chosen.local, ALL, chosen.runtime)
    described = ApGemExtractor(chosen.global_, chosen.apgem, chosen.runtime)
    types = FeatureTypes(local.type_name, local.type_name, described.type_name)
    fewer = R2D2Extractor(chosen.local, R2D2Options(top_k=7), chosen.runtime)
    assert NetworkExtractor(types, fewer, described).types == types
    other = save_local(tmp_path / "tiny-local.safetensors", R2D2Config(width=1), seed=1)
    with pytest.raises(InputError, match="the map's local features are"):
        NetworkExtractor(types, R2D2Extractor(other, ALL, chosen.runtime), described)
    larger = ApGemExtractor(chosen.global_, runtime=chosen.runtime)
    with pytest.raises(InputError, match="the map's global features are"):
        NetworkExtractor(types, local, larger)
    with pytest.raises(InputError, match="'r2d2_500' do not tell their weights"):
        extractor_for(FeatureTypes("r2d2_500", "r2d2_500", "AP-GeM-LM18"))

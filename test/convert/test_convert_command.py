"""`kapture_ros convert` as a user meets it: plans, reports, refusals, exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_tools import START, STEP, Stream, camera_info, image, make, write_bag
from dataset_comparison import differences
from small_drive import K, convert, drive

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset
from kapture_ros.mapping.pose_report import pose_frame, restarts

SECOND = 1_000_000_000


def stamps(dataset: Path, sensor_id: str = "cam.image_raw") -> list[int]:
    return [(r.stamp_ns - START) // STEP for r in open_dataset(dataset).records(sensor_id)]


def test_the_plan_names_topics_sensors_models_rigs_and_writes_nothing(bag, capsys) -> None:
    before = sorted(bag.parent.rglob("*"))
    assert convert(bag, "--dry-run") == 0
    plan = capsys.readouterr().out
    for words in (
        "/cam/image_raw    sensor_msgs/Image        20        10.0  cam.image_raw",
        "PINHOLE 64 48 50 50 31.5 23.5",
        "rig-base_link  1 0 0 0 -1 0 -0.5",
        "trajectory: of rig-base_link in 'odom', from tf",
        "(unknown type)",
    ):
        assert " ".join(words.split()) in " ".join(plan.split())
    assert sorted(bag.parent.rglob("*")) == before


def test_a_conversion_ends_with_a_report(bag, tmp_path, capsys) -> None:
    assert convert(bag, tmp_path / "out") == 0
    report = capsys.readouterr().out
    assert "20 messages of unknown types skipped: /thing (strange_msgs/Thing)" in report
    (session,) = json.loads((tmp_path / "out" / "report.json").read_text())["sessions"]
    assert session["poses"] == {
        "source": "tf", "world_frame": "odom", "datum": None, "poses": 20, "restarts": [],
        "without_pose": {}, "problems": {},
    }  # fmt: skip
    assert stamps(tmp_path / "out") == list(range(20))


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_repeated_calibrations_are_counted_and_changed_ones_seen(kind: str, tmp_path: Path) -> None:
    """Only the ones that differ by more than their stamp are decoded."""
    ros = 1 if kind == "ros1" else 2
    stream: Stream = []
    for index in range(9):
        at = START + index * STEP
        # The calibration changes and changes back; the fifth CameraInfo repeats a stamp.
        info = camera_info((64, 48), K + (3 <= index < 6), at - STEP * (index == 4), "cam", ros)
        picture = image(np.zeros((48, 64), np.uint8), "mono8", at, "cam", ros)
        stream += [("/cam/camera_info", info, at), ("/cam/image_raw", picture, at + 1)]
    bag, out = write_bag(tmp_path / "drive", kind, stream), tmp_path / "out"
    assert convert(bag, out) == 0
    assert stamps(out) == [0, 1, 2, 6, 7, 8]
    assert stamps(out, "cam.image_raw-2") == [3, 4, 5]
    (session,) = json.loads((out / "report.json").read_text())["sessions"]
    counted = session["topics"]["/cam/camera_info"]
    assert (counted["received"], counted["repeated_stamps"]) == (9, 1)
    assert main(["verify", str(bag), str(out)]) == 0


def test_a_window_keeps_the_static_transforms_outside_of_it(bag, tmp_path) -> None:
    assert convert(bag, tmp_path / "out", "--start-s", 0.5, "--end-s", 1.0) == 0
    dataset = open_dataset(tmp_path / "out")
    assert stamps(tmp_path / "out") == [5, 6, 7, 8, 9]
    assert [row.sensor_id for row in dataset.rigs()] == ["cam.image_raw"]
    assert dataset.sensors["cam.image_raw"].params[0] == "PINHOLE"


def test_a_configuration_renames_selects_and_places(bag, tmp_path) -> None:
    config = tmp_path / "convert.yaml"
    (tmp_path / "robot.urdf").write_text(
        '<robot name="r"><joint name="j" type="fixed"><parent link="base_link"/>'
        '<child link="cam"/><origin xyz="3 0 0" rpy="0 0 1.5"/></joint></robot>'
    )
    config.write_text(
        "every: 2\nurdf: robot.urdf\n"
        "extrinsics: [{parent: base_link, child: lidar, xyz: [9, 0, 0]}]\n"
        "topics:\n  /cam/image_raw: {name: front}\n"
        "  /thing: {ignore: true}\n"
    )
    assert convert(bag, tmp_path / "out", "--config", config) == 0
    assert stamps(tmp_path / "out", "front") == list(range(0, 20, 2))
    (row,) = open_dataset(tmp_path / "out").rigs()
    assert np.allclose(row.sensor_from_rig.inverse().translation, [3, 0, 0])
    assert main(["verify", str(bag), str(tmp_path / "out")]) == 0
    said = config.read_text().replace("lidar", "cam")
    config.write_text(said)
    assert convert(bag, tmp_path / "out", "--config", config, "--overwrite") == 0
    (row,) = open_dataset(tmp_path / "out").rigs()
    assert np.allclose(row.sensor_from_rig.inverse().translation, [9, 0, 0]), "before the URDF"


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_note_of_the_conversion_is_one_clear_line(content, bag, tmp_path, capsys) -> None:
    assert convert(bag, tmp_path / "out") == 0
    (tmp_path / "out" / "kapture_ros" / "conversion.json").write_text(content)
    capsys.readouterr()
    assert main(["verify", str(bag), str(tmp_path / "out")]) == 1
    assert convert(bag, tmp_path / "out", "--resume") == 1
    errors = capsys.readouterr().err
    assert errors.count("conversion.json is damaged: convert again with --overwrite") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every: 0\n", "'every' is 0"),
        ("evry: 2\n", "did you mean 'every'"),
        ("topics: {/a: {nam: x}}\n", "did you mean 'name'"),
        ("topics: {/a: {name: 'x/y'}}\n", "cannot be a sensor or rig id"),
        ("topics: [1]\n", "'topics' must hold"),
        ("extrinsics: [{parent: a}]\n", "an extrinsic needs"),
        ("extrinsics: [{parent: a, child: b, quaternion: [0, 0, 0, 0]}]\n", "an extrinsic needs"),
        ("extrinsics: [{parent: a, child: b, xzy: [1, 2, 3]}]\n", "unknown: xzy"),
        ("extrinsics: [{parent: a, child: b, xyz: [1]}]\n", "three finite numbers"),
        ("extrinsics: [{parent: a, child: b, rpy: [0, .nan, 0]}]\n", "three finite numbers"),
        ("extrinsics: {parent: a, child: b}\n", "must be a list"),
        ("extrinsics: [{parent: a, child: b}, {parent: c, child: b}]\n", "is there twice"),
        ("extrinsics: 5\n", "must be a list"),
        ("topics: {/a: 5}\n", "expected 'key: value' lines"),
        ("topics: {/a: ignore}\n", "expected 'key: value' lines"),
        ("wifi: {a/B: }\n", "expected 'key: value' lines"),
        ("urdf: none.urdf\n", "cannot read"),
        ("wifi: {a/B: {strength: x}}\n", "unknown option 'strength'"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(text, words, bag, tmp_path, capsys) -> None:
    config = tmp_path / "convert.yaml"
    config.write_text(text)
    assert convert(bag, tmp_path / "out", "--config", config) == 1
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_topic_that_is_not_there_is_told(bag, tmp_path, capsys, caplog) -> None:
    config = tmp_path / "convert.yaml"
    config.write_text("topics: {/cam/imgae_raw: {every: 2}}\n")
    told = "names '/cam/imgae_raw', which is not in the bag; did you mean '/cam/image_raw'?"
    assert convert(bag, "--dry-run", "--config", config) == 0
    assert told in capsys.readouterr().out
    assert convert(bag, tmp_path / "out", "--config", config) == 0
    assert told in caplog.text


def test_existing_output_is_refused_replaced_or_resumed(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    assert convert(bag, out) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert convert(bag, out, "--overwrite", "--every", 4) == 0
    assert stamps(out) == [0, 4, 8, 12, 16]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    assert convert(bag, precious, "--overwrite") == 1
    assert (precious / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [(("--trajectory", "/no"), "/no"), (("--start-s", "99"), "the bag is 2.0")],
)
def test_a_dataset_stays_while_what_replaces_it_cannot_be_made(
    args, words, bag, tmp_path, capsys
) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    assert convert(bag, out, "--overwrite", *args) == 1
    assert words in capsys.readouterr().err
    assert len(stamps(out)) == 20


def test_a_dataset_with_the_bag_in_it_is_not_replaced(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    bag.rename(out / "original")
    assert convert(out / "original", out, "--overwrite") == 1
    assert "would delete" in capsys.readouterr().err
    assert (out / "original").exists()


def test_a_dataset_is_replaced_from_within(bag, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    monkeypatch.chdir(out)
    assert convert(bag, ".", "--overwrite", "--every", 4) == 0
    assert stamps(out) == [0, 4, 8, 12, 16]


def test_bags_whose_odometry_begins_anew_are_two_drives(tmp_path, capsys) -> None:
    later = [
        (topic, shifted(message, 60 * SECOND), time + 60 * SECOND)
        for topic, message, time in drive()
    ]
    bags = [write_bag(tmp_path / name, "mcap", part)
            for name, part in (("one", drive()), ("two", later))]  # fmt: skip
    assert convert(*bags, tmp_path / "out") == 0
    report = capsys.readouterr().out
    assert "'base_link' began anew in 'odom'" in report
    assert restarts(tmp_path / "out") == (START + 60 * SECOND,)
    assert pose_frame(tmp_path / "out") == "odom"
    poses = {row.stamp_ns: row for row in open_dataset(tmp_path / "out").trajectory()}
    for index in range(20):
        for begin in (START, START + 60 * SECOND):
            where = poses[begin + index * STEP].device_from_world.inverse().translation
            assert where.tolist() == [index, 0, 0]


def shifted(message: Any, by_ns: int) -> Any:
    """A message of `drive`, stamped later."""
    for stamped in getattr(message, "transforms", [message]):
        stamped.header.stamp.sec += by_ns // SECOND
    return message


def test_only_the_same_bags_and_settings_go_on(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out, "--every", 2) == 0
    other = write_bag(tmp_path / "other", "mcap", drive(3))
    assert convert(other, out, "--resume", "--every", 2) == 1
    assert "was begun with drive: name the same bags" in capsys.readouterr().err
    assert convert(bag, out, "--resume", "--every", 3) == 1
    assert "other settings (every 2, not 3)" in capsys.readouterr().err
    assert stamps(out) == list(range(0, 20, 2))
    assert convert(bag, other, out, "--resume", "--every", 2) == 0, "a part more"


@pytest.mark.parametrize(
    ("begun", "now", "words"),
    [
        (
            "extrinsics: [{parent: base_link, child: cam, xyz: [1, 0, 0.3], rpy: [0.1, 0, 2]}]",
            "extrinsics: [{parent: base_link, child: cam, xyz: [2, 0, 0.3], rpy: [0.1, 0, 2]}]",
            "cam {'parent': 'base_link', ",
        ),
        (
            "extrinsics: [{parent: base_link, child: cam, xyz: [1, 0, 0]}]",
            "extrinsics: [{parent: base, child: cam, xyz: [1, 0, 0]}]",
            "'xyz': [1.0, 0.0, 0.0]}, not {'parent': 'base'",
        ),
        ("wifi: {strange_msgs/Thing: {rssi: value}}", "", "strange_msgs/Thing {'rssi': 'value'"),
        (
            "wifi: {strange_msgs/Thing: {rssi: value}}",
            "wifi: {strange_msgs/Thing: {rssi: value, ssid: x}}",
            "'ssid': 'x'",
        ),
    ],
)
def test_a_conversion_goes_on_with_the_same_configuration_only(
    begun, now, words, bag, tmp_path, capsys
) -> None:
    out, first, second = tmp_path / "out", tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(begun)
    second.write_text(now)
    assert convert(bag, out, "--config", first) == 0
    assert convert(bag, out, "--config", first, "--resume") == 0
    capsys.readouterr()
    assert convert(bag, out, "--config", second, "--resume") == 1
    refusal = capsys.readouterr().err
    assert "was begun with other settings (" in refusal and words in refusal


def test_a_bag_is_known_from_within_its_folder(bag, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(bag)
    assert convert(".", tmp_path / "out") == 0
    monkeypatch.chdir(tmp_path)
    assert convert(bag, tmp_path / "out", "--resume") == 0
    capsys.readouterr()
    assert main(["info", str(bag)]) == 1
    assert f"{bag} is a bag: `kapture_ros convert" in capsys.readouterr().err


def test_a_recording_of_live_topics_is_not_gone_on_with(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    (out / "kapture_ros" / "conversion.json").unlink()  # as the recorder leaves it
    assert convert(bag, out, "--resume") == 1
    assert "was not begun by convert" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["none.bag", "out"], "does not exist"),
        (["{bag}"], "name the dataset to write"),
        (["{bag}", "{bag}"], "is a bag"),
        (["{bag}", "out", "--start-s", "99"], "the bag is 2.0"),
        (["{bag}", "out", "--start-s", "1", "--end-s", "0.5"], "and --end-s 0.5"),
        (["{bag}", "out", "--trajectory", "/no"], "/no"),
        (["{bag}", "out", "--definitions", "nowhere"], "nowhere"),
        (["{bag}", "/proc/out"], "cannot write"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    args, words, bag, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert(*(arg.format(bag=bag) for arg in args)) == 1
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_bag_that_may_not_be_read_is_one_clear_line(bag, tmp_path, capsys) -> None:
    for file in bag.iterdir():
        file.chmod(0)
    assert convert(bag, tmp_path / "out") == 1
    assert "Permission denied" in capsys.readouterr().err


def test_a_damaged_bag_converts_and_says_so_by_exit_code(bag, tmp_path, capsys) -> None:
    path = next(bag.glob("*.mcap"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert convert(path, tmp_path / "out") == 3
    output = capsys.readouterr()
    assert "damaged" in output.err
    assert 9 <= len(stamps(tmp_path / "out")) <= 13
    assert main(["verify", str(path), str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_a_killed_conversion_goes_on_and_ends_as_if_nothing_had_been(tmp_path) -> None:
    messages = drive(150, size=(300, 400))
    twice = messages[300]  # a duplicate stamp, late enough to come after the interruption
    messages.append((twice[0], twice[1], START + 150 * STEP))
    bag = write_bag(tmp_path / "long", "mcap", messages)
    assert convert(bag, tmp_path / "whole") == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kapture_ros.cli.main", "convert", str(bag), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = out / "sensors" / "records_data" / "cam.image_raw"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if folder.is_dir() and len(list(folder.iterdir())) > 20:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert convert(bag, out, "--resume") == 0
    assert differences(tmp_path / "whole", out) == []
    assert main(["verify", str(bag), str(out)]) == 0


def test_resuming_a_finished_conversion_changes_nothing(bag, tmp_path) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    shutil.copytree(out, tmp_path / "before")
    assert convert(bag, out, "--resume") == 0
    assert differences(tmp_path / "before", out) == []


def test_a_topic_that_has_another_type_in_another_bag_has_sensors_of_both(tmp_path, capsys) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    jpeg = np.frombuffer(cv2.imencode(".jpg", pixels)[1].tobytes(), np.uint8)
    fix = make("sensor_msgs/NavSatFix", stamp=START, latitude=48.0, longitude=8.0)
    packed = make("sensor_msgs/CompressedImage", stamp=START, format="jpeg", data=jpeg)
    first = [("/x", make("sensor_msgs/Imu", stamp=START), START), ("/y", packed, START)]
    second = [("/x", fix, START + 1), ("/y", image(pixels, "bgr8", START, "cam"), START + 1)]
    bags = [write_bag(tmp_path / n, "mcap", s) for n, s in (("one", first), ("two", second))]
    assert convert(*bags, tmp_path / "out") == 0
    sensors = open_dataset(tmp_path / "out").sensors
    kinds = {name: sensor.kind for name, sensor in sensors.items()}
    assert kinds == {
        "x-accelerometer": "accelerometer", "x-gyroscope": "gyroscope", "x-NavSatFix": "gnss",
        "y": "camera", "y-Image": "camera",
    }  # fmt: skip
    assert main(["verify", *map(str, bags), str(tmp_path / "out")]) == 0
    assert convert(*bags, "--dry-run") == 0
    plan = capsys.readouterr().out
    assert re.search(r"/x +sensor_msgs/NavSatFix .* x-NavSatFix$", plan, re.MULTILINE)
    assert re.search(r"/x +sensor_msgs/Imu .* x-accelerometer, x-gyroscope$", plan, re.MULTILINE)

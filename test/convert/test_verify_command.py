"""`kapture_ros verify` as a user meets it: what it names, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from bag_tools import START, STEP, Stream, image, make, transforms, write_bag
from small_drive import convert, drive

from kapture_ros.cli.main import main


def verify(bag: Path, dataset: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", str(bag), str(dataset)])
    return code, capsys.readouterr().out


def test_verify_names_what_an_interrupted_conversion_has_half(tmp_path, capsys) -> None:
    readings = [("/imu", make("sensor_msgs/Imu", stamp=START + i), START + i) for i in range(9)]
    bag = write_bag(tmp_path / "drive", "mcap", readings)
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    rows = out / "sensors" / "records_gyroscope.txt"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    code, text = verify(bag, out, capsys)
    assert code == 4
    assert "/imu: 9 messages, 8 equal, 1 different" in text
    assert "there is only AccelerometerRecord" in text


def test_verify_names_a_changed_pixel(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    file = sorted((out / "sensors" / "records_data" / "cam.image_raw").iterdir())[7]
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    pixels[3, 4] += 1
    cv2.imwrite(str(file), pixels)
    code, text = verify(bag, out, capsys)
    assert code == 4
    assert "/cam/image_raw: 20 messages, 19 equal, 1 different" in text
    assert f"at {START + 7 * STEP + 2}: different: data" in text


def test_verify_says_that_it_is_for_conversions_only(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    (out / "kapture_ros" / "conversion.json").unlink()  # a live recording has none
    assert main(["verify", str(bag), str(out)]) == 1
    assert "was not made by convert" in capsys.readouterr().err


def test_verify_names_a_missing_and_an_invented_record(bag, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    table = out / "sensors" / "records_camera.txt"
    lines = table.read_text().splitlines()
    image_name = lines[-1].split(", ")[-1]
    lines[-1] = f"{START + 99}, cam.image_raw, {image_name}"
    table.write_text("\n".join(lines) + "\n")
    code, text = verify(bag, out, capsys)
    assert code == 4
    assert "there is no record of stamp" in text
    assert "cam.image_raw: 1 records come from no message of the bag" in text


def test_verify_names_a_changed_number(tmp_path, capsys) -> None:
    fix = make("sensor_msgs/NavSatFix", stamp=START, frame="g", latitude=48.1, longitude=11.5)
    bag = write_bag(tmp_path / "bag", "db3", [("/fix", fix, START)])
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    table = out / "sensors" / "records_gnss.txt"
    table.write_text(table.read_text().replace("48.1", "48.10000000000001"))
    code, text = verify(bag, out, capsys)
    assert code == 4 and "different: latitude" in text


def test_messages_that_became_no_record_are_kept_whole_and_verified(tmp_path, capsys) -> None:
    stream: Stream = []
    for index, latitude in enumerate((float("nan"), 48.1, float("nan"), 480.0)):
        fix = make("sensor_msgs/NavSatFix", stamp=START + index, frame="g", latitude=latitude,
                   longitude=11.5)  # fmt: skip
        stream.append(("/fix", fix, START + index))
    without_direction = transforms([(START, "map", "base", (0, 0, 0, 0), (1, 2, 3))])
    stream.append(("/tf", without_direction, START + 9))
    bag = write_bag(tmp_path / "bag", "mcap", stream)
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    told = capsys.readouterr().out
    assert "2 messages skipped: no-position" in told
    code, text = verify(bag, out, capsys)
    assert code == 0 and "no-position" not in text  # all of them are there
    sidecar = out / "kapture_ros" / "extra" / "fix-refused.jsonl"
    sidecar.write_text(sidecar.read_text().replace("480.0", "481.0"))
    code, text = verify(bag, out, capsys)
    assert code == 4 and "fix-refused: 1 records come from no message" in text


def test_wifi_that_the_configuration_described_is_verified_without_it(tmp_path, capsys) -> None:
    point = make("sensor_msgs/Temperature", stamp=START, temperature=-55.0)
    bag = write_bag(tmp_path / "drive", "mcap", [("/wifi", point, START)])
    config = tmp_path / "config.yaml"
    config.write_text("wifi: {sensor_msgs/Temperature: {rssi: temperature}}")
    assert convert(bag, tmp_path / "out", "--config", config) == 0
    code, text = verify(bag, tmp_path / "out", capsys)
    assert code == 0 and "/wifi: 1 messages, 1 equal" in text


def test_verify_names_the_bags_that_it_was_not_given(tmp_path, capsys) -> None:
    parts = [drive(10)[: 4 * 5], drive(10)[4 * 5 :]]
    bags = [write_bag(tmp_path / n, "mcap", s) for n, s in zip(("one", "two"), parts, strict=True)]
    assert convert(*bags, tmp_path / "out") == 0
    code, text = verify(bags[0], tmp_path / "out", capsys)
    assert code == 4 and "the dataset was made of two as well" in text
    renamed = [bag.rename(bag.with_name(f"{bag.name}_again")) for bag in bags]
    assert main(["verify", *map(str, renamed), str(tmp_path / "out")]) == 0
    assert "as well" not in capsys.readouterr().out


def test_duplicates_are_verified_as_well(tmp_path, capsys) -> None:
    stream: Stream = []
    for index, value in enumerate((1, 2, 3)):
        picture = image(np.full((4, 6), value, np.uint8), "mono8", START, "cam")
        fix = make("sensor_msgs/NavSatFix", stamp=START, frame="g", latitude=48.0 + value,
                   longitude=11.5)  # fmt: skip
        stream += [("/cam", picture, START + index), ("/fix", fix, START + index)]
    bag = write_bag(tmp_path / "bag", "mcap", stream)
    out = tmp_path / "out"
    assert convert(bag, out) == 0
    assert "2 duplicate stamps" in capsys.readouterr().out
    assert verify(bag, out, capsys)[0] == 0
    sidecar = out / "kapture_ros" / "extra" / "fix.jsonl"
    sidecar.write_text(sidecar.read_text().replace("51.0", "51.5"))
    assert verify(bag, out, capsys)[0] == 4

"""Walks of phones as kapture datasets, read back by NAVER's library."""

from __future__ import annotations

from pathlib import Path

import pytest
from kapture.io.csv import kapture_from_dir

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.wifi_walks import MILLISECOND, read_walk

WALK = """\
#\tstartTime:1574572522274
#\tSiteID:5dd3\tSiteName:a mall\tFloorName:B1
1574572522291\tTYPE_WAYPOINT\t208.5\t216.25
1574572522535\tTYPE_BEACON\tAAAA\t1\t2\t-56\t-84\t20.6\tE0:78:A3:3E:93:35\t1574572522535
1574572522700\tTYPE_ACCELEROMETER\t0.1\t0.2\t9.8\t3
1574572524000\tTYPE_WIFI\tcafé, 2nd floor\taa:bb:cc:dd:ee:ff\t-67\t2432\t1574572522688
1574572524000\tTYPE_WIFI\t\t1a:74:9c:2e:9e:f2\t-68\t5180\t1574572523689
1574572530000\tTYPE_WAYPOINT\t206.0\t200.5
"""


def test_a_walk_comes_back_through_navers_library(tmp_path: Path):
    (tmp_path / "walk.txt").write_text(WALK)
    assert main(["import", "wifi-walks", str(tmp_path / "walk.txt"), str(tmp_path / "out")]) == 0
    naver = kapture_from_dir(str(tmp_path / "out" / "walk"))
    scan = naver.records_wifi[1574572524000 * MILLISECOND]["wifi"]
    assert scan["aa:bb:cc:dd:ee:ff"].rssi == -67
    assert scan["1a:74:9c:2e:9e:f2"].frequency == 5180
    beacon = naver.records_bluetooth[1574572522535 * MILLISECOND]["bluetooth"]
    assert beacon["E0:78:A3:3E:93:35"].rssi == -84
    (first, _) = sorted(naver.trajectories)
    assert naver.trajectories[first]["phone"].t_raw == [-208.5, -216.25, 0.0]
    assert naver.trajectories[first]["phone"].r is None

    (record,) = open_dataset(tmp_path / "out" / "walk").records("wifi")
    assert record.access_points[0].ssid == "café, 2nd floor"
    assert record.access_points[1].last_seen_ns == 1574572523689 * MILLISECOND
    assert (record.scan_start_ns, record.scan_end_ns) == (0, 0), "not known"
    (heard,) = open_dataset(tmp_path / "out" / "walk").records("bluetooth")
    assert heard.extra == {"tx_power": [-56], "distance": [20.6]}


def test_damaged_lines_are_counted_and_a_file_that_is_no_walk_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "walks"
    source.mkdir()
    (source / "torn.txt").write_text(WALK + "1574572531000\tTYPE_WIFI\tx\ty")
    (source / "notes.txt").write_text("buy milk\n")
    assert main(["import", "wifi-walks", str(source), str(tmp_path / "out")]) == 0
    errors = capsys.readouterr().err
    assert "torn.txt: 1 damaged lines" in errors
    assert "notes.txt holds no Wi-Fi scans" in errors
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["torn"]


def test_nothing_to_import_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["import", "wifi-walks", str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert "no walks at" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("buy milk\n")
    assert main(["import", "wifi-walks", str(tmp_path), str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_the_walks_themselves_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "walk.txt").write_text(WALK)
    assert main(["import", "wifi-walks", str(tmp_path), str(tmp_path), "--overwrite"]) == 1
    assert "would delete" in capsys.readouterr().err
    assert (tmp_path / "walk.txt").exists()


@pytest.mark.slow
def test_real_walks_are_equal_after_the_way_through_kapture(shared_data: Path, tmp_path: Path):
    """Every third of the 156 walks: each reading, stamp and way point."""
    from kapture_ros.dataset.wifi_walks import write_walk

    for path in sorted((shared_data / "wifi_walks").glob("*.txt"))[::3]:
        walk = read_walk(path)
        assert not walk.damaged
        write_walk(walk, tmp_path / path.stem)
        dataset = open_dataset(tmp_path / path.stem)
        scans = {r.stamp_ns: list(r.access_points) for r in dataset.records("wifi")}
        assert scans == walk.scans
        beacons = {r.stamp_ns: list(r.beacons) for r in dataset.records("bluetooth")}
        assert beacons == walk.beacons
        for record in dataset.records("bluetooth"):
            ranged = zip(record.extra["tx_power"], record.extra["distance"], strict=True)
            assert list(ranged) == walk.ranging[record.stamp_ns]
        places = [
            (r.stamp_ns, *(-r.device_from_world.translation[:2])) for r in dataset.trajectory()
        ]
        assert places == sorted(set(walk.way_points))

"""Pictures of a dataset: GNSS comes to lie on the path, slow sensors do not flicker."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.records import GnssRecord, OdometryRecord, Sensor, TrajectoryRow
from kapture_ros.dataset.writer import DatasetWriter
from kapture_ros.recording.plots import plot_rates, plot_trajectory
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Transform

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
COUNT = 60


def drive(
    path: Path,
    *,
    poses: bool = True,
    odometry: bool = False,
    noise: float = 0.0,
    held: bool = False,
) -> Path:
    """Along a quarter of a circle; the path's frame is turned by 40° against east and north.

    Args:
        held: add positions, 1 km away, that the receiver does not vouch for.
    """
    rng = np.random.default_rng(0)
    datum = Datum(47.0, 8.0, 400.0)
    turn = Rotation.from_euler("z", 40, degrees=True)
    with DatasetWriter(path) as writer:
        writer.add_sensor(Sensor("fix", "", "gnss", ("EPSG:4326",)))
        writer.add_sensor(Sensor("odom", "", "odometry", (), {"type": "nav_msgs/Odometry"}))
        writer.add_sensor(Sensor("tf-base", "", "odometry", (), {"type": "tf2_msgs/TFMessage"}))
        for number in range(COUNT):
            stamp = START + number * SECOND // 2
            angle = number / COUNT * np.pi / 2
            place = np.array([50 * np.sin(angle), 50 * (1 - np.cos(angle)), 0.0])
            pose = Transform(translation=turn.apply(place) + np.array([7.0, -3.0, 0.0]))
            if poses:
                writer.add_trajectory(TrajectoryRow(stamp, "odom", pose.inverse()))
            if odometry:
                for sensor_id in ("odom", "tf-base"):
                    writer.write(
                        OdometryRecord(
                            stamp_ns=stamp,
                            sensor_id=sensor_id,
                            parent_frame="odom",
                            child_frame="base",
                            parent_from_child=pose,
                        )
                    )
            noisy = place + np.append(rng.normal(0, noise, 2), 0.0)
            (latitude,), (longitude,), (altitude,) = datum.geodetic_from_map(noisy)
            writer.write(
                GnssRecord(
                    stamp_ns=stamp,
                    sensor_id="fix",
                    longitude=longitude,
                    latitude=latitude,
                    altitude=altitude,
                    utc=0,
                    dop=0.0,
                )
            )
            if held:
                doubtful = GnssRecord(
                    stamp_ns=stamp + 1, sensor_id="fix", longitude=longitude + 0.01,
                    latitude=latitude, altitude=altitude, utc=0, dop=0.0,
                    extra={"status": {"status": -1}},
                )  # fmt: skip
                writer.write(doubtful)
    return path


def labels(path: Path) -> list[str]:
    figure = plot_trajectory(open_dataset(path))
    assert figure is not None
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_gnss_is_laid_over_the_trajectory_whatever_its_frame(tmp_path: Path) -> None:
    assert "GNSS, turned and moved onto it (rms 0.00 m)" in labels(drive(tmp_path / "d"))


def test_positions_that_no_satellite_gave_are_not_laid_over_it(tmp_path: Path) -> None:
    labels_shown = labels(drive(tmp_path / "d", held=True))
    assert "GNSS, turned and moved onto it (rms 0.00 m)" in labels_shown


def test_the_error_that_is_named_is_that_of_the_fixes(tmp_path: Path) -> None:
    (label,) = (text for text in labels(drive(tmp_path / "d", noise=1.0)) if "rms" in text)
    error = float(label.partition("rms ")[2].partition(" m")[0])
    assert error == pytest.approx(np.sqrt(2), rel=0.2)


def test_without_poses_the_odometry_is_the_path_but_never_tf(tmp_path: Path) -> None:
    assert labels(drive(tmp_path / "d", poses=False, odometry=True))[0] == "odom"


def test_without_any_path_the_fixes_are_drawn_alone(tmp_path: Path) -> None:
    assert labels(drive(tmp_path / "d", poses=False)) == ["GNSS", "start"]


def test_a_steady_slow_sensor_has_a_steady_rate(tmp_path: Path) -> None:
    figure = plot_rates(open_dataset(drive(tmp_path / "d")))
    assert figure is not None
    (bars,) = figure.axes[0].patches
    values = bars.get_data().values
    assert values[:-1] == pytest.approx([2.0] * (len(values) - 1), abs=0.35)


def test_info_writes_both_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = drive(tmp_path / "d")
    assert main(["info", str(path), "--plot", str(tmp_path / "plots")]) == 0
    assert "60 poses" in capsys.readouterr().out
    for name in ("trajectory.png", "rates.png"):
        picture = cv2.imread(str(tmp_path / "plots" / name))
        assert min(picture.shape[:2]) > 100
        assert picture.std() > 5


def test_a_dataset_without_anything_to_draw_gives_no_pictures(tmp_path: Path) -> None:
    DatasetWriter(tmp_path / "empty").close()
    assert main(["info", str(tmp_path / "empty"), "--plot", str(tmp_path / "plots")]) == 0
    assert not (tmp_path / "plots").exists()

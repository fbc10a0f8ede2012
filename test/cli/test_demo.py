"""The demo is a chain of commands: what is done stays done, what fails is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from bag_tools import make, write_bag

from kapture_ros.cli.demo import Stage, mapping_stages, real_stages, run_stages
from kapture_ros.cli.main import build_parser, command_names, main
from kapture_ros.errors import KaptureRosError


def test_every_stage_is_a_command_that_exists(tmp_path: Path):
    parser = build_parser(command_names())
    for stage in [*mapping_stages(tmp_path), *real_stages(tmp_path, Path("a"), Path("b"))]:
        parser.parse_args(stage.command)


def test_what_an_earlier_run_made_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = tmp_path / "made"
    made.mkdir()
    run_stages([Stage("fails if it runs", ("info", "nowhere"), made)])
    assert f"{made} is there from an earlier run" in capsys.readouterr().out


def test_a_stage_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(KaptureRosError, match="'look at it' failed"):
        run_stages([Stage("look at it", ("info", str(tmp_path / "nowhere")))])
    assert main(["demo", str(tmp_path / "out"), "--real", "no.bag", "neither.bag"]) == 1
    assert "no.bag" in capsys.readouterr().err
    assert (tmp_path / "out").is_dir()


def test_datasets_are_taken_as_they_are_and_bags_converted(tmp_path: Path):
    dataset = tmp_path / "monday"
    (dataset / "sensors").mkdir(parents=True)
    (dataset / "sensors" / "sensors.txt").touch()
    commands = [s.command[0] for s in real_stages(tmp_path, dataset, Path("friday.mcap"))]
    assert commands == ["info", "convert", "info", "map", "localize"]


def test_a_restart_deletes_nothing_but_what_a_demo_made(tmp_path: Path, capsys):
    (tmp_path / "map").mkdir()
    (tmp_path / "thesis.tex").touch()
    assert main(["demo", str(tmp_path), "--restart", "--real", "no.bag", "neither.bag"]) == 1
    assert "holds thesis.tex, which no demo made" in capsys.readouterr().err
    drives = tmp_path / "drives"
    (drives / "query").mkdir(parents=True)
    command = ["demo", str(drives), "--restart", "--real", "no.bag", str(drives / "query")]
    assert main(command) == 1
    assert "would delete" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists() and (drives / "query").exists()


def test_a_conversion_that_was_interrupted_goes_on(tmp_path: Path):
    bag = write_bag(tmp_path / "drive", "mcap", [("/a", make("sensor_msgs/Imu", stamp=1), 1)])
    (stage,) = [s for s in real_stages(tmp_path, bag, tmp_path) if s.command[0] == "convert"][:1]
    (tmp_path / "mapping").mkdir()  # as a conversion that was killed leaves it
    run_stages([stage])
    assert (tmp_path / "mapping/report.json").exists()

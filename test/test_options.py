"""One definition of settings, seen from Python, YAML and the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kapture_ros.errors import InputError, OptionError
from kapture_ros.options import add_arguments, describe, from_arguments, from_mapping, to_yaml
from kapture_ros.options import option as opt


@dataclass(frozen=True)
class CameraOptions:
    """An example of every kind of option."""

    topic: str = opt("/camera", "image topic")
    rate: float = opt(10.0, "images a second", unit="Hz", minimum=0.1, maximum=100)
    top_k: int = opt(20, "candidates", minimum=1)
    compressed: bool = opt(False, "compressed transport")
    format: str = opt("mcap", "bag format", choices=("mcap", "db3"))
    frames: tuple[str, ...] = opt((), "camera frames")
    radius: float | None = opt(None, "gate", unit="m", minimum=0)


def parse(arguments: list[str], config: Path | None = None) -> CameraOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser, CameraOptions)
    return from_arguments(CameraOptions, parser.parse_args(arguments), config)


def test_defaults_survive_the_way_through_yaml():
    assert from_mapping(CameraOptions, yaml.safe_load(to_yaml(CameraOptions)), "x") == (
        CameraOptions()
    )


def test_yaml_explains_each_option_with_unit_and_range():
    text = to_yaml(CameraOptions, indent=4)
    assert "    # images a second [Hz, 0.1 to 100]\n    rate: 10.0\n" in text


def test_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path):
    config = tmp_path / "camera.yaml"
    config.write_text("rate: 5\ntop_k: 7\n")
    options = parse(["--top-k", "3", "--frames", "left", "right", "--compressed"], config)
    assert options == CameraOptions(
        rate=5.0, top_k=3, frames=("left", "right"), compressed=True, radius=None
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 5}, r"drive.yaml: unknown option 'rat'; did you mean 'rate'\?"),
        ({"zzz": 5}, "known: topic, rate"),
        ({"rate": 0}, r"'rate' is 0 but must be a number \(0.1 to 100\)"),
        ({"rate": float("nan")}, "'rate' is nan"),
        ({"radius": float("inf")}, "'radius' is inf"),
        ({"top_k": float("inf")}, "'top_k' is inf but must be a whole number"),
        ({"rate": "fast"}, "must be a number"),
        ({"rate": None}, "'rate' must not be empty"),
        ({"top_k": 2.5}, "must be a whole number"),
        ({"top_k": True}, "must be a whole number"),
        ({"compressed": "yes"}, "must be true or false"),
        ({"format": "avi"}, r"must be text \(mcap \| db3\)"),
        ({"topic": 3}, "must be text"),
        ({"frames": [1]}, "must be text"),
        ({"radius": -1.0}, "at least 0"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(values: dict, message: str):
    with pytest.raises(OptionError, match=message):
        from_mapping(CameraOptions, values, "drive.yaml")


def test_one_item_may_stand_for_a_list():
    assert from_mapping(CameraOptions, {"frames": "left"}, "x").frames == ("left",)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n", "\0"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, content: str):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        parse([], path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read .*none\.yaml: No such file"):
        parse([], tmp_path / "none.yaml")


def test_only_explained_fields_are_options():
    assert [info.name for info in describe(CameraOptions)][:2] == ["topic", "rate"]

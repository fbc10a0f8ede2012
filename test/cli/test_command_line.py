"""The frame of the command line: help, version, errors, exit codes."""

from __future__ import annotations

import argparse
import importlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import kapture_ros
from kapture_ros.cli.main import command_names, main
from kapture_ros.errors import InputError

COMMANDS = command_names()


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch):
    """Makes `simulate` raise what a test wants, whatever its arguments."""

    def install(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> None:
            raise error

        monkeypatch.setattr("kapture_ros.cli.simulate.run", run)
        monkeypatch.setattr("kapture_ros.cli.simulate.add_arguments", lambda parser: None)

    yield install
    logging.getLogger().handlers.clear()


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kapture_ros.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_lists_every_command_and_imports_nothing_heavy():
    listing = run("--help")
    assert listing.returncode == 0
    for name in COMMANDS:
        assert f"\n    {name} " in listing.stdout, name
    heavy = {"torch", "pycolmap", "rclpy", "matplotlib", "embreex", "kapture"}
    code = "import sys; from kapture_ros.cli.main import *; build_parser(command_names()); "
    code += f"print(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]", loaded.stdout + loaded.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_examples(name: str, capsys: pytest.CaptureFixture[str]):
    module = importlib.import_module(f"kapture_ros.cli.{name}")
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"kapture_ros {name}" in module.EXAMPLES


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == kapture_ros.__version__


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["simulate", "--no-such-option"]])
def test_a_wrong_call_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_expected_error_is_one_line(failing_command, capsys: pytest.CaptureFixture[str]):
    failing_command(InputError("drive.bag: not a bag; give a .bag, .db3 or .mcap file"))
    assert main(["simulate"]) == 1
    assert capsys.readouterr().err == (
        "kapture_ros: drive.bag: not a bag; give a .bag, .db3 or .mcap file\n"
    )


def test_debug_shows_the_traceback():
    result = run("simulate", "--log-level", "debug", "/proc/nowhere/drive")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "kapture_ros: cannot write" in result.stderr


def test_an_interrupt_is_reported_as_shells_do(failing_command):
    failing_command(KeyboardInterrupt())
    assert main(["simulate"]) == 130


def test_an_unexpected_error_is_not_hidden(failing_command):
    failing_command(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["simulate"])


def test_the_core_needs_no_ros(tmp_path: Path):
    """Every module outside `nodes` imports although rclpy and the messages are out of reach."""
    code = """
import importlib, pkgutil, sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rclpy", "sensor_msgs", "std_msgs", "geometry_msgs", "tf2_msgs"} \
                or name == "kapture_ros.msg":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoRos())
import kapture_ros
for info in pkgutil.walk_packages([sys.argv[1]], "kapture_ros."):
    if not info.name.startswith(("kapture_ros.nodes", "kapture_ros.msg")):
        try:
            importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if error.name != "triton":  # comes with the GPU builds of PyTorch alone
                raise
"""
    source = str(Path(kapture_ros.__file__).parent)
    result = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

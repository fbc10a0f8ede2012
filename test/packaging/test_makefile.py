"""`make` on a machine that lacks something: one line that says what, and nothing made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tree as a fresh clone has it, as far as installing looks at it."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make_install(checkout: Path, *variables: str, **environment: str):
    command = [shutil.which("make"), "-s", "install", *variables]
    options = {"cwd": checkout, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **environment}, **options)


def assert_refused(result: subprocess.CompletedProcess[str], words: str, checkout: Path) -> None:
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(said) == 1
    assert words in said[0]
    assert not (checkout / ".venv").exists()


def test_no_python(checkout: Path):
    assert_refused(make_install(checkout, "PYTHON=python9"), "no 'python9' here", checkout)


def test_a_python_that_is_too_old(checkout: Path):
    """A stand-in that answers the version question as Python 3.9 would."""
    old = executable(checkout / "python3.9", f'exec {sys.executable} -c "raise SystemExit(1)"')
    result = make_install(checkout, f"PYTHON={old}")
    assert_refused(result, "older than Python 3.10", checkout)


def test_no_compiler(checkout: Path):
    """A PATH with all that the recipe uses, but for the compilers."""
    tools = checkout / "tools"
    for name in ("sh", "uname", "test"):
        executable(tools / name, f'exec {shutil.which(name)} "$@"')
    executable(tools / "gcc", "exit 0")
    result = make_install(checkout, f"PYTHON={sys.executable}", PATH=str(tools))
    assert_refused(result, "no g++ here", checkout)


def test_another_processor(checkout: Path):
    """The ROS wheels exist for x86-64 alone: a robot's ARM board is sent to colcon."""
    tools = checkout / "tools"
    executable(tools / "uname", "echo aarch64")
    path = f"{tools}:/usr/bin:/bin"
    result = make_install(checkout, f"PYTHON={sys.executable}", PATH=path)
    assert_refused(result, "on aarch64 use a ROS installation and colcon", checkout)

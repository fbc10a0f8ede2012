"""`kapture_ros demo`: the main job on a simulated drive, stage by stage."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from kapture_ros.errors import KaptureRosError, OutputError

HELP = "run the whole chain on a simulated drive"
EXAMPLES = """\
  kapture_ros demo out/demo
  kapture_ros demo out/demo --restart     # nothing from an earlier run is reused
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the chain; its output marks it as done."""

    title: str
    command: tuple[str, ...]
    output: Path


def stages(out: Path) -> list[Stage]:
    """The chain: each stage reads what the ones before wrote."""
    drive, lap1, lap2 = out / "drive", out / "lap1", out / "lap2"
    return [
        Stage(
            "simulate a street driven twice",
            ("simulate", str(drive), "--duration", "20"),
            drive,
        ),
        Stage(
            "convert lap 1, the bag to map from, to kapture",
            ("convert", str(drive / "lap1"), str(lap1)),
            lap1,
        ),
        Stage(
            "convert lap 2, the bag to localize",
            ("convert", str(drive / "lap2"), str(lap2)),
            lap2,
        ),
        Stage("prove that nothing was lost", ("verify", str(drive / "lap1"), str(lap1)), lap1),
        Stage("show what was recorded", ("info", str(lap1)), lap1),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("out", type=Path, help="folder for all that the demo makes")
    parser.add_argument("--restart", action="store_true", help="do not reuse an earlier run")


def run(args: argparse.Namespace) -> int:
    """Run the stages in order; returns the first exit code that is not 0."""
    from kapture_ros.cli.main import main

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {args.out}: {error.strerror}") from error
    for stage in stages(args.out):
        print(f"\n== {stage.title}\n$ kapture_ros {shlex.join(stage.command)}", flush=True)
        begin = time.monotonic()
        code = main(stage.command)
        if code:
            raise KaptureRosError(f"the demo stopped: '{stage.title}' failed (see above)")
        print(f"   done in {time.monotonic() - begin:.1f} s", flush=True)
    return 0

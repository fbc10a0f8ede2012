"""`kapture_ros demo`: the main job on a simulated drive, stage by stage."""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from kapture_ros.errors import KaptureRosError, OutputError

HELP = "Run the whole chain on a simulated drive."
EXAMPLES = """\
  kapture_ros demo out/demo
  kapture_ros demo out/demo --restart     # nothing of an earlier run is reused
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the chain; skipped when its output is there already."""

    title: str
    command: tuple[str, ...]
    output: Path | None = None


def stages(out: Path) -> list[Stage]:
    """The chain: each stage reads what the ones before wrote."""
    drive, lap1, lap2 = out / "drive", out / "lap1", out / "lap2"
    size = ("--duration", "20", "--rate", "5")
    return [
        Stage("simulate a street driven twice", ("simulate", str(drive), *size), drive),
        Stage("lap 1, a bag, becomes a dataset", ("convert", f"{drive}/lap1", str(lap1)), lap1),
        Stage("and so does lap 2", ("convert", f"{drive}/lap2", str(lap2)), lap2),
        Stage("prove that nothing was lost", ("verify", f"{drive}/lap1", str(lap1))),
        Stage("show what was recorded", ("info", str(lap1), "--plot", f"{out}/plots")),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("out", type=Path, help="folder for all that the demo makes")
    parser.add_argument("--restart", action="store_true", help="do not reuse an earlier run")


def run(args: argparse.Namespace) -> None:
    """Run the stages in order.

    Raises:
        KaptureRosError: naming the stage that failed.
    """
    from kapture_ros.cli.main import main

    try:
        if args.restart and args.out.exists():
            shutil.rmtree(args.out)
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {args.out}: {error.strerror}") from error
    for stage in stages(args.out):
        print(f"\n== {stage.title}\n$ kapture_ros {shlex.join(stage.command)}", flush=True)
        if stage.output is not None and stage.output.exists():
            print(f"   {stage.output} is there from an earlier run (--restart makes it anew)")
            continue
        begin = time.monotonic()
        if main(stage.command):
            raise KaptureRosError(f"the demo stopped: '{stage.title}' failed (see above)")
        print(f"   done in {time.monotonic() - begin:.1f} s", flush=True)
    print(f"\nAll of it is in {args.out}. Mapping and localizing will follow here.")

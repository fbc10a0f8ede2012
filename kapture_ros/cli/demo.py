"""`kapture_ros demo`: the whole chain, from a bag to a live pose, and how good it was."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kapture_ros.errors import KaptureRosError, OutputError
from kapture_ros.files import keep_inputs, remove_folder

HELP = "Run the whole chain on a simulated drive: bag, map, live localization, report."
EXAMPLES = """\
  kapture_ros demo out/demo
  kapture_ros demo out/demo --restart     # nothing of an earlier run is reused
  kapture_ros demo out/real --real monday.mcap friday.mcap
"""

IMAGES = "/camera/front/image_raw/compressed"
TRUTH = "/ground_truth/odometry"
RATE = "0.25"  # two cores look at an image a second; the drive brings four
KEYPOINTS = "1500"  # of an image: matching takes seconds instead of minutes on two cores
MADE = (
    *("drive", "lap1", "truth1", "lap2", "plots", "map", "live", "reference", "report"),
    *("mapping", "query", "localized"),
)
"""All that a demo writes into its folder."""
PATIENCE_S = 20.0  # for a process to end after it was asked to


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the chain; skipped when its output is there already."""

    title: str
    command: tuple[str, ...]
    output: Path | None = None


def mapping_stages(out: Path) -> list[Stage]:
    """From the simulator to a map: each stage reads what the ones before wrote."""
    drive, lap1, lap2 = out / "drive", out / "lap1", out / "lap2"
    size = ("--duration", "30", "--rate", "4", "--depth-rate", "0")
    truth = ("--trajectory", TRUTH)
    return [
        Stage("simulate a street driven twice", ("simulate", str(drive), *size), drive),
        _converted("lap 1, a bag, becomes a dataset", drive / "lap1", lap1),
        Stage("prove that nothing was lost", ("verify", f"{drive}/lap1", str(lap1))),
        Stage("show what was recorded", ("info", str(lap1), "--plot", f"{out}/plots")),
        Stage("AP-GeM and R2D2 features", ("extract", str(lap1), "--top-k", KEYPOINTS)),
        Stage("map it: pairs, matches, triangulation", ("map", str(lap1), str(out / "map")),
              out / "map" / "map.yaml"),
        _converted("lap 1 with its true poses, to judge the map",
                   drive / "lap1", out / "truth1", *truth),
        _converted("lap 2 with its true poses, to judge the localizer",
                   drive / "lap2", lap2, *truth),
    ]  # fmt: skip


def _converted(title: str, bag: Path, dataset: Path, *options: str) -> Stage:
    """A conversion, which is done when its report is there; an interrupted one goes on."""
    command = ("convert", str(bag), str(dataset), "--resume", *options)
    return Stage(title, command, dataset / "report.json")


def real_stages(out: Path, mapping: Path, query: Path) -> list[Stage]:
    """The chain offline on drives of the user's own, bags or datasets."""
    stages = []
    datasets = []
    for name, drive in (("mapping", mapping), ("query", query)):
        dataset = drive
        if not (drive / "sensors" / "sensors.txt").is_file():
            dataset = out / name
            stages.append(_converted(f"the {name} bag becomes a dataset", drive, dataset))
        stages.append(Stage(f"show the {name} drive", ("info", str(dataset))))
        datasets.append(dataset)
    first, second = map(str, datasets)
    return [
        *stages,
        Stage("map it", ("map", first, f"{out}/map"), out / "map" / "map.yaml"),
        # Without an output: where it was interrupted, it goes on by itself.
        Stage("localize the other drive", ("localize", f"{out}/map", second, f"{out}/localized")),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", type=Path, help="folder for everything that is made")
    parser.add_argument("--restart", action="store_true", help="do not reuse an earlier run")
    parser.add_argument(
        "--real",
        nargs=2,
        type=Path,
        metavar=("MAPPING", "QUERY"),
        help="two drives of one place, bags or datasets, instead of the simulated ones",
    )


def run(args: argparse.Namespace) -> None:
    """Run the stages in order.

    Raises:
        KaptureRosError: naming the stage that failed.
    """
    out: Path = args.out
    try:
        if args.restart and out.exists():
            _clear(out, args.real or ())
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}") from error
    if args.real:
        run_stages(real_stages(out, *args.real))
        print(f"\nPoses, covariances and diagnostics: {out}/localized")
        return
    run_stages(mapping_stages(out))
    live = importlib.util.find_spec("rclpy") is not None
    if live:
        _localize_live(out)
    else:
        print("\nNo ROS in this environment: lap 2 is localized from its dataset instead.")
        command = ("localize", f"{out}/map", f"{out}/lap2", f"{out}/live", "--overwrite")
        run_stages([Stage("localize lap 2", command)])
    _judge(out)
    if live:
        _tell(json.loads((out / "live" / "live.json").read_text(encoding="utf-8")))
    print(f"\nThe report: {out}/report/evaluation.html. Everything else is in {out}, too.")


def _clear(out: Path, inputs: Iterable[Path]) -> None:
    """Delete what an earlier run made.

    Raises:
        OutputError: if the folder holds something else, a drive to be mapped for one.
    """
    keep_inputs(out, inputs)
    others = [
        item.name for item in out.iterdir() if item.name.lstrip(".").split(".")[0] not in MADE
    ]
    if others:
        raise OutputError(f"{out} holds {others[0]}, which no demo made: choose another folder")
    remove_folder(out)


def run_stages(stages: list[Stage]) -> None:
    """Run commands in order, each one as a user would.

    Raises:
        KaptureRosError: naming the stage that failed.
    """
    from kapture_ros.cli.main import main

    for stage in stages:
        print(f"\n== {stage.title}\n$ kapture_ros {shlex.join(stage.command)}", flush=True)
        if stage.output is not None and stage.output.exists():
            print(f"   {stage.output} is there from an earlier run (--restart makes it anew)")
            continue
        begin = time.monotonic()
        if main(stage.command):
            raise KaptureRosError(f"the demo stopped: '{stage.title}' failed (see above)")
        print(f"   done in {time.monotonic() - begin:.1f} s", flush=True)


def _localize_live(out: Path) -> None:
    """Play lap 2 on real topics, localize it in a node, listen in a third process."""
    from kapture_ros.evaluation.poses import read_poses

    poses = read_poses(out / "lap2")
    device = next(rig for rig, _ in poses.mounts.values())
    localizer = (
        *("node", "localize", "--map", f"{out}/map", "--image-topics", IMAGES),
        *("--odometry-topic", "/odom", "--gnss-topic", "/gnss/fix", "--wifi-topic", "/wifi/scan"),
        *("--imu-topic", "/imu/data", "--ros-args", "-p", "use_sim_time:=true"),
        *("-p", f"local_features.top_k:={KEYPOINTS}"),
    )
    # Only the localizer listens to odometry: the drive begins when it is ready.
    waiting = ("--wait-for", "/odom", "--wait-seconds", "120")
    player = ("play", f"{out}/drive/lap2", "--rate", RATE, *waiting)
    print("\n== play lap 2 on topics, localize it in a node, listen to it in a third process")
    witness = ("kapture_ros.nodes.witness", f"{out}/live", device, IMAGES)
    with _process("a witness", witness), _process("the localizer", _command(localizer)):
        words = _command(player)
        print(f"$ kapture_ros {shlex.join(player)}", flush=True)
        played = subprocess.run([sys.executable, "-m", *words], env=_environment(), check=False)
        if played.returncode:
            raise KaptureRosError("the demo stopped: lap 2 could not be played (see above)")
        time.sleep(2.0)  # the last images are being localized


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    return ("kapture_ros.cli.main", *words)


def _environment() -> dict[str, str]:
    """The user's, with ROS kept on this machine."""
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **os.environ}


@contextmanager
def _process(name: str, words: tuple[str, ...]) -> Iterator[None]:
    """A Python module running beside us, ended by an interrupt as from the keyboard."""
    if words[0] == "kapture_ros.cli.main":
        print(f"$ kapture_ros {shlex.join(words[1:])}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", *words], env=_environment())
    try:
        yield
    finally:
        early = process.poll() is not None
        if not early:
            process.send_signal(signal.SIGINT)
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if early or code:
        raise KaptureRosError(f"the demo stopped: {name} ended with code {code} (see above)")


def _judge(out: Path) -> None:
    """Compare with the truth, laid over the map by the drive the map is of."""
    from kapture_ros.evaluation.reference import georeference_error, place_map, write_reference
    from kapture_ros.mapping.visual_map import VisualMap
    from kapture_ros.options import load_yaml
    from kapture_ros.transforms.geodesy import Datum

    placement = place_map(out / "map", out / "truth1")
    write_reference(out / "lap2", placement.map_from_truth, out / "reference")
    print("\nThe map beside the truth:")
    visual_map = VisualMap.load(out / "map")
    if visual_map.datum is not None:
        metres, degrees = georeference_error(
            placement.map_from_truth,
            visual_map.datum,
            Datum(**load_yaml(out / "drive" / "drive.yaml")["datum"]),
            visual_map.image_centers.mean(axis=0),
        )
        print(f"  as GNSS placed it: {metres:.2f} m and {degrees:.2f}° off, in its middle")
    _, aligned = placement.errors[:2]
    print(
        f"  in itself (aligned): median {aligned.metres.median:.3f} m, "
        f"worst {aligned.metres.maximum:.3f} m"
    )
    parts = ("--query", f"{out}/lap2", "--map", f"{out}/map", "--overwrite")
    command = ("evaluate", f"{out}/live", f"{out}/reference", f"{out}/report", *parts)
    run_stages([Stage("compare with the truth", command)])


def _tell(heard: dict[str, Any]) -> None:
    """What the witness heard besides poses."""
    late = ", ".join(f"{name} {value:.0f} ms" for name, value in heard["latency_ms"].items())
    states = ", ".join(f"{name} {count}" for name, count in heard["states"].items())
    print(f"\nOf {heard['images']} images {heard['poses']} gave a pose: {states}.")
    if heard["late"]:
        print(f"{heard['late']} were LATE: newer ones came while this machine was busy.")
    print(f"From image to pose, heard by another process: {late}.")
    print(f"Predicted poses (~/odometry): {heard['predictions']}.")
    for child, parents in heard["parents"].items():
        print(f"  TF: {' and '.join(parents)} -> {child}")

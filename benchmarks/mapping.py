"""How good are maps of real sequences, and how do time and memory of mapping grow?

    python benchmarks/mapping.py real DATA [--only NAME …]     every sequence with poses
    python benchmarks/mapping.py growth [--counts 100 300 1000]  a made-up drive, per stage
    python benchmarks/mapping.py index [--images 100000]         loading a large map

`real` maps each sequence with its given poses, then without any, and compares the camera
centres of the second map with the given ones after a similarity transform. DATA is laid out
as the tests expect it (KAPTURE_ROS_TEST_DATA). `growth` takes features of a synthetic street,
so that nothing but mapping is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PER_IMAGE, GLOBAL_WIDTH = 100, 512  # observations of an image; of the bundled AP-GeM
STAGES = ("extract", "collect", "pairs", "match", "check poses", "verify", "reconstruct", "write")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("real", "growth", "index", "load"))
    parser.add_argument("data", type=Path, nargs="?", help="real: folder of the sequences")
    parser.add_argument("--only", nargs="*", help="real: names of sequences")
    parser.add_argument("--every", type=int, default=1, help="real: keep every n-th image")
    parser.add_argument("--counts", type=int, nargs="*", default=(100, 300, 1000))
    parser.add_argument("--images", type=int, default=100_000, help="index: images of the map")
    parser.add_argument("--device", default="auto", help="of features and matching")
    parser.add_argument("--keep", type=Path, help="folder to work in, kept afterwards")
    args = parser.parse_args()
    if args.what == "load":
        load(args.data)
        return
    question: dict[str, Callable[[argparse.Namespace, Path], None]] = {
        "real": real, "growth": growth, "index": index,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        question[args.what](args, args.keep or Path(folder))


def real(args: argparse.Namespace, folder: Path) -> None:
    """Map every sequence, with its poses and without."""
    from matching_quality import kitchen_views, kitti_views, strecha_views

    sequences = {
        "strecha_fountain": strecha_views,
        "strecha_herzjesu": strecha_views,
        "kitti_00": kitti_views,
        "sevenscenes_room": kitchen_views,
    }
    print("| sequence | poses | images | mapped | points | track | px | error | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, read in sequences.items():
        if args.only and name not in args.only:
            continue
        dataset = folder / name
        if not dataset.exists():
            write_dataset(dataset, read(args.data / name)[:: args.every])
        for poses in ("auto", "none"):
            out = folder / f"{name}-{poses}"
            run_map(dataset, out, "--poses", poses, "--device", args.device)
            print(f"| {name} | {'given' if poses == 'auto' else 'none'} | {row_of(out, dataset)}",
                  flush=True)  # fmt: skip


def write_dataset(dataset: Path, views: Iterable) -> None:
    """A kapture dataset of images, intrinsics and poses, a tenth of a second apart."""
    import cv2

    from kapture_ros.mapping.images import Camera, ImageTable
    from kapture_ros.mapping.sessions import link, write_images
    from kapture_ros.transforms.se3 import Transform

    cameras: dict[tuple, int] = {}
    rows, poses, names = [], [], []
    for view in views:
        height, width = cv2.imread(str(view.path), cv2.IMREAD_GRAYSCALE).shape
        K = view.camera
        params = (width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        rows.append(cameras.setdefault(params, len(cameras)))
        pose = Transform.from_matrix(view.cam_from_world)
        poses.append([*pose.quaternion, *pose.translation])
        names.append(view.path.name)
        link(view.path, dataset / "sensors/records_data" / view.path.name)
    sensors = tuple(Camera(f"camera{k}", "PINHOLE", int(p[0]), int(p[1]), p[2:])
                    for p, k in cameras.items())  # fmt: skip
    count = np.arange(len(names))
    table = ImageTable(
        tuple(names), sensors, np.array(rows, np.int32), count * 100_000_000,
        count.astype(np.int32), tuple(sensors[row].sensor_id for row in rows), np.array(poses), {},
    )  # fmt: skip
    write_images(dataset, table, [])


def run_map(dataset: Path, out: Path, *options: str) -> tuple[float, int]:
    """`kapture_ros map` in a process of its own; processor seconds and peak bytes."""
    command = [sys.executable, "-m", "kapture_ros.cli.main", "map", str(dataset), str(out)]
    process = subprocess.Popen([*command, "--overwrite", *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"mapping {dataset} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def steps_of(out: Path) -> dict[str, dict]:
    steps = yaml.safe_load((out / "map.yaml").read_text())["record"]["steps"]
    return {stage: step for step in steps for stage in STAGES if step["step"].startswith(stage)}


def row_of(out: Path, dataset: Path) -> str:
    """A row of the table; the error is of camera centres after a similarity transform."""
    import pycolmap

    from kapture_ros.mapping.images import read_images

    steps = steps_of(out)
    made, given = read_images(out), read_images(dataset)
    both = made.posed & given.posed
    ours, theirs = made.centers()[both], given.centers()[both]
    similarity = pycolmap.estimate_sim3d(ours, theirs).matrix()
    moved = ours @ similarity[:, :3].T + similarity[:, 3]
    error = np.median(np.linalg.norm(moved - theirs, axis=1))
    placed = steps["reconstruct"]
    total = sum(step["seconds"] for step in steps.values())
    return (f"{len(given)} | {placed['images']} | {placed['points']} | "
            f"{placed['mean track']:.2f} | {placed['reprojection px']:.3f} | {error:.4f} m | "
            f"{total:.0f} |")  # fmt: skip


def growth(args: argparse.Namespace, folder: Path) -> None:
    """Time of each stage and peak memory, by the number of images."""
    sys.path.insert(0, str(REPOSITORY / "test" / "mapping"))
    from drive_scene import DriveOptions, make_drive

    print("| images | " + " | ".join(STAGES[1:]) + " | all, processor s | pairs | peak memory |")
    print("|---" * (len(STAGES) + 3) + "|")
    for count in args.counts:
        # Rounds of the block, each in a lane of its own: places are seen again, as on a drive.
        drive = make_drive(
            folder / f"drive{count}",
            DriveOptions(
                frames=count // 2, step=2.0, points=7_000, width=128, laps=1 + count // 180
            ),
        )
        out = folder / f"map{count}"
        seconds, peak = run_map(drive.path, out, "--device", args.device)
        steps = steps_of(out)
        times = " | ".join(f"{steps[stage]['seconds']:.1f}" for stage in STAGES[1:])
        print(f"| {count} | {times} | {seconds:.1f} | {steps['pairs']['pairs']} | "
              f"{peak / 1e6:.0f} MB |", flush=True)  # fmt: skip


def index(args: argparse.Namespace, folder: Path) -> None:
    """Loading time and resident memory of a large map's index."""
    path = folder / "large"
    write_large_map(path, args.images)
    size = sum(file.stat().st_size for file in (path / "index").iterdir())
    print(f"{args.images} images, index {size / 1e6:.0f} MB")
    command = [sys.executable, __file__, "load", str(path)]
    for attempt in range(3):
        answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        grown = answer["bytes"]
        print(f"load {attempt + 1}: {answer['seconds']:.3f} s, resident memory grew by "
              f"{grown / 1e6:.0f} MB ({grown / size:.1%} of the files)")  # fmt: skip


def load(path: Path) -> None:
    """In a fresh process: what loading a map costs beyond the imports."""
    from kapture_ros.mapping.visual_map import VisualMap

    before, start = resident(), time.perf_counter()
    loaded = VisualMap.load(path)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": resident() - before, "images": len(loaded)}))


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def write_large_map(path: Path, count: int) -> None:
    """A made-up map, indexed by the real `build_index`.

    Its features come from a generator instead of 300,000 files, and its points from arrays
    instead of their text: loading reads neither. Every point is seen by five images in a row.
    """
    from kapture_ros.mapping import index as map_index
    from kapture_ros.mapping.feature_files import FeatureFolder
    from kapture_ros.mapping.images import Camera, ImageTable
    from kapture_ros.mapping.manifest import FeatureTypes, Manifest, write_manifest
    from kapture_ros.mapping.sessions import write_images
    from kapture_ros.mapping.structure import Structure, write_structure

    rng = np.random.default_rng(0)
    rows = np.arange(count, dtype=np.int32)
    poses = np.zeros((count, 7))
    poses[:, 0] = 1.0
    poses[:, 4:6] = rng.uniform(-2000, 2000, (count, 2))
    images = ImageTable(
        tuple(f"camera/{row:06d}.jpg" for row in rows),
        (Camera("camera", "PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0)),),
        np.zeros(count, np.int32), rows * np.int64(10**9), rows, ("camera",) * count, poses, {},
    )  # fmt: skip
    keypoints = np.tile(np.arange(PER_IMAGE, dtype=np.int32), count)
    observed = np.repeat(rows, PER_IMAGE)
    points = observed // 5 * PER_IMAGE + keypoints
    xyz = rng.uniform(-2000, 2000, (int(points.max()) + 1, 3))
    colors = np.zeros((len(xyz), 3), np.uint8)
    structure = Structure.from_rows(xyz, colors, observed, points, keypoints, count)
    widths = {"keypoints": 2, "descriptors": 128, "global_features": GLOBAL_WIDTH}
    base = {"name": "made-up", "dtype": "float32", "keypoints_type": "t", "metric_type": "L2"}
    for kind, width in widths.items():
        FeatureFolder.create(path, kind, "t", base | {"dsize": str(width)})
    write_images(path, images, [])
    nothing = Structure.from_rows(xyz[:0], colors[:0], rows[:0], rows[:0], rows[:0], count)
    write_structure(path, images, "t", nothing)
    write_manifest(path, Manifest(FeatureTypes("t", "t", "t")))

    def made_up(folder: FeatureFolder, _: str) -> np.ndarray:
        if folder.kind == "global_features":
            return rng.standard_normal((1, folder.width), np.float32)
        return np.ones((PER_IMAGE, folder.width), np.float32)

    FeatureFolder.read = made_up  # type: ignore[method-assign]
    map_index.read_structure = lambda *_: structure
    map_index.build_index(path)


if __name__ == "__main__":
    main()

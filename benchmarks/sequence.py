"""How much better is a drive localized as a sequence than frame by frame?

    python benchmarks/sequence.py [--metres 60] [--seeds 1] [--only night] [--plot FILE.png]
    python benchmarks/sequence.py --map MAP --query DATASET

The street of test/localization (random points and descriptors, exact truth, 5 m/s, 5 images
and 20 odometry samples a second) is driven under each condition. Recall of all frames at
0.25 m 2°, 0.5 m 5° and 5 m 10°: of single frames, of the sequence as it is driven, and of the
smoothed drive. A frame without a pose counts as not localized. `later` is the
recall from the first pose on; `worst` the largest error in metres while TRACKING; `jump` the
largest difference between the motion of outputs 50 ms apart and the true one. Milliseconds
are medians per frame, of CPU time, so that other load does not count (set OMP_NUM_THREADS=1:
the time of all threads is counted). With a map and a dataset (whose trajectory is the truth)
the same numbers of real images, linked by their own motion.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import chi2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "localization"))

from sequence_run import Run
from street_world import (
    SPEED,
    START,
    TWIN,
    Conditions,
    Drive,
    Trip,
    World,
    gnss,
    make_drive,
    make_query,
    make_world,
    measure_inertially,
)
from test_window_solution import MOTION, POSE, window

from kapture_ros.localization import drives
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import SECOND
from kapture_ros.localization.query import Estimate, Query
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State
from kapture_ros.localization.window import solve_window
from kapture_ros.mapping.sessions import FeatureSource
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform

LEVELS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
GOOD, DARK = Conditions(), Conditions(true_count=0)
HEADER = (
    f"{'condition':27}{'single':>14}{'ms':>5} |{'sequence':>14}{'later':>14}{'ms':>5}"
    f"{'worst':>7}{'jump':>12}{'NEES':>6}{'band':>10} |{'smoothed':>14}"
)


@dataclass(frozen=True)
class Case:
    """A condition: what frames show by seconds, and what else is wrong."""

    name: str
    conditions: Callable[[float], Conditions | None] = lambda _: GOOD
    start: float = 20.0
    metres: float | None = None
    scale: float | None = None
    offset_ns: int = 0
    shuffle: bool = False
    multipath: bool = False
    jump: tuple[float, float] | None = None
    odometry: bool = True
    imu: bool = False


def cases() -> Iterator[Case]:
    yield Case("normal")
    yield Case("night-like: 15 % true", lambda _: Conditions(true_share=0.15))
    yield Case("night-like: 8 % true", lambda _: Conditions(true_share=0.08))
    yield Case("60 % occluded", lambda _: Conditions(occluded=0.6))
    yield Case("5 true matches a frame", lambda t: GOOD if t < 1 else Conditions(true_count=5))
    yield Case("every 5th frame usable", lambda t: GOOD if round(t * 20) // 4 % 5 == 0 else DARK)
    yield Case("30 s without a fix", lambda t: DARK if 4 < t < 34 else GOOD, metres=195.0)
    yield Case("GNSS with 20 m multipath", multipath=True)
    yield Case("two look-alike streets", start=TWIN[0] - 20, metres=90.0)
    yield Case("odometry 3 % too long", scale=-0.03)
    yield Case("stamps 50 ms off", offset_ns=50_000_000)
    yield Case(
        "dropped and out of order", lambda t: None if int(t * 10) % 7 == 0 else GOOD, shuffle=True
    )
    yield Case("no odometry", odometry=False)
    weak = lambda t: GOOD if t < 4 or t > 8 else DARK  # noqa: E731
    yield Case("no odometry, 4 s dark", weak, odometry=False)
    yield Case("no odometry but IMU, dark", weak, odometry=False, imu=True)
    yield Case("kidnapped", start=20.0, metres=80.0, jump=(60.0, 280.0))


@dataclass
class Outcome:
    """What a drive gave."""

    single: list[float]
    single_ms: float
    run: Run
    run_ms: float
    smoothed: list[float]
    alarms: float = 0.0


def recall(errors: np.ndarray) -> list[float]:
    """By level, of errors (n, 2) in metres and radians."""
    return [
        float(((errors[:, 0] <= m) & (errors[:, 1] <= np.deg2rad(d))).mean()) for m, d in LEVELS
    ]


def errors_of(estimates: list[Estimate], truth: list[Transform]) -> np.ndarray:
    return np.array(
        [
            e.map_from_base.distance_to(t) if e.accepted and e.map_from_base else (np.inf, np.inf)
            for e, t in zip(estimates, truth, strict=True)
        ]
    )


def timed(function: Callable[[], object], times: list[float]) -> object:
    begin = time.process_time()
    result = function()
    times.append(1e3 * (time.process_time() - begin))
    return result


def make_queries(world: World, case: Case, drive: Drive, rng: np.random.Generator) -> list[Query]:
    made = []
    for stamp in drive.frames:
        conditions = case.conditions((stamp - START) / SECOND)
        if conditions is None:
            continue
        query = make_query(world, drive.truth[stamp], stamp, rng, conditions)
        if case.multipath:
            query = replace(query, gnss=gnss(drive.truth[stamp], rng, 20.0))
        made.append(query)
    return made


def arrivals(case: Case, queries: list[Query], rng: np.random.Generator) -> dict[int, list[Query]]:
    """Queries by the time they arrive."""
    if not case.shuffle:
        return {query.stamp_ns: [query] for query in queries}
    due: dict[int, list[Query]] = {}
    for start in range(0, len(queries), 3):
        part = queries[start : start + 3]
        due[part[-1].stamp_ns] = [part[k] for k in rng.permutation(len(part))]
    return due


def track(
    localizer: Localizer, case: Case, drive: Drive, due: dict[int, list[Query]]
) -> tuple[Run, float, float]:
    """The run, milliseconds, and the share of answers with the GNSS alarm."""
    tracker, result, times, alarms = SequenceLocalizer(localizer), Run(drive), [], []
    imu = measure_inertially(drive, np.random.default_rng(5)) if case.imu else {}
    for sample in drive.odometry:
        if case.odometry:
            tracker.add_odometry(sample)
        for measured in imu.get(sample.stamp_ns, []):
            tracker.add_imu(measured)
        for query in due.get(sample.stamp_ns, []):
            said = replace(query, stamp_ns=query.stamp_ns + case.offset_ns)
            answer = timed(lambda said=said: tracker.update(said), times)
            alarms.append(answer.gnss_disagrees)
            result.answers.append(replace(answer, stamp_ns=query.stamp_ns))
        result.published.append(tracker.pose_at(sample.stamp_ns))
    result.answers.sort(key=lambda pose: pose.stamp_ns)
    return result, float(np.median(times)), float(np.mean(alarms))


def drive_once(
    localizer: Localizer, world: World, case: Case, args: argparse.Namespace, seed: int
) -> Outcome:
    rng = np.random.default_rng(seed)
    end = case.start + (case.metres or args.metres)
    drive = make_drive(rng, Trip(case.start, end, case.jump), scale=case.scale)
    queries = make_queries(world, case, drive, rng)
    truth = [drive.truth[query.stamp_ns] for query in queries]
    times: list[float] = []
    step = args.single_every
    alone = [timed(lambda q=q: localizer.localize(q), times) for q in queries[::step]]
    run, ms, alarms = track(localizer, case, drive, arrivals(case, queries, rng))
    numbers = tuple(range(len(queries)))
    odometry = tuple(drive.odometry) if case.odometry else None
    estimates = drives.localize_drive(localizer, queries, drives.Drive(numbers, odometry))
    return Outcome(
        recall(errors_of(alone, truth[::step])),
        float(np.median(times)),
        run,
        ms,
        recall(errors_of(estimates, truth)),
        alarms,
    )


def later(run: Run) -> list[float]:
    """Recall by level from the first frame with a pose on."""
    known = [pose.map_from_base is not None for pose in run.answers]
    first = known.index(True) if any(known) else 0
    return [run.recall(*level, after=first) for level in LEVELS]


def nees_band(values: np.ndarray) -> tuple[float, float]:
    """95 % band of the mean of 6 degrees of freedom over correlated frames."""
    centred = values - values.mean()
    correlation = float((centred[1:] * centred[:-1]).sum() / max((centred**2).sum(), 1e-9))
    correlation = min(max(correlation, 0.0), 0.95)
    count = max(len(values) * (1 - correlation) / (1 + correlation), 1.0)
    return tuple(chi2.ppf([0.025, 0.975], 6 * count) / count)


def print_row(name: str, outcomes: list[Outcome]) -> None:
    def percents(rows: list[list[float]]) -> str:
        return "/".join(f"{100 * value:.0f}" for value in np.mean(rows, axis=0))

    runs = [outcome.run for outcome in outcomes]
    together = [[run.recall(*level) for level in LEVELS] for run in runs]
    jumps = np.max([run.largest_jump() for run in runs], axis=0)
    nees = np.concatenate([run.nees()[3:] for run in runs])
    low, high = nees_band(nees) if len(nees) > 2 else (np.nan, np.nan)
    print(
        f"{name:27}{percents([o.single for o in outcomes]):>14}"
        f"{np.mean([o.single_ms for o in outcomes]):5.0f} |{percents(together):>14}"
        f"{percents([later(run) for run in runs]):>14}"
        f"{np.mean([o.run_ms for o in outcomes]):5.0f}"
        f"{max(run.worst_accepted() for run in runs):7.2f}"
        f"{jumps[0]:6.2f}m{jumps[1]:4.1f}°{np.mean(nees) if len(nees) else np.nan:6.1f}"
        f"{low:5.1f}-{high:4.1f} |{percents([o.smoothed for o in outcomes]):>14}",
        flush=True,
    )


def print_kidnapping(case: Case, run: Run) -> None:
    assert case.jump is not None
    jump = (case.jump[0] - case.start) / SPEED
    lost = run.seconds_until(State.LOST, jump)
    found = run.seconds_until(State.TRACKING, jump + lost)
    print(f"    LOST {lost:.1f} s after the jump, TRACKING again {found:.1f} s later")


def drive_table(args: argparse.Namespace, world: World) -> dict[str, list[Outcome]]:
    localizer = Localizer(world.map)
    print(HEADER)
    results = {}
    for case in cases():
        if args.only not in case.name:
            continue
        outcomes = [drive_once(localizer, world, case, args, seed) for seed in range(args.seeds)]
        print_row(case.name, outcomes)
        if case.jump:
            print_kidnapping(case, outcomes[0].run)
        if case.multipath:
            print(f"    GNSS alarm in {100 * outcomes[0].alarms:.0f} % of the answers")
        results[case.name] = outcomes
    return results


def real_table(map_path: Path, query_path: Path, frames: int | None) -> None:
    """The same numbers of recorded images."""
    visual_map = VisualMap.load(map_path)
    localizer = Localizer(visual_map)
    queries = QuerySet(query_path, FeatureSource(), visual_map.feature_types)
    numbers = [n for n in range(len(queries)) if queries.given_pose(n) is not None][:frames]
    truth = {queries.infos[n].stamp_ns: queries.given_pose(n) for n in numbers}
    run, times, alone_times = Run(Drive(truth, [], list(truth))), [], []
    tracker, alone = SequenceLocalizer(localizer), []
    for number in numbers:
        query = queries[number]
        alone.append(timed(lambda q=query: localizer.localize(q), alone_times))
        run.answers.append(timed(lambda q=query: tracker.update(q), times))
    estimates = drives.localize_drive(localizer, queries, drives.Drive(tuple(numbers)))
    poses = list(truth.values())
    print(HEADER)
    outcome = Outcome(
        recall(errors_of(alone, poses)),
        float(np.median(alone_times)),
        run,
        float(np.median(times)),
        recall(errors_of(estimates, poses)),
    )
    print_row(query_path.name, [outcome])
    print("    motion from", ", ".join(sorted({pose.motion.value for pose in run.answers})))


def window_table(seeds: int = 60) -> None:
    print("\nwindow: 5 true matches among 50 in each frame")
    print(f"{'keyframes':>10}{'0.25 m':>8}{'0.5 m':>8}{'5 m':>8}{'ms':>6}{'ms, half true':>15}")
    for size in (1, 2, 3, 5):
        errors, times, guided = [], [], []
        for seed in range(seeds):
            frames, truth = window(seed, size)
            solution = timed(lambda f=frames: solve_window(f, MOTION, POSE), times)
            near = solution and solution.map_from_base.distance_to(truth)[0]
            errors.append(np.inf if near is None else near)
            frames, _ = window(seed, size, true=25, false=25)
            timed(lambda f=frames: solve_window(f, MOTION, POSE), guided)
        shares = "".join(f"{100 * np.mean(np.array(errors) < m):8.0f}" for m, _ in LEVELS)
        print(f"{size:>10}{shares}{np.median(times):6.0f}{np.median(guided):15.0f}")


def plot(results: dict[str, list[Outcome]], path: Path) -> None:
    """Recall by condition, and error with its 3 σ through the two hardest drives."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6), width_ratios=(1.2, 1), layout="constrained")
    names = list(results)
    rows = np.arange(len(names))
    bars = {
        "single frames": [np.mean([o.single[0] for o in results[n]]) for n in names],
        "sequence": [np.mean([o.run.recall(*LEVELS[0]) for o in results[n]]) for n in names],
        "smoothed": [np.mean([o.smoothed[0] for o in results[n]]) for n in names],
    }
    for number, (label, values) in enumerate(bars.items()):
        axes[0].barh(rows + 0.27 * (number - 1), 100 * np.array(values), 0.25, label=label)
    axes[0].set_yticks(rows, names)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("frames within 0.25 m and 2° of the truth [%]")
    axes[0].legend(loc="lower right")
    for name in ("30 s without a fix", "kidnapped"):
        if name not in results:
            continue
        run = results[name][0].run
        known = [p for p in run.published if p.map_from_base is not None]
        seconds = [(p.stamp_ns - START) / SECOND for p in known]
        (line,) = axes[1].plot(seconds, [run.error(p)[0] for p in known], ".", ms=2, label=name)
        sigma = [3 * np.sqrt(np.linalg.eigvalsh(p.covariance[:3, :3])[-1]) for p in known]
        axes[1].plot(seconds, sigma, ".", ms=1, color=line.get_color(), alpha=0.4)
    axes[1].set_yscale("log")
    axes[1].set_xlabel("seconds")
    axes[1].set_ylabel("error of the published position, and 3 σ (pale) [m]")
    axes[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metres", type=float, default=60.0, help="length of a drive")
    parser.add_argument("--seeds", type=int, default=1, help="drives a condition")
    parser.add_argument("--single-every", type=int, default=1, help="of so many frames, alone")
    parser.add_argument("--only", default="", help="conditions whose name contains this")
    parser.add_argument("--plot", type=Path, help="draw the table")
    parser.add_argument("--map", type=Path, help="a real map, with")
    parser.add_argument("--query", type=Path, help="a dataset with features and true poses")
    parser.add_argument("--frames", type=int, help="of the dataset; all")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.map:
        real_table(args.map, args.query, args.frames)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = drive_table(args, make_world(Path(folder) / "map"))
    if args.plot:
        plot(results, args.plot)
    if not args.only:
        window_table()


if __name__ == "__main__":
    main()

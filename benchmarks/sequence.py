"""How much better is a drive localized as a sequence than frame by frame?

    python benchmarks/sequence.py [--metres 60] [--seeds 1] [--only night] [--save FILE.json]
    python benchmarks/sequence.py --map MAP --query DATASET [--only occluded] [--save FILE.json]
    python benchmarks/sequence.py --saved FILE.json [FILE.json …] [--plot FILE.png]

The street of test/localization (random points and descriptors, exact truth, 5 m/s, 5 images
and 20 odometry samples a second) is driven under each condition. Recall of all frames at
0.25 m 2°, 0.5 m 5° and 5 m 10°: of single frames, of the sequence as it is driven, and of the
smoothed drive. A frame without a pose counts as not localized. `later` is the recall from the
first pose on; `far` counts answers with a pose more than 5 m off; `worst` is the largest error
in metres while TRACKING; `jump` the largest difference between the motion of outputs 50 ms apart
and the true one; behind NEES stands the band in which 95 % of drives lie that are as the filter's
model says (40 are drawn). Milliseconds are medians per frame, of CPU time, so that other load does
not count (set OMP_NUM_THREADS=1: the time of all threads is counted). `--conditions` names some
exactly, `--first-seed` the first drive; what such runs kept is put together by `--saved`.

With a map and a dataset with features, whose trajectory is the truth, the same of recorded
images. Their motion is odometry made from the truth with the errors that the options assume,
or the images alone; what an IMU measures is made so, too. What an image does not show are its
keypoints with descriptors of nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "localization"))

from sequence_band import Fused, filtered, means_of_drives
from sequence_report import HEADER, LEVELS, Outcome, Row, plot, print_row, saved_rows
from sequence_run import Run
from sequence_scenes import DARK, Case, Recording, Scene, Street, recording_cases, street_cases
from street_world import NOISE, START, Drive, measure_inertially
from test_window_solution import MOTION, POSE, window

from kapture_ros.localization import drives
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import Fix, MotionFilter
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Estimate, Query
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State, TrackingOptions
from kapture_ros.localization.window import solve_window
from kapture_ros.transforms import Transform

FAR = 5.0  # metres: no pose may ever be so wrong


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
    localizer: Localizer,
    case: Case,
    drive: Drive,
    imu: dict[int, list[ImuSample]],
    due: dict[int, list[Query]],
) -> tuple[Run, float, float, Fused]:
    """The run, milliseconds, the share of answers with the GNSS alarm, and the fixes."""
    tracker, result, times, alarms = SequenceLocalizer(localizer), Run(drive), [], []
    fused = Fused(tracker.motion)
    for sample in drive.odometry:
        if case.odometry:
            tracker.add_odometry(sample)
        for measurement in imu.get(sample.stamp_ns, []):
            tracker.add_imu(measurement)
        for query in due.get(sample.stamp_ns, []):
            said = replace(query, stamp_ns=query.stamp_ns + case.offset_ns)
            answer = timed(lambda said=said: tracker.update(said), times)
            alarms.append(answer.gnss_disagrees)
            result.answers.append(replace(answer, stamp_ns=query.stamp_ns))
        result.published.append(tracker.pose_at(sample.stamp_ns))
    result.answers.sort(key=lambda pose: pose.stamp_ns)
    return result, float(np.median(times)), float(np.mean(alarms)), fused


def drive_once(scene: Scene, case: Case, step: int, seed: int) -> tuple[Outcome, Run]:
    drive, queries = scene.drive(case, seed)
    truth = [drive.truth[query.stamp_ns] for query in queries]
    times: list[float] = []
    localizer = scene.localizer
    alone = [timed(lambda q=q: localizer.localize(q), times) for q in queries[::step]]
    due = arrivals(case, queries, np.random.default_rng(seed))
    imu = measure_inertially(drive, np.random.default_rng(100 + seed)) if case.imu else {}
    run, ms, alarms, fused = track(localizer, case, drive, imu, due)
    odometry = tuple(drive.odometry) if case.odometry else None
    felt = tuple(sample for stamp in sorted(imu) for sample in imu[stamp])
    whole = drives.Drive(tuple(range(len(queries))), odometry, felt)
    estimates = drives.localize_drive(localizer, queries, whole)
    outcome = Outcome(
        recall(errors_of(alone, truth[::step])),
        float(np.median(times)),
        [run.recall(*level) for level in LEVELS],
        later(run),
        ms,
        far(run),
        run.worst_accepted(),
        run.largest_jump(),
        run.nees()[3:].tolist(),
        recall(errors_of(estimates, truth)),
        alarms if case.multipath else None,
        kidnapped(run) if case.jump else None,
        recall(with_exact_fixes(case, drive, imu)) if "without a fix" in case.name else None,
        drawn(case, run, fused, seed),
    )
    return outcome, run


def drawn(case: Case, run: Run, fused: Fused, seed: int) -> list[float] | None:
    """What NEES would be of drives like this one; None where the filter's model is not meant."""
    if not case.odometry or case.jump or case.offset_ns:
        return None
    known = [pose.stamp_ns for pose in run.answers if pose.map_from_base is not None]
    return means_of_drives(run.drive, fused, set(known[3:]), seed, imu=case.imu)


def later(run: Run) -> list[float]:
    """Recall by level from the first frame with a pose on."""
    known = [pose.map_from_base is not None for pose in run.answers]
    first = known.index(True) if any(known) else 0
    return [run.recall(*level, after=first) for level in LEVELS]


def far(run: Run) -> int:
    """Answers with a pose that is more than 5 m off."""
    given = [pose for pose in run.answers if pose.map_from_base is not None]
    return sum(run.error(pose)[0] > FAR for pose in given)


def kidnapped(run: Run) -> tuple[float, float]:
    stamps = sorted(run.drive.truth)
    metres = [
        run.drive.truth[a].distance_to(run.drive.truth[b])[0] for a, b in itertools.pairwise(stamps)
    ]
    jump = (stamps[int(np.argmax(metres)) + 1] - START) / SECOND
    lost = run.seconds_until(State.LOST, jump)
    return lost, run.seconds_until(State.TRACKING, jump + lost)


def with_exact_fixes(case: Case, drive: Drive, imu: dict[int, list[ImuSample]]) -> np.ndarray:
    """Errors (n, 2) in metres and radians of the filter that is told the true pose in the light."""
    motion = MotionFilter(replace(NOISE, fix_correlation=0.0), gyro := Inertial())
    exact, truth = np.diag(np.repeat([1e-8, 1e-10], 3)), drive.truth
    light = [n for n in drive.frames if case.conditions((n - START) / SECOND) != DARK]
    fixes = {stamp: Fix(stamp, truth[stamp], exact) for stamp in light}
    states = filtered(motion, gyro, drive.odometry, imu, fixes, drive.frames)
    return np.array([s.map_from_base.distance_to(truth[s.stamp_ns]) for s in states])


def show(row: Row, run: Run) -> None:
    """Keep what a drive published, to be drawn."""
    seen = [p for p in run.published if p.stamp_ns >= run.answers[0].stamp_ns]
    errors = [run.error(p)[0] for p in seen]
    row.seconds = [(p.stamp_ns - START) / SECOND for p in seen]
    row.error = [error if np.isfinite(error) else None for error in errors]
    row.sigma3 = [
        None if p.covariance is None else 3 * np.linalg.eigvalsh(p.covariance[:3, :3])[-1] ** 0.5
        for p in seen
    ]
    row.state = [p.state.name for p in seen]


def drive_table(scene: Scene, cases: Iterator[Case], args: argparse.Namespace) -> list[Row]:
    print(HEADER)
    rows = []
    for case in cases:
        if args.only not in case.name or (args.conditions and case.name not in args.conditions):
            continue
        row = Row(case.name)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            outcome, run = drive_once(scene, case, args.single_every, seed)
            row.outcomes.append(outcome)
            if seed == 0:
                show(row, run)
        print_row(row)
        rows.append(row)
        if args.save:
            args.save.write_text(json.dumps([asdict(row) for row in rows]))
    return rows


def window_table(seeds: int = 60) -> None:
    pose = replace(POSE, max_iterations=TrackingOptions().window_iterations)
    print(f"\nwindow: 5 true matches among 50 in each frame, {pose.max_iterations} samples at most")
    print(f"{'keyframes':>10}{'0.25 m':>8}{'0.5 m':>8}{'5 m':>8}{'ms':>6}{'ms, half true':>15}")
    for size in (1, 2, 3, 5):
        errors, times, guided = [], [], []
        for seed in range(seeds):
            frames, truth = window(seed, size)
            solution = timed(lambda f=frames: solve_window(f, MOTION, pose), times)
            near = solution and solution.map_from_base.distance_to(truth)[0]
            errors.append(np.inf if near is None else near)
            frames, _ = window(seed, size, true=25, false=25)
            timed(lambda f=frames: solve_window(f, MOTION, pose), guided)
        shares = "".join(f"{100 * np.mean(np.array(errors) < m):8.0f}" for m, _ in LEVELS)
        print(f"{size:>10}{shares}{np.median(times):6.0f}{np.median(guided):15.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metres", type=float, default=60.0, help="length of a drive")
    parser.add_argument("--seeds", type=int, default=1, help="drives a condition")
    parser.add_argument("--single-every", type=int, default=1, help="of so many frames, alone")
    parser.add_argument("--only", default="", help="conditions whose name contains this")
    parser.add_argument("--conditions", nargs="*", default=[], help="these conditions only")
    parser.add_argument("--first-seed", type=int, default=0, help="of the first drive")
    parser.add_argument("--map", type=Path, help="a real map, with")
    parser.add_argument("--query", type=Path, help="a dataset with features and true poses")
    parser.add_argument("--frames", type=int, help="of the dataset; all")
    parser.add_argument("--save", type=Path, help="keep what is drawn")
    parser.add_argument("--saved", type=Path, nargs="*", default=[], help="draw what was kept")
    parser.add_argument("--plot", type=Path, help="draw the table")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = saved_rows(args.saved)
    if rows:
        print(HEADER)
        for row in rows:
            print_row(row)
    elif args.map:
        scene = Recording(args.map, args.query, args.frames)
        rows = drive_table(scene, recording_cases(), args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = drive_table(Street(args.metres, Path(folder)), street_cases(), args)
        if not args.only and not args.conditions:
            window_table()
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()

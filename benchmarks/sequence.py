"""How much better is a drive localized as a sequence than frame by frame?

    python benchmarks/sequence.py [--metres 200] [--seeds 1]

The street of test/localization (random points and descriptors, exact truth) is driven under
each condition; recall of all frames at 0.25 m 2°, 0.5 m 5° and 5 m 10°. A frame that single
localization rejects counts as not localized; so does a frame of the sequence without a pose.
Milliseconds are medians per frame. The last table is the window of DESIGN's question: five
true matches among fifty in each frame, by the number of keyframes.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "localization"))

from sequence_run import Run
from street_world import (
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
)
from test_window_solution import MOTION, POSE, window

from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import SECOND
from kapture_ros.localization.query import Query
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State
from kapture_ros.localization.window import solve_window

LEVELS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


@dataclass(frozen=True)
class Case:
    """A condition: what frames show by seconds, and what else is wrong."""

    name: str
    conditions: Callable[[float], Conditions | None] = lambda _: Conditions()
    start: float = 20.0
    metres: float | None = None
    scale: float | None = None
    offset_ns: int = 0
    shuffle: bool = False
    multipath: bool = False
    jump: tuple[float, float] | None = None


def cases() -> Iterator[Case]:
    good = Conditions()
    yield Case("normal")
    yield Case("night-like: 15 % true", lambda _: Conditions(true_share=0.15))
    yield Case("night-like: 8 % true", lambda _: Conditions(true_share=0.08))
    yield Case("60 % occluded", lambda _: Conditions(occluded=0.6))
    dark = Conditions(true_count=0)
    yield Case("every 5th frame usable", lambda t: good if round(t * 20) // 4 % 5 == 0 else dark)
    yield Case("30 s without a fix", lambda t: dark if 4 < t < 34 else good, metres=200.0)
    yield Case("GNSS with 20 m multipath", multipath=True)
    yield Case("two look-alike streets", start=TWIN[0] - 20, metres=90.0)
    yield Case("odometry 3 % too long", scale=-0.03)
    yield Case("stamps 50 ms off", offset_ns=50_000_000)
    yield Case(
        "dropped and out of order",
        lambda t: None if int(t * 10) % 7 == 0 else good,
        shuffle=True,
    )
    yield Case("5 true matches a frame", lambda t: good if t < 1 else Conditions(true_count=5))
    yield Case("kidnapped", start=20.0, metres=100.0, jump=(60.0, 280.0))


def queries(world: World, case: Case, drive: Drive, rng: np.random.Generator) -> list[Query]:
    made = []
    for stamp in drive.frames:
        conditions = case.conditions((stamp - START) / SECOND)
        if conditions is None:
            continue
        query = make_query(world, drive.truth[stamp], stamp, rng, conditions)
        if case.multipath:
            query = replace(query, gnss=gnss(drive.truth[stamp], rng, 20.0))
        made.append(query)
    if case.shuffle:
        for start in range(10, len(made) - 2, 3):
            part = [made[start + k] for k in rng.permutation(3)]
            made[start : start + 3] = part
    return made


def single(localizer: Localizer, drive: Drive, asked: list[Query]) -> tuple[list[float], float]:
    """Recall by level, and milliseconds."""
    errors, times = [], []
    for query in asked:
        begin = time.perf_counter()
        estimate = localizer.localize(query)
        times.append(1e3 * (time.perf_counter() - begin))
        pose = estimate.map_from_base if estimate.accepted else None
        truth = drive.truth[query.stamp_ns]
        errors.append((np.inf, np.inf) if pose is None else pose.distance_to(truth))
    values = np.array(errors)
    recall = [
        float(((values[:, 0] <= m) & (values[:, 1] <= np.deg2rad(d))).mean()) for m, d in LEVELS
    ]
    return recall, float(np.median(times))


def sequence(
    localizer: Localizer, case: Case, drive: Drive, asked: list[Query]
) -> tuple[Run, float]:
    tracker, result, times = SequenceLocalizer(localizer), Run(drive), []
    samples = iter(drive.odometry)
    newest = 0
    for query in asked:
        newest = max(newest, query.stamp_ns)
        due = []
        for sample in samples:
            due.append(sample)
            if sample.stamp_ns >= newest:
                break
        begin = time.perf_counter()
        said = replace(query, stamp_ns=query.stamp_ns + case.offset_ns)
        answer = tracker.update(said, due)
        times.append(1e3 * (time.perf_counter() - begin))
        result.answers.append(replace(answer, stamp_ns=query.stamp_ns))
    return result, float(np.median(times))


def drive_table(world: World, metres: float, seeds: int) -> None:
    localizer = Localizer(world.map)
    print("recall at 0.25 m 2° / 0.5 m 5° / 5 m 10°; NEES: mean, 6 expected; worst: m, TRACKING")
    print(
        f"{'condition':28}{'single':>20}{'ms':>6}{'sequence':>20}{'ms':>6}{'NEES':>7}{'worst':>7}"
    )
    for case in cases():
        rows = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            end = case.start + (case.metres or metres)
            drive = make_drive(rng, Trip(case.start, end, case.jump), scale=case.scale)
            asked = queries(world, case, drive, rng)
            alone, alone_ms = single(localizer, drive, asked)
            result, ms = sequence(localizer, case, drive, asked)
            together = [result.recall(*level) for level in LEVELS]
            known = [p for p in result.answers if p.state is State.TRACKING]
            nees = float(np.mean(replace_answers(result, known).nees())) if known else np.nan
            worst = result.worst_accepted()
            rows.append([*alone, alone_ms, *together, ms, nees, worst])
        mean = np.mean(rows, axis=0)
        first, second = (" / ".join(f"{100 * r:.0f}" for r in mean[a : a + 3]) for a in (0, 4))
        print(f"{case.name:28}{first:>20}{mean[3]:6.0f}{second:>20}{mean[7]:6.0f}{mean[8]:7.1f}"
              f"{np.max(rows, axis=0)[9]:7.2f}", flush=True)  # fmt: skip


def replace_answers(result: Run, answers: list) -> Run:
    return Run(result.drive, answers)


def window_table(seeds: int = 60) -> None:
    print("\nwindow: 5 true matches among 50 in each frame")
    print(f"{'keyframes':>10}{'0.25 m':>8}{'0.5 m':>8}{'5 m':>8}{'ms':>6}{'ms, half true':>15}")
    for size in (1, 2, 3, 5):
        errors, times, guided = [], [], []
        for seed in range(seeds):
            frames, truth = window(seed, size)
            begin = time.perf_counter()
            solution = solve_window(frames, MOTION, POSE)
            times.append(1e3 * (time.perf_counter() - begin))
            near = solution and solution.map_from_base.distance_to(truth)[0]
            errors.append(np.inf if near is None else near)
            frames, _ = window(seed, size, true=25, false=25)
            begin = time.perf_counter()
            solve_window(frames, MOTION, POSE)
            guided.append(1e3 * (time.perf_counter() - begin))
        recall = "".join(f"{100 * np.mean(np.array(errors) < m):8.0f}" for m, _ in LEVELS)
        print(f"{size:>10}{recall}{np.median(times):6.0f}{np.median(guided):15.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metres", type=float, default=100.0, help="length of a drive")
    parser.add_argument("--seeds", type=int, default=1, help="drives a condition")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        drive_table(make_world(Path(folder) / "map"), args.metres, args.seeds)
    window_table()


if __name__ == "__main__":
    main()

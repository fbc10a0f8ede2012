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
and the true one. Milliseconds are medians per frame, of CPU time, so that other load does not
count (set OMP_NUM_THREADS=1: the time of all threads is counted). `--conditions` names some
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.stats import chi2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test" / "localization"))

from sequence_run import Run
from street_world import (
    NOISE,
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
    measured,
    told,
)
from test_window_solution import MOTION, POSE, window

from kapture_ros.localization import drives
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import Fix, MotionFilter
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import Estimate, Query, QueryImage
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State, TrackingOptions
from kapture_ros.localization.window import solve_window
from kapture_ros.mapping.sessions import FeatureSource
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform, interpolate

LEVELS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
FAR = 5.0  # metres: no pose may ever be so wrong
TICK = 0.05  # seconds between outputs
GOOD, DARK = Conditions(), Conditions(true_count=0)
HEADER = (
    f"{'condition':27}{'single':>14}{'ms':>5} |{'sequence':>14}{'later':>14}{'ms':>5}{'far':>4}"
    f"{'worst':>7}{'jump':>12}{'NEES':>6}{'band':>10} |{'smoothed':>14}"
)


@dataclass(frozen=True)
class Case:
    """A condition: what frames show by seconds, and what else is wrong.

    Attributes:
        jump: where the vehicle is moved from and to: metres of the street, shares of a
            recording.
    """

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


def common_cases() -> Iterator[Case]:
    """What can be done to any drive."""
    yield Case("60 % occluded", lambda _: Conditions(occluded=0.6))
    yield Case("odometry 3 % too long", scale=-0.03)
    yield Case("stamps 50 ms off", offset_ns=50_000_000)
    yield Case(
        "dropped and out of order", lambda t: None if int(t * 10) % 7 == 0 else GOOD, shuffle=True
    )
    yield Case("no odometry", odometry=False)
    yield Case("odometry and IMU", imu=True)


def street_cases() -> Iterator[Case]:
    yield Case("normal")
    yield Case("normal, 380 m", start=0.0, metres=380.0)
    yield Case("night-like: 15 % true", lambda _: Conditions(true_share=0.15))
    yield Case("night-like: 8 % true", lambda _: Conditions(true_share=0.08))
    yield Case("5 true matches a frame", lambda t: GOOD if t < 1 else Conditions(true_count=5))
    yield Case("every 5th frame usable", lambda t: GOOD if round(t * 20) // 4 % 5 == 0 else DARK)
    dark = lambda t: DARK if 4 < t < 34 else GOOD  # noqa: E731
    yield Case("30 s without a fix", dark, metres=195.0)
    yield Case("30 s without a fix, IMU", dark, metres=195.0, imu=True)
    yield Case("GNSS with 20 m multipath", multipath=True)
    yield Case("two look-alike streets", start=TWIN[0] - 20, metres=90.0)
    yield from common_cases()
    weak = lambda t: GOOD if t < 4 or t > 8 else DARK  # noqa: E731
    yield Case("no odometry, 4 s dark", weak, odometry=False)
    yield Case("no odometry but IMU, dark", weak, odometry=False, imu=True)
    yield Case("kidnapped", metres=80.0, jump=(60.0, 280.0))


def recording_cases() -> Iterator[Case]:
    """The share of true keypoints is of those that the image really has."""
    yield Case("normal")
    yield Case("15 % of the keypoints kept", lambda _: Conditions(true_share=0.15))
    yield Case("5 % of the keypoints kept", lambda _: Conditions(true_share=0.05))
    yield Case("every 5th frame usable", lambda t: GOOD if round(t / 0.2) % 5 == 0 else DARK)
    dark = lambda t: DARK if 4 < t < 12 else GOOD  # noqa: E731
    yield Case("8 s without a fix", dark)
    yield Case("8 s without a fix, IMU", dark, imu=True)
    yield from common_cases()
    yield Case("kidnapped", jump=(0.3, 0.7))


class Scene(Protocol):
    """Something to be driven through."""

    localizer: Localizer

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        """Truth and odometry at 20 Hz, and what the camera sees."""
        ...


class Street:
    """The street of the tests; each drive's map has an error of its own, of a size that is told."""

    def __init__(self, metres: float, folder: Path) -> None:
        self.metres, self.folder = metres, folder
        self.worlds: dict[int, World] = {}

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        if seed not in self.worlds:
            self.worlds[seed] = make_world(self.folder / str(seed), seed=seed)
        world = self.worlds[seed]
        self.localizer = Localizer(world.map, told())
        rng = np.random.default_rng(seed)
        end = case.start + (case.metres or self.metres)
        drive = make_drive(rng, Trip(case.start, end, case.jump), scale=case.scale)
        queries = []
        for stamp in drive.frames:
            conditions = case.conditions((stamp - START) / SECOND)
            if conditions is None:
                continue
            query = make_query(world, drive.truth[stamp], stamp, rng, conditions)
            if case.multipath:
                query = replace(query, gnss=gnss(drive.truth[stamp], rng, 20.0))
            queries.append(query)
        return drive, queries


class Recording:
    """Images that were recorded, with their true poses."""

    def __init__(self, map_path: Path, query_path: Path, frames: int | None) -> None:
        visual_map = VisualMap.load(map_path)
        self.localizer = Localizer(visual_map)
        self.queries = QuerySet(query_path, FeatureSource(), visual_map.feature_types)
        numbers = range(len(self.queries))
        self.numbers = [n for n in numbers if self.queries.given_pose(n) is not None][:frames]

    def drive(self, case: Case, seed: int) -> tuple[Drive, list[Query]]:
        rng = np.random.default_rng(seed)
        numbers, jump = self._numbers(case)
        infos, start = self.queries.infos, self.queries.infos[numbers[0]].stamp_ns
        step = infos[numbers[1]].stamp_ns - start
        skipped = infos[numbers[jump]].stamp_ns - infos[numbers[jump - 1]].stamp_ns - step
        stamps = [
            START + infos[n].stamp_ns - start - (skipped if k >= jump > 0 else 0)
            for k, n in enumerate(numbers)
        ]
        poses = [self.queries.given_pose(n) for n in numbers]
        drive = _linked(stamps, poses, jump, case.scale, rng)
        queries = []
        for number, stamp in zip(numbers, stamps, strict=True):
            conditions = case.conditions((stamp - START) / SECOND)
            if conditions is not None:
                query = replace(self.queries[number], stamp_ns=stamp)
                seen = tuple(_spoiled(image, conditions, rng) for image in query.images)
                queries.append(replace(query, images=seen))
        return drive, queries

    def _numbers(self, case: Case) -> tuple[list[int], int]:
        """The queries that are driven past, and before which of them the vehicle is moved."""
        if case.jump is None:
            return self.numbers, 0
        first, second = (int(share * len(self.numbers)) for share in case.jump)
        return self.numbers[:first] + self.numbers[second:], first


def _linked(
    stamps: Sequence[int],
    poses: Sequence[Transform],
    jump: int,
    scale: float | None,
    rng: np.random.Generator,
) -> Drive:
    """Truth every 50 ms between the images, and odometry of it that does not notice the jump."""
    scale = rng.normal(0, NOISE.odometry_scale) if scale is None else scale
    bias, odom = rng.normal(0, NOISE.odometry_yaw_bias), Transform()
    truth, samples = {stamps[0]: poses[0]}, [OdometrySample(stamps[0], odom)]
    for a, b in itertools.pairwise(range(len(stamps))):
        moved = b == jump
        end = poses[a] @ poses[a - 1].inverse() @ poses[a] if moved else poses[b]
        ticks = max(1, round((stamps[b] - stamps[a]) / SECOND / TICK))
        before = poses[a]
        for tick in range(1, ticks + 1):
            now = interpolate(poses[a], end, tick / ticks)
            stamp = stamps[a] + (stamps[b] - stamps[a]) * tick // ticks
            odom = odom @ measured(before.inverse() @ now, scale, bias, NOISE, rng)
            truth[stamp], before = now, now
            samples.append(OdometrySample(stamp, odom))
        truth[stamps[b]] = poses[b]
    return Drive(truth, samples, list(stamps), (scale, bias))


def _spoiled(image: QueryImage, conditions: Conditions, rng: np.random.Generator) -> QueryImage:
    """What an image shows under these conditions: some descriptors become those of nothing."""
    if conditions == GOOD or image.features is None:
        return image
    features = image.features
    hidden = features.keypoints[:, 0] < conditions.occluded * image.camera.width
    if conditions.true_count is not None:
        hidden |= np.cumsum(~hidden) > conditions.true_count
    elif conditions.true_share != GOOD.true_share:
        hidden |= rng.random(len(hidden)) >= conditions.true_share
    nothing = rng.normal(size=features.descriptors.shape)
    nothing /= np.linalg.norm(nothing, axis=1, keepdims=True)
    shown = np.where(hidden[:, None], nothing, features.descriptors).astype(np.float32)
    return replace(image, features=replace(features, descriptors=shown))


@dataclass(frozen=True)
class Outcome:
    """What a drive gave: recall by level, milliseconds, metres, degrees and seconds.

    Attributes:
        nees: of each answer with a pose from the fourth on.
        alarms: share of the answers with the GNSS alarm.
        kidnapped: until it was LOST, and then until it was TRACKING.
        bound: recall of the filter that is told the true pose where it is not dark.
    """

    single: list[float]
    single_ms: float
    sequence: list[float]
    later: list[float]
    run_ms: float
    far: int
    worst: float
    jump: tuple[float, float]
    nees: list[float]
    smoothed: list[float]
    alarms: float | None = None
    kidnapped: tuple[float, float] | None = None
    bound: list[float] | None = None


@dataclass
class Row:
    """The drives under one condition, and the error of what the first one published.

    Attributes:
        error: metres; None without a pose, as is `sigma3`.
        sigma3: three standard deviations of the position in the worst direction.
        state: by name.
    """

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    sigma3: list[float | None] = field(default_factory=list)
    state: list[str] = field(default_factory=list)

    def share(self, method: str) -> float:
        """Mean recall at the first level."""
        return float(np.mean([getattr(outcome, method)[0] for outcome in self.outcomes]))


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
) -> tuple[Run, float, float]:
    """The run, milliseconds, and the share of answers with the GNSS alarm."""
    tracker, result, times, alarms = SequenceLocalizer(localizer), Run(drive), [], []
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
    return result, float(np.median(times)), float(np.mean(alarms))


def drive_once(scene: Scene, case: Case, step: int, seed: int) -> tuple[Outcome, Run]:
    drive, queries = scene.drive(case, seed)
    truth = [drive.truth[query.stamp_ns] for query in queries]
    times: list[float] = []
    localizer = scene.localizer
    alone = [timed(lambda q=q: localizer.localize(q), times) for q in queries[::step]]
    due = arrivals(case, queries, np.random.default_rng(seed))
    imu = measure_inertially(drive, np.random.default_rng(100 + seed)) if case.imu else {}
    run, ms, alarms = track(localizer, case, drive, imu, due)
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
    )
    return outcome, run


def later(run: Run) -> list[float]:
    """Recall by level from the first frame with a pose on."""
    known = [pose.map_from_base is not None for pose in run.answers]
    first = known.index(True) if any(known) else 0
    return [run.recall(*level, after=first) for level in LEVELS]


def far(run: Run) -> int:
    """Answers with a pose that is more than 5 m off."""
    given = [pose for pose in run.answers if pose.map_from_base is not None]
    return sum(run.error(pose)[0] > FAR for pose in given)


def nees_band(values: np.ndarray) -> tuple[float, float]:
    """95 % band of the mean of 6 degrees of freedom over correlated frames."""
    centred = values - values.mean()
    correlation = float((centred[1:] * centred[:-1]).sum() / max((centred**2).sum(), 1e-9))
    correlation = min(max(correlation, 0.0), 0.95)
    count = max(len(values) * (1 - correlation) / (1 + correlation), 1.0)
    return tuple(chi2.ppf([0.025, 0.975], 6 * count) / count)


def print_row(row: Row) -> None:
    outcomes = row.outcomes

    def percents(method: str) -> str:
        shares = np.mean([getattr(outcome, method) for outcome in outcomes], axis=0)
        return "/".join(f"{100 * value:.0f}" for value in shares)

    jumps = np.max([outcome.jump for outcome in outcomes], axis=0)
    nees = np.concatenate([outcome.nees for outcome in outcomes])
    low, high = nees_band(nees) if len(nees) > 2 else (np.nan, np.nan)
    print(
        f"{row.name:27}{percents('single'):>14}"
        f"{np.mean([o.single_ms for o in outcomes]):5.0f} |{percents('sequence'):>14}"
        f"{percents('later'):>14}"
        f"{np.mean([o.run_ms for o in outcomes]):5.0f}"
        f"{sum(o.far for o in outcomes):4}"
        f"{max(o.worst for o in outcomes):7.2f}"
        f"{jumps[0]:6.2f}m{jumps[1]:4.1f}°{np.mean(nees) if len(nees) else np.nan:6.1f}"
        f"{low:5.1f}-{high:4.1f} |{percents('smoothed'):>14}",
        flush=True,
    )
    moved = [outcome.kidnapped for outcome in outcomes if outcome.kidnapped]
    if moved:
        lost, found = np.max(moved, axis=0)
        print(f"    LOST {lost:.1f} s after the jump, TRACKING again {found:.1f} s later")
    if outcomes[0].bound:
        print(f"    the filter alone, told the true pose where it is not dark: {percents('bound')}")
    if outcomes[0].alarms is not None:
        print(f"    GNSS alarm in {100 * outcomes[0].alarms:.0f} % of the answers")


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
    exact, errors = np.diag(np.repeat([1e-8, 1e-10], 3)), []
    for sample in drive.odometry:
        stamp = sample.stamp_ns
        motion.add_odometry(sample)
        for measurement in imu.get(stamp, []):
            gyro.add(measurement)
        if stamp not in drive.frames:
            continue
        fix = Fix(stamp, drive.truth[stamp], exact)
        if case.conditions((stamp - START) / SECOND) != DARK and not (
            motion.initialized and motion.update(fix).accepted
        ):
            motion.initialize(fix)
        errors.append(motion.at(stamp).map_from_base.distance_to(fix.map_from_base))
    return np.array(errors)


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


def saved_rows(files: Sequence[Path]) -> list[Row]:
    """What runs kept, the drives of a condition together, in the order of the conditions."""
    rows: dict[str, Row] = {}
    for file in files:
        for values in json.loads(file.read_text()):
            outcomes = [Outcome(**outcome) for outcome in values.pop("outcomes")]
            row = rows.setdefault(values["name"], Row(values["name"]))
            row.outcomes += outcomes
            if values["seconds"]:
                rows[row.name] = Row(**values, outcomes=row.outcomes)
    for cases in (street_cases(), recording_cases()):
        names = [case.name for case in cases]
        if rows.keys() <= set(names):
            return sorted(rows.values(), key=lambda row: names.index(row.name))
    return list(rows.values())


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


COLORS = {"TRACKING": "tab:green", "COASTING": "tab:orange"}


def plot(rows: list[Row], path: Path) -> None:
    """Recall by condition, and error with its 3 σ and the state through the drives named."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(12, 6), layout="constrained")
    shown = [r for r in rows if "without a fix" in r.name or r.name == "kidnapped"]
    grid = figure.add_gridspec(max(len(shown), 1), 2, width_ratios=(1.1, 1))
    draw_bars(figure.add_subplot(grid[:, 0]), rows)
    for place, row in enumerate(shown):
        draw_error(figure.add_subplot(grid[place, 1]), row)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_bars(axes, rows: list[Row]) -> None:
    places = np.arange(len(rows))
    methods = {"single": "0.7", "sequence": "tab:blue", "smoothed": "tab:green"}
    for number, (method, color) in enumerate(methods.items()):
        values = [100 * row.share(method) for row in rows]
        label = {"single": "single frames", "sequence": "sequence, online"}.get(method, method)
        axes.barh(places + 0.27 * (number - 1), values, 0.25, color=color, label=label)
    axes.set_yticks(places, [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("frames within 0.25 m and 2° of the truth [%]")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)


def draw_error(axes, row: Row) -> None:
    seconds, state = np.array(row.seconds), np.array(row.state)
    error, sigma = np.array(row.error, float), np.array(row.sigma3, float)
    floor = 0.01
    axes.fill_between(seconds, floor, np.fmax(sigma, floor), color="0.88", label="3 σ")
    for name, color in COLORS.items():
        here = state == name
        axes.plot(seconds[here], np.fmax(error[here], floor), ".", ms=3, color=color, label=name)
    unknown = ~np.isin(state, list(COLORS))
    height = np.full(unknown.sum(), 1.5 * floor)
    axes.plot(seconds[unknown], height, "|", color="tab:red", label="no pose given")
    axes.set_yscale("log")
    known = np.concatenate([error, sigma])
    axes.set_ylim(floor, max(1.0, 20 * np.nanmax(known, initial=floor)))  # room for the legend
    axes.set_xlabel("seconds")
    axes.set_ylabel("position error [m]")
    axes.set_title(row.name, fontsize="medium")
    axes.legend(loc="upper center", ncols=4, fontsize="small", frameon=False)


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

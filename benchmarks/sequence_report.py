"""What benchmarks/sequence.py measured: kept, printed as a table, drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import chi2, gamma
from sequence_scenes import recording_cases, street_cases

LEVELS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
HEADER = (
    f"{'condition':27}{'single':>14}{'ms':>5} |{'sequence':>14}{'later':>14}{'ms':>5}{'far':>4}"
    f"{'worst':>7}{'jump':>12}{'NEES':>6}{'band':>10} |{'smoothed':>14}"
)
COLORS = {"TRACKING": "tab:green", "COASTING": "tab:orange"}


@dataclass(frozen=True)
class Outcome:
    """What a drive gave: recall by level, milliseconds, metres, degrees and seconds.

    Attributes:
        nees: of each answer with a pose from the fourth on.
        alarms: share of the answers with the GNSS alarm.
        kidnapped: until it was LOST, and then until it was TRACKING.
        bound: recall of the filter that is told the true pose where it is not dark.
        drawn: means of `nees` of drives that are as the filter's model says.
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
    drawn: list[float] | None = None


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


def nees_band(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """95 % band of the mean of the normalized errors squared of all answers of these drives.

    It is that of drives drawn by the filter's model, or where none were (motion from images,
    another place, another clock) that of 6 degrees of freedom over frames that are correlated
    as neighbours are, which takes what lasts for too short.
    """
    drawn = [outcome.drawn for outcome in outcomes if outcome.drawn]
    if len(drawn) == len(outcomes):
        means = np.mean(drawn, axis=0)
        shape = means.mean() ** 2 / means.var(ddof=1)
        return tuple(gamma.ppf([0.025, 0.975], shape, scale=means.mean() / shape))
    values = np.concatenate([outcome.nees for outcome in outcomes])
    if len(values) < 3:
        return np.nan, np.nan
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
    low, high = nees_band(outcomes)
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

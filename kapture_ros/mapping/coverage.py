"""Will it work tomorrow? Hold out images of a map and localize them against the rest.

Read from a map, written as `coverage.csv` (a row an instant), `coverage.md` (a row a
stretch of road) and `coverage.png` (a heat map on the trajectory).
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kapture_ros.files import new_output
from kapture_ros.localization.localizer import Localizer
from kapture_ros.mapping.gnss import map_from_rig
from kapture_ros.mapping.index import build_index
from kapture_ros.mapping.options import CoverageOptions
from kapture_ros.mapping.relocate import query_of
from kapture_ros.mapping.report import View, level_axes
from kapture_ros.mapping.subset import OpenMap, open_map, write_subset
from kapture_ros.mapping.visual_map import VisualMap

GOOD = (0.25, np.radians(2.0))  # metres, radians: the strict threshold of the benchmarks
WEAK_SHARE = 0.9  # a stretch with less than this localized is called weak


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What became of one instant that the map did not know.

    Attributes:
        way: metres driven until it.
        position: (3,) where it was.
        reason: the localizer's verdict, ACCEPTED or why not.
        metres, radians: error against the map's own pose; NaN without a pose.
    """

    stamp: int
    way: float
    position: tuple[float, float, float]
    reason: str
    inliers: int
    metres: float
    radians: float

    @property
    def good(self) -> bool:
        """Accepted, and right to within 0.25 m and 2°."""
        return self.reason == "ACCEPTED" and self.metres <= GOOD[0] and self.radians <= GOOD[1]


def write_coverage(map_dir: Path, out: Path, options: CoverageOptions, overwrite: bool) -> str:
    """Judge a map; returns the table.

    Raises:
        InputError: if it is no map.
        OutputError: if `out` exists already or cannot be written.
    """
    with new_output(out, overwrite=overwrite, inputs=[map_dir]) as folder:
        found = hold_out(open_map(map_dir), options.every)
        table = to_markdown(map_dir.name, found, options)
        (folder / "coverage.md").write_text(table + "\n", encoding="utf-8")
        _write_csv(folder / "coverage.csv", found)
        _plot(folder / "coverage.png", map_dir, found)
    return table


def hold_out(source: OpenMap, every: int) -> list[HeldOut]:
    """Localize every n-th instant against a map of the others.

    Its points were triangulated with the help of the images held out, and so are slightly
    better than a map without them would have.
    """
    images = source.images
    posed = np.flatnonzero(images.posed)
    instants = _by_time(images.frames[posed], images.stamps[posed])
    queries = instants[min(every // 2, len(instants) // 2) :: every]  # one of few, too
    rest = posed[~np.isin(images.frames[posed], queries)]
    everything = np.ones(len(source.structure.xyz), bool)
    with tempfile.TemporaryDirectory(dir=source.path.parent, prefix=".coverage-") as folder:
        smaller = Path(folder) / "map"
        write_subset(source, smaller, rest, everything)
        build_index(smaller)
        localizer = Localizer(VisualMap.load(smaller))
        way = _way(source, instants)
        return [
            _try(source, localizer, int(frame), way[int(frame)])
            for frame in tqdm(queries, "hold out", disable=None)
        ]


def _by_time(frames: npt.NDArray[np.int32], stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    unique, first = np.unique(frames, return_index=True)
    return unique[np.argsort(stamps[first], kind="stable")]


def _way(source: OpenMap, instants: npt.NDArray[np.int32]) -> dict[int, float]:
    """Metres driven until each instant; jumps between drives do not count."""
    positions = [_position(source, int(frame)) for frame in instants]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
    steps[steps > 20 * usual + 5.0] = 0.0
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return {int(frame): float(metres) for frame, metres in zip(instants, way, strict=True)}


def _position(source: OpenMap, frame: int) -> npt.NDArray[np.float64]:
    row = int(np.flatnonzero((source.images.frames == frame) & source.images.posed)[0])
    return map_from_rig(source.images, row).translation


def _try(source: OpenMap, localizer: Localizer, frame: int, way: float) -> HeldOut:
    images = source.images
    rows = np.flatnonzero((images.frames == frame) & images.posed).tolist()
    types = source.manifest.features
    query = query_of(images, rows, images.names, source.folders, types)
    estimate = localizer.localize(query)
    truth = map_from_rig(images, rows[0])
    metres, radians = np.nan, np.nan
    if estimate.map_from_base is not None:
        metres, radians = estimate.map_from_base.distance_to(truth)
    x, y, z = truth.translation.tolist()
    return HeldOut(
        int(images.stamps[rows[0]]), way, (x, y, z), estimate.reason.name,
        estimate.scores.inliers, metres, radians,
    )  # fmt: skip


def to_markdown(name: str, found: Sequence[HeldOut], options: CoverageOptions) -> str:
    """The summary and a row for every stretch of the way."""
    right = np.array([one.good for one in found])
    errors = np.array([one.metres for one in found])
    lines = [
        f"# Coverage of {name}",
        "",
        f"Every {options.every}th instant held out: {len(found)} localized against the rest, "
        f"{right.mean():.1%} accepted and within 0.25 m and 2°; median error "
        f"{_median(errors):.3f} m. The poses compared with are the map's own.",
        "",
        "| stretch [m] | instants | good | median error [m] | median inliers | refused because |",
        "|---|---|---|---|---|---|",
    ]
    stretch = (np.array([one.way for one in found]) // options.stretch).astype(int)
    for number in np.unique(stretch):
        rows = [one for one, at in zip(found, stretch, strict=True) if at == number]
        share = float(np.mean([one.good for one in rows]))
        refused = sorted({one.reason for one in rows} - {"ACCEPTED"})
        weak = " **weak**" if share < WEAK_SHARE else ""
        low = number * options.stretch
        lines.append(
            f"| {low:g}–{low + options.stretch:g} | {len(rows)} | {share:.0%}{weak} | "
            f"{_median([one.metres for one in rows]):.3f} | "
            f"{_median([one.inliers for one in rows]):.0f} | {', '.join(refused) or '–'} |"
        )
    return "\n".join(lines)


def _median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else float("nan")


def _write_csv(path: Path, found: Sequence[HeldOut]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["stamp", "way_m", "x", "y", "z", "reason", "inliers", "error_m", "error_deg"]
        )
        for one in found:
            rows.writerow(
                [one.stamp, f"{one.way:.2f}", *(f"{v:.3f}" for v in one.position), one.reason,
                 one.inliers, f"{one.metres:.4f}", f"{np.degrees(one.radians):.4f}"]
            )  # fmt: skip


def _plot(path: Path, map_dir: Path, found: Sequence[HeldOut]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    loaded = VisualMap.load(map_dir)
    level = level_axes(loaded)
    centers = loaded.image_centers[:, level]
    places = np.array([one.position for one in found])[:, level]
    view = View.of(centers, places)
    figure, axes = plt.subplots(figsize=view.size, layout="constrained")
    axes.scatter(centers[:, 0], centers[:, 1], s=3, c="0.8", label="map images")
    answered = np.array([one.reason == "ACCEPTED" for one in found])
    errors = np.array([one.metres for one in found])
    drawn = axes.scatter(
        places[answered, 0], places[answered, 1], c=np.minimum(errors[answered], 1.0), s=30,
        cmap="RdYlGn_r", vmin=0.0, vmax=1.0, label="localized",
    )  # fmt: skip
    axes.scatter(
        places[~answered, 0], places[~answered, 1], c="black", marker="x", s=40, label="refused"
    )
    figure.colorbar(drawn, ax=axes, label="error [m], 1 m and more in red", shrink=0.7)
    axes.set(
        **view.settings,
        xlabel=f"{'xyz'[level[0]]} [m]",
        ylabel=f"{'xyz'[level[1]]} [m]",
        title=f"Coverage of {map_dir.name}",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)

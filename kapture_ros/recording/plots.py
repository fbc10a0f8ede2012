"""Pictures of a dataset: where it was recorded, and when messages came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from kapture_ros.dataset.reader import Dataset
from kapture_ros.dataset.records import GnssRecord, OdometryRecord
from kapture_ros.errors import OutputError
from kapture_ros.messages.gnss import is_vouched_for
from kapture_ros.messages.table import TRANSFORMS
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array

NANOSECONDS = 1_000_000_000
MAX_BINS = 600
MIN_SHARED = 5
Stamps = npt.NDArray[np.int64]


def write_plots(dataset: Dataset, folder: Path) -> list[Path]:
    """Write the pictures that the dataset has something for.

    Raises:
        InputError: if the dataset cannot be read.
        OutputError: if a picture cannot be written.
    """
    written = []
    for name, figure in (
        ("trajectory.png", plot_trajectory(dataset)),
        ("rates.png", plot_rates(dataset)),
    ):
        if figure is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / name, dpi=110, bbox_inches="tight")
        except OSError as error:
            raise OutputError(f"cannot write {folder / name}: {error.strerror}") from error
        written.append(folder / name)
    return written


def plot_trajectory(dataset: Dataset) -> Figure | None:
    """Where the drive went, from above in metres, with the GNSS fixes laid over it.

    The path is the dataset's trajectory, or else its longest odometry. GNSS fixes are turned
    and moved (not scaled) onto it if both cover the same time. Without a path they are it.
    """
    title, path = _path(dataset)
    fixes = _gnss_points(dataset)
    if not len(path) and not len(fixes):
        return None
    figure = Figure(figsize=(7.5, 6.5))
    axes = figure.add_subplot()
    labels = ("x [m]", "y [m]")
    if not len(path):
        title, path, fixes, labels = "GNSS", fixes, fixes[:0], ("east [m]", "north [m]")
    seconds = path[:, 0] - path[0, 0]
    dots = axes.scatter(path[:, 1], path[:, 2], c=seconds, s=6, cmap="viridis", label=title)
    axes.plot(path[0, 1], path[0, 2], "k^", label="start")
    heading = f"{title}: {len(path)} positions"
    if len(fixes) and (aligned := _onto(path, fixes)) is not None:
        points, error = aligned
        label = f"GNSS, turned and moved onto it (rms {error:.2f} m)"
        axes.plot(points[:, 0], points[:, 1], "+", color="tab:red", ms=4, alpha=0.6, label=label)
        heading += f", {len(fixes)} GNSS fixes"
    axes.set(xlabel=labels[0], ylabel=labels[1], title=heading)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    figure.colorbar(dots, ax=axes, label="time [s]", shrink=0.8)
    return figure


def plot_rates(dataset: Dataset) -> Figure | None:
    """Records a second of every sensor over time; gaps show as dips to zero."""
    stamps = {name: values for name, values in _stamps(dataset) if len(values) > 1}
    if not stamps:
        return None
    start = min(int(values[0]) for values in stamps.values())
    end = max(int(values[-1]) for values in stamps.values())
    seconds = max((end - start) / NANOSECONDS, 1.0)
    figure = Figure(figsize=(11, 1.1 + 1.0 * len(stamps)))
    for number, (name, values) in enumerate(stamps.items(), 1):
        axes = figure.add_subplot(len(stamps), 1, number)
        edges = _bin_edges(values, seconds)
        counts, _ = np.histogram((values - start) / NANOSECONDS, edges)
        axes.stairs(counts / np.diff(edges), edges, fill=True, alpha=0.7)
        axes.set_xlim(0, seconds)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Hz")
        axes.set_title(name, loc="left", fontsize=9)
        axes.label_outer()
        axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("time [s]")
    figure.tight_layout()
    return figure


def _bin_edges(stamps: Stamps, seconds: float) -> Array:
    """Bins of a second, or of a few intervals of a slow sensor: fewer would show the beat."""
    usual = float(np.median(np.diff(stamps))) / NANOSECONDS
    width = max(1.0, 5 * usual, seconds / MAX_BINS)
    return np.linspace(0, seconds, max(1, int(seconds / width)) + 1)


def _path(dataset: Dataset) -> tuple[str, Array]:
    """What moves, and (N, 4): seconds and position in its world."""
    rows = [
        (row.stamp_ns / NANOSECONDS, *row.device_from_world.inverse().translation)
        for row in dataset.trajectory()
    ]
    title = "trajectory"
    if not rows:
        for sensor in dataset.sensors.values():
            if sensor.kind != "odometry" or sensor.origin.get("type") in TRANSFORMS:
                continue
            found = [
                (record.stamp_ns / NANOSECONDS, *record.parent_from_child.translation)
                for record in dataset.records(sensor.sensor_id)
                if isinstance(record, OdometryRecord)
            ]
            title, rows = max((title, rows), (sensor.sensor_id, found), key=lambda it: len(it[1]))
    return title, np.array(sorted(rows)).reshape(-1, 4)


def _onto(path: Array, fixes: Array) -> tuple[Array, float] | None:
    """Fixes (M, 2) in the frame of the path, and how far they lie off it.

    The least-squares turn and shift between the two at the same time, in the plane, where
    complex numbers are points; None if they share less than a few instants, or stand still.
    """
    inside = (fixes[:, 0] >= path[0, 0]) & (fixes[:, 0] <= path[-1, 0])
    here = fixes[inside, 1] + 1j * fixes[inside, 2]
    if len(here) < MIN_SHARED:
        return None
    there = np.interp(fixes[inside, 0], path[:, 0], path[:, 1]) + 1j * np.interp(
        fixes[inside, 0], path[:, 0], path[:, 2]
    )
    turn = np.vdot(here - here.mean(), there - there.mean())
    if abs(turn) < 1e-9:
        return None
    turn /= abs(turn)
    shift = there.mean() - turn * here.mean()
    error = float(np.sqrt(np.mean(np.abs(turn * here + shift - there) ** 2)))
    moved = turn * (fixes[:, 1] + 1j * fixes[:, 2]) + shift
    return np.column_stack([moved.real, moved.imag]), error


def _gnss_points(dataset: Dataset) -> Array:
    """(N, 4): seconds, then metres east, north and up of the first fix.

    Of fixes that their receivers vouch for, as a map would take them.
    """
    rows = []
    for sensor in dataset.sensors.values():
        if sensor.kind == "gnss":
            for record in dataset.records(sensor.sensor_id):
                assert isinstance(record, GnssRecord)
                place = (record.latitude, record.longitude, record.altitude)
                if np.isfinite(place).all() and is_vouched_for(record.extra):
                    rows.append((record.stamp_ns / NANOSECONDS, *place))
    if not rows:
        return np.empty((0, 4))
    fixes = np.array(sorted(rows))
    enu = Datum(*fixes[0, 1:]).map_from_geodetic(*fixes[:, 1:].T)
    return np.column_stack([fixes[:, 0], enu])


def _stamps(dataset: Dataset) -> Iterator[tuple[str, Stamps]]:
    for sensor_id in dataset.sensors:
        found = sorted(record.stamp_ns for record in dataset.records(sensor_id))
        yield sensor_id, np.array(found, np.int64)

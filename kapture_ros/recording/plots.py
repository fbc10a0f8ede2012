"""Pictures of a dataset: where it was recorded, and when messages came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kapture_ros.dataset.reader import Dataset
from kapture_ros.dataset.records import GnssRecord
from kapture_ros.errors import OutputError
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array

NANOSECONDS = 1_000_000_000
MAX_BINS = 600


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
    """The dataset's trajectory beside its GNSS fixes, both from above, in metres.

    The two have frames of their own (GNSS is shown east and north of its first fix), so
    they are laid side by side rather than over each other.
    """
    panels = [
        (title, axes, points)
        for title, axes, points in (
            ("trajectory", ("x [m]", "y [m]"), _trajectory_points(dataset)),
            ("GNSS", ("east [m]", "north [m]"), _gnss_points(dataset)),
        )
        if len(points)
    ]
    if not panels:
        return None
    figure = Figure(figsize=(6.5 * len(panels), 6))
    for number, (title, labels, points) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        seconds = points[:, 0] - points[0, 0]
        dots = axes.scatter(points[:, 1], points[:, 2], c=seconds, s=6, cmap="viridis")
        axes.plot(points[0, 1], points[0, 2], "k^", label="start")
        axes.set(xlabel=labels[0], ylabel=labels[1], title=f"{title} ({len(points)} positions)")
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
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
    edges = np.linspace(0, seconds, int(min(max(seconds, 2), MAX_BINS)) + 1)
    figure = Figure(figsize=(11, 1.1 + 1.0 * len(stamps)))
    for number, (name, values) in enumerate(stamps.items(), 1):
        axes = figure.add_subplot(len(stamps), 1, number)
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


def _trajectory_points(dataset: Dataset) -> Array:
    """(N, 4): seconds and position in the world."""
    rows = [
        (row.stamp_ns / NANOSECONDS, *row.device_from_world.inverse().translation)
        for row in dataset.trajectory()
    ]
    return np.array(rows).reshape(-1, 4)


def _gnss_points(dataset: Dataset) -> Array:
    """(N, 4): seconds, then metres east, north and up of the first fix."""
    rows = []
    for sensor in dataset.sensors.values():
        if sensor.kind == "gnss":
            for record in dataset.records(sensor.sensor_id):
                assert isinstance(record, GnssRecord)
                place = (record.latitude, record.longitude, record.altitude)
                if np.isfinite(place).all():
                    rows.append((record.stamp_ns / NANOSECONDS, *place))
    if not rows:
        return np.empty((0, 4))
    fixes = np.array(sorted(rows))
    enu = Datum(*fixes[0, 1:]).map_from_geodetic(*fixes[:, 1:].T)
    return np.column_stack([fixes[:, 0], enu])


def _stamps(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    for sensor_id in dataset.sensors:
        found = sorted(record.stamp_ns for record in dataset.records(sensor_id))
        yield sensor_id, np.array(found, np.int64)

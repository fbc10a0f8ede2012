"""What is in a map, as text and as a plot from above."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kapture_ros.errors import OutputError
from kapture_ros.localization.map_error import ENOUGH, MapError
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, rotations

SHOWN_POINTS = 50_000
SAMPLED = 200  # images that the error of the map is told of


def summary(map_dir: Path) -> str:
    """A map in a few lines.

    Raises:
        InputError: if it is no map.
    """
    loaded = VisualMap.load(map_dir)
    manifest, points = loaded.manifest, loaded.points
    seen = points.track_length > 0
    track = float(np.mean(points.track_length[seen])) if seen.any() else 0.0
    lines = [
        f"map {map_dir} ({loaded.map_id})",
        f"  images {len(loaded)}, cameras {len(np.unique(loaded.image_camera))}, "
        f"instants {int(loaded.image_frames.max()) + 1}",
        f"  points {len(points)}, mean track {track:.2f}, "
        f"observations an image {len(loaded.observation_points) / len(loaded):.0f}",
        f"  features {manifest.features.keypoints}, {manifest.features.global_features}",
        f"  scale {'metric' if manifest.metric else 'UNKNOWN: positions are not in metres'}",
        _datum_line(loaded),
    ]
    if manifest.bounds:
        size = np.subtract(manifest.bounds[1], manifest.bounds[0])
        lines.append("  extent " + " × ".join(f"{edge:.1f}" for edge in size) + " m")
    lines.append(_error_line(loaded))
    if len(loaded.gnss.stamps) or len(loaded.wifi.positions):
        lines.append(f"  priors {len(loaded.gnss.stamps)} GNSS fixes, "
                     f"{len(loaded.wifi.positions)} Wi-Fi scans")  # fmt: skip
    if manifest.sessions:
        lines.append("  sessions " + ", ".join(manifest.sessions))
    lines += [f"  warning: {warning}" for warning in manifest.record.get("warnings", ())]
    return "\n".join(lines)


def _error_line(loaded: VisualMap) -> str:
    error = MapError(loaded)
    if not error.measured:
        few = len(np.unique(loaded.image_frames)) < ENOUGH
        return "  own error not measured: " + (
            f"fewer than {ENOUGH} instants do not tell" if few else "`kapture_ros map measure`"
        )
    some = loaded.image_centers[:: max(len(loaded) // SAMPLED, 1)]
    found = [np.diagonal(error.covariance(center, error.usual_own))[[0, 3]] for center in some]
    metres, radians = np.sqrt(np.median(found, axis=0))
    line = f"  own error {metres:.3f} m, {np.degrees(radians):.2f}° near its images (one sigma)"
    rate = loaded.drift_rate
    return line + (f", its poses drift by {100 * rate:g} % of the way" if rate > 0 else "")


def _datum_line(loaded: VisualMap) -> str:
    if loaded.datum is None:
        return "  datum none: the map is not tied to the Earth"
    datum = loaded.datum
    return (
        f"  datum {datum.latitude:.7f}°, {datum.longitude:.7f}°, {datum.altitude:.2f} m, "
        f"yaw {np.degrees(datum.yaw):.2f}°"
    )


def plot_map(map_dir: Path, path: Path) -> None:
    """Draw cameras, points and GNSS fixes from above.

    Raises:
        OutputError: if the file cannot be written or its format is unknown.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    loaded = VisualMap.load(map_dir)
    every = max(1, len(loaded.points) // SHOWN_POINTS)
    level = level_axes(loaded)
    xy = loaded.points.xyz[::every][:, level]
    centers = loaded.image_centers[:, level]
    view = View.of(centers, xy)
    figure, axes = plt.subplots(figsize=view.size, layout="constrained")
    axes.scatter(xy[:, 0], xy[:, 1], s=0.5, c="0.6", label="points", rasterized=True)
    if len(loaded.gnss.stamps):
        fixes = loaded.gnss.positions[:, level]
        axes.scatter(fixes[:, 0], fixes[:, 1], s=8, c="tab:green", marker="x", label="GNSS")
    observed = np.diff(loaded.observation_offsets)
    drawn = axes.scatter(
        centers[:, 0], centers[:, 1], s=10, c=observed, cmap="viridis", label="cameras"
    )
    figure.colorbar(drawn, ax=axes, label="points observed", shrink=0.7)
    axes.set(
        **view.settings,
        xlabel=f"{'xyz'[level[0]]} [m]",
        ylabel=f"{'xyz'[level[1]]} [m]",
        title=f"{map_dir.name}: {len(loaded)} images, {len(loaded.points)} points",
    )
    axes.legend(loc="upper right")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    finally:
        plt.close(figure)


def level_axes(loaded: VisualMap) -> list[int]:
    """The two axes of a view from above: x and y, unless the cameras say that up is not z."""
    poses = loaded.image_poses
    up = rotations(poses[:, :4]).inv().apply([0.0, -1.0, 0.0]).mean(axis=0)
    upward = int(np.argmax(np.abs(up))) if np.linalg.norm(up) > 0.5 else 2
    return [axis for axis in range(3) if axis != upward]


@dataclass(frozen=True, slots=True)
class View:
    """The part of a plane that is drawn: its corners (2,), in metres."""

    low: Array
    high: Array

    @classmethod
    def of(cls, centers: Array, points: Array) -> View:
        """All cameras (N, 2) and most points (M, 2): some are far away."""
        near = np.percentile(points, [10, 90], axis=0) if len(points) else centers
        known = np.vstack([centers, near])
        low, high = known.min(axis=0), known.max(axis=0)
        margin = 0.05 * (high - low).max() + 1.0
        return cls(low - margin, high + margin)

    @property
    def size(self) -> tuple[float, float]:
        """Of a figure that it fills, in inches."""
        width, height = self.high - self.low
        return 10.0, float(np.clip(8.0 * height / width, 3.0, 12.0))

    @property
    def settings(self) -> dict[str, Any]:
        """For the axes it is drawn in."""
        (left, bottom), (right, top) = self.low, self.high
        return {"xlim": (left, right), "ylim": (bottom, top), "aspect": "equal"}

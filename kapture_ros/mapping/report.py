"""What is in a map, as text and as a plot from above."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kapture_ros.errors import OutputError
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array

SHOWN_POINTS = 50_000


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
    if len(loaded.gnss.stamps) or len(loaded.wifi.positions):
        lines.append(f"  priors {len(loaded.gnss.stamps)} GNSS fixes, "
                     f"{len(loaded.wifi.positions)} Wi-Fi scans")  # fmt: skip
    if manifest.sessions:
        lines.append("  sessions " + ", ".join(manifest.sessions))
    lines += [f"  warning: {warning}" for warning in manifest.record.get("warnings", ())]
    return "\n".join(lines)


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
    xyz = loaded.points.xyz[::every]
    low, high = _shown(loaded.image_centers[:, :2], xyz[:, :2])
    height = 8.0 * (high[1] - low[1]) / (high[0] - low[0])
    figure, axes = plt.subplots(figsize=(10, np.clip(height, 4, 12)), layout="constrained")
    axes.scatter(xyz[:, 0], xyz[:, 1], s=0.5, c="0.6", label="points", rasterized=True)
    if len(loaded.gnss.stamps):
        fixes = loaded.gnss.positions
        axes.scatter(fixes[:, 0], fixes[:, 1], s=8, c="tab:green", marker="x", label="GNSS")
    centers = loaded.image_centers
    observed = np.diff(loaded.observation_offsets)
    drawn = axes.scatter(
        centers[:, 0], centers[:, 1], s=10, c=observed, cmap="viridis", label="cameras"
    )
    figure.colorbar(drawn, ax=axes, label="points observed", shrink=0.7)
    axes.set(
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        aspect="equal",
        xlabel="x [m]",
        ylabel="y [m]",
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


def _shown(centers: Array, points: Array) -> tuple[Array, Array]:
    """Corners (2,) of a view that holds all cameras and most points: some are far away."""
    near = np.percentile(points, [10, 90], axis=0) if len(points) else centers
    known = np.vstack([centers, near])
    low, high = known.min(axis=0), known.max(axis=0)
    margin = 0.05 * (high - low).max() + 1.0
    return low - margin, high + margin

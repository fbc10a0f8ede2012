"""How well does Wi-Fi alone tell the place? Leave-one-walk-out on the shopping-mall walks.

Every scan between two way points is located among the scans of all other walks; beside it
k nearest neighbours of the same fingerprints in the same run.

    python benchmarks/wifi.py ../shared/data/wifi_walks
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from kapture_ros.localization.wifi import WifiLocator
from kapture_ros.mapping.visual_map import WifiScans

NEIGHBOURS = (1, 3, 5, 9)
MISSING_DBM = -100.0


def read_walk(path: Path, max_age_ms: int) -> list[tuple[np.ndarray, dict[str, float]]]:
    """Scans of one walk with their places, straight between the surveyed way points."""
    points, scans = [], defaultdict(dict)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = line.split("\t")
        if len(cells) < 4:
            continue
        if cells[1] == "TYPE_WAYPOINT":
            points.append((int(cells[0]), float(cells[2]), float(cells[3])))
        elif cells[1] == "TYPE_WIFI" and int(cells[0]) - int(cells[6]) <= max_age_ms:
            scans[int(cells[0])][cells[3]] = float(cells[4])
    points.sort()
    if len(points) < 2:
        return []
    times, xs, ys = (np.array(column, float) for column in zip(*points, strict=True))
    return [
        (np.array([np.interp(stamp, times, xs), np.interp(stamp, times, ys), 0.0]), heard)
        for stamp, heard in sorted(scans.items())
        if times[0] <= stamp <= times[-1]
    ]


def fingerprints(scans: list[tuple[np.ndarray, dict[str, float]]]) -> WifiScans:
    """As the map's index stores them."""
    bssids = sorted({bssid for _, heard in scans for bssid in heard})
    row_of = {bssid: row for row, bssid in enumerate(bssids)}
    return WifiScans(
        np.array([place for place, _ in scans]),
        np.cumsum([0] + [len(heard) for _, heard in scans]),
        np.array([row_of[bssid] for _, heard in scans for bssid in heard], np.int32),
        np.array([rssi for _, heard in scans for rssi in heard.values()], np.float32),
        tuple(bssids),
    )


def nearest_neighbours(scans: WifiScans, queries: list[dict[str, float]]) -> dict[int, np.ndarray]:
    """The baseline: mean place of the k scans with the most similar strengths."""
    column = {bssid: row for row, bssid in enumerate(scans.bssids)}
    known = np.full((len(scans.positions), len(column)), MISSING_DBM, np.float32)
    owner = np.repeat(np.arange(len(scans.positions)), np.diff(scans.offsets))
    known[owner, scans.bssid] = scans.rssi
    asked = np.full((len(queries), len(column)), MISSING_DBM, np.float32)
    for row, heard in enumerate(queries):
        for bssid, rssi in heard.items():
            if bssid in column:
                asked[row, column[bssid]] = rssi
    distance = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2 * asked @ known.T
    order = np.argsort(distance, axis=1)
    return {k: scans.positions[order[:, :k]].mean(axis=1) for k in NEIGHBOURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("walks", type=Path)
    parser.add_argument(
        "--max-age", type=int, default=5000, help="ms; older readings are of another place"
    )
    args = parser.parse_args()
    walks = [read_walk(path, args.max_age) for path in sorted(args.walks.glob("*.txt"))]
    walks = [walk for walk in walks if walk]
    errors: dict[str, list[float]] = defaultdict(list)
    inside = []
    for number, walk in enumerate(walks):
        others = fingerprints([scan for n, w in enumerate(walks) if n != number for scan in w])
        truth = np.array([place for place, _ in walk])
        heard = [scan for _, scan in walk]
        for k, places in nearest_neighbours(others, heard).items():
            errors[f"{k} nearest"] += np.linalg.norm(places - truth, axis=1).tolist()
        locator = WifiLocator(others)
        for place, scan in walk:
            found = locator.locate(scan)
            if found is None:
                errors["unknown"].append(np.inf)
                continue
            error = float(np.linalg.norm(found.position_map - place))
            errors["kapture_ros"].append(error)
            inside.append(error < 2.45 * found.sigma)  # 95 % of a 2D Gaussian
    print(f"{len(walks)} walks, {sum(map(len, walks))} scans, readings up to {args.max_age} ms old")
    print(f"{'method':<12} {'median':>7} {'mean':>7} {'75 %':>7} {'95 %':>7}  metres")
    for name, values in errors.items():
        if name != "unknown":
            q = np.percentile(values, [50, 75, 95])
            print(f"{name:<12} {q[0]:7.2f} {np.mean(values):7.2f} {q[1]:7.2f} {q[2]:7.2f}")
    print(f"not known to the map: {len(errors['unknown'])}")
    print(f"within the stated 95 %: {np.mean(inside):.1%}")
    print(json.dumps({name: float(np.median(v)) for name, v in errors.items() if v}))


if __name__ == "__main__":
    main()

"""How fast does the simulated drive render, and can its two laps be matched?

    python benchmarks/simulate.py [--light night] [--queries 20]

Renders images of both laps and prints the time they took. Then SIFT (OpenCV's, 2000
keypoints, mutual nearest neighbours, ratio 0.8) matches the second lap to the first: a
match is correct if the point, moved by the true depth and poses, lies within 4 pixels.
Inliers of a fundamental matrix (MAGSAC) show what a matcher without ground truth sees, at
the same place, elsewhere in the street, at places made to look alike, in another street.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.camera import OPTICAL_FROM_LINK, Camera
from kapture_ros.simulation.drive import Exposure, Photographer
from kapture_ros.simulation.exposure import develop
from kapture_ros.simulation.light import NAMES, make_light
from kapture_ros.simulation.options import DriveOptions, QueryOptions, StreetOptions, laps
from kapture_ros.simulation.street import World, build_world
from kapture_ros.simulation.vehicle import make_camera
from kapture_ros.transforms.se3 import Transform

DRIVE = DriveOptions()
CORRECT = 4.0  # pixels
SIFT = cv2.SIFT_create(2000)


@dataclass(frozen=True, slots=True)
class View:
    """An image with its keypoints, exact depth and pose."""

    camera: Camera
    map_from_camera: Transform
    depth: np.ndarray
    pixels: np.ndarray
    descriptors: np.ndarray


def describe(image: np.ndarray, camera: Camera, pose: Transform, depth: np.ndarray) -> View:
    keypoints, descriptors = SIFT.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), None)
    return View(camera, pose, depth, cv2.KeyPoint_convert(keypoints), descriptors)


class Lap:
    """Views of one lap in one street."""

    def __init__(self, number: int, street: StreetOptions, query: QueryOptions):
        self.lap = laps(query)[number - 1]
        begin = time.perf_counter()
        self.world: World = build_world(street, self.lap.changes)
        self.build_seconds = time.perf_counter() - begin
        self.photographer = Photographer(self.lap, self.world, DRIVE)
        self.light = make_light(self.lap.light, 1)
        self.seconds: list[float] = []

    def view(self, name: str, at: float) -> View:
        camera = make_camera(name, DRIVE.width, DRIVE.height)
        begin = time.perf_counter()
        image, _ = self.photographer.take(Exposure(camera, int(at * 10), at, depth=False))
        self.seconds.append(time.perf_counter() - begin)
        pose = self.photographer.trajectory.pose(at) @ camera.base_from_camera
        depth = self.world.renderer.render(camera, pose, self.light).depth
        return describe(image, camera, pose, depth)

    def facing(self, place: tuple[float, float], yaw: float) -> View:
        """What is seen from a place on the pavement's edge, looking along `yaw`."""
        camera = make_camera("front", DRIVE.width, DRIVE.height)
        turned = Rotation.from_euler("z", yaw) * OPTICAL_FROM_LINK.inv()
        back = 4.0 * np.array([np.cos(yaw), np.sin(yaw)])
        pose = Transform(turned, np.array([*(np.array(place) - back), 1.5]))
        rendering = self.world.renderer.render(camera, pose, self.light)
        image = develop(rendering.radiance, np.random.default_rng(0), 1.0)
        return describe(image, camera, pose, rendering.depth)


def match(query: View, reference: View) -> np.ndarray:
    """Indices (M, 2) of mutual nearest neighbours that pass the ratio test both ways."""
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    found = []
    for one, two in ((query, reference), (reference, query)):
        pairs = matcher.knnMatch(one.descriptors, two.descriptors, k=2)
        best = [m for m, n in pairs if m.distance < 0.8 * n.distance]
        found.append({(m.queryIdx, m.trainIdx) for m in best})
    mutual = sorted(found[0] & {(b, a) for a, b in found[1]})
    return np.array(mutual, int).reshape(-1, 2)


def count_correct(query: View, reference: View, matches: np.ndarray) -> int:
    """Matches that the true depth and poses confirm."""
    pixels = query.pixels[matches[:, 0]]
    columns, rows = np.round(pixels).astype(int).T
    rays = query.camera.rays(pixels)
    points = rays / rays[:, 2:] * query.depth[rows, columns][:, None]
    moved = (reference.map_from_camera.inverse() @ query.map_from_camera).apply(
        np.where(np.isfinite(points), points, 1e6)
    )
    error = reference.camera.project(moved) - reference.pixels[matches[:, 1]]
    with np.errstate(invalid="ignore"):
        return int((np.hypot(*error.T) < CORRECT).sum())


def count_inliers(query: View, reference: View, matches: np.ndarray) -> int:
    """Matches that agree with some fundamental matrix."""
    if len(matches) < 8:
        return 0
    rays = [v.camera.rays(v.pixels[matches[:, i]]) for i, v in enumerate((query, reference))]
    plane = [
        r[:, :2] / r[:, 2:] * v.camera.focal for r, v in zip(rays, (query, reference), strict=True)
    ]
    cv2.setRNGSeed(0)
    _, mask = cv2.findFundamentalMat(*plane, cv2.USAC_MAGSAC, 2.0, 0.999, 5000)
    return 0 if mask is None else int(mask.sum())


def row(title: str, pairs: list[tuple[View, View]]) -> None:
    numbers = []
    for query, reference in pairs:
        matches = match(query, reference)
        inliers = count_inliers(query, reference, matches)
        numbers.append((len(matches), count_correct(query, reference, matches), inliers))
    m, c, i = np.median(numbers, axis=0)
    low, high = np.min(numbers, axis=0)[2], np.max(numbers, axis=0)[2]
    print(f"| {title} | {len(pairs)} | {m:.0f} | {c:.0f} | {i:.0f} ({low}-{high}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--light", default="afternoon", choices=NAMES)
    parser.add_argument("--queries", type=int, default=20)
    args = parser.parse_args()
    query = QueryOptions(light=args.light)
    first, second = (Lap(n, StreetOptions(), query) for n in (1, 2))
    elsewhere = Lap(2, StreetOptions(street=7), query)
    times = np.linspace(1.0, 57.0, args.queries)
    mapped = [first.view("front", t) for t in np.arange(0.5, 59.5, 0.5)]
    places = np.array([v.map_from_camera.translation for v in mapped])
    queries = [second.view("front", t) for t in times]
    strangers = [elsewhere.view("front", t) for t in times[::2]]
    nearest = [
        int(np.argmin(np.linalg.norm(places - q.map_from_camera.translation, axis=1)))
        for q in queries
    ]
    across = len(mapped) // 2
    print(f"{platform.machine()}, {os.cpu_count()} processors, {DRIVE.width}×{DRIVE.height}")
    print(f"street built in {first.build_seconds:.1f} s and {second.build_seconds:.1f} s")
    for lap in (first, second):
        took = np.array(lap.seconds)
        print(f"{lap.lap.light}: {np.median(took):.2f} s an image, one at a time "
              f"({np.min(took):.2f}-{np.max(took):.2f})")  # fmt: skip
    print("\n| lap 2 against lap 1 | pairs | matches | correct | inliers |\n|---|---|---|---|---|")
    row("same place", [(q, mapped[i]) for q, i in zip(queries, nearest, strict=True)])
    far = [(q, mapped[(i + across) % len(mapped)]) for q, i in zip(queries, nearest, strict=True)]
    row("another place", far)
    row("another street", [(q, mapped[i]) for q, i in zip(strangers, nearest[::2], strict=True)])
    alike = []
    for one, two in first.world.lookalikes:
        outward = np.pi / 2 * np.sign(one[1])  # the façades of a pair look north and south
        alike.append((first.facing(one, outward), first.facing(two, -outward)))
    row("made to look alike", alike)


if __name__ == "__main__":
    main()

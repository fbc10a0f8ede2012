"""How long does an image take from memory to pose, stage by stage, as the map grows?

The image is looked at by real networks; the map is made around what they find: 20 of its
images share half of the keypoints, at random depths and with noise, the rest of them are
other places with synthetic global descriptors, as smooth along the drive as real ones. So
every answer has a truth and is checked. The last column is how many images a second are
answered one after the other, as the node does it.

    python benchmarks/localize.py                                2 cores, 640×480
    python benchmarks/localize.py --device cuda                  1024×768, up to 1M images
    python benchmarks/localize.py --local random --global random networks of NAVER's size
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch

from kapture_ros.errors import InputError
from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net, normalise_images
from kapture_ros.features.weights_file import find_weights, save_network
from kapture_ros.localization.extractor import NetworkExtractor
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import LocalizerOptions
from kapture_ros.localization.query import Query, QueryFeatures, QueryImage
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.options import MatchOptions
from kapture_ros.mapping.retrieval_index import RetrievalIndex, build_lists, storage_type
from kapture_ros.mapping.visual_map import ImageFeatures
from kapture_ros.transforms.se3 import Transform

NEAR = 20  # map images of the query's place
SHARED = 0.3  # of the query's keypoints are points of the map
SEEN = 0.5  # of these, in each map image
CLUTTER = 300  # other points of each map image: 600 in all, real maps have 200 to 530
KEYPOINTS = 2000
KNOT = 16  # map images after which the place looks different
BLOCK = 65_536  # descriptors made at random; further ones are these with columns rolled
SIZES = {"cpu": (1_000, 10_000, 100_000), "cuda": (1_000, 10_000, 100_000, 1_000_000)}
PIXELS = {"cpu": (640, 480), "cuda": (1024, 768)}
STAGES = ("extraction", "retrieval", "matching", "pose", "total")
WARM_UP = 5


class SyntheticMap:
    """What a localizer asks of a `VisualMap`, made around one query image."""

    path = Path("synthetic")
    datum = None
    wifi = SimpleNamespace(positions=())
    manifest = SimpleNamespace(poses_estimated=False)
    held_out = np.empty((0, 6))  # its own error is not known
    weighs_points = True
    drift_rate = 0.0
    twins = np.empty((0, 2))

    def __init__(self, seen: QueryFeatures, camera: Camera, retrieval: RetrievalIndex):
        self.feature_types = seen.types
        self.retrieval = retrieval
        rng = np.random.default_rng(1)
        self.truth = Transform.exp([0.3, -0.2, 0.5, 0.02, 0.1, -0.03])
        shared = np.sort(rng.permutation(len(seen.keypoints))[: int(SHARED * len(seen.keypoints))])
        fx, fy, cx, cy = camera.params
        rays = (seen.keypoints[shared, :2] - (cx, cy)) / (fx, fy)
        pixels = seen.keypoints[shared]
        depth = rng.uniform(4, 40, len(shared))
        points = self.truth.apply(np.column_stack([rays, np.ones(len(shared))]) * depth[:, None])
        other = rng.uniform(-40, 40, (NEAR * CLUTTER, 3))
        xyz = np.concatenate([points, other])
        variance = np.array([1e-3, 0, 0, 1e-3, 0, 1e-3], np.float32)
        ray = xyz - self.truth.translation
        distance = np.linalg.norm(ray, axis=1)
        length = np.repeat([round(NEAR * SEEN), 1], [len(points), len(other)])
        covariance = np.tile(variance, (len(xyz), 1))
        self.points = Points(xyz, covariance, ray / distance[:, None], distance, length)
        self._blocks = []
        for number in range(NEAR):
            rows = np.flatnonzero(rng.random(len(shared)) < SEEN)
            known = seen.descriptors[shared[rows]] + rng.normal(0, 0.02, (len(rows), 1))
            clutter = rng.normal(0, 1, (CLUTTER, known.shape[1]))
            clutter /= np.linalg.norm(clutter, axis=1, keepdims=True)
            numbers = len(shared) + number * CLUTTER + np.arange(CLUTTER)
            described = np.concatenate([known, clutter]).astype(np.float16)
            place = np.concatenate([rows, numbers]).astype(np.int32)
            shown = np.concatenate([pixels[rows], rng.uniform(0, 480, (CLUTTER, 2))])
            self._blocks.append(ImageFeatures(described, place, shown.astype(np.float32)))

    def __len__(self) -> int:
        return len(self.retrieval.descriptors)

    def features(self, image: int) -> ImageFeatures:
        """The first images are those of the query's place."""
        return self._blocks[image % NEAR]

    def cam_from_map(self, image: int) -> Transform:
        return Transform(translation=[0.0, 0.0, float(image)])


@dataclass(frozen=True)
class Points:
    xyz: np.ndarray
    covariance: np.ndarray
    direction: np.ndarray
    distance: np.ndarray
    track_length: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--sizes", type=int, nargs="*", help="map images")
    parser.add_argument("--pixels", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--local", default="r2d2-fast-free", help="weights, or random: N16")
    parser.add_argument("--global", dest="global_", default="apgem-small-free",
                        help="weights, or random: ResNet-101")  # fmt: skip
    args = parser.parse_args()
    width, height = args.pixels or PIXELS[args.device]
    camera = Camera("cam", "PINHOLE", width, height, (width, width, width / 2, height / 2))
    pixels = picture(width, height)
    with tempfile.TemporaryDirectory() as folder:
        extractor = networks(args, pixels, Path(folder))
        print(f"{width}×{height}: {extractor.runtime}")
        seen = extractor.start([pixels], describe=False)[0].wait()
        print(f"{len(seen.keypoints)} keypoints; milliseconds, median (95 %) of {args.queries}")
        print(f"{'map images':>12}" + "".join(f"{stage:>16}" for stage in (*STAGES, "but extr."))
              + f"{'images/s':>10}")  # fmt: skip
        for size in args.sizes or SIZES[args.device]:
            retrieval = retrieval_of(size, seen, Path(folder), args.device)
            options = LocalizerOptions(matching=MatchOptions(device=args.device))
            world = SyntheticMap(seen, camera, retrieval)
            localizer = Localizer(world, options, extractor)  # type: ignore[arg-type]
            # Extraction does not depend on the map and takes long on a CPU: timed once.
            extract = args.device == "cuda" or size == (args.sizes or SIZES[args.device])[0]
            image = QueryImage(camera, pixels=pixels)
            if not extract:
                image = replace(image, pixels=None, features=seen)
            report(size, *measure(localizer, world, image, args.queries))


def measure(
    localizer: Localizer, world: SyntheticMap, image: QueryImage, count: int
) -> tuple[dict[str, np.ndarray], float]:
    """Milliseconds by stage of every query, and queries a second; each is checked."""
    rows = []
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            start = time.perf_counter()
        estimate = localizer.localize(Query(number, (image,)))
        assert estimate.accepted, estimate.reason_text
        metres, radians = estimate.map_from_base.distance_to(world.truth)
        assert metres < 0.1 and radians < 0.01, (metres, radians)
        rows.append([estimate.latency_ms[stage] for stage in STAGES])
    rate = count / (time.perf_counter() - start)
    table = np.array(rows[WARM_UP:])
    times = {stage: table[:, column] for column, stage in enumerate(STAGES)}
    return times | {"but extr.": times["total"] - times["extraction"]}, rate


def report(size: int, times: dict[str, np.ndarray], rate: float) -> None:
    cells = [f"{np.median(t):8.2f} ({np.percentile(t, 95):5.1f})" for t in times.values()]
    print(f"{size:12,}" + "".join(f"{cell:>16}" for cell in cells) + f"{rate:10.1f}", flush=True)


def picture(width: int, height: int) -> np.ndarray:
    """Boxes of random grey and size: corners at all scales."""
    rng = np.random.default_rng(0)
    image = np.full((height, width, 3), 128, np.uint8)
    for _ in range(width * height // 800):
        x, y = rng.integers(0, (width, height))
        w, h = rng.integers(6, 60, 2)
        color = rng.integers(0, 255, 3).tolist()
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0.8), np.uint8)


def networks(args: argparse.Namespace, pixels: np.ndarray, folder: Path) -> NetworkExtractor:
    """Those asked for; random ones keep the best keypoints whatever their scores are."""
    runtime = RuntimeOptions(device=args.device)
    torch.manual_seed(0)
    options = R2D2Options(top_k=KEYPOINTS)
    if args.local == "random":
        save_network(folder / "n16.safetensors", random_r2d2(pixels), version="0", licence="-")
        options = R2D2Options(top_k=KEYPOINTS, reliability=0.0, repeatability=0.0)
    if args.global_ == "random":
        network = ApGemNet(ApGemConfig())
        save_network(folder / "r101.safetensors", network, version="0", licence="-")
    local = folder / "n16.safetensors" if args.local == "random" else find_weights(args.local)
    global_ = folder / "r101.safetensors" if args.global_ == "random" else args.global_
    first, second = R2D2Extractor(local, options, runtime), ApGemExtractor(global_, None, runtime)
    types = FeatureTypes(first.type_name, first.type_name, second.type_name)
    return NetworkExtractor(types, first, second)


def random_r2d2(pixels: np.ndarray) -> R2D2Net:
    """N16 with random weights and norms of an image; without these all descriptors are alike."""
    network = R2D2Net(R2D2Config())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # what it sees is all that there is
    with torch.no_grad():
        network.train()(normalise_images(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    return network.eval()


def retrieval_of(size: int, seen: QueryFeatures, folder: Path, device: str) -> RetrievalIndex:
    """Global descriptors of a drive; the first images are of the query's place."""
    described = seen.global_descriptors[seen.types.global_features]
    rows = np.empty((size, len(described)), storage_type(size))
    for start, block in descriptor_blocks(size, len(described)):
        rows[start : start + len(block)] = block
    near = described + np.random.default_rng(2).normal(0, 0.3, (NEAR, len(described))) / np.sqrt(
        len(described)
    )
    rows[:NEAR] = near / np.linalg.norm(near, axis=1, keepdims=True)
    if device == "cuda":  # exact there: nothing to build
        return RetrievalIndex(rows)
    lists = folder / f"lists_{size}"
    start_time = time.perf_counter()
    built = build_lists(rows, lists)
    if lists.exists():
        took = time.perf_counter() - start_time
        print(f"{'':12} inverted lists: recall {built['recall']:.3f}, {built['probed']} of "
              f"{built['lists']} probed, built in {took:.0f} s")  # fmt: skip
    return RetrievalIndex.load(rows, lists)


def descriptor_blocks(size: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Unit descriptors that change smoothly from image to image, block by block."""
    rng = np.random.default_rng(3)
    count = min(size, BLOCK)
    knots = rng.standard_normal((count // KNOT + 2, width), np.float32)
    at = np.arange(count) / KNOT
    low, part = at.astype(int), (at % 1)[:, None].astype(np.float32)
    block = (1 - part) * knots[low] + part * knots[low + 1]
    block += 0.5 * rng.standard_normal(block.shape, np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    block = block.astype(storage_type(size))
    for number, start in enumerate(range(0, size, BLOCK)):
        yield start, np.roll(block, number, axis=1)[: size - start]


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from error

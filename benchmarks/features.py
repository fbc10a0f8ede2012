"""How long do the networks take for an image, and are the keypoints still the same?

Every way of running a network is compared in one run with the formulation of NAVER's
releases: the network as published, in eager float32, descriptors normalised at every pixel,
keypoints collected by `nonzero` and sorted. Times are from a decoded image in host memory to
keypoints and descriptors there. Columns:

- ms: the median of rounds in which all ways take turns.
- core-ms (CPU): the time that all cores worked for it, which other load on the machine changes
  much less; `faster` and GFLOP/s are by this.
- GFLOP/s: operations of the direct convolutions per second, whichever way they were done;
  above the table is what a large matrix product reaches in the same run.
- same: share of the eager formulation's keypoints that are found at the same pixel.
- matches: true matches (within 3 px) between the image and the image seen from elsewhere, in
  per cent of the eager formulation's.

    python benchmarks/features.py [--device cuda] [--weights FOLDER] [--pyramid]

NAVER's weights are taken from FOLDER if they are there; otherwise the network is the same
with random weights.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kapture_ros.errors import OptionError
from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.detection import detect
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import ApGemOptions, R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_inference import FoldedR2D2
from kapture_ros.features.r2d2_network import PATCH_SIZE, R2D2Config, R2D2Net, normalise_images
from kapture_ros.features.runtime import Runtime, resolve
from kapture_ros.features.weights_file import BUNDLED_WEIGHTS, load_network, save_network

Image = NDArray[np.uint8]
SIZES = ((640, 480), (1024, 768), (1241, 376))
TOP_K = 5000
NETWORKS: dict[str, R2D2Config | ApGemConfig] = {
    "r2d2_WASF_N16": R2D2Config(),
    "r2d2_WASF_N8_big": R2D2Config(width=6),
    "faster2d2_WASF_N16": R2D2Config(downsample=2),
    "r2d2-fast-free": R2D2Config(width=3, downsample=2, stem=2),
    "Resnet101-AP-GeM": ApGemConfig("resnet101"),
    "apgem-small-free": ApGemConfig("mobilenet_v2", 512, norm_features=True),
}


class Local(NamedTuple):
    """Keypoints (N, 3) and unit descriptors (N, D), best first."""

    keypoints: NDArray[np.float32]
    descriptors: NDArray[np.float32]


Way = Callable[[Image], Any]


@dataclass
class Timing:
    """Milliseconds of every round; decisive: of all cores together, if they do the work."""

    wall: list[float]
    decisive: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--weights", type=Path, default=Path("../shared/weights"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES, metavar="WxH")
    parser.add_argument("--pyramid", action="store_true", help="R2D2 at all of NAVER's scales")
    parser.add_argument("--threads", type=int, help="of PyTorch on a CPU")
    parser.add_argument("--rounds", type=int, default=3, help="of measuring at least")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring a size at least")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    resolve(RuntimeOptions(args.device))  # says what is missing
    torch.manual_seed(0)
    print(_machine(args.device), end="\n\n")
    core = " core-ms |" if args.device == "cpu" else ""
    print(f"| network | size | way | ms |{core} faster | GFLOP | GFLOP/s | same | matches |")
    print("|---|---|---|" + "---:|" * (7 if core else 6))
    options = R2D2Options(
        top_k=TOP_K,
        nms_radius=1,
        reliability=0,
        repeatability=0,
        max_size=1024 if args.pyramid else max(max(size) for size in args.sizes),
        pyramid=args.pyramid,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            path, label = find(name, args.weights, Path(folder))
            network = load_network(path).network
            if isinstance(network, ApGemNet) and args.pyramid:
                continue
            ways = ways_of(network, path, options, args.device)
            for width, height in args.sizes:
                compare(label, network, ways, (width, height), args)
            del ways
            torch.cuda.empty_cache()


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def find(name: str, folder: Path, scratch: Path) -> tuple[Path, str]:
    """The published or bundled weights, or random ones in the same network."""
    for path in (folder / f"{name}.pt", BUNDLED_WEIGHTS / f"{name}.safetensors"):
        if path.is_file():
            return path, name
    config = NETWORKS[name]
    network = (R2D2Net if isinstance(config, R2D2Config) else ApGemNet)(config)  # type: ignore[arg-type]
    path = scratch / f"{name}.safetensors"
    save_network(path, network, version="", licence="random")
    return path, f"{name} (random weights)"


def ways_of(
    network: R2D2Net | ApGemNet, path: Path, options: R2D2Options, device: str
) -> dict[str, Way]:
    """What is compared; the first is the reference."""
    precisions = ("float32", "bfloat16") if device == "cpu" else ("float32", "float16")
    plain = copy.deepcopy(network).to(device)
    if isinstance(network, ApGemNet):
        ways: dict[str, Way] = {"eager": functools.partial(eager_apgem, plain, device)}
        for precision in precisions:
            if runtime := _available(device, precision):
                full = ApGemOptions(global_max_size=options.max_size)
                extractor: Any = ApGemExtractor(path, full, runtime)
                ways[f"{precision}, ours"] = _one_of(extractor)
        return ways
    ways = {"eager": functools.partial(eager_r2d2, plain, options, device)}
    if device == "cpu":
        folded = FoldedR2D2(network, Runtime(torch.device("cpu"), torch.float32))
        ways[f"float32, {folded.how}"] = functools.partial(_detected, folded, options)
    for precision in precisions:
        if runtime := _available(device, precision):
            ways[f"{precision}, ours"] = _one_of(R2D2Extractor(path, options, runtime))
    return ways


def _available(device: str, precision: str) -> RuntimeOptions | None:
    options = RuntimeOptions(device, precision)
    try:
        resolve(options)
    except OptionError:
        return None
    return options


def _one_of(extractor: Any) -> Way:
    return lambda image: extractor.extract([image])[0]


def _detected(engine: FoldedR2D2, options: R2D2Options, image: Image) -> Local:
    found = detect(engine, options, torch.tensor(image).permute(2, 0, 1)[None])
    return Local(found.keypoints[0].numpy(), found.descriptors[0].numpy())


@torch.no_grad()
def eager_apgem(network: ApGemNet, device: str, image: Image) -> NDArray[np.float32]:
    pixels = torch.tensor(image).to(device).permute(2, 0, 1)[None]
    vector: NDArray[np.float32] = network(normalise_images(pixels))[0].cpu().numpy()
    return vector


@torch.no_grad()
def eager_r2d2(network: R2D2Net, options: R2D2Options, device: str, image: Image) -> Local:
    """Multi-scale extraction as the paper's release does it."""
    level = normalise_images(torch.tensor(image).to(device).permute(2, 0, 1)[None])
    height, width = level.shape[2:]
    longest, scale = max(height, width), 1.0
    found: list[tuple[Tensor, ...]] = []
    while scale + 0.001 >= max(options.min_scale, options.min_size / longest):
        if scale - 0.001 <= options.max_size / longest or not options.pyramid:
            dense = network(level)
            y, x = peaks(dense.reliability, dense.repeatability, options)
            score = (dense.reliability * dense.repeatability)[0, 0, y, x]
            ratio = width / level.shape[3], height / level.shape[2]
            size = torch.full_like(score, PATCH_SIZE / scale)
            places = torch.stack((x * ratio[0], y * ratio[1], size), dim=1)
            found.append((places, dense.descriptors[0, :, y, x].T, score))
        if not options.pyramid:
            break
        scale /= options.scale_step
        smaller = (round(height * scale), round(width * scale))
        level = nn.functional.interpolate(level, smaller, mode="bilinear", align_corners=False)
    places, descriptors, scores = (torch.cat(part) for part in zip(*found, strict=True))
    best = scores.argsort(descending=True)[: options.top_k]
    return Local(places[best].cpu().numpy(), descriptors[best].cpu().numpy())


def peaks(reliability: Tensor, repeatability: Tensor, options: R2D2Options) -> tuple[Tensor, ...]:
    """Rows and columns of the local maxima above the thresholds."""
    kept = repeatability == nn.functional.max_pool2d(repeatability, 3, stride=1, padding=1)
    kept *= repeatability >= options.repeatability
    kept *= reliability >= options.reliability
    return kept[0, 0].nonzero(as_tuple=True)


def compare(
    label: str,
    network: nn.Module,
    ways: dict[str, Way],
    size: tuple[int, int],
    args: argparse.Namespace,
) -> None:
    """Print one row a way."""
    image = picture(*size)
    found = {name: way(image) for name, way in ways.items()}
    timings = take_turns(ways, image, args)
    work = gflop(network, size)
    reference = statistics.median(timings["eager"].decisive)
    quality = qualities(ways, found, image) if isinstance(network, R2D2Net) else {}
    for name, timing in timings.items():
        ms, decisive = statistics.median(timing.wall), statistics.median(timing.decisive)
        core = f" {decisive:.0f} |" if args.device == "cpu" else ""
        rate = "–" if args.pyramid else f"{work / decisive * 1e3:.0f}"
        same, matches = quality.get(name, ("–", "–"))
        print(
            f"| {label} | {size[0]}×{size[1]} | {name} | {ms:.{1 if ms < 100 else 0}f} |{core} "
            f"{reference / decisive:.1f}× | {work:.1f} | {rate} | {same} | {matches} |",
            flush=True,
        )


def take_turns(ways: dict[str, Way], image: Image, args: argparse.Namespace) -> dict[str, Timing]:
    """Times of some rounds."""
    timings = {name: Timing([], []) for name in ways}
    clock = clock_of(args.device)
    if args.device == "cuda":
        for way in ways.values():  # sees the size for the second time and records
            way(image)
    end = time.perf_counter() + args.seconds
    rounds = 0
    while rounds < args.rounds or (time.perf_counter() < end and rounds < 50):
        for name, way in ways.items():
            wall, decisive = time.perf_counter(), clock()
            way(image)
            timings[name].wall.append(1e3 * (time.perf_counter() - wall))
            timings[name].decisive.append(1e3 * (clock() - decisive))
        rounds += 1
    return timings


def qualities(
    ways: dict[str, Way], found: dict[str, Local], image: Image
) -> dict[str, tuple[str, str]]:
    """The columns `same` and `matches`."""
    warp = homography(image.shape[1], image.shape[0])
    # Mirrored beyond the border: where all is one grey, rounding decides which pixels are peaks.
    seen = cv2.warpPerspective(image, warp, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    pixels = rounded(found["eager"])
    shown = {}
    reference = 0
    for name, way in ways.items():
        matches = count_matches(found[name], way(seen), warp)
        reference = reference or matches  # the first is the eager formulation
        same = pixels & rounded(found[name])
        shown[name] = f"{len(same) / len(pixels):.2%}", f"{matches / max(1, reference):.1%}"
    return shown


def rounded(features: Local) -> set[tuple[int, ...]]:
    """Keypoints as whole pixels with the size of the patch."""
    return {tuple(place) for place in np.rint(features.keypoints).astype(int).tolist()}


def homography(width: int, height: int) -> NDArray[np.float64]:
    """A view turned by 10 degrees, 15 % further away and a little from the side."""
    turned = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), 10, 0.87), [0, 0, 1]])
    aside = np.array([[1, 0, 0], [0, 1, 0], [1e-4, 5e-5, 1]])
    return np.asarray(aside @ turned)


def count_matches(here: Local, there: Local, warp: NDArray[np.float64]) -> int:
    """Mutual nearest neighbours that the homography confirms."""
    similarity = torch.tensor(here.descriptors) @ torch.tensor(there.descriptors).T
    forward, backward = similarity.argmax(dim=1).numpy(), similarity.argmax(dim=0).numpy()
    mutual = np.flatnonzero(backward[forward] == np.arange(len(forward)))
    places = here.keypoints[mutual, None, :2].astype(np.float64)
    expected = cv2.perspectiveTransform(places, warp)[:, 0]
    error = np.linalg.norm(expected - there.keypoints[forward[mutual], :2], axis=1)
    return int((error < 3).sum())


def picture(width: int, height: int) -> Image:
    """Noise at all sizes under overlapping boxes: corners, edges and texture."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for level in range(7):
        shape = (2 + (height >> level), 2 + (width >> level), 3)
        coarse = rng.uniform(-1, 1, shape).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 1.4**level
    image = cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for _ in range(width * height // 4000):
        x, y, w, h = rng.integers((0, 0, 8, 8), (width, height, 80, 80))
        shade = rng.uniform(0.3, 1.0, 3)
        box = image[y : y + h, x : x + w]
        box[:] = (box * shade).astype(np.uint8)
    return image


def gflop(network: nn.Module, size: tuple[int, int]) -> float:
    """Operations of the network as published, two a multiplication."""
    shapes = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, 3, size[1], size[0], device="meta"))
    return counter.get_total_flops() / 1e9


def clock_of(device: str) -> Callable[[], float]:
    """Seconds that decide: of work on a CPU, of waiting for a GPU."""
    return time.process_time if device == "cpu" else time.perf_counter


def _machine(device: str) -> str:
    """The device and what a matrix product reaches on it."""
    if device == "cpu":
        threads, kind = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        peak = _product_gflops(torch.float32, device, 1024)
        return (
            f"CPU ({kind}), {threads} threads, PyTorch {torch.__version__}, "
            f"float32 {peak:.0f} GFLOP/s a core"
        )
    peaks_found = []
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        tera = _product_gflops(dtype, device, 8192) / 1e3
        peaks_found.append(f"{name} {tera:.0f} TFLOP/s")
    gpu = torch.cuda.get_device_name()
    return f"{gpu}, PyTorch {torch.__version__}, {', '.join(peaks_found)}"


def _product_gflops(dtype: torch.dtype, device: str, size: int) -> float:
    clock = clock_of(device)
    one = torch.rand(size, size, dtype=torch.float32, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        start = clock()
        torch.mm(one, one)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 2 * size**3 / best / 1e9


if __name__ == "__main__":
    main()

"""How good are the bundled features on real pairs that nothing was trained on?

    python benchmarks/matching_quality.py ../shared --trunk out/mobilenet_v2.safetensors
    python benchmarks/matching_quality.py ../shared --only matching --step 1

Local features: mutual nearest neighbours of image pairs with known relative pose; how many of
them lie within 1, 3 and 5 px of their epipolar lines, and the area under the curve of the
pose error (the larger of rotation and direction of translation) up to 5, 10 and 20 degrees.
Ours against NAVER's weights (with their distance between keypoints, and with ours) and SIFT,
all at the same size and number of keypoints.

Global features: recall@1, 5 and 10 of places across seasons, along a street and in a room.
Ours against the same pooling (GeM, power 3) of trunks that saw no places: ImageNet (with
--trunk, see training/mobilenet_from_tflite.py), our R2D2 (no ImageNet), random; and thumbnails.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import poselib
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tqdm import tqdm

from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet, GeM
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.local import R2D2Extractor, R2D2Options
from kapture_ros.features.r2d2_network import normalise_images
from kapture_ros.features.weights_file import find_weights, load_network

Array = NDArray[np.float64]
LocalMethod = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
GlobalMethod = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

LOCAL_SIDE, GLOBAL_SIDE = 768, 480  # images are reduced to at most this
KEYPOINTS = 2000
NAVER_NMS, OUR_NMS = 1, 2  # pixels
PIXEL_LIMITS = (1.0, 3.0, 5.0)
ANGLE_LIMITS = (5.0, 10.0, 20.0)
RANSAC_PIXELS = 1.5
RECALL_AT = (1, 5, 10)
KITTI_K = ((718.856, 607.1928), (718.856, 185.2157))
KITCHEN_K = ((525.0, 320.0), (525.0, 240.0))


@dataclass(frozen=True, slots=True)
class View:
    """An image with its camera and pose."""

    path: Path
    camera: Array  # (3, 3) for the image as stored
    cam_from_world: Array  # (4, 4)


@dataclass(frozen=True, slots=True)
class Recall:
    """A retrieval test: images of queries and database, and which answers are right."""

    queries: list[Path]
    database: list[Path]
    right: NDArray[np.bool_]  # (queries, database)


def intrinsics(rows: Sequence[Sequence[float]]) -> Array:
    (fx, cx), (fy, cy) = rows
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def strecha_views(folder: Path) -> list[View]:
    """Wide-baseline photographs of a building."""
    views = []
    for path in sorted(folder.glob("*.jpg")):
        rows = [line.split() for line in (folder / f"{path.name}.camera").read_text().splitlines()]
        values = [np.array(row, float) for row in rows if row]
        width = values[8][0]
        scale = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape[1] / width
        # The principal point is of pixels with centres at whole numbers.
        camera = np.array(values[:3])
        camera[:2] *= scale
        rotation, centre = np.array(values[4:7]).T, values[7]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
        views.append(View(path, camera, pose))
    return views


def kitti_views(folder: Path) -> list[View]:
    """A drive along a street, grey."""
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    images = sorted(path for path in folder.rglob("*.jpg"))
    return [
        View(path, intrinsics(KITTI_K), np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]])))
        for path, pose in zip(images, poses, strict=True)
    ]


def kitchen_views(folder: Path) -> list[View]:
    """A hand-held walk through a kitchen."""
    return [
        View(pose.with_name(pose.name.replace("pose.txt", "color.jpg")), intrinsics(KITCHEN_K),
             np.linalg.inv(np.loadtxt(pose)))
        for pose in sorted(folder.glob("*.pose.txt"))
    ]  # fmt: skip


def pair_sets(data: Path, step: int) -> dict[str, list[tuple[View, View]]]:
    """Pairs by name; `step` keeps every step-th."""
    fountain, herzjesu = (strecha_views(data / f"strecha_{n}") for n in ("fountain", "herzjesu"))
    wide = [
        (views[i], views[j])
        for views in (fountain, herzjesu)
        for i in range(len(views))
        for j in range(i + 1, min(i + 5, len(views)))
    ]
    street = kitti_views(data / "kitti_00")
    drive = [(street[i], street[i + gap]) for gap in (5, 10) for i in range(0, 150, 6)]
    kitchen = kitchen_views(data / "sevenscenes_room")
    return {
        "strecha": wide[::step],
        "kitti_00": drive[::step],
        "sevenscenes": list(kitchen_pairs(kitchen))[::step],
    }


def kitchen_pairs(views: list[View]) -> Iterator[tuple[View, View]]:
    """Frames of the second half with the frame of the first that sees most alike."""
    first, second = views[:250], views[250:]
    for query in second[::5]:
        distance, angle = zip(*(pose_difference(query, view) for view in first), strict=True)
        cost = np.array(distance) / 0.4 + np.array(angle) / 20
        best = int(cost.argmin())
        # A relative pose needs a baseline, and something seen in both.
        if distance[best] > 0.1 and cost[best] < 2.5:
            yield query, first[best]


def pose_difference(one: View, two: View) -> tuple[float, float]:
    """Metres between the centres and degrees between the orientations."""
    relative = two.cam_from_world @ np.linalg.inv(one.cam_from_world)
    centres = [-v.cam_from_world[:3, :3].T @ v.cam_from_world[:3, 3] for v in (one, two)]
    return float(np.linalg.norm(centres[0] - centres[1])), rotation_angle(relative[:3, :3])


def rotation_angle(rotation: Array) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def load(path: Path, side: int) -> tuple[NDArray[np.uint8], float]:
    """RGB image of at most this longest side, and the scale."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
    scale = min(1.0, side / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image), scale


def scaled(camera: Array, scale: float) -> Array:
    """Intrinsics of the reduced image; pixel centres at whole numbers."""
    shifted = camera.copy()
    shifted[:2, 2] += 0.5
    shifted[:2] *= scale
    shifted[:2, 2] -= 0.5
    return shifted


def mutual_neighbours(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.int64]:
    """(M, 2) indices of mutual nearest neighbours of unit vectors."""
    similarity = one @ two.T
    forward, backward = similarity.argmax(1), similarity.argmax(0)
    mutual = np.flatnonzero(backward[forward] == np.arange(len(one)))
    return np.stack([mutual, forward[mutual]], 1)


def epipolar_errors(one: Array, two: Array, relative: Array, cameras: Sequence[Array]) -> Array:
    """(M,) mean distance in pixels of both points to their epipolar lines."""
    x, y, z = relative[:3, 3]
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse = [np.linalg.inv(camera) for camera in cameras]
    fundamental = inverse[1].T @ skew @ relative[:3, :3] @ inverse[0]
    homogeneous = [np.column_stack([points, np.ones(len(points))]) for points in (one, two)]
    lines = [homogeneous[1] @ fundamental, homogeneous[0] @ fundamental.T]
    distances = [
        np.abs((point * line).sum(1)) / np.linalg.norm(line[:, :2], axis=1)
        for point, line in zip(homogeneous, lines, strict=True)
    ]
    return np.mean(distances, axis=0)


def pose_error(one: Array, two: Array, relative: Array, cameras: Sequence[Array]) -> float:
    """Degrees: the larger of rotation and direction of translation; 180 without a pose."""
    if len(one) < 5:
        return 180.0
    described = [
        {"model": "PINHOLE", "width": 0, "height": 0,
         "params": [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]}
        for k in cameras
    ]  # fmt: skip
    options = {"max_epipolar_error": RANSAC_PIXELS, "max_iterations": 5000, "seed": 0}
    pose, _ = poselib.estimate_relative_pose(one, two, *described, options, {})
    cosine = pose.t @ relative[:3, 3] / np.linalg.norm(relative[:3, 3]) / np.linalg.norm(pose.t)
    direction = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return max(direction, rotation_angle(pose.R @ relative[:3, :3].T))


def area_under_curve(errors: Sequence[float], limit: float) -> float:
    """Area under the recall over the error up to the limit, 0..1."""
    ordered = np.sort(errors)
    recall = np.arange(1, len(ordered) + 1) / len(ordered)
    below = int(np.searchsorted(ordered, limit))
    x = np.concatenate([[0], ordered[:below], [limit]])
    y = np.concatenate([[0], recall[:below], [recall[below - 1] if below else 0]])
    return float(np.trapezoid(y, x) / limit)


def evaluate_matching(
    method: LocalMethod, pairs: list[tuple[View, View]], title: str
) -> dict[str, float]:
    """Means over the pairs."""
    features: dict[Path, tuple[Array, NDArray[np.float32], Array]] = {}
    rows = []
    for pair in tqdm(pairs, title, disable=None, leave=False):
        for view in pair:
            if view.path not in features:
                image, scale = load(view.path, LOCAL_SIDE)
                points, descriptors = method(image)
                features[view.path] = (
                    points.astype(np.float64), descriptors, scaled(view.camera, scale)
                )  # fmt: skip
        (p1, d1, k1), (p2, d2, k2) = (features[view.path] for view in pair)
        matches = mutual_neighbours(d1, d2)
        one, two = p1[matches[:, 0]], p2[matches[:, 1]]
        relative = pair[1].cam_from_world @ np.linalg.inv(pair[0].cam_from_world)
        errors = epipolar_errors(one, two, relative, (k1, k2))
        right = [float((errors <= limit).mean()) if len(errors) else 0.0 for limit in PIXEL_LIMITS]
        rows.append([len(matches), *right, pose_error(one, two, relative, (k1, k2))])
    values = np.array(rows)
    return {
        "matches": values[:, 0].mean(),
        **{f"@{limit:g}px": values[:, 1 + i].mean() for i, limit in enumerate(PIXEL_LIMITS)},
        **{f"AUC{limit:g}": area_under_curve(values[:, -1], limit) for limit in ANGLE_LIMITS},
    }


def sift(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """RootSIFT (Arandjelović and Zisserman, CVPR 2012) from OpenCV."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT_create(KEYPOINTS).detectAndCompute(grey, None)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32)
    return points, np.sqrt(descriptors / np.abs(descriptors).sum(1, keepdims=True))


def r2d2(weights: str | Path, nms_radius: int) -> LocalMethod:
    """The best keypoints at one scale, without thresholds so that all methods have as many."""
    extractor = R2D2Extractor(
        weights,
        R2D2Options(top_k=KEYPOINTS, nms_radius=nms_radius, reliability=0, repeatability=0),
    )

    def describe(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        (found,) = extractor.extract([image])
        return found.keypoints[:, :2], found.descriptors

    return describe


def apgem(weights: str | Path) -> GlobalMethod:
    """The whole network at the common size."""
    extractor = ApGemExtractor(weights)
    return lambda image: extractor.extract([image])[0]


def pooled(trunk: torch.nn.Module) -> GlobalMethod:
    """GeM over a trunk's features, nothing learned."""
    pool = GeM(3.0)
    trunk.eval()

    @torch.no_grad()
    def describe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = (size // 2 * 2 for size in image.shape[:2])  # the folded trunk's blocks
        pixels = torch.from_numpy(image[:height, :width]).permute(2, 0, 1)[None]
        vector = pool(trunk(normalise_images(pixels)).clamp(min=0))[0]
        return torch.nn.functional.normalize(vector, dim=0).numpy()

    return describe


def imagenet_trunk(path: Path) -> torch.nn.Module:
    """The trunk that the bundled AP-GeM was initialised with."""
    trunk = ApGemNet(ApGemConfig("mobilenet_v2", linear=False)).trunk
    state = {key: value.float() for key, value in load_file(path).items()}
    trunk.load_state_dict(state, strict=False)  # batch counters are not stored
    return trunk


def local_trunk(weights: str | Path) -> torch.nn.Module:
    """The body of a folded R2D2: features that never saw ImageNet."""
    net = load_network(find_weights(weights)).network
    return torch.nn.Sequential(torch.nn.PixelUnshuffle(net.config.stem), net.body[:-1])


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """16 × 16 grey pixels, zero mean, unit length."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / np.linalg.norm(small)


def season_recall(folder: Path) -> Recall:
    """Ten places at two sites in twelve months: each image among those of the other months."""
    images = sorted(folder.rglob("*.jpg"))
    site = np.array([path.parent.name for path in images])
    month = np.array([path.stem[:2] for path in images])
    place = np.array([path.stem[2:] for path in images])
    same = (site[:, None] == site) & (place[:, None] == place)
    return Recall(images, images, same & (month[:, None] != month))


def street_recall(folder: Path) -> Recall:
    """Frames within 5 m of a map frame; every tenth frame is the map."""
    views = kitti_views(folder)
    return _near(views[5::3], views[::10], 5.0, 30.0)


def kitchen_recall(folder: Path) -> Recall:
    """Second half of the walk among the first, within 0.5 m and 30°."""
    views = kitchen_views(folder)
    return _near(views[250::3], views[:250:6], 0.5, 30.0)


def _near(queries: list[View], database: list[View], metres: float, degrees: float) -> Recall:
    right = np.zeros((len(queries), len(database)), bool)
    for i, query in enumerate(queries):
        for j, view in enumerate(database):
            distance, angle = pose_difference(query, view)
            right[i, j] = distance <= metres and angle <= degrees
    kept = right.any(1)
    return Recall(
        [query.path for query, keep in zip(queries, kept, strict=True) if keep],
        [view.path for view in database],
        right[kept],
    )


def evaluate_recall(method: GlobalMethod, test: Recall, title: str) -> dict[str, float]:
    """Share of the queries with a right image among the first k."""
    paths = dict.fromkeys(test.queries + test.database)
    vectors = {path: method(load(path, GLOBAL_SIDE)[0]) for path in
               tqdm(paths, title, disable=None, leave=False)}  # fmt: skip
    queries, database = (np.stack([vectors[p] for p in s]) for s in (test.queries, test.database))
    order = np.argsort(-(queries @ database.T), axis=1)
    ranked = np.take_along_axis(test.right, order, 1)
    return {f"R@{k}": float(ranked[:, :k].any(1).mean()) for k in RECALL_AT}


def evaluate_seasons(method: GlobalMethod, test: Recall, title: str) -> dict[str, float]:
    """The same with the ten images of one other month as database, over all pairs of months."""
    vectors = np.stack([method(load(path, GLOBAL_SIDE)[0]) for path in
                        tqdm(test.queries, title, disable=None, leave=False)])  # fmt: skip
    month = np.array([path.stem[:2] for path in test.queries])
    hits: list[NDArray[np.bool_]] = []
    for one in np.unique(month):
        for other in np.unique(month[month != one]):
            rows, columns = np.flatnonzero(month == one), np.flatnonzero(month == other)
            order = columns[np.argsort(-(vectors[rows] @ vectors[columns].T), axis=1)]
            answerable = test.right[np.ix_(rows, columns)].any(1)  # some months lack a place
            hits.append(
                np.take_along_axis(test.right[rows], order, 1)[answerable, : max(RECALL_AT)]
            )
    return {f"R@{k}": float(np.mean([hit for h in hits for hit in h[:, :k].any(1)]))
            for k in RECALL_AT}  # fmt: skip


def print_row(dataset: str, method: str, values: dict[str, float], *, header: bool) -> None:
    if header:
        print(f"\n{'data':12s} {'method':36s} " + " ".join(f"{key:>8s}" for key in values))
    cells = [f"{v:8.0f}" if key == "matches" else f"{100 * v:8.1f}" for key, v in values.items()]
    print(f"{dataset:12s} {method:36s} " + " ".join(cells), flush=True)


def compare_matching(shared: Path, ours: list[str], theirs: list[str], step: int) -> None:
    methods: dict[str, Callable[[], LocalMethod]] = {
        **{Path(weights).name: (lambda w=weights: r2d2(w, OUR_NMS)) for weights in ours},
        **{
            f"{name}, NMS {radius} px": (
                lambda n=name, r=radius: r2d2(shared / "weights" / f"{n}.pt", r)
            )
            for name in theirs
            for radius in (NAVER_NMS, OUR_NMS)
        },
        "RootSIFT": lambda: sift,
    }
    pairs = pair_sets(shared / "data", step)
    print({name: len(members) for name, members in pairs.items()}, "pairs")
    means: dict[str, dict[str, float]] = {}
    for name, make in methods.items():
        method = make()
        rows = []
        for dataset, members in pairs.items():
            rows.append(evaluate_matching(method, members, f"{name} {dataset}"))
            print_row(dataset, name, rows[-1], header=not means and len(rows) == 1)
        means[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        print_row("mean", name, means[name], header=False)
    for weights in ours:
        for peer in list(means)[len(ours) : -1]:
            ratio = {
                key: value / means[peer][key]
                for key, value in means[Path(weights).name].items()
                if key != "matches"
            }
            print_row("% of theirs", f"{Path(weights).name} / {peer}", ratio, header=True)


def compare_retrieval(shared: Path, ours: list[str], local: str, trunk: Path | None) -> None:
    torch.manual_seed(0)
    untrained = ApGemNet(ApGemConfig("mobilenet_v2", linear=False)).trunk
    methods: dict[str, GlobalMethod] = {Path(weights).name: apgem(weights) for weights in ours}
    if trunk is not None:
        methods["GeM, ImageNet trunk"] = pooled(imagenet_trunk(trunk))
    methods["GeM, R2D2 trunk"] = pooled(local_trunk(local))
    methods["GeM, random trunk"] = pooled(untrained)
    methods["thumbnail 16×16"] = thumbnail
    data = shared / "data"
    seasons = season_recall(data / "grief_seasons")
    tests = {
        "kitti_00": street_recall(data / "kitti_00"),
        "sevenscenes": kitchen_recall(data / "sevenscenes_room"),
    }
    for number, (name, method) in enumerate(methods.items()):
        values = evaluate_seasons(method, seasons, f"{name} seasons")
        print_row("seasons", name, values, header=number == 0)
        for dataset, test in tests.items():
            print_row(dataset, name, evaluate_recall(method, test, name), header=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shared", type=Path, help="folder that holds data/ and weights/")
    parser.add_argument("--only", choices=("matching", "retrieval"))
    parser.add_argument("--step", type=int, default=4, help="keep every step-th image pair")
    parser.add_argument("--naver", nargs="*", default=["r2d2_WASF_N16"], help="names in weights/")
    parser.add_argument("--local", nargs="+", default=["r2d2-fast-free"], help="names or files")
    parser.add_argument("--global", nargs="+", default=["apgem-small-free"], dest="whole")
    parser.add_argument("--trunk", type=Path, help="the ImageNet trunk as safetensors")
    args = parser.parse_args()
    if args.only != "retrieval":
        compare_matching(args.shared, args.local, args.naver, args.step)
    if args.only != "matching":
        compare_retrieval(args.shared, args.whole, args.local[0], args.trunk)


if __name__ == "__main__":
    main()

"""How does localization compare with hloc on the same data and the same features?

Both build their own map of the mapping images (poses given; `--poses auto` lets ours measure
whether they fit the images, and correct them if not) and localize the query images, each one
alone: mutual nearest neighbours, 20 most similar images, 12 px. hloc answers with every pose it
finds; ours refuses what it doubts, so a line more counts those poses, too. hloc runs in an
interpreter of its own (docs/localization.md says how to set one up) and is left out with a
message if none is given.

    python benchmarks/peers.py MAPPING QUERY --hloc-python /path/to/python \\
        [--local-features DIR --global-features DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOP_K = 20
MAX_ERROR = 12.0
THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mapping", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--local-features", type=Path)
    parser.add_argument("--global-features", type=Path)
    parser.add_argument("--hloc-python", help="interpreter that can import hloc and h5py")
    parser.add_argument("--preset", default=None, help="of kapture_ros; default: its defaults")
    parser.add_argument(
        "--poses", default="fixed", choices=("auto", "fixed", "refine"),
        help="what our map does with the given poses; hloc keeps them",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, help="folder to work in, kept afterwards")
    parser.add_argument("--worker", choices=tuple(WORKERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker](args)
        return
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        compare(args, args.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> None:
    peers = {"ours": sys.executable, "hloc": args.hloc_python}
    export(args, folder)
    print(f"{'':19}{'map':>8}{'points':>8}{'query':>9}{'memory':>8}  median            mean")
    for name, python in peers.items():
        if not python:
            print(f"{name}: skipped, pass --{name}-python (docs/localization.md: peers)")
            continue
        command = [python, __file__, str(args.mapping), str(args.query), "--worker", name]
        command += ["--keep", str(folder)]
        for option in ("local_features", "global_features", "preset", "poses"):
            if value := getattr(args, option):
                command += [f"--{option.replace('_', '-')}", str(value)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        show(name, json.loads((folder / f"{name}.json").read_text()), folder)


def show(name: str, result: dict, folder: Path) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    errors = np.array([pose_error(result["poses"].get(q), pose) for q, pose in truth.items()])
    median = np.median(errors, axis=0)
    mean = errors[np.isfinite(errors[:, 0])].mean(axis=0)
    within = [f"{(errors <= limits).all(axis=1).mean():7.1%}" for limits in THRESHOLDS]
    print(
        f"{name:19}{result['map_s']:7.1f}s{result['points']:8d}{result['query_s'] * 1e3:7.0f}ms"
        f"{result['memory_mb']:6.0f}MB  {median[0]:.4f} m {median[1]:.3f}°  "
        f"{mean[0]:.4f} m {mean[1]:.3f}°  recall {' '.join(within)}"
        f"  of {len(errors)}, answered {len(result['poses'])}"
    )
    if refused := result.get("refused"):
        everything = {"poses": refused | result["poses"]}
        show(f"{name}, refused too", result | everything | {"refused": {}}, folder)


def pose_error(found: list | None, truth: list) -> tuple[float, float]:
    """Metres and degrees between two cam_from_map (4 × 4); infinite without an answer."""
    if found is None:
        return np.inf, np.inf
    a, b = np.array(found), np.array(truth)
    centers = [-m[:3, :3].T @ m[:3, 3] for m in (a, b)]
    cosine = (np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2
    return float(np.linalg.norm(centers[0] - centers[1])), float(
        np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    )


def export(args: argparse.Namespace, folder: Path) -> None:
    """What both need: features by image, a COLMAP model of the cameras, the true poses."""
    from kapture_ros.mapping.colmap import new_reconstruction
    from kapture_ros.mapping.images import read_images
    from kapture_ros.mapping.sessions import FeatureSource

    source = FeatureSource(args.local_features, args.global_features)
    mapping, query = read_images(args.mapping), read_images(args.query)
    for name, images, dataset in (("db", mapping, args.mapping), ("q", query, args.query)):
        folders = source.folders(dataset)
        features = folder / f"{name}.npz"
        arrays = {}
        for image in images.names:
            arrays[f"{image}|keypoints"] = folders["keypoints"].read(image)[:, :2]
            arrays[f"{image}|descriptors"] = folders["descriptors"].read(image)
            arrays[f"{image}|global_descriptor"] = folders["global_features"].read(image).ravel()
        np.savez(features, **arrays)
    model = new_reconstruction(mapping, source.folders(args.mapping)["keypoints"])
    for camera in model.cameras.values():
        # hloc moves keypoints by half a pixel: its cameras must be moved as well.
        camera.principal_point_x += 0.5
        camera.principal_point_y += 0.5
    (folder / "reference").mkdir(exist_ok=True)
    model.write(folder / "reference")
    lines, truth = [], {}
    for row, name in enumerate(query.names):
        camera = query.cameras[query.camera[row]]
        params = list(camera.params)
        first = 1 if camera.model.startswith("SIMPLE") or camera.model == "RADIAL" else 2
        params[first] += 0.5
        params[first + 1] += 0.5
        shown = " ".join(map(repr, params))
        lines.append(f"{name} {camera.model} {camera.width} {camera.height} {shown}\n")
        truth[name] = query.cam_from_map(row).matrix().tolist()
    (folder / "queries.txt").write_text("".join(lines))
    (folder / "truth.json").write_text(json.dumps(truth))


def ours(args: argparse.Namespace) -> None:
    from kapture_ros.localization.localizer import Localizer
    from kapture_ros.localization.options import load_preset
    from kapture_ros.localization.query_set import QuerySet
    from kapture_ros.mapping.options import MapSettings, PoseOptions
    from kapture_ros.mapping.pipeline import build_map
    from kapture_ros.mapping.sessions import FeatureSource
    from kapture_ros.mapping.visual_map import VisualMap

    settings = MapSettings(
        poses=PoseOptions(poses=args.poses),
        local_features=args.local_features,
        global_features=args.global_features,
    )
    start = time.perf_counter()
    build_map([args.mapping], args.keep / "map", settings, overwrite=True)
    map_s = time.perf_counter() - start
    visual_map = VisualMap.load(args.keep / "map")
    source = FeatureSource(args.local_features, args.global_features)
    queries = QuerySet(args.query, source, visual_map.feature_types, rigs=False)
    localizer = Localizer(visual_map, load_preset(args.preset)[0] if args.preset else None)
    localizer.localize(queries[0])  # what is loaded at the first use is not a query's time
    poses, refused, rows = {}, {}, []
    start = time.perf_counter()
    for number, info in enumerate(queries.infos):
        estimate = localizer.localize(queries[number])
        rows.append((info.name, estimate.reason.name, estimate.reason_text))
        if estimate.cams_from_map:
            kept = poses if estimate.accepted else refused
            kept[info.name] = estimate.cams_from_map[0].matrix().tolist()
    query_s = (time.perf_counter() - start) / len(queries)
    (args.keep / "ours_reasons.json").write_text(json.dumps(rows, indent=0))
    points = len(visual_map.points)
    write_result(args.keep / "ours.json", poses, map_s, query_s, points, refused)


def hloc(args: argparse.Namespace) -> None:
    import h5py
    import pycolmap
    from hloc import localize_sfm, match_features, pairs_from_retrieval, triangulation

    folder = args.keep
    for name in ("db", "q"):
        (folder / f"{name}.h5").unlink(missing_ok=True)
    everything = folder / "all.h5"
    everything.unlink(missing_ok=True)
    with h5py.File(everything, "w") as out:
        for name in ("db", "q"):
            arrays = np.load(folder / f"{name}.npz")
            for key in arrays.files:
                image, kind = key.split("|")
                value = arrays[key]
                out[f"{image}/{kind}"] = value.T if kind == "descriptors" else value
                if kind == "keypoints":
                    out[f"{image}/image_size"] = np.array([1, 1])
                    out[f"{image}/scores"] = np.ones(len(value), np.float32)
    arrays = np.load(folder / "db.npz")
    db = sorted({key.split("|")[0] for key in arrays.files})
    query = [line.split()[0] for line in (folder / "queries.txt").read_text().splitlines()]
    undefined = pycolmap.TwoViewGeometry

    def calibrated(**values: object) -> pycolmap.TwoViewGeometry:
        # COLMAP 4 skips pairs whose configuration is not set, which hloc does not know.
        config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
        return undefined(config=config, **values)

    triangulation.pycolmap.TwoViewGeometry = calibrated
    conf = match_features.confs["NN-mutual"]
    start = time.perf_counter()
    count = min(TOP_K, len(db) - 1)
    pairs_from_retrieval.main(everything, folder / "pairs_db.txt", count, query_list=db, db_list=db)
    match_features.main(
        conf, folder / "pairs_db.txt", everything, matches=folder / "m_db.h5", overwrite=True
    )
    model = triangulation.main(
        folder / "sfm", folder / "reference", folder, folder / "pairs_db.txt", everything,
        folder / "m_db.h5",
    )  # fmt: skip
    map_s = time.perf_counter() - start
    start = time.perf_counter()
    pairs_from_retrieval.main(
        everything, folder / "pairs_q.txt", min(TOP_K, len(db)), query_list=query, db_list=db
    )
    match_features.main(
        conf, folder / "pairs_q.txt", everything, matches=folder / "m_q.h5", overwrite=True
    )
    localize_sfm.main(
        model, folder / "queries.txt", folder / "pairs_q.txt", everything, folder / "m_q.h5",
        folder / "hloc.txt", ransac_thresh=MAX_ERROR,
    )  # fmt: skip
    query_s = (time.perf_counter() - start) / len(query)
    by_file = {name.rsplit("/", 1)[-1]: name for name in query}
    poses = {}
    for line in (folder / "hloc.txt").read_text().splitlines():
        name, *numbers = line.split()
        w, x, y, z, *translation = map(float, numbers)
        pose = np.eye(4)
        pose[:3, :3] = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
        pose[:3, 3] = translation
        poses[by_file[name]] = pose.tolist()
    write_result(folder / "hloc.json", poses, map_s, query_s, len(model.points3D))


def write_result(
    path: Path, poses: dict, map_s: float, query_s: float, points: int, refused: dict | None = None
) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"poses": poses, "map_s": map_s, "query_s": query_s, "points": points}
    result["refused"] = refused or {}
    path.write_text(json.dumps(result | {"memory_mb": memory}))


WORKERS: dict[str, Callable[[argparse.Namespace], None]] = {"ours": ours, "hloc": hloc}

if __name__ == "__main__":
    main()

"""`kapture_ros map`: drives in, a visual map out, step by step, resumable.

extract → pairs → match → verify → triangulate or reconstruct → refine → georeference →
index. What a step leaves on disk is found again when a run is repeated with the same
settings; `map.yaml` is written last, so an unfinished map is never taken for a map.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycolmap

import kapture_ros
from kapture_ros.errors import InputError, OutputError
from kapture_ros.files import keep_inputs, remove_folder, write_atomically
from kapture_ros.mapping import georeference, routes
from kapture_ros.mapping.colmap import new_reconstruction, structure_of, write_database
from kapture_ros.mapping.colors import colored
from kapture_ros.mapping.consistency import PoseCheck, check_poses
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.gnss import positions_of_images
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.images import ImageTable, read_images, require_calibration
from kapture_ros.mapping.index import build_index
from kapture_ros.mapping.intrinsics import with_guessed_intrinsics
from kapture_ros.mapping.manifest import FILE_NAME, Manifest, reconstruction, write_manifest
from kapture_ros.mapping.matching import MatchStore, match_pairs
from kapture_ros.mapping.missing_features import extract_missing
from kapture_ros.mapping.mounting import corrected, mountings
from kapture_ros.mapping.options import MapSettings
from kapture_ros.mapping.pairs import Pairs, choose_pairs, write_pairs
from kapture_ros.mapping.pose_report import pose_frame
from kapture_ros.mapping.sessions import (
    FeatureSource,
    Session,
    copy_records,
    image_files,
    link_features,
    merged,
    read_session,
    same_types,
    write_images,
)
from kapture_ros.mapping.structure import write_structure
from kapture_ros.mapping.verification import (
    PairGeometry,
    verify_pairs,
    write_geometries,
)

log = logging.getLogger(__name__)

BUILD = "build"
SETTINGS = "settings.json"
DATABASE = "database.db"


class Run:
    """The record of a run: what each step did, how long it took, what to warn of."""

    def __init__(self, settings: MapSettings):
        self.settings = settings
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step; the block adds its counts to the dictionary it is given."""
        counts: dict[str, Any] = {"step": name}
        start = time.perf_counter()
        yield counts
        counts["seconds"] = round(time.perf_counter() - start, 2)
        self.steps.append(counts)
        told = ", ".join(f"{v} {k}" for k, v in counts.items() if k not in ("step", "seconds"))
        log.info("%s: %s (%.1f s)", name, told, counts["seconds"])

    def warn(self, message: str) -> None:
        """Tell the user now and in map.yaml."""
        log.warning("%s", message)
        self.warnings.append(message)

    def record(self) -> dict[str, Any]:
        """The content of map.yaml's `record`."""
        settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self.settings).items()
        }
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {
                "kapture_ros": kapture_ros.__version__,
                "pycolmap": pycolmap.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "settings": settings,
            "steps": self.steps,
            "warnings": self.warnings,
        }


def build_map(
    datasets: Sequence[Path], map_dir: Path, settings: MapSettings, *, overwrite: bool = False
) -> Manifest:
    """Make a map of one or more drives.

    Raises:
        InputError: if a dataset cannot become a map, saying why and what to do.
        OutputError: if the map exists already or cannot be written.
    """
    check_output(map_dir, datasets, overwrite=overwrite)
    check_drives(datasets, settings)
    if settings.inputs.estimate_intrinsics:
        refining = dataclasses.replace(settings.reconstruct, refine_intrinsics=True)
        settings = dataclasses.replace(settings, reconstruct=refining)
    run = Run(settings)
    extract_step(run, datasets)
    with run.step("collect") as counts:
        sessions = read_sessions(datasets, settings)
        for session in sessions:
            if session.left_out:
                run.warn(session.left_out)
        types = same_types(sessions)
        build = begin(map_dir, sessions, settings, overwrite=overwrite)
        folders = link_features(sessions, map_dir)
        images, session_of = joined(sessions)
        counts |= {"sessions": len(sessions), "images": len(images)}
    pairs = pair_step(run, images, sessions, folders, build)
    store = MatchStore(map_dir, types.keypoints)
    with run.step("match") as counts:
        new = match_pairs(images, pairs, folders["descriptors"], store, settings.match)
        counts |= {"pairs": len(pairs), "newly matched": new}
    route, images = route_step(run, images, sessions, pairs, folders, store)
    verified = verify_step(run, images, pairs, folders, store, build, route)
    scene = routes.Scene(
        images, session_of, folders["keypoints"], build / DATABASE,
        tuple(fixes for session in sessions for fixes in session.fixes_by_drive),
        verified, settings.reconstruct,
    )  # fmt: skip
    placed = place_step(run, scene, route)
    write_step(run, placed, sessions, folders, map_dir)
    manifest = Manifest(
        types, placed.metric, placed.datum, georeference.bounds(placed.images),
        tuple(session.name for session in sessions), run.record(),
    )  # fmt: skip
    write_manifest(map_dir, manifest)
    build_index(map_dir)
    measure_map(map_dir, settings.reconstruct.held_out)
    shutil.rmtree(build)
    return manifest


def check_output(map_dir: Path, datasets: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse a place for a map before hours go into it; nothing is removed yet.

    Raises:
        OutputError: if it holds a map (and `overwrite` is false), something else or a drive.
    """
    keep_inputs(map_dir, datasets)
    if not map_dir.exists() or (map_dir / BUILD / SETTINGS).is_file():
        return
    if (map_dir / FILE_NAME).exists():
        if not overwrite:
            raise OutputError(f"{map_dir} is a map already: choose another, or pass --overwrite")
    elif not map_dir.is_dir() or any(map_dir.iterdir()):
        raise OutputError(f"{map_dir} is not empty and not an unfinished map: choose another name")


def check_drives(datasets: Sequence[Path], settings: MapSettings) -> None:
    """Refuse what cannot become a map before hours go into the features of the first drive.

    Raises:
        InputError: if a drive cannot be read, has one image or cameras without calibration,
            or drives have equal names.
    """
    names = [dataset.resolve().name for dataset in datasets]
    if len(set(names)) < len(names):
        raise InputError(f"the datasets' folders need different names, not {', '.join(names)}")
    for dataset in datasets:
        images = read_images(dataset)
        _require_two(images, dataset)
        if settings.inputs.estimate_intrinsics:
            images = with_guessed_intrinsics(images)
        require_calibration(images, dataset)


def _require_two(images: ImageTable, dataset: Path) -> None:
    if len(images) < 2:
        raise InputError(f"{dataset} has one image: a map needs at least two that overlap")


def extract_step(run: Run, datasets: Sequence[Path]) -> None:
    """Give drives that have no features those of the bundled networks.

    Raises:
        InputError, OptionError, OutputError: as `extract_dataset`.
    """
    with run.step("extract") as counts:
        done = [extract_missing(dataset, run.settings) for dataset in datasets]
        counts |= {"images": sum(one.made for one in done if one is not None)}


def read_sessions(datasets: Sequence[Path], settings: MapSettings) -> list[Session]:
    """Read all drives; several get their names from their folders.

    Raises:
        InputError: as `read_session`.
    """
    names = [dataset.resolve().name for dataset in datasets]
    source = FeatureSource.of(settings)
    sessions = []
    for dataset, name in zip(datasets, names, strict=True):
        session = read_session(
            dataset, name, source,
            prefixed=len(datasets) > 1, gnss_sigma=settings.poses.gnss_sigma,
        )  # fmt: skip
        _require_two(session.images, dataset)  # that can be read
        if settings.inputs.estimate_intrinsics:
            guessed = with_guessed_intrinsics(session.images)
            session = dataclasses.replace(session, images=guessed)
        sessions.append(session)
    return sessions


def joined(sessions: Sequence[Session]) -> tuple[ImageTable, npt.NDArray[np.int32]]:
    """All images, and the drive of each; several of a session whose odometry was started again."""
    images = merged([session.images for session in sessions])
    first = np.cumsum([0] + [len(session.restarts) + 1 for session in sessions])
    drives = [session.drives + n for session, n in zip(sessions, first.tolist(), strict=False)]
    return images, np.concatenate(drives)


def begin(
    map_dir: Path, sessions: Sequence[Session], settings: MapSettings, *, overwrite: bool
) -> Path:
    """The folder of intermediate results, emptied if it is of other inputs or settings.

    A map that is there goes (see `check_output`): its successor's inputs are known to be good.

    Raises:
        OutputError: if it is a map of other inputs or settings that only lacks its measuring
            (and `overwrite` is false), or cannot be written.
    """
    build = map_dir / BUILD
    inputs = [str(session.dataset.resolve()) for session in sessions]
    state = json.dumps([inputs, dataclasses.asdict(settings)], default=str)
    key = hashlib.blake2b(state.encode(), digest_size=16).hexdigest()
    known = build / SETTINGS
    if known.is_file() and known.read_text() == key:
        log.info("continuing %s", map_dir)
        return build
    if (map_dir / FILE_NAME).exists() and not overwrite:
        raise OutputError(f"{map_dir} is a map already: choose another, or pass --overwrite")
    try:
        if map_dir.exists():
            remove_folder(map_dir)
        build.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write {map_dir}: {error.strerror}") from error
    write_atomically(known, key)
    return build


def pair_step(
    run: Run,
    images: ImageTable,
    sessions: Sequence[Session],
    folders: dict[str, FeatureFolder],
    build: Path,
) -> Pairs:
    """Choose the pairs and write them as a kapture pairsfile."""
    with run.step("pairs") as counts:
        places = np.stack([folders["global_features"].read(name).ravel() for name in images.names])
        pairs = choose_pairs(
            images, unit_rows(places), gnss_positions(images, sessions), run.settings.pairs
        )
        if len(pairs) == 0:
            raise InputError("no two images are worth matching: the pair options exclude all")
        write_pairs(build / "pairs.txt", images, pairs)
        counts |= {"pairs": len(pairs)}
    return pairs


def gnss_positions(
    images: ImageTable, sessions: Sequence[Session]
) -> npt.NDArray[np.float64] | None:
    """Positions (N, 3) of the images by GNSS in one frame; None without fixes."""
    datum = next((s.fixes.datum() for s in sessions if len(s.fixes)), None)
    if datum is None:
        return None
    return np.concatenate([positions_of_images(s.images, s.fixes, datum) for s in sessions])


def route_step(
    run: Run,
    images: ImageTable,
    sessions: Sequence[Session],
    pairs: Pairs,
    folders: dict[str, FeatureFolder],
    store: MatchStore,
) -> tuple[str, ImageTable]:
    """How the given poses are used, and the images, with cameras turned where that is wanted."""
    given, wanted = images, run.settings.poses
    if wanted.correct_mounting and wanted.poses in ("auto", "fixed"):
        images = mounting_step(run, images, pairs, folders, store)
    route = pose_step(run, images, sessions, pairs, folders, store)
    if route == "fixed":
        if not wanted.correct_mounting:
            mounting_step(run, images, pairs, folders, store)
        return route, images
    if wanted.correct_mounting:
        run.warn(f"cameras stay as given: --correct-mounting keeps poses, --poses {route} not")
    return route, given


def pose_step(
    run: Run,
    images: ImageTable,
    sessions: Sequence[Session],
    pairs: Pairs,
    folders: dict[str, FeatureFolder],
    store: MatchStore,
) -> str:
    """How the given poses are used: fixed, refine or none."""
    wanted = run.settings.poses.poses
    if not images.posed.any():
        if wanted in ("fixed", "refine"):
            raise InputError(f"--poses {wanted}, but trajectories.txt has no pose of any image")
        return "none"
    if wanted == "none":
        return wanted
    if run.settings.inputs.estimate_intrinsics:  # a guess fits no poses yet
        return "refine" if wanted == "auto" else wanted
    with run.step("check poses") as counts:
        check = check_poses(images, pairs, folders["keypoints"], store, run.settings.verify)
        counts |= {"near": dict(check.near), "far": check.far, "fit": check.fits}
    _warn_of_misfits(run, check)
    again = [session for session in sessions if session.restarts]
    for session in again if wanted == "fixed" else ():
        run.warn(
            f"the odometry of {session.dataset} was started again {len(session.restarts)} times: "
            "--poses fixed lays drives over each other that are elsewhere; leave it out"
        )
    if wanted != "auto":
        return wanted
    # REP-105: poses in `odom` drift, whatever a sample of pairs may show.
    if check.drifts or again or any(pose_frame(session.dataset) == "odom" for session in sessions):
        return "refine"
    with_gnss = [session for session in sessions if len(session.fixes)]
    return "fixed" if all(_fits_gnss(session) for session in with_gnss) else "refine"


def _warn_of_misfits(run: Run, check: PoseCheck) -> None:
    if check.near and len(check.misfits) == len(check.near):
        raise InputError(
            "neighbouring images contradict the poses in every camera: trajectories.txt must be "
            "camera (or rig) from world, and rigs.txt sensor from rig (--correct-mounting: up to "
            "a turn of some degrees); `--poses none` maps without them"
        )
    for camera in check.misfits:
        run.warn(
            f"camera '{camera}': only {check.near[camera]:.0%} of the matches between its "
            "neighbouring images fit the poses, other cameras fit: its extrinsics (or its "
            "calibration) are wrong; correct them, or pass --correct-mounting if it is turned"
        )


def _fits_gnss(session: Session) -> bool:
    """Whether the poses of a drive agree with its fixes, after one shift and turn."""
    fits = routes.rigid_fit(session.images, session.fixes, session.fixes.datum())
    if not fits:
        log.info("the poses of %s bend against GNSS", session.name)
    return fits


def mounting_step(
    run: Run,
    images: ImageTable,
    pairs: Pairs,
    folders: dict[str, FeatureFolder],
    store: MatchStore,
) -> ImageTable:
    """Say which cameras are turned against their poses; correct them if that is wanted."""
    with run.step("check mounting") as counts:
        off = [m for m in mountings(images, pairs, folders["keypoints"], store) if m.is_off]
        counts |= {"cameras turned": len(off)}
    for mounting in off:
        found = (
            f"camera '{mounting.sensor_id}' is turned {mounting.told()} against its poses, by its "
            f"images (epipolar error {mounting.before:.2f} px, so turned {mounting.after:.2f} px)"
        )
        if not run.settings.poses.correct_mounting:
            cure = "correct its extrinsics (or its principal point), or pass --correct-mounting"
            run.warn(f"{found}: {cure}")
            continue
        images = corrected(images, mounting)
        run.warn(
            f"{found}: corrected in the map; vehicles need the same extrinsics, or their poses "
            "are turned by as much"
        )
    return images


def verify_step(
    run: Run,
    images: ImageTable,
    pairs: Pairs,
    folders: dict[str, FeatureFolder],
    store: MatchStore,
    build: Path,
    route: str,
) -> list[PairGeometry]:
    """Verify all pairs, the more strictly the less is known, and write COLMAP's database."""
    options = run.settings.verify
    if route == "none":
        ratio = max(options.min_ratio, options.min_ratio_alone)
        options = dataclasses.replace(options, min_ratio=ratio)
    with run.step("verify") as counts:
        posed = images.posed[pairs].all(axis=1)
        same_instant = images.frames[pairs[:, 0]] == images.frames[pairs[:, 1]]
        known = same_instant | (posed & (route == "fixed"))
        keypoints = folders["keypoints"]
        verified = list(verify_pairs(images, pairs, keypoints, store, known, options))
        model = new_reconstruction(images, keypoints)
        write_database(build / DATABASE, model, keypoints)
        write_geometries(build / DATABASE, verified)
        good = [pair for pair in verified if len(pair.matches)]
        counts |= {"pairs": len(good), "matches": sum(len(pair.matches) for pair in good)}
        if not good:
            raise InputError(
                "no pair of images shows the same scene: the images do not overlap, or the "
                "features are damaged"
            )
    return verified


def place_step(run: Run, scene: routes.Scene, route: str) -> routes.Placed:
    """Points and poses, by the route chosen; says what was left out."""
    with run.step(reconstruction(route)) as counts:
        if route == "fixed":
            placed = routes.fixed(scene)
        elif route == "refine":
            placed = routes.refine(scene, run.settings.poses)
        else:
            placed = routes.without_poses(scene, run.settings.poses, scene.images)
        model = placed.model
        counts |= {
            "images": int(placed.images.posed.sum()),
            "points": model.num_points3D(),
            "mean track": round(model.compute_mean_track_length(), 3),
            "reprojection px": round(model.compute_mean_reprojection_error(), 3),
        }
    for note in placed.notes:
        run.warn(note)
    lost = int((~placed.images.posed).sum())
    if lost:
        run.warn(f"{lost} of {len(placed.images)} images are not in the map: no pose was found")
    return placed


def write_step(
    run: Run,
    placed: routes.Placed,
    sessions: Sequence[Session],
    folders: dict[str, FeatureFolder],
    map_dir: Path,
) -> None:
    """The map's kapture files."""
    with run.step("write") as counts:
        keypoints = folders["keypoints"]
        structure = structure_of(placed.model, len(placed.images))
        structure = colored(structure, placed.images, keypoints, image_files(sessions))
        sensors = copy_records([(s.dataset, s.prefix) for s in sessions], map_dir)
        write_images(map_dir, placed.images, sensors)
        write_structure(map_dir, placed.images, keypoints.type_name, structure)
        counts |= {"points": len(structure.xyz), "observations": len(structure.points)}

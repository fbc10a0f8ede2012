"""`kapture_ros map add`: a new drive joins a map; what is there already stays as it is.

New images are localized in the map, matched with the map images around them and with each
other, and triangulated. Old poses are held; new ones and the points they see are adjusted.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from kapture_ros.errors import InputError
from kapture_ros.files import new_output
from kapture_ros.localization.localizer import Localizer
from kapture_ros.mapping.adjustment import ba_settings
from kapture_ros.mapping.colmap import (
    add_structure,
    new_reconstruction,
    quiet_colmap,
    structure_of,
    with_results_of,
    write_database,
)
from kapture_ros.mapping.colors import colored
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.georeference import bounds
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.images import ImageTable, require_calibration
from kapture_ros.mapping.index import build_index
from kapture_ros.mapping.manifest import require_metric, write_manifest
from kapture_ros.mapping.matching import MatchStore, match_pairs
from kapture_ros.mapping.missing_features import are_bundled, extract_missing
from kapture_ros.mapping.options import MapSettings
from kapture_ros.mapping.pairs import choose_pairs
from kapture_ros.mapping.reconstruction import triangulate_more
from kapture_ros.mapping.relocate import placed_in_map
from kapture_ros.mapping.sessions import (
    FeatureSource,
    Session,
    copy_records,
    image_files,
    link,
    link_features,
    merged,
    read_session,
    require_type,
    write_images,
)
from kapture_ros.mapping.structure import write_structure
from kapture_ros.mapping.subset import OpenMap, open_map
from kapture_ros.mapping.verification import PairGeometry, verify_pairs, write_geometries
from kapture_ros.mapping.visual_map import VisualMap

log = logging.getLogger(__name__)

DATABASE = "add.db"


def extend_map(map_dir: Path, dataset: Path, settings: MapSettings) -> None:
    """Add a drive to a map; the map is replaced only when all went well.

    Raises:
        InputError: if the drive's features are of another type, its name is in the map
            already, or none of its images can be localized in the map.
        OutputError: if the map cannot be written.
    """
    old = open_map(map_dir)
    session = _new_session(old, dataset, settings)
    if session.images.posed.any() or session.images.rigs:
        lengths = f"the odometry and rigs of {dataset}"
        require_metric(old.manifest, map_dir, lengths)
    localizer = Localizer(VisualMap.load(map_dir))
    placed = placed_in_map(session, localizer, settings.poses)
    rows = np.flatnonzero(placed.posed)
    log.info("add: %d of %d images have a place in the map", len(rows), len(placed))
    if len(rows) == 0:
        raise InputError(
            f"no image of {dataset} was localized in {map_dir}: the drive is elsewhere, or "
            "conditions differ too much; map both drives at once instead"
        )
    with new_output(map_dir, overwrite=True) as partial:
        _link_map(old, partial)
        folders = link_features([session], partial)
        images = merged([old.images, placed.select(rows)])
        model = _grown(old, images, folders, partial, settings)
        result = with_results_of(model, images)
        structure = structure_of(model, len(result))
        structure = colored(structure, result, folders["keypoints"], image_files([session]))
        sources = [(map_dir, ""), (dataset, session.prefix)]
        write_images(partial, result, copy_records(sources, partial))
        write_structure(partial, result, old.manifest.features.keypoints, structure)
        sessions = (*old.manifest.sessions, session.name)
        write_manifest(partial, replace(old.manifest, bounds=bounds(result), sessions=sessions))
        build_index(partial)
        measure_map(partial, settings.reconstruct.held_out)


def _new_session(old: OpenMap, dataset: Path, settings: MapSettings) -> Session:
    name = dataset.resolve().name
    if name in old.manifest.sessions:
        raise InputError(f"{old.path} has a session '{name}' already: rename the dataset's folder")
    if are_bundled(old.manifest.features):
        extract_missing(dataset, settings)
    source = FeatureSource.of(settings)
    sigma = settings.poses.gnss_sigma
    session = read_session(dataset, name, source, prefixed=True, gnss_sigma=sigma)
    if session.left_out:
        log.warning("%s", session.left_out)
    require_calibration(session.images, dataset)
    require_type(session, old.folders, "the map's")
    return session


def _link_map(old: OpenMap, partial: Path) -> None:
    """The features of the map in its successor."""
    for kind, folder in old.folders.items():
        target = FeatureFolder.create(partial, kind, folder.type_name, folder.values)
        for name in old.images.names:
            link(folder.path(name), target.path(name))


def _grown(
    old: OpenMap,
    images: ImageTable,
    folders: dict[str, FeatureFolder],
    partial: Path,
    settings: MapSettings,
) -> pycolmap.Reconstruction:
    """The reconstruction with the new images, triangulated and adjusted."""
    found = _verified_pairs(old, images, folders, partial, settings)
    model = new_reconstruction(images, folders["keypoints"])
    database = partial / DATABASE
    write_database(database, model, folders["keypoints"])
    write_geometries(database, found)
    add_structure(model, old.structure)
    model = triangulate_more(model, database, settings.reconstruct)
    _adjust_new(model, images, len(old.images), found, settings)
    model = triangulate_more(model, database, settings.reconstruct)
    database.unlink()
    return model


def _verified_pairs(
    old: OpenMap,
    images: ImageTable,
    folders: dict[str, FeatureFolder],
    partial: Path,
    settings: MapSettings,
) -> list[PairGeometry]:
    """Pairs with at least one new image, matched and verified."""
    places = [folders["global_features"].read(name).ravel() for name in images.names]
    pairs = choose_pairs(images, unit_rows(np.stack(places)), None, settings.pairs)
    pairs = pairs[pairs[:, 1] >= len(old.images)]
    store = MatchStore(partial, old.manifest.features.keypoints)
    match_pairs(images, pairs, folders["descriptors"], store, settings.match)
    same_instant = images.frames[pairs[:, 0]] == images.frames[pairs[:, 1]]
    keypoints = folders["keypoints"]
    found = list(verify_pairs(images, pairs, keypoints, store, same_instant, settings.verify))
    shutil.rmtree(store.folder, ignore_errors=True)
    return [pair for pair in found if len(pair.matches)]


def _adjust_new(
    model: pycolmap.Reconstruction,
    images: ImageTable,
    old_count: int,
    found: list[PairGeometry],
    settings: MapSettings,
) -> None:
    """Bundle adjustment of the new poses; old ones are held, far ones not even looked at.

    Raises:
        InputError: if the solver finds no usable solution.
    """
    rows = {row for pair in found for row in (pair.first, pair.second)}
    config = pycolmap.BundleAdjustmentConfig()
    old_frames: npt.NDArray[np.int32] = np.unique(images.frames[:old_count])
    for row in sorted(rows | set(range(old_count, len(images)))):
        config.add_image(row + 1)
    for frame in old_frames.tolist():
        config.set_constant_rig_from_world_pose(frame + 1)
    for camera in range(len(images.cameras)):
        config.set_constant_cam_intrinsics(camera + 1)
    with quiet_colmap():
        adjuster = pycolmap.create_default_bundle_adjuster(
            ba_settings(settings.reconstruct), config, model
        )
        summary = adjuster.solve()
    if not summary.is_solution_usable():
        raise InputError("the new drive contradicts the map: its calibration may be wrong")

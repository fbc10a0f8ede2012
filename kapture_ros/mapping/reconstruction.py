"""Points and poses from verified matches: triangulation and structure from motion.

Each step takes the image table and a COLMAP database and gives a COLMAP reconstruction;
poses travel back through `colmap.with_results_of`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from kapture_ros.errors import InputError
from kapture_ros.mapping.colmap import (
    new_reconstruction,
    quiet_colmap,
    require_points,
    with_results_of,
)
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.options import ReconstructOptions


def triangulate(
    images: ImageTable,
    keypoints: FeatureFolder,
    database: Path,
    options: ReconstructOptions,
    looseness: float = 1.0,
) -> pycolmap.Reconstruction:
    """Points from the poses of the table, which stay as they are.

    Args:
        looseness: factor on the reprojection error, for poses that are still rough.

    Raises:
        InputError: if no point could be triangulated.
    """
    settings = _triangulation(options, looseness)
    model = new_reconstruction(images, keypoints)
    with quiet_colmap(), tempfile.TemporaryDirectory() as nowhere:
        model = pycolmap.triangulate_points(model, database, nowhere, nowhere, options=settings)
    require_points(model, "triangulation")
    return model


def triangulate_more(
    model: pycolmap.Reconstruction, database: Path, options: ReconstructOptions
) -> pycolmap.Reconstruction:
    """Further points from the matches of a database; those of the model stay and may grow."""
    settings = _triangulation(options, 1.0)
    with quiet_colmap(), tempfile.TemporaryDirectory() as nowhere:
        return pycolmap.triangulate_points(
            model, database, nowhere, nowhere, clear_points=False, options=settings
        )


def _triangulation(
    options: ReconstructOptions, looseness: float
) -> pycolmap.IncrementalPipelineOptions:
    settings = pycolmap.IncrementalPipelineOptions()
    error = options.max_reprojection * looseness
    settings.triangulation.complete_max_reproj_error = error
    settings.triangulation.merge_max_reproj_error = error
    settings.mapper.filter_max_reproj_error = error
    settings.triangulation.create_max_angle_error *= looseness
    settings.triangulation.continue_max_angle_error *= looseness
    settings.triangulation.min_angle = options.min_angle
    settings.mapper.filter_min_tri_angle = options.min_angle
    settings.ba_refine_focal_length = False
    settings.ba_refine_extra_params = False
    settings.ba_refine_sensor_from_rig = False
    settings.extract_colors = False
    settings.num_threads = options.threads
    settings.random_seed = 0
    return settings


@dataclass(frozen=True, slots=True)
class Component:
    """One connected reconstruction: its images posed, the others not."""

    images: ImageTable
    model: pycolmap.Reconstruction


def structure_from_motion(
    images: ImageTable, database: Path, options: ReconstructOptions, *, incremental: bool
) -> list[Component]:
    """Poses from matches alone, up to a similarity; components by size, largest first.

    Raises:
        InputError: if nothing could be reconstructed.
    """
    with quiet_colmap(), tempfile.TemporaryDirectory() as nowhere:
        run = _incremental if incremental else _global
        models = run(database, nowhere, options)
    unposed = replace(images, poses=np.full((len(images), 7), np.nan))
    found = sorted(models.values(), key=lambda model: model.num_reg_images(), reverse=True)
    components = [Component(with_results_of(model, unposed), model) for model in found]
    if not components:
        raise InputError(
            "no two images could be reconstructed: they do not overlap, or the calibration is wrong"
        )
    require_points(components[0].model, "structure from motion")
    return components


def _global(
    database: Path, nowhere: str, options: ReconstructOptions
) -> dict[int, pycolmap.Reconstruction]:
    settings = pycolmap.GlobalPipelineOptions()
    settings.num_threads = options.threads
    settings.random_seed = 0
    mapper = settings.mapper
    mapper.refine_sensor_from_rig = options.refine_extrinsics
    mapper.rotation_averaging.refine_sensor_from_rig = options.refine_extrinsics
    mapper.global_positioning.refine_sensor_from_rig = options.refine_extrinsics
    mapper.global_positioning.use_gpu = False
    mapper.bundle_adjustment.refine_focal_length = options.refine_intrinsics
    mapper.bundle_adjustment.refine_extra_params = options.refine_intrinsics
    mapper.bundle_adjustment.refine_sensor_from_rig = options.refine_extrinsics
    return pycolmap.global_mapping(database, nowhere, nowhere, settings)


def _incremental(
    database: Path, nowhere: str, options: ReconstructOptions
) -> dict[int, pycolmap.Reconstruction]:
    settings = pycolmap.IncrementalPipelineOptions()
    settings.num_threads = options.threads
    settings.random_seed = 0
    settings.extract_colors = False
    settings.ba_refine_focal_length = options.refine_intrinsics
    settings.ba_refine_extra_params = options.refine_intrinsics
    settings.ba_refine_sensor_from_rig = options.refine_extrinsics
    settings.mapper.init_min_tri_angle = 4.0  # a car looks where it drives
    return pycolmap.incremental_mapping(database, nowhere, nowhere, settings)

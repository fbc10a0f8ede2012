"""Points and poses from verified matches: triangulation, bundle adjustment, structure from motion.

Each step takes the image table and a COLMAP database and gives a COLMAP reconstruction;
poses travel back through `colmap.with_results_of`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from kapture_ros.errors import InputError
from kapture_ros.mapping.colmap import new_reconstruction, require_points, with_results_of
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.gnss import RigTrack, sensor_from_rig
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.options import ReconstructOptions
from kapture_ros.mapping.pose_graph import Positions
from kapture_ros.transforms.se3 import Array

PRIOR_LOSS_SCALE = 2.8  # sigma of a position prior from where on it is doubted


@dataclass(frozen=True, slots=True)
class CameraPriors:
    """Where K images should be: rows (K,), positions (K, 3), covariances (K, 3, 3)."""

    rows: npt.NDArray[np.int64]
    positions: Array
    covariances: Array

    def __len__(self) -> int:
        return len(self.rows)


NO_PRIORS = CameraPriors(np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 3, 3)))


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
    model = new_reconstruction(images, keypoints)
    with quiet_colmap(), tempfile.TemporaryDirectory() as nowhere:
        model = pycolmap.triangulate_points(model, database, nowhere, nowhere, options=settings)
    require_points(model, "triangulation")
    return model


def adjust(
    model: pycolmap.Reconstruction, priors: CameraPriors, options: ReconstructOptions
) -> None:
    """Bundle adjustment in place: all poses and points, rigs kept rigid.

    With three or more priors they hold the frame and the scale; without, the first cameras
    do.

    Raises:
        InputError: if the solver finds no usable solution.
    """
    settings = pycolmap.BundleAdjustmentOptions()
    settings.refine_focal_length = options.refine_intrinsics
    settings.refine_extra_params = options.refine_intrinsics
    settings.refine_principal_point = False
    settings.refine_sensor_from_rig = options.refine_extrinsics
    settings.print_summary = False
    settings.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    settings.ceres.loss_function_scale = 1.0
    settings.ceres.auto_select_solver_type = True
    settings.ceres.solver_options.max_num_iterations = options.iterations
    settings.ceres.solver_options.num_threads = options.threads
    settings.ceres.solver_options.function_tolerance = 1e-5
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    with quiet_colmap():
        if len(priors) >= 3:
            adjuster = _with_priors(model, priors, settings, config)
        else:
            config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
            adjuster = pycolmap.create_default_bundle_adjuster(settings, config, model)
        summary = adjuster.solve()
    if not summary.is_solution_usable():
        raise InputError(
            "bundle adjustment failed: the poses or the calibration contradict the images; "
            "`--poses none` reconstructs without the poses"
        )


def _with_priors(
    model: pycolmap.Reconstruction,
    priors: CameraPriors,
    settings: pycolmap.BundleAdjustmentOptions,
    config: pycolmap.BundleAdjustmentConfig,
) -> pycolmap.BundleAdjuster:
    prior_settings = pycolmap.PosePriorBundleAdjustmentOptions()
    prior_settings.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
    prior_settings.ceres.prior_position_loss_scale = PRIOR_LOSS_SCALE
    # The poses are in the frame of the priors already. COLMAP fits them to the priors again,
    # by least squares over all that are not farther than this.
    prior_settings.alignment_ransac.max_error = 1e3
    prior_settings.alignment_ransac.random_seed = 0
    listed = [
        pycolmap.PosePrior(
            pose_prior_id=number + 1,
            corr_data_id=model.image(int(row) + 1).data_id,
            position=position,
            position_covariance=covariance,
            coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
        )
        for number, (row, position, covariance) in enumerate(
            zip(priors.rows, priors.positions, priors.covariances, strict=True)
        )
    ]
    return pycolmap.create_pose_prior_bundle_adjuster(
        settings, prior_settings, config, listed, model
    )


def camera_priors(images: ImageTable, track: RigTrack, measured: Positions) -> CameraPriors:
    """Measured positions of antennas as those of one camera of each instant.

    The turn of the rig is taken from its pose as it is now. Several fixes of one instant
    become their weighted mean.
    """
    row_of = {}
    for row in np.flatnonzero(images.posed)[::-1].tolist():
        row_of[int(images.frames[row])] = row
    rows, positions, covariances = [], [], []
    for at in np.unique(measured.rows):
        row = row_of[int(track.frames[at])]
        camera = sensor_from_rig(images, row).inverse().translation
        here = measured.rows == at
        levers = track.rotations[int(at)].apply(camera - measured.levers[here])
        weights = np.linalg.inv(measured.covariances[here])
        total = np.linalg.inv(weights.sum(axis=0))
        points = measured.points[here] + levers
        rows.append(row)
        positions.append(total @ np.einsum("kij,kj->i", weights, points))
        covariances.append(total)
    if not rows:
        return NO_PRIORS
    return CameraPriors(np.array(rows), np.array(positions), np.array(covariances))


def own_priors(images: ImageTable, sigma: float) -> CameraPriors:
    """The given poses as priors of a standard deviation in metres, one camera an instant."""
    posed = np.flatnonzero(images.posed)
    _, first = np.unique(images.frames[posed], return_index=True)
    rows = posed[first]
    covariances = np.broadcast_to(sigma**2 * np.eye(3), (len(rows), 3, 3))
    return CameraPriors(rows, images.centers()[rows], covariances.copy())


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


@contextlib.contextmanager
def quiet_colmap() -> Iterator[None]:
    """Let COLMAP log errors only: its progress is ours to show."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before

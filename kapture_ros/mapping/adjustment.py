"""Bundle adjustment in which images, odometry and GNSS have their say, by their covariances.

The reprojection errors are COLMAP's; relative poses of odometry and positions of receivers
are added to the same Ceres problem, one block a measurement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyceres
import pycolmap
from pycolmap._core import cost_functions
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.mapping.colmap import quiet_colmap, reference_from_rig, rigid, transform
from kapture_ros.mapping.gnss import NO_POSITIONS, RigTrack
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.options import PoseOptions, ReconstructOptions
from kapture_ros.mapping.pose_graph import LEVEL, Positions
from kapture_ros.transforms.se3 import Array, Transform

DOUBTED = 3.0  # sigma from where on a measurement loses weight (Cauchy)
STANDING = 0.05  # metres: a step of none is measured well, not exactly
WINDOW = 1.0  # metres over which drift is measured; images of one instant tell nothing of it
MIN_WINDOWS = 20
LEAST_DRIFT = np.repeat([0.001, np.radians(0.005)], 3)  # per metre; no wheels are better
NORMAL = 1.4826  # standard deviation of a normal distribution by its median deviation
UNKNOWN = 1e4  # a standard deviation in metres or radians that says nothing
COLMAP_ORDER = [3, 4, 5, 0, 1, 2]  # of a twist: rotation, then translation


@dataclass(frozen=True, slots=True)
class Motion:
    """Odometry as measured: the track before any correction, and how it drifts.

    Attributes:
        drift: (6,) standard deviations per metre moved, of the translation (metres) along
            and the rotation (radians) about the axes of the rig.
    """

    track: RigTrack
    drift: Array

    @classmethod
    def of(cls, track: RigTrack, options: PoseOptions) -> Motion:
        """With the drift that is expected before anything was measured."""
        drift = np.repeat([options.drift_metres, np.radians(options.drift_degrees)], 3)
        return cls(track, drift)

    def step(self, first: int, second: int) -> Transform:
        """first_from_second between two rows of the track."""
        return self.track.pose(first).inverse() @ self.track.pose(second)

    def up(self) -> Array:
        """Where up is (F, 3) in the rigs."""
        upwards: Array = self.track.rotations.inv().apply([0.0, 0.0, 1.0])
        return upwards

    def deviations(self, lengths: npt.ArrayLike) -> Array:
        """Standard deviations (…, 6) of steps of some lengths (…,) in metres."""
        deviations: Array = (np.asarray(lengths)[..., None] + STANDING) * self.drift
        return deviations

    def against(self, track: RigTrack) -> Motion:
        """With the drift that a corrected track of the same instants shows.

        Wheels are poor in other directions than inertial sensors, and a map is bent by what
        is trusted too much as well as by what is trusted too little.
        """
        errors = []
        for first, second in _windows(self.track):
            step = self.step(first, second)
            corrected = track.pose(first).inverse() @ track.pose(second)
            length = float(np.linalg.norm(step.translation)) + STANDING
            errors.append((corrected @ step.inverse()).log() / length)
        if len(errors) < MIN_WINDOWS:
            return self
        # About zero, not about their mean: what is always wrong is drift, too.
        measured = NORMAL * np.median(np.abs(errors), axis=0)
        return replace(self, drift=np.maximum(measured, LEAST_DRIFT))


def _windows(track: RigTrack) -> Iterator[tuple[int, int]]:
    """Rows with `WINDOW` metres at least between them, one window after the other."""
    first, moved = 0, 0.0
    steps = np.linalg.norm(np.diff(track.translations, axis=0), axis=1)
    for row, (step, broken) in enumerate(zip(steps.tolist(), track.breaks.tolist(), strict=True)):
        moved += step
        if broken:
            first, moved = row + 1, 0.0
        elif moved >= WINDOW:
            yield first, row + 1
            first, moved = row + 1, 0.0


@dataclass(frozen=True, slots=True)
class Constraints:
    """What is known besides the images; rows of `positions` are rows of `track`.

    Attributes:
        track: the rig poses as they are now.
        motion: odometry of the same instants; None without.
        positions: places of points fixed to the rigs.
    """

    track: RigTrack
    motion: Motion | None = None
    positions: Positions = field(default_factory=lambda: NO_POSITIONS)


def adjust(
    model: pycolmap.Reconstruction,
    images: ImageTable,
    constraints: Constraints,
    options: ReconstructOptions,
) -> None:
    """Adjust all poses and points in place; rigs stay rigid unless they are to be refined.

    GNSS holds the frame, and with odometry its level; else the first instant does. Odometry,
    GNSS or a rig of several cameras holds the scale, else the first two images do.

    Raises:
        InputError: if the solver finds no usable solution.
    """
    settings = ba_settings(options)
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    floating = len(constraints.positions.rows) < 3
    if floating:
        rigs = any(rig.num_sensors() > 1 for rig in model.rigs.values())
        if constraints.motion is None and not rigs:
            config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        else:
            config.set_constant_rig_from_world_pose(int(constraints.track.frames[0]) + 1)
    with quiet_colmap():
        adjuster = pycolmap.create_default_ceres_bundle_adjuster(settings, config, model)
        problem = adjuster.problem
        observed = [
            row
            for row, frame in enumerate(constraints.track.frames.tolist())
            if problem.has_parameter_block(_pose(model, frame))
        ]
        _add_motion(problem, model, images, constraints, observed)
        _add_positions(problem, model, images, constraints, set(observed))
        if not floating:
            _add_level(problem, model, images, constraints, observed)
        # COLMAP's own solver: it knows the structure of the problem, additions included.
        summary = adjuster.solve()
    if not summary.is_solution_usable():
        raise InputError(
            "bundle adjustment failed: the poses or the calibration contradict the images; "
            "`--poses none` reconstructs without the poses"
        )
    if constraints.motion is not None:
        _carry_along(model, images, constraints.motion, observed)


def ba_settings(options: ReconstructOptions) -> pycolmap.BundleAdjustmentOptions:
    """COLMAP's settings for our options: robust loss, solver chosen by size."""
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
    return settings


def _add_motion(
    problem: pyceres.Problem,
    model: pycolmap.Reconstruction,
    images: ImageTable,
    constraints: Constraints,
    observed: list[int],
) -> None:
    """Steps of the odometry between successive instants that see points."""
    motion = constraints.motion
    if motion is None:
        return
    sessions = constraints.track.sessions
    for first, second in itertools.pairwise(observed):
        if sessions[first] != sessions[second]:
            continue
        step = motion.step(first, second)
        frames = [int(constraints.track.frames[row]) for row in (first, second)]
        # COLMAP's rig is its reference camera, and its poses are rig_from_world.
        from_rigs = [reference_from_rig(images, model.frame(frame + 1)) for frame in frames]
        relative = from_rigs[0] @ step @ from_rigs[1].inverse()
        sigma = motion.deviations(np.linalg.norm(step.translation))
        adjoint = from_rigs[0].adjoint()
        covariance = adjoint @ np.diag(sigma**2) @ adjoint.T
        cost = cost_functions.RelativePosePriorCost(
            covariance[np.ix_(COLMAP_ORDER, COLMAP_ORDER)], rigid(relative)
        )
        blocks = [_pose(model, frame) for frame in frames]
        problem.add_residual_block(cost, pyceres.CauchyLoss(DOUBTED), blocks)


def _add_positions(
    problem: pyceres.Problem,
    model: pycolmap.Reconstruction,
    images: ImageTable,
    constraints: Constraints,
    observed: set[int],
) -> None:
    """Receivers' positions, as positions of the reference camera by the rig's present turn."""
    measured, track = constraints.positions, constraints.track
    for row, point, lever, covariance in _rows(measured):
        if row not in observed:
            continue
        frame = int(track.frames[row])
        rig_from_reference = reference_from_rig(images, model.frame(frame + 1)).inverse()
        camera = rig_from_reference.translation
        position = point + track.rotations[row].apply(camera - lever)
        cost = cost_functions.AbsolutePosePositionPriorCost(covariance, position)
        problem.add_residual_block(cost, pyceres.CauchyLoss(DOUBTED), [_pose(model, frame)])


def _add_level(
    problem: pyceres.Problem,
    model: pycolmap.Reconstruction,
    images: ImageTable,
    constraints: Constraints,
    observed: list[int],
) -> None:
    """The drive as level on average as its odometry says (see `pose_graph.optimize`)."""
    if constraints.motion is None:
        return
    track = constraints.track
    for row, up in zip(observed, constraints.motion.up()[observed], strict=True):
        frame = int(track.frames[row])
        up_now = track.rotations[row].inv().apply([0.0, 0.0, 1.0])
        tilt, _ = Rotation.align_vectors(up[None], up_now[None])
        level = tilt * track.rotations[row].inv()
        from_rig = reference_from_rig(images, model.frame(frame + 1))
        axis = from_rig.rotation.apply(up)
        covariance = np.diag(np.repeat(UNKNOWN**2, 6))
        across = np.eye(3) - np.outer(axis, axis)
        covariance[:3, :3] -= (UNKNOWN**2 - LEVEL**2 * len(observed)) * across
        prior = rigid(from_rig @ Transform(level, -level.apply(track.translations[row])))
        cost = cost_functions.AbsolutePosePriorCost(covariance, prior)
        problem.add_residual_block(cost, None, [_pose(model, frame)])


def _pose(model: pycolmap.Reconstruction, frame: int) -> Array:
    """The memory (7,) of an instant's rig_from_world, as Ceres knows it."""
    pose = model.frame(frame + 1).rig_from_world
    assert pose is not None  # a track is of posed instants
    return pose.params


def _rows(measured: Positions) -> Iterator[tuple[int, Array, Array, Array]]:
    columns = measured.points, measured.levers, measured.covariances
    return zip(measured.rows.tolist(), *columns, strict=True)


def _carry_along(
    model: pycolmap.Reconstruction, images: ImageTable, motion: Motion, observed: list[int]
) -> None:
    """Move instants that see no points with the nearest ones that do, by odometry."""
    if not observed:
        return
    seen = np.array(observed)
    for row in sorted(set(range(len(motion.track.frames))) - set(observed)):
        same = seen[motion.track.sessions[seen] == motion.track.sessions[row]]
        if len(same) == 0:
            continue
        nearest = int(same[np.argmin(np.abs(same - row))])
        frame, other = (model.frame(int(motion.track.frames[r]) + 1) for r in (row, nearest))
        step = motion.step(row, nearest)
        neighbour = other.rig_from_world
        assert neighbour is not None  # it was adjusted
        rig_from_map = reference_from_rig(images, other).inverse() @ transform(neighbour)
        moved = reference_from_rig(images, frame) @ step @ rig_from_map
        frame.rig_from_world = rigid(moved)

"""Three ways from verified matches to a posed reconstruction, by what is known of the poses.

`fixed` keeps them, `refine` corrects a drifting trajectory by images and GNSS, `none`
starts from the images alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from kapture_ros.mapping import georeference
from kapture_ros.mapping.adjustment import Constraints, Motion, adjust
from kapture_ros.mapping.colmap import with_results_of
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.gnss import (
    NO_POSITIONS,
    GnssFixes,
    RigTrack,
    positions_of_images,
    rig_track,
    tie_to_rigs,
)
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.loops import loop_edges, odometry_edges
from kapture_ros.mapping.options import PoseOptions, ReconstructOptions
from kapture_ros.mapping.pose_graph import Positions, RelativePoses, optimize
from kapture_ros.mapping.reconstruction import structure_from_motion, triangulate
from kapture_ros.mapping.verification import PairGeometry, known_motion
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Transform

log = logging.getLogger(__name__)

LOOP_INSTANTS = 20  # apart along the drive; nearer ones are neighbours
ROUGHNESS = (4.0, 2.0, 1.0)  # factors on the reprojection error, round by round
NO_HEADING = "too few GNSS fixes, or no motion: the map has no datum"
NO_PLACE = "odometry was started again there, and GNSS does not tell where"
REST = 0.1  # of the images, that may be left out
STEREO_BASELINE, STEREO_INSTANTS = 0.05, 3  # metres; fewer may be wrong matches
HEADING_SIGMA = np.radians(5.0)  # a heading known worse than this is not known


@dataclass(frozen=True, slots=True)
class Scene:
    """What the routes work on.

    Attributes:
        session: (N,) int, the drive of each image.
        fixes: GNSS, one entry a drive.
        pairs: verified pairs of images.
    """

    images: ImageTable
    session: npt.NDArray[np.int32]
    keypoints: FeatureFolder
    database: Path
    fixes: tuple[GnssFixes, ...]
    pairs: Sequence[PairGeometry]
    options: ReconstructOptions

    def datum(self) -> Datum | None:
        """The place of the first fix of the first drive that has any."""
        return next((fixes.datum() for fixes in self.fixes if len(fixes)), None)

    def track(self, images: ImageTable) -> RigTrack:
        """The rig poses of a table of the same images."""
        return rig_track(images, self.session)

    def tied(
        self, images: ImageTable, datum: Datum | None, options: PoseOptions
    ) -> tuple[RigTrack, Positions]:
        """The rig poses, and what positions were measured of them.

        A trusted trajectory (`pose_sigma`) takes the place of the fixes.
        """
        track = self.track(images)
        if options.pose_sigma is not None:
            return track, _own_positions(self.track(self.images), options.pose_sigma)
        if datum is None:
            return track, NO_POSITIONS
        return track, tie_to_rigs(images, track, self.fixes, datum, options.gnss_correlation)


@dataclass(frozen=True, slots=True)
class Placed:
    """A posed reconstruction in the map frame.

    Attributes:
        metric: whether its unit is the metre.
        datum: where it is on the Earth, if that is known.
        left_out: sizes of the components that are not in the map (`none` only).
        notes: what the user should know.
    """

    images: ImageTable
    model: pycolmap.Reconstruction
    metric: bool
    datum: Datum | None
    left_out: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def fixed(scene: Scene) -> Placed:
    """Triangulate with the poses as they are, in the frame they are in."""
    model = triangulate(scene.images, scene.keypoints, scene.database, scene.options)
    datum, notes = _datum_of_frame(scene)
    return Placed(scene.images, model, True, datum, notes=notes)


def _datum_of_frame(scene: Scene) -> tuple[Datum | None, tuple[str, ...]]:
    """The datum of a frame that is kept: it is z-up, its place and heading are fitted."""
    local = scene.datum()
    if local is None:
        return None, ()
    track = scene.track(scene.images)
    fit = _align_track(track, tie_to_rigs(scene.images, track, scene.fixes, local))
    if fit is None:
        return None, (NO_HEADING,)
    latitude, longitude, altitude = local.geodetic_from_map(fit.translation)
    yaw = float(fit.rotation.as_euler("zyx")[0])
    return Datum(float(latitude[0]), float(longitude[0]), float(altitude[0]), yaw), ()


def refine(scene: Scene, options: PoseOptions) -> Placed:
    """Correct drifting poses: fuse with GNSS, close loops, adjust bundles.

    1. odometry and fixes become one smooth trajectory (pose graph);
    2. a first adjustment makes each place right by itself, and shows how odometry drifts;
    3. only then do places seen again tell by centimetres how they lie to each other;
    4. further rounds of triangulation and adjustment allow ever smaller errors.
    """
    images, datum, notes = _into_enu(scene)
    track, measured = scene.tied(images, datum, options)
    motion = Motion.of(track, options)
    if len(measured.rows):
        images = _smoothed(images, motion, track, [odometry_edges(motion)], measured)
    images, model = _adjusted(scene, images, datum, options, motion, ROUGHNESS[0])
    track, measured = scene.tied(images, datum, options)
    # Once: where odometry has a greater say, images contradict it less.
    motion = motion.against(track)
    _tell_drift(motion)
    loops = loop_edges(images, track, model, scene.keypoints, scene.pairs, LOOP_INSTANTS)
    log.info("%d loop closures", len(loops.first))
    if len(loops.first):
        steps = odometry_edges(replace(motion, track=track))
        images = _smoothed(images, motion, track, [steps, loops], measured)
    for looseness in ROUGHNESS[1:]:
        images, _ = _adjusted(scene, images, datum, options, motion, looseness)
    if not len(measured.rows):  # the rounds held the first instant, which may err like any other
        images = _moved_back(scene, images)
    model = triangulate(images, scene.keypoints, scene.database, scene.options)
    return Placed(images, model, True, datum, notes=notes)


def _moved_back(scene: Scene, images: ImageTable) -> ImageTable:
    """In the frame of the given poses: that of the first drive, if each has its own."""
    first = scene.session == scene.session[0]
    own, given = images.select(first), scene.images.select(first)
    return georeference.moved(images, georeference.align_to_trajectory(own, given, 1.0))


def _adjusted(
    scene: Scene,
    images: ImageTable,
    datum: Datum | None,
    options: PoseOptions,
    motion: Motion | None,
    looseness: float,
) -> tuple[ImageTable, pycolmap.Reconstruction]:
    """Triangulate and adjust once, with errors up to `looseness` times the usual ones."""
    model = triangulate(images, scene.keypoints, scene.database, scene.options, looseness)
    track, measured = scene.tied(images, datum, options)
    adjust(model, images, Constraints(track, motion, measured), scene.options)
    return with_results_of(model, images), model


def _tell_drift(motion: Motion) -> None:
    metres, degrees = motion.drift[:3], np.degrees(motion.drift[3:])
    log.info(
        "odometry drifts by %s m (ahead, left, up) and %s degrees (roll, pitch, yaw) a metre",
        np.array2string(metres, precision=4), np.array2string(degrees, precision=3),
    )  # fmt: skip


def without_poses(scene: Scene, options: PoseOptions, reference: ImageTable) -> Placed:
    """Structure from motion; scale and frame by GNSS, else by odometry, else by the rig.

    Args:
        reference: the images with the poses given, if any: for the scale.
    """
    components = structure_from_motion(
        scene.images, scene.database, scene.options, incremental=options.incremental
    )
    images = components[0].images
    left_out = tuple(int(part.images.posed.sum()) for part in components[1:])
    notes: list[str] = []
    if left_out:
        notes.append(
            f"{len(left_out)} parts are not connected with the map and left out "
            f"({', '.join(map(str, left_out))} images): drive so that places overlap"
        )
    images, datum, metric, said = _scaled(scene, images, reference)
    notes += said
    for looseness in ROUGHNESS:
        images, _ = _adjusted(scene, images, datum, options, None, looseness)
    if datum is None:  # the rounds let the frame float
        images, _, metric, _ = _scaled(scene, images, reference)
    model = triangulate(images, scene.keypoints, scene.database, scene.options)
    return Placed(images, model, metric, datum, left_out, tuple(notes))


def _scaled(
    scene: Scene, images: ImageTable, reference: ImageTable
) -> tuple[ImageTable, Datum | None, bool, list[str]]:
    """Upright, in metres where anything tells, east-north-up where GNSS tells."""
    up = georeference.up_of_ground(images)
    if up is None:
        up = georeference.up_of_cameras(images)
    turn = georeference.Similarity(1.0, georeference.rotation_to_up(up), np.zeros(3))
    images = georeference.moved(images, turn)
    placed = _placed_by_gnss(scene, images)
    if placed is not None:
        return *placed, True, []
    if reference.posed.sum() >= 3:
        scale = georeference.scale_by_steps(images, reference)
        if scale is not None:
            fit = georeference.align_to_trajectory(images, reference, scale)
            return georeference.moved(images, fit), None, True, []
    if _is_stereo(scene, images):
        return images, None, True, ["the scale is that of the camera rig alone"]
    note = (
        "the scale is unknown (no poses, no GNSS, no cameras that see the same at one instant): "
        "the map is marked as not metric; record odometry or GNSS with the images"
    )
    return images, None, False, [note]


def _placed_by_gnss(scene: Scene, images: ImageTable) -> tuple[ImageTable, Datum] | None:
    """Upright images in metres and east-north-up; None if the fixes do not tell."""
    datum = scene.datum()
    if datum is None:
        return None
    where = np.full((len(images), 3), np.nan)
    sigma = np.ones(len(images))
    for session, fixes in enumerate(scene.fixes):
        rows = np.flatnonzero(scene.session == session)
        if len(fixes):
            where[rows] = positions_of_images(images.select(rows), fixes, datum)
            variances = fixes.covariances[:, 0, 0] + fixes.covariances[:, 1, 1]
            sigma[rows] = np.sqrt(np.median(variances) / 2)
    both = np.flatnonzero(images.posed & np.isfinite(where).all(axis=1))
    if len(both) < 3:
        return None
    fit, heading = georeference.upright_alignment(
        images.centers()[both], where[both], sigma[both], with_scale=True
    )
    return (georeference.moved(images, fit), datum) if heading < HEADING_SIGMA else None


def _is_stereo(scene: Scene, images: ImageTable) -> bool:
    """Whether cameras some way apart saw the same points at several instants."""
    instants = set()
    for pair in scene.pairs:
        frame = int(images.frames[pair.first])
        if len(pair.matches) == 0 or frame != images.frames[pair.second]:
            continue
        between = known_motion(images, pair.first, pair.second).inverse().translation
        if images.posed[pair.first] and np.linalg.norm(between) >= STEREO_BASELINE:
            instants.add(frame)
    return len(instants) >= STEREO_INSTANTS


def _own_positions(track: RigTrack, sigma: float) -> Positions:
    """The given poses as measured positions."""
    count = len(track.frames)
    covariances = np.broadcast_to(sigma**2 * np.eye(3), (count, 3, 3)).copy()
    return Positions(np.arange(count), track.translations, np.zeros((count, 3)), covariances)


def _into_enu(scene: Scene) -> tuple[ImageTable, Datum | None, tuple[str, ...]]:
    """Every drive turned and shifted to its fixes, in one east-north-up frame.

    A rest of images whose fixes do not tell it (odometry that was started again at the end)
    loses its poses; where it is no rest, all keep the frames they are in.
    """
    datum = scene.datum()
    if datum is None:
        return scene.images, None, ()
    images, unplaced = scene.images, 0
    for session in np.unique(scene.session):
        rows = np.flatnonzero(scene.session == session)
        part = images.select(rows)
        track = rig_track(part, scene.session[rows])
        fit = _align_track(track, tie_to_rigs(part, track, scene.fixes, datum))
        if fit is None:
            unplaced += int(part.posed.sum())
            images = images.with_poses(rows, np.full(7, np.nan))
        else:
            images = images.with_poses(rows, georeference.moved(part, fit).poses)
    if unplaced > REST * scene.images.posed.sum():
        return scene.images, None, (NO_HEADING,)
    return images, datum, (f"{unplaced} images are left out: {NO_PLACE}",) if unplaced else ()


def rigid_fit(images: ImageTable, fixes: GnssFixes, datum: Datum) -> bool:
    """Whether a trajectory agrees with fixes up to a shift and a turn about up.

    Drift shows as residuals that are large against the fixes' own deviations; half of them
    within 1.5 sigma is what white noise leaves (its median is 1.2).
    """
    track = rig_track(images, np.zeros(len(images), np.int32))
    measured = tie_to_rigs(images, track, [fixes], datum)
    fit = _align_track(track, measured)
    if fit is None:
        return True
    turned = track.rotations[measured.rows].apply(measured.levers)
    residual = fit.apply(track.translations[measured.rows] + turned) - measured.points
    sigma = np.sqrt((measured.covariances[:, 0, 0] + measured.covariances[:, 1, 1]) / 2)
    return bool(np.median(np.linalg.norm(residual[:, :2], axis=1) / sigma) < 1.5)


def _align_track(track: RigTrack, measured: Positions) -> georeference.Similarity | None:
    """enu_from_frame of a z-up trajectory; None if the fixes do not tell the heading."""
    if len(measured.rows) < 3:
        return None
    turned = track.rotations[measured.rows].apply(measured.levers)
    antennas = track.translations[measured.rows] + turned
    sigma = np.sqrt((measured.covariances[:, 0, 0] + measured.covariances[:, 1, 1]) / 2)
    fit, heading = georeference.upright_alignment(
        antennas, measured.points, sigma, with_scale=False
    )
    return fit if heading < HEADING_SIGMA else None


def _smoothed(
    images: ImageTable,
    motion: Motion,
    track: RigTrack,
    edges: list[RelativePoses],
    measured: Positions,
) -> ImageTable:
    """The images after optimizing the pose graph of their rigs."""
    up = motion.up() if len(measured.rows) else None
    rotations, translations = optimize(track.rotations, track.translations, edges, measured, up)
    row_of = {int(frame): row for row, frame in enumerate(track.frames)}
    poses = images.poses.copy()
    for row in np.flatnonzero(images.posed).tolist():
        at = row_of[int(images.frames[row])]
        before = Transform(track.rotations[at], track.translations[at])
        after = Transform(rotations[at], translations[at])
        pose = images.cam_from_map(row) @ before @ after.inverse()
        poses[row] = [*pose.quaternion, *pose.translation]
    return images.with_poses(np.arange(len(images)), poses)

"""Where a new drive is in a map: its instants localized, odometry filling the gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tqdm import tqdm

from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.query import Query, QueryFeatures, QueryImage
from kapture_ros.mapping.adjustment import Motion
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.gnss import rig_track, sensor_from_rig
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.loops import odometry_edges
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.options import PoseOptions
from kapture_ros.mapping.pose_graph import Positions, optimize
from kapture_ros.mapping.sessions import Session
from kapture_ros.transforms.se3 import Transform

SIGMA = 0.1  # metres, of a localized instant
AGREE = (1.0, np.radians(5.0))  # metres, radians between two placements of a drive
ARM = 5.0  # metres: how far the points lie that stand for an orientation
UNKNOWN_POSE = np.full(7, np.nan)
REACH = 30.0  # metres driven from the last localized instant that odometry is believed

Names = tuple[str, ...]


def query_of(
    images: ImageTable,
    rows: list[int],
    names: Names,
    folders: dict[str, FeatureFolder],
    types: FeatureTypes,
) -> Query:
    """The images `rows` of one instant as a query with stored features.

    Args:
        names: (N,) the names the images have in the feature folders.
    """
    views = []
    for row in rows:
        places = unit_rows(folders["global_features"].read(names[row]).reshape(1, -1))
        features = QueryFeatures(
            np.ascontiguousarray(folders["keypoints"].read(names[row])[:, :2], np.float32),
            unit_rows(folders["descriptors"].read(names[row])),
            {types.global_features: places[0]},
            types,
        )
        camera = images.cameras[images.camera[row]]
        views.append(QueryImage(camera, sensor_from_rig(images, row), features=features))
    return Query(int(images.stamps[rows[0]]), tuple(views))


def placed_in_map(session: Session, localizer: Localizer, options: PoseOptions) -> ImageTable:
    """The images with poses in the map; without, where neither vision nor odometry tells.

    Args:
        session: its images have the poses of their own odometry, if there is one.
        options: how far the odometry is believed.
    """
    images, names, folders = session.images, session.originals, session.features
    types = localizer.map.feature_types
    found: dict[int, Transform] = {}
    for frame in tqdm(np.unique(images.frames).tolist(), "localize", disable=None):
        rows = np.flatnonzero(images.frames == frame).tolist()
        estimate = localizer.localize(query_of(images, rows, names, folders, types))
        if estimate.accepted and estimate.map_from_base is not None:
            found[frame] = estimate.map_from_base
    if images.posed.any():
        found = {
            frame: pose
            for drive in range(len(session.restarts) + 1)
            for frame, pose in _with_odometry(
                images.with_poses(np.flatnonzero(session.drives != drive), UNKNOWN_POSE),
                found,
                options,
            ).items()
        }
    poses = np.full((len(images), 7), np.nan)
    for row, frame in enumerate(images.frames.tolist()):
        if frame in found:
            cam_from_map = sensor_from_rig(images, row) @ found[frame].inverse()
            poses[row] = [*cam_from_map.quaternion, *cam_from_map.translation]
    return replace(images, poses=poses)


def _with_odometry(
    images: ImageTable, found: dict[int, Transform], options: PoseOptions
) -> dict[int, Transform]:
    """Localized instants that odometry confirms, and those it reaches from them."""
    track = rig_track(images, np.zeros(len(images), np.int32))
    row_of = {int(frame): row for row, frame in enumerate(track.frames)}
    anchors = {row_of[frame]: pose for frame, pose in found.items() if frame in row_of}
    if not anchors:
        return {}
    map_from_odom = _agreed(anchors, {row: track.pose(row) for row in anchors})
    rotations = map_from_odom.rotation * track.rotations
    translations = map_from_odom.apply(track.translations)
    edges = [odometry_edges(Motion.of(track, options))]
    rotations, translations = optimize(rotations, translations, edges, _as_positions(anchors))
    steps = np.linalg.norm(np.diff(track.translations, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    sure = [
        row
        for row, pose in anchors.items()
        if _near(Transform(rotations[row], translations[row]), pose)
    ]
    if not sure:
        return {}
    reached = np.abs(way[:, None] - way[sure]).min(axis=1) <= REACH
    return {
        int(track.frames[row]): Transform(rotations[int(row)], translations[row])
        for row in np.flatnonzero(reached)
    }


def _near(first: Transform, second: Transform) -> bool:
    metres, radians = first.distance_to(second)
    return metres <= AGREE[0] and radians <= AGREE[1]


def _agreed(anchors: dict[int, Transform], odometry: dict[int, Transform]) -> Transform:
    """The map_from_odom of one anchor that fits most others.

    Drift between anchors is neglected: they need to agree near each other only, and the
    pose graph bends the rest.
    """
    placements = {row: anchors[row] @ odometry[row].inverse() for row in anchors}

    def votes(row: int) -> int:
        return sum(_near(placements[row] @ odometry[other], anchors[other]) for other in anchors)

    return placements[max(placements, key=votes)]


def _as_positions(anchors: dict[int, Transform]) -> Positions:
    """Poses as positions of four points around each: the origin and one on every axis."""
    arms = np.vstack([np.zeros(3), ARM * np.eye(3)])
    rows = np.repeat(np.fromiter(anchors, np.int64), len(arms))
    points = np.concatenate([pose.apply(arms) for pose in anchors.values()])
    levers = np.tile(arms, (len(anchors), 1))
    return Positions(rows, points, levers, np.tile(SIGMA**2 * np.eye(3), (len(rows), 1, 1)))

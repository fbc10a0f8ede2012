"""Loop closures in metres: an image of one pass located among the points of another.

Verified pairs of images far apart in time give relative rig poses, by which the pose graph
pulls a drifting trajectory together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pycolmap
from scipy.spatial.transform import Rotation

from kapture_ros.mapping.adjustment import Motion
from kapture_ros.mapping.colmap import colmap_camera, structure_of
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.gnss import RigTrack, map_from_rig, sensor_from_rig
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.pose_graph import RelativePoses
from kapture_ros.mapping.verification import PairGeometry
from kapture_ros.transforms.se3 import Transform

MIN_INLIERS = 15
MAX_ERROR = 8.0  # pixels; the points of one pass still carry its drift
LOOPS_PER_INSTANT = 3  # the best; more say the same again
SIGMA = (0.1, 0.01)  # metres, radians


def loop_edges(
    images: ImageTable,
    track: RigTrack,
    model: pycolmap.Reconstruction,
    keypoints: FeatureFolder,
    pairs: Sequence[PairGeometry],
    apart: int,
) -> RelativePoses:
    """Relative poses between instants that are at least `apart` instants from each other.

    Rows of the result are rows of the track.
    """
    structure = structure_of(model, len(images))
    row_in_track = {int(frame): row for row, frame in enumerate(track.frames)}
    at = np.array([row_in_track.get(int(frame), -1) for frame in images.frames])
    wanted = [
        pair
        for pair in pairs
        if len(pair.matches) and min(at[pair.first], at[pair.second]) >= 0
        and abs(at[pair.first] - at[pair.second]) >= apart
    ]  # fmt: skip
    wanted.sort(key=lambda pair: len(pair.matches), reverse=True)
    used = np.zeros(len(track.frames), int)
    found: list[tuple[int, int, Transform]] = []
    for pair in wanted:
        first, second = int(at[pair.first]), int(at[pair.second])
        if used[second] >= LOOPS_PER_INSTANT:
            continue
        points = points_of_keypoints(structure.offsets, structure.points, structure.keypoints,
                                     pair.first, pair.matches[:, 0])  # fmt: skip
        known = points >= 0
        if known.sum() < MIN_INLIERS:
            continue
        pixels = keypoints.read(images.names[pair.second])[pair.matches[known, 1], :2]
        pose = _locate(images, pair.second, pixels, structure.xyz[points[known]])
        if pose is None:
            continue
        map_from_second = pose.inverse() @ sensor_from_rig(images, pair.second)
        first_from_second = map_from_rig(images, pair.first).inverse() @ map_from_second
        found.append((first, second, first_from_second))
        used[second] += 1
    return _as_edges(found)


def points_of_keypoints(
    offsets: npt.NDArray[np.int64],
    points: npt.NDArray[np.int32],
    keypoints: npt.NDArray[np.int32],
    image: int,
    wanted: npt.NDArray[np.int32],
) -> npt.NDArray[np.int64]:
    """The points that keypoints (k,) of an image observe; -1 where they observe none."""
    part = slice(offsets[image], offsets[image + 1])
    own, seen = keypoints[part], points[part]
    if len(own) == 0:
        return np.full(len(wanted), -1, np.int64)
    place = np.clip(np.searchsorted(own, wanted), 0, len(own) - 1)
    return np.where(own[place] == wanted, seen[place], -1).astype(np.int64)


def _locate(
    images: ImageTable, row: int, pixels: npt.NDArray[np.float32], xyz: npt.NDArray[np.float64]
) -> Transform | None:
    """cam_from_map of an image by points; None if too few agree."""
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = MAX_ERROR
    options.ransac.random_seed = 0
    camera = colmap_camera(images.cameras[images.camera[row]], 1)
    answer = pycolmap.estimate_and_refine_absolute_pose(
        pixels.astype(np.float64), xyz, camera, options
    )
    if answer is None or answer["num_inliers"] < MIN_INLIERS:
        return None
    if answer["num_inliers"] < 0.5 * len(xyz):
        return None
    return Transform.from_matrix(answer["cam_from_world"].matrix())


def _as_edges(found: list[tuple[int, int, Transform]]) -> RelativePoses:
    return RelativePoses(
        np.array([first for first, _, _ in found], np.int64),
        np.array([second for _, second, _ in found], np.int64),
        Rotation.concatenate([t.rotation for *_, t in found]) if found else Rotation.identity(0),
        np.array([t.translation for *_, t in found]).reshape(-1, 3),
        np.tile(np.repeat(SIGMA, 3), (len(found), 1)),
        robust=True,
    )


def odometry_edges(motion: Motion) -> RelativePoses:
    """The steps of the odometry as measurements; none between two drives."""
    track = motion.track
    first = np.flatnonzero(~track.breaks)
    second = first + 1
    steps = (
        track.rotations[first].inv().apply(track.translations[second] - track.translations[first])
    )
    return RelativePoses(
        first,
        second,
        track.rotations[first].inv() * track.rotations[second],
        steps,
        motion.deviations(np.linalg.norm(steps, axis=1)),
    )

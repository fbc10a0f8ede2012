"""Trajectory errors of the localized queries: absolute (ATE) and relative (RPE).

The definitions are those of the TUM RGB-D benchmark (Sturm et al., IROS 2012) as `evo`
computes them: absolute errors of position, raw and after the least-squares rigid or
similarity alignment (Umeyama, PAMI 1991), and errors of the motion between two poses, one
frame or some metres of the reference's path apart, without overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.evaluation.comparison import Comparison
from kapture_ros.evaluation.metrics import Statistics, statistics
from kapture_ros.transforms.se3 import Array, Transform

PLACE = 1e-6  # metres: positions no further from their mean are one


@dataclass(frozen=True, slots=True)
class AbsoluteError:
    """Metres between true and aligned positions; `scale` multiplied the estimate."""

    alignment: str
    scale: float
    metres: Statistics


@dataclass(frozen=True, slots=True)
class RelativeError:
    """Errors of the motion over a distance (`1 frame`, `10 m`)."""

    over: str
    metres: Statistics
    degrees: Statistics


def align(estimated: Array, reference: Array, with_scale: bool) -> tuple[float, Transform] | None:
    """Scale and rotation and translation that take estimated positions (N, 3) to true ones.

    None where they do not determine it: fewer than three, all on one line, or in one place.
    """
    if len(estimated) < 3:
        return None
    centre_e, centre_r = estimated.mean(axis=0), reference.mean(axis=0)
    centred_e, centred_r = estimated - centre_e, reference - centre_r
    U, sizes, Vt = np.linalg.svd(centred_r.T @ centred_e / len(estimated))
    spread = np.mean(np.sum(centred_e**2, axis=1))
    if sizes[1] <= 1e-12 * sizes[0] or spread <= PLACE**2:
        return None
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    rotation = Rotation.from_matrix(U @ np.diag(signs) @ Vt)
    scale = 1.0
    if with_scale:
        scale = float(sizes @ signs / spread)
    return scale, Transform(rotation, centre_r - scale * rotation.apply(centre_e))


def absolute_errors(estimated: Array, reference: Array) -> tuple[AbsoluteError, ...]:
    """Of positions (N, 3): as they are, and after SE(3) and Sim(3) alignment."""
    found = []
    for name in ("none", "SE(3)", "Sim(3)"):
        alignment = (1.0, Transform())
        if name != "none":
            determined = align(estimated, reference, with_scale=name == "Sim(3)")
            if determined is None:
                continue
            alignment = determined
        scale, turn = alignment
        errors = np.linalg.norm(turn.apply(scale * estimated) - reference, axis=1)
        spread = statistics(np.asarray(errors))
        if spread is not None:
            found.append(AbsoluteError(name, scale, spread))
    return tuple(found)


def frame_pairs(count: int) -> list[tuple[int, int]]:
    """Each pose and the next."""
    return [(index, index + 1) for index in range(count - 1)]


def path_pairs(positions: Array, metres: float) -> list[tuple[int, int]]:
    """Poses between which at least so many metres of path lie, end to end."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    pairs, start, travelled = [], 0, 0.0
    for index, step in enumerate(steps, start=1):
        travelled += float(step)
        if travelled >= metres:
            pairs.append((start, index))
            start, travelled = index, 0.0
    return pairs


def motion_errors(
    estimated: list[Transform], reference: list[Transform], pairs: list[tuple[int, int]]
) -> Array:
    """(P, 2): metres and degrees by which the motion over each pair is wrong."""
    found = np.empty((len(pairs), 2))
    for row, (i, j) in enumerate(pairs):
        true_motion = reference[i].inverse() @ reference[j]
        motion = estimated[i].inverse() @ estimated[j]
        metres, radians = Transform().distance_to(true_motion.inverse() @ motion)
        found[row] = metres, np.rad2deg(radians)
    return found


def trajectory_errors(
    comparison: Comparison, relative_metres: float
) -> tuple[tuple[AbsoluteError, ...], tuple[RelativeError, ...]]:
    """Absolute and relative errors over the localized queries with a reference.

    Motions are taken between poses of one device.
    """
    tracks: dict[str, tuple[list[Transform], list[Transform]]] = {}
    for row, device, true in zip(
        comparison.rows, comparison.devices, comparison.references, strict=True
    ):
        if row.accepted and row.map_from_base is not None and true is not None:
            estimated, reference = tracks.setdefault(device, ([], []))
            estimated.append(row.map_from_base)
            reference.append(true)
    if not tracks:
        return (), ()
    positions = [
        np.array([pose.translation for track in tracks.values() for pose in track[side]])
        for side in (0, 1)
    ]
    by_frame, by_path = [], []
    for estimated, reference in tracks.values():
        path = np.array([pose.translation for pose in reference])
        by_frame.append(motion_errors(estimated, reference, frame_pairs(len(path))))
        by_path.append(motion_errors(estimated, reference, path_pairs(path, relative_metres)))
    relative = []
    for over, parts in (("1 frame", by_frame), (f"{relative_metres:g} m", by_path)):
        errors = np.concatenate(parts)
        metres, degrees = statistics(errors[:, 0]), statistics(errors[:, 1])
        if metres is not None and degrees is not None:
            relative.append(RelativeError(over, metres, degrees))
    return absolute_errors(*positions), tuple(relative)

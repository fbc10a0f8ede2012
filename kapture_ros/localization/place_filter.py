"""Where in the map a drive may be, from retrieval alone: a forward filter over map images.

Every map image is a place. Candidates of successive instants come from the localizer's
retrieval, the motion between them from odometry; a place is believed when the whole sequence
speaks for it, which also tells look-alike streets apart as soon as the drive has seen where
they differ. Discrete Bayes filter: motion spreads and carries the probability, similarity
weighs it (the forward pass of a hidden Markov model: Rabiner, Proc. IEEE 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from kapture_ros.localization.query import Candidate
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.options import option
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, rotations

Rows = npt.NDArray[np.int64]
NEGLIGIBLE = 1e-6  # of all probability: such places are not carried along


@dataclass(frozen=True)
class PlaceOptions:
    """How retrieval over a sequence becomes a place."""

    temperature: float = option(
        0.05, "loss of cosine similarity that makes a place e times less likely", minimum=1e-3
    )
    max_evidence: float = option(
        3.0, "how much one instant tells at most, as a logarithm of odds", minimum=0.1
    )
    spacing: float = option(4.0, "between map images of one place", unit="m", minimum=0.1)
    max_turn: float = option(
        60.0, "between the headings of a place and of the vehicle", unit="deg", minimum=1
    )
    anywhere: float = option(
        0.01, "probability, each time, that the vehicle is where nobody expects it", minimum=1e-6
    )
    radius: float = option(10.0, "of a place that is believed", unit="m", minimum=1)
    belief: float = option(0.9, "probability of a place that is believed", minimum=0.5, maximum=1)


class PlaceFilter:
    """Probability of each map image to show where the vehicle is."""

    def __init__(self, visual_map: VisualMap, options: PlaceOptions = PlaceOptions()):
        self.options = options
        self._centers = np.asarray(visual_map.image_centers, dtype=float)
        cam_from_map = rotations(visual_map.image_poses[:, :4])
        self._axes: Array = cam_from_map.as_matrix()[:, 2]  # viewing directions: third rows
        self._map_from_cam = cam_from_map.inv()
        self._tree = cKDTree(self._centers)
        self.forget()

    def forget(self) -> None:
        """Everywhere alike."""
        self.probability = np.full(len(self._centers), 1 / len(self._centers))

    def update(
        self,
        candidates: Sequence[Candidate],
        cam_from_base: Transform,
        motion: Transform | None,
    ) -> None:
        """Carry the belief along, then weigh it with what an instant retrieved.

        Args:
            motion: before_from_now of the base; None: unknown, the belief stays where it is.
        """
        if motion is not None:
            self._move(cam_from_base @ motion @ cam_from_base.inverse())
        if not candidates:
            return
        options = self.options
        rows = np.array([candidate.image for candidate in candidates])
        scores = np.array([candidate.score for candidate in candidates])
        evidence = (scores - scores.max()) / options.temperature
        likelihood = np.full(len(self.probability), max(evidence.min(), -options.max_evidence))
        likelihood[rows] = np.maximum(evidence, -options.max_evidence)
        weighed = self.probability * np.exp(likelihood)
        self.probability = weighed / weighed.sum()

    def near(self, position: Array) -> float:
        """Probability of being within the radius of a position (3,) in the map."""
        rows = self._tree.query_ball_point(position, self.options.radius)
        return float(self.probability[rows].sum())

    def rival(self, candidates: Sequence[Candidate], position: Array) -> float:
        """How much of what one instant retrieved shows another place, over what shows this one.

        A place reaches twice the radius: images from farther along the street show it, too.

        Args:
            position: (3,) in the map.
        """
        scores = np.array([candidate.score for candidate in candidates])
        weight = np.exp((scores - scores.max()) / self.options.temperature)
        centers = self._centers[[candidate.image for candidate in candidates]]
        reach = 2 * self.options.radius
        here = np.linalg.norm(centers - position, axis=1) <= reach
        others, of_others = centers[~here], weight[~here]
        apart = np.linalg.norm(others[:, None] - others, axis=2)
        rival = float(((apart <= reach) @ of_others).max(initial=0.0))
        return rival / max(float(weight[here].sum()), 1e-9)

    def believed(self) -> Rows | None:
        """Map images of the place that is believed; None: none is."""
        best = self._centers[int(np.argmax(self.probability))]
        rows = np.array(self._tree.query_ball_point(best, self.options.radius), np.int64)
        if float(self.probability[rows].sum()) < self.options.belief:
            return None
        return rows[np.argsort(-self.probability[rows], kind="stable")]

    def is_told(self) -> bool:
        """Whether what was seen speaks for the believed place, not the smallness of the map.

        To be elsewhere must have become as unlikely, beside what it is where all places are
        alike, as `belief` asks; in a map of one place no image can tell that.
        """
        rows = self.believed()
        if rows is None:
            return False
        elsewhere = np.ones(len(self.probability), bool)
        elsewhere[rows] = False
        limit = (1 - self.options.belief) * elsewhere.mean()
        return bool(self.probability[elsewhere].sum() < limit)

    def _move(self, before_from_now: Transform) -> None:
        """Carry the probability by the motion of the camera, and spread it a little."""
        options = self.options
        active = np.flatnonzero(self.probability > NEGLIGIBLE)
        if len(active) == 0:
            return
        turned = self._map_from_cam[active]
        moved = self._centers[active] + turned.apply(np.array(before_from_now.translation))
        axes = turned.apply(before_from_now.rotation_matrix()[:, 2])
        reach = 2 * options.spacing
        near = self._tree.query_ball_point(moved, reach)
        counts = np.fromiter((len(rows) for rows in near), np.int64, len(near))
        target = np.fromiter((row for rows in near for row in rows), np.int64, int(counts.sum()))
        source = np.repeat(np.arange(len(active)), counts)
        distance = np.linalg.norm(self._centers[target] - moved[source], axis=1)
        cosine = np.einsum("ni,ni->n", self._axes[target], axes[source])
        weight = np.exp(-0.5 * (distance / (options.spacing / 2)) ** 2)
        weight *= cosine > np.cos(np.deg2rad(options.max_turn))
        total = np.bincount(source, weight, len(active))
        share = weight / np.maximum(total, 1e-12)[source]
        shape = (len(active), len(self.probability))
        carried = csr_matrix((share, (source, target)), shape).T @ self.probability[active]
        # What left the map is anywhere, too.
        rest = options.anywhere + (1 - options.anywhere) * max(0.0, 1 - float(carried.sum()))
        self.probability = (1 - rest) * carried / max(float(carried.sum()), 1e-12)
        self.probability += rest / len(self.probability)

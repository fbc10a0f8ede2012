"""What a localizer is asked and what it answers: one instant in, one estimate out."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.refinement import GravityPrior, Matches, PosePrior
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.transforms.se3 import Array, Transform

DRIVING = 10.0  # m/s: what a fix is off for each second that it is older or newer than the image


class Reason(enum.IntEnum):
    """Why an instant gave a pose or did not; the values of msg/LocalizationStatus.msg."""

    ACCEPTED = 0
    NO_FEATURES = 1
    NO_CANDIDATES = 2
    TOO_FEW_MATCHES = 3
    NO_POSE = 4
    TOO_FEW_INLIERS = 5
    LOW_INLIER_RATIO = 6
    POOR_SPREAD = 7
    AMBIGUOUS = 8
    UNCERTAIN = 9
    GNSS_DISAGREES = 10
    PRIOR_DISAGREES = 11
    BAD_INPUT = 12
    LATE = 13


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """Features of one query image.

    Attributes:
        keypoints: (n, 2) pixels, pixel centres at whole numbers.
        descriptors: (n, D) unit length.
        global_descriptors: (G,) by type name.
        types: names (with hashes) of the features, which must be the map's.
    """

    keypoints: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.float32]
    global_descriptors: Mapping[str, npt.NDArray[np.float32]]
    types: FeatureTypes


@dataclass(frozen=True, slots=True)
class QueryImage:
    """One image of the instant: pixels, or features that were extracted before.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8 RGB.
    """

    camera: Camera
    cam_from_base: Transform = field(default_factory=Transform)
    pixels: npt.NDArray[np.uint8] | None = None
    features: QueryFeatures | None = None


@dataclass(frozen=True, slots=True)
class GnssFix:
    """A GNSS position: degrees, degrees, metres above the ellipsoid.

    Attributes:
        covariance: (3, 3) square metres, east, north, up.
        lever_arm: (3,) metres, the antenna in the base frame.
    """

    latitude: float
    longitude: float
    altitude: float
    covariance: Array
    lever_arm: Array = field(default_factory=lambda: np.zeros(3))

    def aged(self, seconds: float) -> GnssFix:
        """The same, of a vehicle that drives on: wider by the way it may have gone meanwhile."""
        off = (DRIVING * seconds) ** 2
        return replace(self, covariance=self.covariance + off * np.eye(3))


@dataclass(frozen=True, slots=True)
class Query:
    """Everything known about one instant; every part but the images is optional.

    Attributes:
        wifi: dBm by BSSID.
        gravity: which way is up in the base frame, from an IMU.
        prior: predicted pose of the base with covariance. It narrows retrieval, offers a
            hypothesis and is compared with the answer; it is not mixed into the answer, so
            that a filter may take the answer as a measurement of its own.
    """

    stamp_ns: int
    images: tuple[QueryImage, ...]
    gnss: GnssFix | None = None
    wifi: Mapping[str, float] | None = None
    gravity: GravityPrior | None = None
    prior: PosePrior | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A map image that may show the same place: its row in the map and its score."""

    image: int
    score: float


@dataclass(frozen=True, slots=True)
class CoarsePose:
    """A pose from retrieval alone: good for a first view, never for driving.

    Attributes:
        map_from_base: of the query's base; metres of error are normal.
        method: how the candidates' poses were weighted.
    """

    map_from_base: Transform
    method: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The numbers that decide about acceptance; NaN where not reached.

    Attributes:
        inliers: keypoints that agree with the pose.
        matched: keypoints with at least one match.
        ratio: inliers / matched.
        seen: share that agrees well of the points of the candidates that should be seen.
        expected: keypoints with a match that should be seen.
        agreeing: of these, those whose match agrees well.
        coverage: occupied share of an 8 × 8 grid over the best covered image.
        depth_spread: 10 to 90 percentile of the inliers' distances over their median.
        second: inliers of the best pose elsewhere, among the matches left over.
        position_sigma: metres, largest standard deviation of the position.
        rotation_sigma: radians, largest standard deviation of the orientation.
        gnss_sigmas, prior_sigmas: Mahalanobis distance to GNSS and prior.
    """

    inliers: int = 0
    matched: int = 0
    ratio: float = np.nan
    seen: float = np.nan
    expected: int = 0
    agreeing: int = 0
    coverage: float = np.nan
    depth_spread: float = np.nan
    second: int = 0
    position_sigma: float = np.nan
    rotation_sigma: float = np.nan
    gnss_sigmas: float = np.nan
    prior_sigmas: float = np.nan


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the answer rests on, enough to draw it.

    Attributes:
        keypoints: (n, 2) pixels of every image of the query.
        matches: all 2D-3D matches given to the solver.
        inliers: (N,) of the matches.
        views: the image of the query that each `matches.camera` stands for.
    """

    keypoints: tuple[npt.NDArray[np.float32], ...] = ()
    matches: Matches | None = None
    inliers: npt.NDArray[np.bool_] | None = None
    views: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer for one instant.

    A rejected estimate may hold the pose that was rejected: for people and for filters
    that weigh evidence themselves, not for driving.

    Attributes:
        reason_text: the reason with the numbers that decided, for people.
        map_from_base: None where no pose was found.
        covariance: (6, 6), x, y, z in metres and rotations about the fixed axes of the map
            in radians, as in ROS' PoseWithCovariance.
        map_covariance: (6, 6), the part of it that is the map's own error, which the next pose
            has, too.
        cams_from_map: pose of each image of the query, in order; empty without a pose.
        candidates: the map images matched against, best first.
        latency_ms: milliseconds by stage: extraction, retrieval, matching, pose, total.
    """

    stamp_ns: int
    reason: Reason
    reason_text: str
    map_from_base: Transform | None = None
    covariance: Array | None = None
    map_covariance: Array | None = None
    cams_from_map: tuple[Transform, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    best_image: int | None = None
    coarse: CoarsePose | None = None
    scores: Scores = Scores()
    evidence: Evidence = Evidence()
    latency_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether the pose may be used."""
        return self.reason is Reason.ACCEPTED


class Rejected(Exception):  # noqa: N818, an answer rather than an error
    """A step knows that there will be no pose; caught inside `localize`."""

    def __init__(self, reason: Reason, text: str):
        super().__init__(text)
        self.reason = reason

"""The images of an instant on their way from features to 2D-3D matches.

Made and consumed by `localizer`, which holds the map; sequences keep some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.extractor import StartedFeatures
from kapture_ros.localization.matching import ImageMatches, Offer
from kapture_ros.localization.query import Candidate, QueryFeatures, Reason, Rejected
from kapture_ros.localization.refinement import Matches
from kapture_ros.localization.retrieval import Shown
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.manifest import FeatureTypes

MIN_CONTRAST = 2.0  # standard deviation of the grey values of an image with anything in it


@dataclass(frozen=True, slots=True)
class Sight:
    """A usable image of the query whose features are on their way.

    Attributes:
        number: its place among the query's images.
    """

    number: int
    camera: MountedCamera
    features: StartedFeatures


@dataclass(frozen=True, slots=True)
class View:
    """A usable image of the query.

    Attributes:
        number: its place among the query's images.
    """

    number: int
    camera: MountedCamera
    features: QueryFeatures

    @property
    def sees(self) -> bool:
        """Whether there is a keypoint."""
        return len(self.features.keypoints) > 0


Candidates: TypeAlias = tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Offers:
    """The candidates of V views, ready to be matched.

    Attributes:
        images: what to match each view with.
        shown: the map's points that the candidates show, view by view.
    """

    candidates: tuple[Candidates, ...]
    images: tuple[Offer, ...]
    shown: Shown


@dataclass(frozen=True, slots=True)
class Correspondences:
    """Views, their candidates and what matched: V views each.

    Attributes:
        found: the matches by view.
        matches: all of them, for the solver; `camera` counts the views.
        shown: the map's points that the candidates show, view by view.
        places: the place of each candidate, view by view: those with common points are one.
    """

    views: tuple[View, ...]
    candidates: tuple[Candidates, ...]
    found: tuple[ImageMatches, ...]
    matches: Matches
    shown: Shown
    places: npt.NDArray[np.int64]

    @property
    def cameras(self) -> list[MountedCamera]:
        """The camera of each view."""
        return [view.camera for view in self.views]


def refuse_other_features(given: FeatureTypes, wanted: FeatureTypes) -> None:
    """Descriptors of different networks or settings look alike and match nothing.

    Raises:
        InputError: naming both.
    """
    for kind in ("keypoints", "descriptors", "global_features"):
        ours, theirs = getattr(given, kind), getattr(wanted, kind)
        if ours != theirs:
            raise InputError(
                f"the query's {kind} are '{ours}' but the map's are '{theirs}'; extract with the "
                "weights and settings of the map"
            )


def check_pixels(pixels: npt.NDArray[np.uint8], camera: Camera) -> None:
    """Go on only with an image of its camera that shows something.

    Raises:
        Rejected: if it is not one.
    """
    what = f"camera '{camera.sensor_id}'"
    gray_or_rgb = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not gray_or_rgb:
        text = f"{what}: {pixels.dtype} {pixels.shape} is no 8-bit grey or RGB image"
        raise Rejected(Reason.BAD_INPUT, text)
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        calibrated = f"{camera.width}×{camera.height}"
        text = f"{what}: the image is {width}×{height} but the calibration is of {calibrated}"
        raise Rejected(Reason.BAD_INPUT, text)
    sample = pixels[:: max(height // 64, 1), :: max(width // 64, 1)]
    if sample.std() < MIN_CONTRAST:
        look = "black" if sample.mean() < 16 else "white" if sample.mean() > 239 else "blank"
        raise Rejected(Reason.NO_FEATURES, f"{what}: the image is {look}")

"""Which map images may show the place of a query image: search, gates, fusion, clusters.

Global descriptors come from the query's features, gates from its GNSS, Wi-Fi and prior;
the answers are rows of the map's images, to be matched by `matching`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.options import RetrievalOptions
from kapture_ros.localization.query import Candidate, Query, Reason, Rejected
from kapture_ros.localization.wifi import WifiLocator
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms.se3 import Array, largest_sigma

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
GATE_SIGMAS = 3.0
MIN_SHARED = 3  # points that two images must share to be one place


class Retriever(Protocol):
    """Search over the map's images by one type of global descriptor."""

    def search(
        self, query: npt.NDArray[Any], k: int, rows: Rows | None = None
    ) -> tuple[Rows, Floats]:
        """Rows and cosine similarities of the k most similar images (among `rows`)."""
        ...

    def scores(self, query: Floats, rows: Rows | None = None) -> Floats:
        """Cosine similarities of a unit query to all images or to `rows`."""
        ...


def gated_rows(
    visual_map: VisualMap, query: Query, wifi: WifiLocator | None, options: RetrievalOptions
) -> Rows | None:
    """The map images that GNSS, Wi-Fi and prior leave; None: all of them.

    Raises:
        Rejected: if they leave none.
    """
    gates: list[tuple[str, Array, float]] = []
    if options.gnss_gate and query.gnss is not None and visual_map.datum is not None:
        fix = query.gnss
        place = visual_map.datum.map_from_geodetic(fix.latitude, fix.longitude, fix.altitude)
        arm = float(np.linalg.norm(fix.lever_arm))
        gates.append(("the GNSS fix", place[0, :2], largest_sigma(fix.covariance[:2, :2]) + arm))
    if options.wifi_gate and query.wifi is not None and wifi is not None:
        heard = wifi.locate(query.wifi)
        if heard is not None:
            gates.append(("the Wi-Fi scan", heard.position_map[:2], heard.sigma))
    if options.prior_gate and query.prior is not None:
        covariance = query.prior.covariance[:3, :3]
        position = query.prior.map_from_base.translation
        gates.append(("the predicted pose", position, largest_sigma(covariance)))
    rows: Rows | None = None
    for name, center, sigma in gates:
        radius = options.gate_margin + GATE_SIGMAS * sigma
        near = visual_map.image_grid.within(center, radius)
        rows = near if rows is None else np.intersect1d(rows, near, assume_unique=True)
        if len(rows) == 0:
            text = f"no map image within {radius:.0f} m of {name}"
            others = " and the other gates" if len(gates) > 1 else ""
            raise Rejected(Reason.NO_CANDIDATES, text + others)
    return rows


def retrieve(
    retrievers: Mapping[str, Retriever],
    descriptors: Mapping[str, Floats],
    rows: Rows | None,
    options: RetrievalOptions,
) -> tuple[Candidate, ...]:
    """The top-k map images of one query image, best first.

    Args:
        retrievers: search over the map by the type of global descriptor.
        descriptors: those of the query image, (G,) by type; other types are left out.
        rows: the map images to choose from; None: all.
    """
    used = [(retrievers[name], descriptors[name]) for name in retrievers if name in descriptors]
    found = [index.search(descriptor, options.top_k, rows) for index, descriptor in used]
    if not found:
        return ()
    if len(found) == 1:
        images, scores = found[0]
    else:
        union = np.unique(np.concatenate([images for images, _ in found]))
        all_scores = [index.scores(_unit(descriptor), union) for index, descriptor in used]
        order, fused = fuse(np.stack(all_scores), options.fusion)
        kept = order[: options.top_k]
        images, scores = union[kept], fused[kept].astype(np.float32)
    return tuple(Candidate(int(i), float(s)) for i, s in zip(images, scores, strict=True))


def fuse(scores: npt.NDArray[np.floating], method: str) -> tuple[Rows, Array]:
    """One ranking from the similarities (R, C) of R retrievers to C images.

    Late fusion as in Humenberger et al. (2020): arithmetic mean, power (the product, each
    similarity to the power 1 / R), maximum, minimum; round robin takes each retriever's
    best not yet taken in turn.

    Returns:
        The order of the images (C,), best first, and their fused scores (C,).
    """
    values = np.asarray(scores, dtype=float)
    if method == "round_robin":
        ranks = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
        # Rank r of retriever i comes at turn r R + i; an image at its earliest turn.
        turns = (ranks * len(values) + np.arange(len(values))[:, None]).min(axis=0)
        fused = -turns.astype(float)
    elif method == "power":
        fused = np.exp(np.log(np.maximum(values, 1e-9)).mean(axis=0))
    elif method == "max":
        fused = values.max(axis=0)
    elif method == "min":
        fused = values.min(axis=0)
    else:
        fused = values.mean(axis=0)
    return np.argsort(-fused, kind="stable"), fused


@dataclass(frozen=True, slots=True)
class Shown:
    """Which of the map's points some of its images show.

    Attributes:
        images: (n,) rows of the map's images.
        points: (P,) rows of the map's points, ascending, each once.
        shows: (n, P) whether an image shows a point.
    """

    images: tuple[int, ...]
    points: npt.NDArray[np.int32]
    shows: npt.NDArray[np.bool_]


def shown_points(visual_map: VisualMap, images: Sequence[int]) -> Shown:
    """The points of map images."""
    by_image = [visual_map.features(image).points for image in images]
    joined = np.concatenate([np.empty(0, np.int32), *by_image])
    order = np.argsort(joined, kind="stable")
    ranked = joined[order]
    fresh = np.diff(ranked, prepend=-1) != 0
    points = ranked[fresh]
    owner = np.repeat(np.arange(len(images)), [len(points) for points in by_image])
    shows = np.zeros((len(images), len(points)), bool)
    shows[owner[order], np.cumsum(fresh) - 1] = True
    return Shown(tuple(images), points, shows)


def covisibility_clusters(shown: Shown) -> npt.NDArray[np.int64]:
    """The place (n,) of each image: images linked by common points are one place."""
    seen = shown.shows.astype(np.float32)
    linked = seen @ seen.T >= MIN_SHARED
    np.fill_diagonal(linked, True)
    place = np.arange(len(linked))
    while True:
        # Every image takes the lowest number among those that it is linked with.
        lowest = np.where(linked, place, len(place)).min(axis=1, initial=len(place))
        if np.array_equal(lowest, place):
            return place
        place = lowest


def _unit(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)

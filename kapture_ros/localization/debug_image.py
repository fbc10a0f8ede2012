"""One picture of why an image was localized or not: for the node's topic and for people.

Left the query image with its keypoints, matches and inliers, right the best map image with
the same inliers; above, the verdict in words.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.localization.query import Estimate, Query
from kapture_ros.mapping.visual_map import VisualMap

Image = npt.NDArray[np.uint8]
GREEN, RED, GREY, WHITE = (80, 200, 80), (220, 70, 60), (150, 150, 150), (255, 255, 255)
BANNER = 28  # pixels
LINES = 60  # inliers linked to the map image; more cover the images


def draw_estimate(
    visual_map: VisualMap, query: Query, estimate: Estimate, map_pixels: Image | None = None
) -> Image:
    """The picture (H, W, 3) RGB of an answer.

    Args:
        map_pixels: the best map image (`estimate.best_image`), where it is at hand.
    """
    number = _busiest(estimate)
    left = _canvas(query, number)
    _draw_points(left, estimate, number)
    if estimate.best_image is not None:
        camera = visual_map.camera(estimate.best_image)
        blank = np.zeros((camera.height, camera.width, 3), np.uint8)
        right = blank if map_pixels is None else _rgb(map_pixels)
        left = _beside(left, right, _links(visual_map, estimate, number))
    return _with_banner(left, estimate)


def _busiest(estimate: Estimate) -> int:
    """The image of the query with most matches; the first if there are none."""
    matches, views = estimate.evidence.matches, estimate.evidence.views
    if matches is None or not views:
        return 0
    return views[int(np.argmax(np.bincount(matches.camera, minlength=len(views))))]


def _canvas(query: Query, number: int) -> Image:
    if number >= len(query.images):
        return np.zeros((240, 320, 3), np.uint8)
    image = query.images[number]
    if image.pixels is None:
        return np.zeros((image.camera.height, image.camera.width, 3), np.uint8)
    return _rgb(image.pixels)


def _rgb(pixels: Image) -> Image:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()


def _draw_points(image: Image, estimate: Estimate, number: int) -> None:
    evidence = estimate.evidence
    if number < len(evidence.keypoints):
        _dots(image, evidence.keypoints[number], GREY, 1)
    if evidence.matches is None or evidence.inliers is None:
        return
    own = evidence.matches.camera == evidence.views.index(number)
    _dots(image, evidence.matches.pixels[own & ~evidence.inliers], RED, 2)
    _dots(image, evidence.matches.pixels[own & evidence.inliers], GREEN, 3)


def _dots(
    image: Image, pixels: npt.NDArray[np.floating], color: tuple[int, int, int], radius: int
) -> None:
    for x, y in np.round(pixels[:, :2]).astype(int).tolist():
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)


def _links(visual_map: VisualMap, estimate: Estimate, number: int) -> npt.NDArray[np.float64]:
    """Inliers (N, 4) that the best map image shows: pixels in the query and in the map image."""
    evidence = estimate.evidence
    if evidence.matches is None or evidence.inliers is None or estimate.best_image is None:
        return np.empty((0, 4))
    shown = visual_map.features(estimate.best_image)
    own = evidence.inliers & (evidence.matches.camera == evidence.views.index(number))
    _, query_rows, map_rows = np.intersect1d(
        evidence.matches.point[own], shown.points, return_indices=True
    )
    pixels = evidence.matches.pixels[own][query_rows]
    return np.concatenate([pixels, shown.keypoints[map_rows]], axis=1)


def _beside(left: Image, right: Image, links: npt.NDArray[np.float64]) -> Image:
    scale = left.shape[0] / right.shape[0]
    resized = cv2.resize(right, (max(1, round(right.shape[1] * scale)), left.shape[0]))
    both = np.ascontiguousarray(np.concatenate([left, resized], axis=1))
    ends = links * (1, 1, scale, scale) + (0, 0, left.shape[1], 0)
    step = max(1, len(ends) // LINES)
    for x1, y1, x2, y2 in np.round(ends[::step]).astype(int).tolist():
        cv2.line(both, (x1, y1), (x2, y2), GREEN, 1, cv2.LINE_AA)
        cv2.circle(both, (x2, y2), 3, GREEN, -1, cv2.LINE_AA)
    return both


def _with_banner(image: Image, estimate: Estimate) -> Image:
    banner = np.zeros((BANNER, image.shape[1], 3), np.uint8)
    banner[:] = GREEN if estimate.accepted else RED
    # The font has ASCII only.
    text = f"{estimate.reason.name}: {estimate.reason_text}".replace("σ", "sigma")
    text = text.encode("ascii", "replace").decode()
    scale = min(0.55, 0.55 * image.shape[1] / max(1, 10 * len(text)))
    cv2.putText(banner, text, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([banner, image])

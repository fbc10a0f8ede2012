"""Pictures of the worst queries: query and best map image side by side, with their matches.

Images are read from the kapture datasets, matches from what the localizer left beside
`estimates.csv`; whatever is not there is left out. The report embeds the pictures.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.evaluation.comparison import Comparison
from kapture_ros.evaluation.estimates import EstimateRow, MatchedPair, matches_path, read_matches
from kapture_ros.evaluation.evaluate import Evaluation
from kapture_ros.evaluation.options import EvaluationInputs
from kapture_ros.transforms.se3 import Array

SIZE = 480  # of the longer side of one image in a picture, pixels
WIDE = 1.8  # from this ratio of width to height on, the images go above each other
GAP = 6
MAX_LINES = 100
JPEG_QUALITY = 80

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG as a data URI, and the lines to draw over it.

    Attributes:
        lines: (N, 5): x and y in the query, x and y in the map image (pixels of the picture),
            1 for an inlier.
    """

    width: int
    height: int
    data: str
    lines: Array


def worst_queries(comparison: Comparison, count: int) -> list[int]:
    """Queries with a reference: the largest position errors first, then those that failed."""
    known = np.flatnonzero(comparison.known)
    errors = np.where(comparison.accepted, comparison.metres, -1.0)[known]
    return [int(known[place]) for place in np.argsort(-errors, kind="stable")[:count]]


def draw(evaluation: Evaluation, inputs: EvaluationInputs, index: int) -> Picture | None:
    """The picture of one query; None if its image is not at hand.

    Raises:
        InputError: if its file of matches is damaged.
    """
    row = evaluation.comparison.rows[index]
    pair = _matches(inputs.estimates, row)
    name = pair.query_image if pair else _image_of(evaluation, row)
    query = _load(name, inputs.query or inputs.reference)
    if query is None:
        return None
    found = _load_of_map(pair.map_image if pair else row.best_map_image, inputs)
    first, first_scale = _resized(query)
    if found is None:
        return _encode(first, np.empty((0, 5)))
    second, second_scale = _resized(found)
    below = first.shape[1] >= WIDE * first.shape[0]
    offset = (0, first.shape[0] + GAP) if below else (first.shape[1] + GAP, 0)
    width = max(first.shape[1], second.shape[1] + offset[0])
    height = max(first.shape[0], second.shape[0] + offset[1])
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[: first.shape[0], : first.shape[1]] = first
    canvas[offset[1] :, offset[0] :][: second.shape[0], : second.shape[1]] = second
    lines = np.empty((0, 5))
    if pair is not None:
        kept = _drawn_matches(pair)
        ends = pair.query_xy * first_scale, pair.map_xy * second_scale + offset
        lines = np.column_stack([np.round(np.hstack(ends), 1), pair.inlier])[kept]
    return _encode(canvas, lines)


def _matches(estimates: Path, row: EstimateRow) -> MatchedPair | None:
    folder = estimates if estimates.is_dir() else estimates.parent
    path = matches_path(folder, row.stamp_ns, row.query)
    return read_matches(path) if path.is_file() else None


def _image_of(evaluation: Evaluation, row: EstimateRow) -> str:
    """The query itself if it is an image, else the first image of its instant."""
    images = evaluation.query_images
    if row.query in images:
        return row.query
    same = sorted(name for name, (stamp, _) in images.items() if stamp == row.stamp_ns)
    return same[0] if same else ""


def _load(name: str, dataset: Path | None) -> Image | None:
    if not name or dataset is None:
        return None
    path = dataset / "sensors" / "records_data" / name
    # None as well where the file is there but no image OpenCV can read.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    return None if image is None else np.asarray(image, np.uint8)


def _load_of_map(name: str, inputs: EvaluationInputs) -> Image | None:
    """An image of the map: its own, or that of a drive, whose name may stand in front."""
    for dataset in (inputs.map, *inputs.map_images):
        found = _load(name, dataset)
        if found is None and dataset is not None:
            drive = dataset.resolve().name
            found = _load(name.removeprefix(f"{drive}/"), dataset)
        if found is not None:
            return found
    return None


def _resized(image: Image) -> tuple[Image, float]:
    scale = SIZE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), scale


def _drawn_matches(pair: MatchedPair) -> npt.NDArray[np.intp]:
    """Outliers first, so that inliers are drawn over them; thinned evenly where too many."""
    inliers = _thinned(np.flatnonzero(pair.inlier), MAX_LINES * 4 // 5)
    outliers = _thinned(np.flatnonzero(~pair.inlier), MAX_LINES - len(inliers))
    return np.concatenate([outliers, inliers])


def _thinned(indices: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    if len(indices) <= count:
        return indices
    return np.asarray(indices[np.linspace(0, len(indices) - 1, count).astype(int)])


def _encode(image: Image, lines: Array) -> Picture:
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    data = "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")
    return Picture(image.shape[1], image.shape[0], data, lines)

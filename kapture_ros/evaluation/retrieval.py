"""Retrieval recall: how often a map image near the query is among the first k retrieved.

Read from a pairs file as NAVER's pipelines write it (query image, map image, score) and the
poses of both datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kapture.io.csv as kapture_csv
import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.evaluation.metrics import Threshold
from kapture_ros.transforms.se3 import Transform


@dataclass(frozen=True, slots=True)
class RetrievalRecall:
    """Over the queries of a pairs file with a reference pose.

    Attributes:
        within: how near a map image must be to count.
        possible: share of queries that have any map image so near.
        recall: k -> share of queries with such an image among the first k.
    """

    within: Threshold
    queries: int
    possible: float
    recall: Mapping[int, float]


def read_pairs(path: Path) -> dict[str, list[str]]:
    """Map images by query image, best score first.

    Raises:
        InputError: if it is missing, empty or no pairs file.
    """
    scored: dict[str, list[tuple[float, str]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for query, map_image, score in kapture_csv.table_from_file(file):
                scored.setdefault(query, []).append((float(score), map_image))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: expected 'query image, map image, score': {error}") from error
    if not scored:
        raise InputError(f"{path} holds no pairs")
    return {
        query: [name for _, name in sorted(pairs, key=lambda pair: -pair[0])]
        for query, pairs in scored.items()
    }


def retrieval_recall(
    pairs: Mapping[str, Sequence[str]],
    world_from_query: Mapping[str, Transform],
    world_from_map_image: Mapping[str, Transform],
    within: Threshold,
    ks: Sequence[int],
) -> RetrievalRecall:
    """Recall at each k; queries without a reference pose are left out.

    Raises:
        InputError: if no query or no map image has a pose.
    """
    queries = [query for query in pairs if query in world_from_query]
    if not queries or not world_from_map_image:
        which = "map" if queries else "query"
        raise InputError(f"no {which} image of the pairs has a pose: do the names agree?")
    names = np.array(list(world_from_map_image))
    positions = np.array([pose.translation for pose in world_from_map_image.values()])
    rotations = Rotation.concatenate([pose.rotation for pose in world_from_map_image.values()])
    first, possible = np.full(len(queries), np.inf), 0
    for row, query in enumerate(queries):
        pose = world_from_query[query]
        metres = np.linalg.norm(positions - pose.translation, axis=1)
        degrees = np.rad2deg((rotations * pose.rotation.inv()).magnitude())
        near = set(names[within.admits(metres, degrees)])
        possible += bool(near)
        hits = (rank for rank, name in enumerate(pairs[query], start=1) if name in near)
        first[row] = next(hits, np.inf)
    recall = {k: float((first <= k).mean()) for k in ks}
    return RetrievalRecall(within, len(queries), possible / len(queries), recall)

"""Nearest global descriptors of a map: exact for small maps, inverted lists for large ones.

Built from the map's (N, D) descriptors when the index is made, read back by memory
mapping. The inverted lists hold 8-bit codes that choose candidates; these are scored
again with the full descriptors. Their recall against the exact answer is measured when
they are built, and the number of lists probed is chosen by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

EXACT_LIMIT = 20_000  # rows; an exact product takes about 3 ms at 2048-D up to here
BLOCK = 8192  # rows scored at once, to bound the float32 copy of half-precision rows
RECALL_GOAL = 0.99
RECALL_AT = 20

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RetrievalIndex:
    """Cosine similarity search over unit descriptors.

    Attributes:
        descriptors: (N, D) float32 or float16, unit length; usually memory-mapped.
        lists: FAISS inverted lists over the same rows, or None: exact search.
    """

    descriptors: npt.NDArray[Any]
    lists: Any = None

    @classmethod
    def load(cls, descriptors: npt.NDArray[Any], path: Path) -> RetrievalIndex:
        """With the inverted lists of `path` if there are any, memory-mapped.

        Raises:
            ValueError: if the file is damaged or of other descriptors.
        """
        if not path.exists():
            return cls(descriptors)
        try:
            lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise ValueError(f"{path.name} is damaged") from error
        if (lists.ntotal, lists.d) != descriptors.shape:
            raise ValueError(f"{path.name} is of other descriptors")
        return cls(descriptors, lists)

    def search(
        self, query: npt.NDArray[Any], k: int, rows: Rows | None = None
    ) -> tuple[Rows, Floats]:
        """The k most similar map images of one query descriptor (D,).

        Args:
            rows: search only these images (a GNSS, Wi-Fi or pose gate), exactly.

        Returns:
            Rows (≤ k,) and cosine similarities (≤ k,), best first.
        """
        unit = _unit(np.asarray(query, np.float32))
        if rows is None and self.lists is not None:
            _, found = self.lists.search(unit[None], min(4 * k, self.lists.ntotal))
            rows = np.sort(found[0][found[0] >= 0])
        scores = self.scores(unit, rows)
        best = _top(scores, k)
        chosen = best if rows is None else np.asarray(rows)[best]
        return chosen.astype(np.int64), scores[best]

    def scores(self, query: npt.NDArray[Any], rows: Rows | None = None) -> Floats:
        """Cosine similarities of a unit query (D,) to all images (N,) or to `rows`."""
        unit = np.asarray(query, np.float32)
        count = len(self.descriptors) if rows is None else len(rows)
        result = np.empty(count, np.float32)
        for start in range(0, count, BLOCK):
            part = slice(start, min(start + BLOCK, count))
            block = self.descriptors[part] if rows is None else self.descriptors[rows[part]]
            result[part] = np.asarray(block, np.float32) @ unit
        return result


def storage_type(count: int) -> type[np.floating[Any]]:
    """How descriptors are stored: float32 where an exact product is fast anyway."""
    return np.float32 if count <= EXACT_LIMIT else np.float16


def build_lists(descriptors: npt.NDArray[Any], path: Path) -> dict[str, float]:
    """Write inverted lists for a large map (none for a small one).

    Returns:
        What was measured: recall at 20 of the lists and the number of lists probed.
    """
    count, width = descriptors.shape
    if count <= EXACT_LIMIT:
        return {"recall": 1.0, "lists": 0, "probed": 0}
    n_lists = int(4 * math.sqrt(count))
    quantizer = faiss.IndexFlatIP(width)
    kind = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(
        quantizer, width, n_lists, kind, faiss.METRIC_INNER_PRODUCT
    )
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(count, min(count, 32 * n_lists), replace=False))
    lists.cp.seed = 0
    lists.cp.min_points_per_centroid = 1  # fewer are meant: FAISS would print a warning
    lists.train(np.asarray(descriptors[sample], np.float32))
    for start in range(0, count, BLOCK):
        lists.add(np.asarray(descriptors[start : start + BLOCK], np.float32))
    recall = _choose_probes(lists, descriptors, rng)
    faiss.write_index(lists, str(path))
    return {"recall": recall, "lists": n_lists, "probed": lists.nprobe}


def _choose_probes(lists: Any, descriptors: npt.NDArray[Any], rng: np.random.Generator) -> float:
    """Set the fewest probes that reach the recall goal; returns the recall reached.

    Queries are map descriptors themselves (their own row not counted), as images of a
    second drive are not at hand when a map is built.
    """
    own = np.sort(rng.choice(len(descriptors), 100, replace=False))
    exact = RetrievalIndex(descriptors)
    truth = [set(exact.search(descriptors[row], RECALL_AT + 1)[0]) - {row} for row in own]
    lists.nprobe = 4
    while True:
        approximate = RetrievalIndex(descriptors, lists)
        found = [set(approximate.search(descriptors[row], RECALL_AT + 1)[0]) for row in own]
        recall = float(np.mean([len(t & f) / len(t) for t, f in zip(truth, found, strict=True)]))
        if recall >= RECALL_GOAL or lists.nprobe >= lists.nlist:
            return recall
        lists.nprobe = min(2 * lists.nprobe, lists.nlist)


def _unit(vector: Floats) -> Floats:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else vector


def _top(scores: Floats, k: int) -> Rows:
    """Positions of the k largest, best first, ties by position."""
    if k < len(scores):
        kept = np.sort(np.argpartition(-scores, k - 1)[:k])
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")].astype(np.int64)

"""Search over a map's global descriptors on a GPU: exact, half precision, all rows resident.

For maps whose descriptors fit beside the networks: a million images of 2048 values are
4 GB. The same interface as `mapping.retrieval_index.RetrievalIndex`, from which it is made.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from kapture_ros.mapping.retrieval_index import RetrievalIndex

BLOCK = 65_536  # rows sent at once
SHARE = 0.5  # of the free memory at most: networks and matching need the rest
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def fits(index: RetrievalIndex, device: torch.device) -> bool:
    """Whether the descriptors leave room on the GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return index.descriptors.size * 2 <= SHARE * free


class GpuRetrieval:
    """Cosine similarity by one product on a device, all images at once."""

    def __init__(self, index: RetrievalIndex, device: torch.device):
        shape = index.descriptors.shape
        on_gpu = device.type == "cuda"
        # Half precision is for tensor cores; on the CPU, where tests run, it is very slow.
        dtype = torch.float16 if on_gpu else torch.float32
        # Before the kernels of R2D2, which runs meanwhile: candidates are waited for.
        self._stream = torch.cuda.Stream(device, priority=-1) if on_gpu else None  # type: ignore[no-untyped-call]
        self._rows = torch.empty(shape, dtype=dtype, device=device)
        for start in range(0, shape[0], BLOCK):
            part = np.array(index.descriptors[start : start + BLOCK])
            self._rows[start : start + BLOCK] = torch.from_numpy(part).to(device, dtype)

    def search(
        self, query: npt.NDArray[np.floating], k: int, rows: Rows | None = None
    ) -> tuple[Rows, Floats]:
        """Rows (≤ k,) and cosine similarities (≤ k,) of the most similar images, best first.

        Args:
            rows: search only these images.
        """
        unit = np.asarray(query, np.float32)
        with torch.cuda.stream(self._stream):
            scores = self._product(unit / max(float(np.linalg.norm(unit)), 1e-12), rows)
            best = torch.topk(scores, min(k, len(scores)))
            # One transfer, exact in double precision: each waits for the GPU.
            both = torch.stack([best.values.double(), best.indices.double()]).cpu()
        values, found = both.numpy()
        places = found.astype(np.int64)
        return places if rows is None else rows[places], values.astype(np.float32)

    def scores(self, query: npt.NDArray[np.floating], rows: Rows | None = None) -> Floats:
        """Cosine similarities of a unit query (D,) to all images (N,) or to `rows`."""
        found: Floats = self._product(np.asarray(query, np.float32), rows).cpu().numpy()
        return found

    def _product(self, unit: Floats, rows: Rows | None) -> torch.Tensor:
        known = self._rows
        if rows is not None:
            known = known[torch.from_numpy(rows).to(known.device)]
        return (known @ torch.from_numpy(unit).to(known.device, known.dtype)).float()

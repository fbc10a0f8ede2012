"""What the recorder's report tells of a drive's poses: their frame, and where it changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def pose_frame(dataset: Path) -> str | None:
    """The frame the poses of a drive are in, as our recorder reports it; None if unknown."""
    sessions = _pose_summaries(dataset)
    frame = sessions[-1].get("world_frame") if sessions else None
    return frame if isinstance(frame, str) else None


def restarts(dataset: Path) -> tuple[int, ...]:
    """Stamps in ascending order from which on poses are of another frame than before.

    There odometry was started again: a dataset with R of them is of R + 1 drives.
    """
    found = [summary.get("restarts", []) for summary in _pose_summaries(dataset)]
    return tuple(sorted({int(stamp) for stamps in found for stamp in stamps}))


def drives_at(stamps: npt.NDArray[np.int64], restarts: Sequence[int]) -> npt.NDArray[np.int32]:
    """Which drive stamps (N,) are of, from 0."""
    return np.searchsorted(np.array(restarts, np.int64), stamps, side="right").astype(np.int32)


def _pose_summaries(dataset: Path) -> list[Mapping[str, Any]]:
    """Of each time the dataset was written to; empty if nothing is known of it.

    That is: recorded by others, or by another version.
    """
    try:
        content = json.loads((dataset / "report.json").read_text(encoding="utf-8"))
        found = [session["poses"] for session in content["sessions"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [summary for summary in found if isinstance(summary, Mapping)]

"""What `kapture_ros evaluate` is asked: the files to compare and what to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kapture_ros.options import option


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Which files to compare.

    Attributes:
        estimates: output folder of `kapture_ros localize`, an `estimates.csv`, or a kapture
            dataset with the trajectories of any localizer.
        reference: kapture dataset with the true poses.
        map: map, for the poses of its images; None: not shown.
        query: query dataset, if the reference holds no images.
        pairs: retrieval result (query image, map image, score), for the retrieval recall;
            None: the one that the localizer left, if there is one and a map.
        map_images: drives that the map was made of, where the map holds no images.
    """

    estimates: Path
    reference: Path
    map: Path | None = None
    query: Path | None = None
    pairs: Path | None = None
    map_images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure and how to show it."""

    thresholds: tuple[str, ...] = option(
        ("0.25,2", "0.5,5", "5,10"), "recall within metres,degrees; beyond the widest is wrong"
    )
    max_gap: float = option(
        0.0,
        "interpolate the reference between poses at most this far apart; 0: equal stamps only",
        unit="s",
        minimum=0,
    )
    relative_distance: float = option(
        10.0, "path over which relative pose errors are taken", unit="m", minimum=0
    )
    retrieval_within: str = option(
        "5,45", "a retrieved map image counts within metres,degrees of the query"
    )
    retrieval_at: tuple[int, ...] = option(
        (1, 5, 10, 20), "numbers of retrieved images to give the recall for", minimum=1
    )
    worst: int = option(8, "worst queries to show", minimum=0)
    up: str = option(
        "z",
        "the axis of the map that is up in the map from above; z (REP-103) for our own maps",
        choices=("x", "y", "z", "-x", "-y", "-z"),
    )

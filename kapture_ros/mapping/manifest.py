"""`map.yaml`: what a map is, which features it holds, and how it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kapture_ros.errors import InputError
from kapture_ros.files import write_atomically
from kapture_ros.options import load_yaml
from kapture_ros.transforms.geodesy import Datum

FILE_NAME = "map.yaml"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class FeatureTypes:
    """Names of the kapture feature types a map is made of.

    The names carry a hash of weights and settings (`kapture_ros extract`), so that equal
    names mean comparable features.
    """

    keypoints: str
    descriptors: str
    global_features: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of map.yaml.

    Attributes:
        features: which of the reconstruction's feature types localization uses.
        metric: False if the scale is unknown: nothing but a visual map up to scale.
        datum: where the map frame is on the Earth; None if nothing told.
        bounds: lowest and highest corner of the camera positions, metres in the map frame.
        sessions: names of the datasets the map was made of, in order.
        record: settings, versions, counts, times and warnings of the run that made it.
    """

    features: FeatureTypes
    metric: bool = True
    datum: Datum | None = None
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    sessions: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def poses_estimated(self) -> bool:
        """Whether mapping moved or found the poses of its images, which bends a map a little."""
        steps = [str(step.get("step")) for step in self.record.get("steps", ())]
        return any(reconstruction(route) in steps for route in ("refine", "none"))

    @property
    def poses_may_clash(self) -> bool:
        """Whether poses were kept as given, and no place seen again has shown that they fit."""
        seen_to_fit = any(step.get("fit") is True for step in self.record.get("steps", ()))
        return not (self.poses_estimated or seen_to_fit)


def reconstruction(route: str) -> str:
    """What the record calls the step that makes points and poses: fixed, refine or none."""
    return f"reconstruct ({route} poses)"


def require_metric(manifest: Manifest, map_dir: Path, lengths: str) -> None:
    """Refuse a map of unknown scale where lengths of the world meet those of the map.

    Args:
        lengths: what has them, in the plural.

    Raises:
        InputError: saying so.
    """
    if not manifest.metric:
        raise InputError(
            f"{map_dir} is of unknown scale, and {lengths} are in metres: make a map with odometry "
            f"or GNSS, or write `metric: true` into its {FILE_NAME} if its unit is the metre"
        )


def read_manifest(map_dir: Path) -> Manifest:
    """Read map.yaml.

    Raises:
        InputError: if it is missing or not a map's.
    """
    path = map_dir / FILE_NAME
    if not path.is_file():
        hint = "is a kapture dataset: run `kapture_ros map import`" if _is_kapture(map_dir) else ""
        raise InputError(
            f"{map_dir} is no map ({FILE_NAME} is missing){'; it ' * bool(hint)}{hint}"
        )
    content = load_yaml(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: format {content.get('format')!r} is not {FORMAT}")
    try:
        datum, bounds = content["datum"], content["bounds"]
        return Manifest(
            features=FeatureTypes(**content["features"]),
            metric=bool(content["metric"]),
            datum=Datum(**datum) if datum else None,
            bounds=(tuple(bounds["low"]), tuple(bounds["high"])) if bounds else None,
            sessions=tuple(content["sessions"]),
            record=content["record"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a value is missing or wrong: {error}") from error


def write_manifest(map_dir: Path, manifest: Manifest) -> None:
    """Write map.yaml.

    Raises:
        OutputError: if it cannot be written.
    """
    low_high = manifest.bounds
    content = {
        "format": FORMAT,
        "features": dataclasses.asdict(manifest.features),
        "metric": manifest.metric,
        "datum": dataclasses.asdict(manifest.datum) if manifest.datum else None,
        "bounds": {"low": list(low_high[0]), "high": list(low_high[1])} if low_high else None,
        "sessions": list(manifest.sessions),
        "record": dict(manifest.record),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(map_dir / FILE_NAME, text)


def _is_kapture(folder: Path) -> bool:
    return (folder / "sensors" / "sensors.txt").is_file()

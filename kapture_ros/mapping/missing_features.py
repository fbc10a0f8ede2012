"""Features for drives that have none: those of the bundled networks, in the drives' folders."""

from __future__ import annotations

from pathlib import Path

from kapture_ros.features.extraction import Extracted, ExtractionSettings, extract_dataset
from kapture_ros.features.options import DEFAULT_GLOBAL, DEFAULT_LOCAL, RuntimeOptions
from kapture_ros.mapping.feature_files import FeatureFolder, feature_types
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.options import MapSettings


def extract_missing(dataset: Path, settings: MapSettings) -> Extracted | None:
    """Extract what a drive lacks, or what an interrupted extraction left; None if nothing.

    Raises:
        InputError, OptionError, OutputError: as `extract_dataset`.
    """
    local, places = DEFAULT_LOCAL, DEFAULT_GLOBAL
    if settings.local_features or not _lacks(dataset, "keypoints", local):
        local = ""
    if settings.global_features or not _lacks(dataset, "global_features", places):
        places = ""
    if not local and not places:
        return None
    runtime = RuntimeOptions(device=settings.match.device)
    return extract_dataset(dataset, ExtractionSettings(local, places, runtime=runtime))


def are_bundled(types: FeatureTypes) -> bool:
    """Whether features are of the networks that `extract_missing` takes."""
    networks = ((types.keypoints, DEFAULT_LOCAL), (types.global_features, DEFAULT_GLOBAL))
    return all(name.startswith(f"{network}-") for name, network in networks)


def _lacks(dataset: Path, kind: str, network: str) -> bool:
    """Whether images have no features of this network, and none of another are there."""
    types = feature_types(dataset, kind)
    if not types:
        return True
    if len(types) > 1 or not types[0].startswith(f"{network}-"):
        return False
    folder = FeatureFolder.in_dataset(dataset, kind, types[0])
    return not all(folder.has(name) for name in read_images(dataset).names)

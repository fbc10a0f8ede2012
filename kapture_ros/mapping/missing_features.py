"""Features for drives that have none: those of the bundled networks, in the drives' folders."""

from __future__ import annotations

from pathlib import Path

from kapture_ros.features.extraction import Extracted, ExtractionSettings, extract_dataset
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import DEFAULT_GLOBAL, DEFAULT_LOCAL, RuntimeOptions
from kapture_ros.mapping.feature_files import FeatureFolder, feature_types
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.options import MapSettings


def extract_missing(dataset: Path, settings: MapSettings) -> Extracted | None:
    """Extract what a drive lacks, or what an interrupted extraction left; None if nothing.

    Features of other settings are not completed: that takes `kapture_ros extract` with those.

    Raises:
        InputError, OptionError, OutputError: as `extract_dataset`.
    """
    local, places = DEFAULT_LOCAL, DEFAULT_GLOBAL
    if settings.local_features or not _lacks(dataset, "keypoints"):
        local = ""
    if settings.global_features or not _lacks(dataset, "global_features"):
        places = ""
    if not local and not places:
        return None
    runtime = RuntimeOptions(device=settings.match.device)
    return extract_dataset(dataset, ExtractionSettings(local, places, runtime=runtime))


def are_bundled(types: FeatureTypes) -> bool:
    """Whether features are those that `extract_missing` makes."""
    return all(_is_bundled(kind, getattr(types, kind)) for kind in ("keypoints", "global_features"))


def _is_bundled(kind: str, type_name: str) -> bool:
    """Whether a type is that of a bundled network with the usual settings."""
    network = DEFAULT_LOCAL if kind == "keypoints" else DEFAULT_GLOBAL
    if not type_name.startswith(f"{network}-"):
        return False  # the usual case of another one, told without loading any
    extractor = R2D2Extractor if kind == "keypoints" else ApGemExtractor
    return extractor(network).type_name == type_name


def _lacks(dataset: Path, kind: str) -> bool:
    """Whether images have no bundled features of a kind, and none of another type are there."""
    types = feature_types(dataset, kind)
    if len(types) != 1:
        return not types
    folder = FeatureFolder.in_dataset(dataset, kind, types[0])
    whole = all(folder.has(name) for name in read_images(dataset).names)
    return not whole and _is_bundled(kind, types[0])

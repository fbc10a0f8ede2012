"""Features of query images by the networks a map was made with.

Pixels come from the query, networks from the installed weights; the localizer matches
what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import ApGemOptions, R2D2Options, RuntimeOptions
from kapture_ros.features.weights_file import weights_of_type
from kapture_ros.localization.query import QueryFeatures
from kapture_ros.mapping.manifest import FeatureTypes

Pixels = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StartedFeatures:
    """Features of an image that are on their way.

    Attributes:
        global_descriptors: (G,) by type name, each made when first asked for.
        wait: ends the others, and gives all.
    """

    global_descriptors: Mapping[str, Vector]
    wait: Callable[[], QueryFeatures]


def there_already(features: QueryFeatures) -> StartedFeatures:
    """Features that nobody has to wait for."""
    return StartedFeatures(features.global_descriptors, lambda: features)


class Extractor(Protocol):
    """What makes features from pixels."""

    @property
    def types(self) -> FeatureTypes:
        """Names (with hashes) of the map's features that these can be compared with."""
        ...

    def start(self, images: Sequence[Pixels], describe: bool) -> list[StartedFeatures]:
        """Begin with the features of images (H, W) or (H, W, 3) RGB.

        Args:
            describe: begin with the global descriptors; else they are made if somebody asks.
        """
        ...


class NetworkExtractor:
    """R2D2 and AP-GeM for the queries of one map; may be called from several threads.

    Attributes:
        runtime: what runs, in words.
    """

    def __init__(self, types: FeatureTypes, local: R2D2Extractor, global_: ApGemExtractor):
        """Keep both, if the features of a map (`types`) can be compared with theirs.

        Raises:
            InputError: if the map's were made with other weights or, as far as it matters,
                settings.
        """
        # Which keypoints are kept of a query need not be as in the map.
        if not types.descriptors.startswith(f"{local.model_name}-"):
            raise _other("local", types.descriptors, local.type_name)
        if types.global_features != global_.type_name:
            raise _other("global", types.global_features, global_.type_name)
        self.types = types
        self.runtime = f"R2D2 {local.runtime}; AP-GeM {global_.runtime}"
        self._local = local
        self._global = global_

    def start(self, images: Sequence[Pixels], describe: bool) -> list[StartedFeatures]:
        """Begin with images (H, W) or (H, W, 3) RGB: a GPU goes on by itself.

        Args:
            describe: begin with the global descriptors; else they are made if somebody asks.

        Raises:
            InputError: if an image is not of that kind.
        """
        name = self.types.global_features
        vectors = self._global.start(images) if describe else None

        def describe_one(number: int) -> Vector:
            found: Vector = (
                self._global.extract([images[number]])[0] if vectors is None else vectors()[number]
            )
            return found

        described = [_OnDemand(name, partial(describe_one, n)) for n in range(len(images))]
        local = self._local.start(images)

        def wait(number: int) -> QueryFeatures:
            found = local()[number]
            keypoints = found.keypoints[:, :2]
            return QueryFeatures(keypoints, found.descriptors, described[number], self.types)

        return [StartedFeatures(described[n], partial(wait, n)) for n in range(len(images))]


class _OnDemand(Mapping[str, Vector]):
    """A global descriptor by its type, made when first asked for: tracking asks for none."""

    def __init__(self, name: str, make: Callable[[], Vector]):
        self._name = name
        self._make = cache(make)

    def __getitem__(self, name: str) -> Vector:
        if name != self._name:
            raise KeyError(name)
        return self._make()

    def __contains__(self, name: object) -> bool:
        return name == self._name  # the base class would make it

    def __iter__(self) -> Iterator[str]:
        yield self._name

    def __len__(self) -> int:
        return 1


def _other(kind: str, wanted: str, found: str) -> InputError:
    return InputError(
        f"the map's {kind} features are '{wanted}' but the installed weights with these settings "
        f"make '{found}'; use the weights and settings of the map (`kapture_ros weights list`)"
    )


def extractor_for(
    types: FeatureTypes,
    local: R2D2Options | None = None,
    global_: ApGemOptions | None = None,
    runtime: RuntimeOptions | None = None,
) -> NetworkExtractor:
    """The networks that a map's features were made with, from the installed weights.

    Raises:
        InputError: if they are not installed, or those of that name are others.
        OptionError: if the device or precision is not available.
    """
    return NetworkExtractor(
        types,
        R2D2Extractor(weights_of_type(types.descriptors), local, runtime),
        ApGemExtractor(weights_of_type(types.global_features), global_, runtime),
    )

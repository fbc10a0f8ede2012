"""Local features: images in, R2D2 keypoints with descriptors and scores out.

Revaud et al., "R2D2: Repeatable and Reliable Detector and Descriptor", NeurIPS 2019. Used
by the extraction into datasets and by the localizer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kapture_ros.errors import InputError
from kapture_ros.features.cuda_graphs import Deferred, Recorded
from kapture_ros.features.detection import Candidates, detect
from kapture_ros.features.images import MAX_BATCH, batches
from kapture_ros.features.options import R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_inference import prepare
from kapture_ros.features.r2d2_network import R2D2Net
from kapture_ros.features.runtime import resolve
from kapture_ros.features.weights_file import find_weights, load_network, type_name


@dataclass(frozen=True, slots=True, eq=False)
class LocalFeatures:
    """The keypoints of one image, best first.

    Attributes:
        keypoints: (N, 3) float32: x, y in pixels of the image as given, the centre of the
            upper left pixel at (0, 0) as in kapture, and the side of the patch described.
        descriptors: (N, D) float32, of unit length.
        scores: (N,) float32, reliability × repeatability.
    """

    keypoints: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    scores: NDArray[np.float32]


class R2D2Extractor:
    """A network made ready for one device; may be called from several threads.

    Attributes:
        options: as given.
        model_name: the model and a hash of its weights; equal names mean descriptors that
            can be compared, whichever keypoints were kept and at which scales.
        type_name: name of the kapture feature type: `model_name` and the settings.
        descriptor_size: D.
        runtime: what runs, in words: device, precision, way of computing.
        batch_size: images that are computed at once, if they are of one size.
    """

    def __init__(
        self,
        weights: str | Path,
        options: R2D2Options | None = None,
        runtime: RuntimeOptions | None = None,
    ) -> None:
        """Load a network.

        Args:
            weights: name of installed weights, or a file.

        Raises:
            InputError: if the weights are missing, damaged, or not of R2D2.
            OptionError: if the device or precision is not available.
        """
        path = find_weights(weights)
        loaded = load_network(path)
        if not isinstance(loaded.network, R2D2Net):
            raise InputError(f"{path} holds AP-GeM, expected R2D2")
        self.options = options or R2D2Options()
        self.model_name = loaded.model_name
        readable = f"top{self.options.top_k}_{self.options.max_size}px"
        self.type_name = type_name(loaded, readable, self.options)
        self.descriptor_size = loaded.network.config.descriptor_size
        target = resolve(runtime or RuntimeOptions())
        self.batch_size = 1 if target.device.type == "cpu" else MAX_BATCH
        engine = prepare(loaded.network, target)
        found = functools.partial(detect, engine, self.options)
        self._detect: Deferred | Recorded = Deferred(found)
        self.runtime = f"{target}, {engine.how}"
        if target.device.type == "cuda":
            self._detect = Recorded(found, target.device)
            self.runtime += ", recorded as CUDA graphs"

    def extract(
        self,
        images: Sequence[NDArray[np.uint8]],
        masks: Sequence[NDArray[np.uint8] | None] | None = None,
    ) -> list[LocalFeatures]:
        """Keypoints of each image; images of one size are computed together on a GPU.

        Args:
            images: (H, W, 3) RGB or (H, W) grey.
            masks: (H, W) of the same size, as in COLMAP: no keypoint where it is 0.

        Raises:
            InputError: if an image is not of that kind or a mask differs in size.
        """
        return self.start(images, masks)()

    def start(
        self,
        images: Sequence[NDArray[np.uint8]],
        masks: Sequence[NDArray[np.uint8] | None] | None = None,
    ) -> Callable[[], list[LocalFeatures]]:
        """As `extract`: a GPU begins, and what is returned waits for it. A CPU begins then."""
        given = masks if masks is not None else [None] * len(images)
        started = [
            (places, self._detect.start(pixels, allowed))
            for places, pixels, allowed in batches(images, given, self.batch_size)
        ]

        def wait() -> list[LocalFeatures]:
            found: dict[int, LocalFeatures] = {}
            for places, run in started:
                found.update(zip(places, _separate(Candidates(*run())), strict=True))
            return [found[place] for place in range(len(images))]

        return wait


def _separate(candidates: Candidates) -> Iterator[LocalFeatures]:
    """The features of each image of a batch, empty places left out."""
    for parts in zip(*(part.numpy() for part in candidates), strict=True):
        count = np.count_nonzero(parts[2] > 0)
        yield LocalFeatures(*(part[:count] for part in parts))

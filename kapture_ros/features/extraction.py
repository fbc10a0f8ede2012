"""Features of a whole dataset: its images in, kapture feature files beside them out.

Used by `kapture_ros extract` and by `kapture_ros map` for datasets without features.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kapture_ros.dataset.tables import RECORDS_DATA
from kapture_ros.errors import InputError, OptionError
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.images import read_image, read_mask
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import (
    DEFAULT_GLOBAL,
    DEFAULT_LOCAL,
    ApGemOptions,
    R2D2Options,
    RuntimeOptions,
)
from kapture_ros.mapping.feature_files import FeatureFolder, checked_name
from kapture_ros.mapping.images import ImageTable, read_images

log = logging.getLogger(__name__)

_READERS = min(8, os.cpu_count() or 2)
"""Threads that decode the next images while the networks look at these."""


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """Which features are made, and how.

    Attributes:
        local, global_: names of installed weights, or files; empty to do without.
        masks: folder of one image a camera, CAMERA.png, of the size of the camera's images;
            no keypoint where it is 0.
    """

    local: str = DEFAULT_LOCAL
    global_: str = DEFAULT_GLOBAL
    r2d2: R2D2Options = field(default_factory=R2D2Options)
    apgem: ApGemOptions = field(default_factory=ApGemOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    masks: Path | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an extraction did.

    Attributes:
        types: the feature types by kind (keypoints, descriptors, global_features).
        runtimes: what ran, in words, by the same kinds.
        finished: images that had their features already.
        made: images that got some now.
        unreadable: images that cannot be decoded, with the reason; they have no features.
    """

    types: Mapping[str, str]
    runtimes: Mapping[str, str]
    finished: int
    made: int
    unreadable: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{kind}: {name} ({self.runtimes[kind]})" for kind, name in self.types.items()]
        lines.append(f"{self.made} images done, {self.finished} were done before")
        lines += [f"unreadable: {reason}" for reason in self.unreadable.values()]
        return "\n".join(lines)


def extract_dataset(
    dataset: Path, settings: ExtractionSettings | None = None, *, overwrite: bool = False
) -> Extracted:
    """Write the features of every image of a kapture dataset that has none yet.

    An interrupted run goes on where it was; an image whose files are torn is done again.

    Args:
        overwrite: do all images again.

    Raises:
        InputError: if it is no kapture dataset with images, weights are missing, or a mask
            does not fit.
        OptionError: if the device or precision is not available, or no network is wanted.
        OutputError: if features cannot be written.
    """
    images = read_images(dataset)
    networks = _open_networks(dataset, images, settings or ExtractionSettings())
    todo = {
        row: wanted
        for row, name in enumerate(images.names)
        if (wanted := [net for net in networks if overwrite or not net.has(name)])
    }
    done = len(images) - len(todo)
    unreadable: dict[str, str] = {}
    with tqdm(total=len(images), initial=done, unit="image", disable=None) as bar:
        size = max(net.extractor.batch_size for net in networks)
        for chunk in _chunks(_decoded(dataset, images, todo, ahead=2 * size + 2), size):
            readable = []
            for row, pixels in chunk:
                if isinstance(pixels, InputError):
                    unreadable[images.names[row]] = str(pixels)
                else:
                    readable.append((row, pixels))
            for net in networks:
                net.extract(images, [item for item in readable if net in todo[item[0]]])
            bar.update(len(chunk))
    if unreadable:
        log.warning("%d of %d images cannot be read", len(unreadable), len(images))
    return Extracted(
        {kind: name for net in networks for kind, name in net.types.items()},
        {kind: net.extractor.runtime for net in networks for kind in net.types},
        done,
        len(todo) - len(unreadable),
        unreadable,
    )


def _open_networks(
    dataset: Path, images: ImageTable, settings: ExtractionSettings
) -> list[_Local | _Global]:
    """The networks that are wanted; nothing is written unless all can be used."""
    masks = _read_masks(images, settings.masks)
    local = global_ = None
    if settings.local:
        local = R2D2Extractor(settings.local, settings.r2d2, settings.runtime)
    if settings.global_:
        global_ = ApGemExtractor(settings.global_, settings.apgem, settings.runtime)
    networks: list[_Local | _Global] = []
    if local is not None:
        networks.append(_Local(dataset, local, masks))
    if global_ is not None:
        networks.append(_Global(dataset, global_))
    if not networks:
        raise OptionError("neither local nor global features are wanted: nothing to extract")
    return networks


class _Local:
    """R2D2 and the two folders it fills."""

    def __init__(
        self, dataset: Path, extractor: R2D2Extractor, masks: Mapping[int, NDArray[np.uint8]]
    ) -> None:
        self.extractor = extractor
        self._masks = masks
        name = extractor.type_name + _mask_suffix(masks)
        self.types = {"keypoints": name, "descriptors": name}
        header = {"name": extractor.model_name, "dtype": "float32"}
        keypoints = header | {"dsize": "3"}
        descriptors = header | {
            "dsize": str(extractor.descriptor_size),
            "keypoints_type": name,
            "metric_type": "L2",
        }
        self._keypoints = FeatureFolder.create(dataset, "keypoints", name, keypoints)
        self._descriptors = FeatureFolder.create(dataset, "descriptors", name, descriptors)

    def has(self, image_name: str) -> bool:
        """Whether both files are there and whole; without any keypoint, they may be torn."""
        sizes = [_rows(folder, image_name) for folder in (self._keypoints, self._descriptors)]
        return sizes[0] == sizes[1] and sizes[0] > 0

    def extract(self, images: ImageTable, batch: list[tuple[int, NDArray[np.uint8]]]) -> None:
        masks = [self._masks.get(int(images.camera[row])) for row, _ in batch]
        found = self.extractor.extract([pixels for _, pixels in batch], masks)
        for (row, _), features in zip(batch, found, strict=True):
            self._descriptors.write(images.names[row], features.descriptors)
            self._keypoints.write(images.names[row], features.keypoints)


class _Global:
    """AP-GeM and the folder it fills."""

    def __init__(self, dataset: Path, extractor: ApGemExtractor) -> None:
        self.extractor = extractor
        self.types = {"global_features": extractor.type_name}
        header = {
            "name": extractor.type_name,
            "dtype": "float32",
            "dsize": str(extractor.descriptor_size),
            "metric_type": "L2",
        }
        self._folder = FeatureFolder.create(dataset, "global_features", extractor.type_name, header)

    def has(self, image_name: str) -> bool:
        """Whether its file is there and whole."""
        return _rows(self._folder, image_name) == 1

    def extract(self, images: ImageTable, batch: list[tuple[int, NDArray[np.uint8]]]) -> None:
        found = self.extractor.extract([pixels for _, pixels in batch])
        for (row, _), vector in zip(batch, found, strict=True):
            self._folder.write(images.names[row], vector)


def _rows(folder: FeatureFolder, image_name: str) -> float:
    """How many rows a file of float32 holds: a fraction if it is torn, 0 if there is none."""
    path = folder.path(image_name)
    return path.stat().st_size / (4 * folder.width) if path.is_file() else 0


def _read_masks(images: ImageTable, folder: Path | None) -> dict[int, NDArray[np.uint8]]:
    """The masks by camera (row of the table); cameras may do without.

    Raises:
        InputError: if there is none at all, or one is of another size than its camera.
    """
    masks: dict[int, NDArray[np.uint8]] = {}
    if folder is None:
        return masks
    for row, camera in enumerate(images.cameras):
        path = folder / f"{camera.sensor_id}.png"
        if not path.is_file():
            continue
        mask = masks[row] = read_mask(path)
        if mask.shape != (camera.height, camera.width):
            raise InputError(
                f"{path} is {mask.shape[1]}×{mask.shape[0]} but images of '{camera.sensor_id}' "
                f"are {camera.width}×{camera.height}; make a mask of that size"
            )
    if not masks:
        names = ", ".join(f"{camera.sensor_id}.png" for camera in images.cameras)
        raise InputError(f"{folder} holds no mask; expected some of {names}")
    return masks


def _mask_suffix(masks: Mapping[int, NDArray[np.uint8]]) -> str:
    """Part of the type's name, since other masks give other keypoints."""
    if not masks:
        return ""
    digest = hashlib.sha256()
    for row, mask in sorted(masks.items()):
        digest.update(f"{row} {mask.shape}".encode() + np.packbits(mask != 0).tobytes())
    return f"_masked_{digest.hexdigest()[:6]}"


def _decoded(
    dataset: Path, images: ImageTable, rows: Iterable[int], ahead: int
) -> Iterator[tuple[int, NDArray[np.uint8] | InputError]]:
    """The pixels of images in their order, decoded some ahead."""

    def read(row: int) -> NDArray[np.uint8] | InputError:
        try:
            return read_image(dataset / RECORDS_DATA / checked_name(images.names[row]))
        except InputError as error:
            return error

    waiting: deque[tuple[int, Future[NDArray[np.uint8] | InputError]]] = deque()
    remaining = iter(rows)
    with ThreadPoolExecutor(_READERS, "decode") as pool:
        for row in itertools.islice(remaining, ahead):
            waiting.append((row, pool.submit(read, row)))
        while waiting:
            row, future = waiting.popleft()
            pixels = future.result()
            for following in itertools.islice(remaining, 1):
                waiting.append((following, pool.submit(read, following)))
            yield row, pixels


def _chunks(
    items: Iterable[tuple[int, NDArray[np.uint8] | InputError]], size: int
) -> Iterator[Sequence[tuple[int, NDArray[np.uint8] | InputError]]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

"""Images and masks on their way into the networks: decoded, checked, put into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kapture_ros.errors import InputError

MAX_BATCH = 8
"""Images computed at once on a GPU; more gain nothing and cost memory."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) RGB as stored, whatever orientation the file's EXIF suggests.

    Raises:
        InputError: if the file is missing, cut off or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # conversion to RGB would clip, not scale
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image.convert("RGB"), np.uint8)
    except FileNotFoundError as error:
        raise InputError(f"image {path} is missing") from error
    # Pillow reports damage by many kinds of error, SyntaxError for broken PNG among them.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path} cannot be decoded: {error}") from error


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask (H, W): 0 where there shall be no keypoint.

    Raises:
        InputError: as `read_image`.
    """
    return np.asarray(read_image(path).max(axis=2), np.uint8)


def batches(
    images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8] | None], most: int
) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """Images of one size together.

    Yields:
        The places in the sequence, (B, 3, H, W) uint8 RGB (channels last in memory, as images
        come: a GPU rearranges them faster), and (B, H, W) bool, true where
        keypoints may be, or None if none of them has a mask.

    Raises:
        InputError: if an image is not (H, W) or (H, W, 3) uint8, or a mask differs in size.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        _check(image, masks[index])
        places.setdefault(image.shape[:2], []).append(index)
    for shape, found in places.items():
        for first in range(0, len(found), most):
            chosen = found[first : first + most]
            colours = [_colours(images[index]) for index in chosen]
            stacked = np.stack(colours) if len(colours) > 1 else colours[0][None]
            pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
            allowed = None
            if any(masks[index] is not None for index in chosen):
                allowed = torch.stack([_allowed(masks[index], shape) for index in chosen])
            yield chosen, pixels, allowed


def _check(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> None:
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (image.ndim == 2 or colour) or 0 in image.shape:
        raise InputError(
            f"an image is {image.shape} {image.dtype} but must be (H, W) or (H, W, 3) uint8"
        )
    if mask is not None and mask.shape != image.shape[:2]:
        raise InputError(
            f"a mask is {mask.shape} but its image {image.shape[:2]} (height, width);"
            " make one of the same size"
        )


def _colours(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    # Copied where messages come as read-only arrays or mirrored, which torch does not know.
    return np.require(image, requirements=["C", "W"])


def _allowed(mask: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> Tensor:
    return (
        torch.ones(shape, dtype=torch.bool)
        if mask is None
        else torch.from_numpy((mask != 0).copy(order="C"))
    )

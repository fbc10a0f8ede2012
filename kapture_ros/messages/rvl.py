"""RVL-compressed depth of compressed_depth_image_transport: bytes in, uint16 samples out.

A. D. Wilson, Fast Lossless Depth Image Compression, ISS 2017: runs of zeros and of values
take turns; the values are differences, folded to be positive; every number is a chain of
nibbles, three bits each, least significant first, the fourth says that more follow. Nibbles
fill little-endian words from the top. Width and height stand before, as int32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kapture_ros.messages.common import MessageError

HEADER = 8
MORE, BITS = 8, 3
MAX_NIBBLES = 11  # of a 32-bit number
MAX_PIXELS = 1 << 26  # a run of zeros can claim any number


def size(data: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height.

    Raises:
        MessageError: `bad-image` if no image can be like that.
    """
    if len(data) < HEADER:
        raise MessageError("bad-image", f"RVL of {len(data)} bytes has no header")
    width, height = (int(value) for value in np.frombuffer(data[:HEADER].tobytes(), "<i4"))
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise MessageError("bad-image", f"RVL of {width}×{height} pixels")
    return width, height


def decode(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """The samples (H, W).

    Raises:
        MessageError: `bad-image` if the numbers do not fill the image exactly.
    """
    width, height = size(data)
    numbers = _numbers(data[HEADER:])
    at, pixel, total = 0, 0, width * height
    tokens, pixels, lengths = [], [], []  # where each run of values is, there and here
    while pixel < total:
        if at + 2 > len(numbers):
            raise MessageError("bad-image", f"RVL ends at pixel {pixel} of {total}")
        zeros, values = int(numbers[at]), int(numbers[at + 1])
        pixel, at = pixel + zeros, at + 2
        if pixel + values > total or at + values > len(numbers) or not zeros + values:
            raise MessageError("bad-image", f"RVL has a bad run at pixel {pixel} of {total}")
        if values:
            tokens.append(at)
            pixels.append(pixel)
            lengths.append(values)
        pixel, at = pixel + values, at + values
    samples = np.zeros(total, np.uint16)
    folded = numbers[_ranges(tokens, lengths)]
    differences = (folded >> 1) ^ -(folded & 1)
    samples[_ranges(pixels, lengths)] = np.cumsum(differences).astype(np.uint16)
    return samples.reshape(height, width)


def _numbers(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """All numbers of the stream; zeros that fill the last word count as numbers too."""
    words = data[: len(data) // 4 * 4].reshape(-1, 4)[:, ::-1].reshape(-1)
    nibbles = np.stack([words >> 4, words & 15], axis=-1).reshape(-1)
    ends = np.flatnonzero(nibbles < MORE)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if lengths.max(initial=0) > MAX_NIBBLES:
        raise MessageError("bad-image", "RVL has a number of too many bits")
    place = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    bits = (nibbles[: place.size] & (MORE - 1)).astype(np.int64) << (BITS * place)
    return np.add.reduceat(bits, starts) if ends.size else bits


def _ranges(starts: list[int], lengths: list[int]) -> npt.NDArray[np.int64]:
    """The numbers from each start on, one behind the other."""
    counts = np.array(lengths, np.int64)
    before = np.cumsum(counts) - counts
    moved = np.repeat(np.array(starts, np.int64) - before, counts)
    return moved + np.arange(counts.sum())

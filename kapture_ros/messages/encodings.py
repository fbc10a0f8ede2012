"""Pixels of raw images: every encoding of sensor_msgs as an array one can look at, and back.

`decode` gives what OpenCV would read from a file (grey, BGR or BGRA); `decode_raw` gives
the samples as the camera sent them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.messages.common import Message, MessageError, byte_array

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one pixel is stored.

    Attributes:
        family: grey, bgr, rgb, bgra, rgba, bayer, depth, packed (two pixels share their
            colour) or planar (a plane of brightness, then one of colour).
        samples: numbers per pixel in a row; 1 in the first plane of planar ones.
        dtype: type of one sample, without its byte order.
        code: the mosaic of bayer ("RGGB": row by row), or OpenCV's conversion to BGR.
    """

    family: str
    samples: int
    dtype: str
    code: str = ""


def _bayer(pattern: str) -> dict[str, Encoding]:
    return {
        f"bayer_{pattern.lower()}{bits}": Encoding("bayer", 1, f"u{bits // 8}", pattern)
        for bits in (8, 16)
    }


_UYVY = Encoding("packed", 2, "u1", "COLOR_YUV2BGR_UYVY")
_YUYV = Encoding("packed", 2, "u1", "COLOR_YUV2BGR_YUYV")

ENCODINGS: dict[str, Encoding] = {
    "mono8": Encoding("grey", 1, "u1"),
    "8uc1": Encoding("grey", 1, "u1"),
    "mono16": Encoding("grey", 1, "u2"),
    "16uc1": Encoding("depth", 1, "u2"),
    "32fc1": Encoding("depth", 1, "f4"),
    "rgb8": Encoding("rgb", 3, "u1"),
    "bgr8": Encoding("bgr", 3, "u1"),
    "8uc3": Encoding("bgr", 3, "u1"),
    "rgba8": Encoding("rgba", 4, "u1"),
    "bgra8": Encoding("bgra", 4, "u1"),
    "8uc4": Encoding("bgra", 4, "u1"),
    "rgb16": Encoding("rgb", 3, "u2"),
    "bgr16": Encoding("bgr", 3, "u2"),
    "16uc3": Encoding("bgr", 3, "u2"),
    "rgba16": Encoding("rgba", 4, "u2"),
    "bgra16": Encoding("bgra", 4, "u2"),
    "16uc4": Encoding("bgra", 4, "u2"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": Encoding("planar", 1, "u1", "COLOR_YUV2BGR_NV12"),
    "nv21": Encoding("planar", 1, "u1", "COLOR_YUV2BGR_NV21"),
    "nv24": Encoding("planar", 1, "u1"),
    **_bayer("RGGB"),
    **_bayer("BGGR"),
    **_bayer("GBRG"),
    **_bayer("GRBG"),
}

_BGR_CHANNEL = {"B": 0, "G": 1, "R": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples of one image lie in its bytes; checked against their number.

    Attributes:
        rows: rows of samples: the height, more for planar encodings.
        row_bytes: bytes of a row that are samples; the rest up to `step` is padding.
    """

    encoding: Encoding
    width: int
    height: int
    rows: int
    row_bytes: int
    step: int
    big_endian: bool

    @classmethod
    def of(cls, message: Message) -> Layout:
        """The layout of a sensor_msgs/Image.

        Raises:
            MessageError: `unknown-encoding`, or `bad-size` if the numbers contradict each
                other or the data is too short for them.
        """
        layout = cls.described(
            str(message.encoding),
            (int(message.width), int(message.height)),
            int(message.step),
            bool(message.is_bigendian),
        )
        size = len(message.data)
        if size < layout.step * (layout.rows - 1) + layout.row_bytes:
            raise MessageError("bad-size", f"{layout.describe()} but only {size} bytes")
        return layout

    @classmethod
    def described(
        cls, encoding_name: str, size: tuple[int, int], step: int, big_endian: bool
    ) -> Layout:
        """The layout of an image of a size (width, height); step 0 means without padding.

        Raises:
            MessageError: `unknown-encoding`, or `bad-size` if no image can be like that.
        """
        encoding = ENCODINGS.get(encoding_name.strip().lower())
        if encoding is None:
            raise MessageError("unknown-encoding", f"'{encoding_name}'")
        width, height = size
        rows = height
        if encoding.family == "planar":
            rows = height * 3 // 2 if encoding.code else height * 3
        row_bytes = width * encoding.samples * np.dtype(encoding.dtype).itemsize
        layout = cls(encoding, width, height, rows, row_bytes, step or row_bytes, big_endian)
        halved_width = encoding.family == "packed" or (encoding.family == "planar")
        halved_height = encoding.family == "planar" and bool(encoding.code)
        odd = (halved_width and width % 2) or (halved_height and height % 2)
        if not width or not height or layout.step < row_bytes or odd:
            raise MessageError("bad-size", f"{layout.describe()} is impossible")
        return layout

    def describe(self) -> str:
        """The numbers, for an error message."""
        return f"{self.width}×{self.height} with {self.row_bytes} of {self.step} bytes a row"

    @property
    def sample_type(self) -> np.dtype[Any]:
        """The samples' type with its byte order."""
        return np.dtype((">" if self.big_endian else "<") + self.encoding.dtype)


def decode_raw(message: Message) -> Pixels:
    """Samples as sent: (rows, width) or (rows, width, samples), native byte order, no padding.

    Raises:
        MessageError: see `Layout.of`.
    """
    return raw_samples(Layout.of(message), byte_array(message.data))


def raw_samples(layout: Layout, data: npt.NDArray[np.uint8]) -> Pixels:
    """As `decode_raw`, from the bytes of the image."""
    item = layout.sample_type
    strides = (layout.step, item.itemsize * layout.encoding.samples, item.itemsize)
    shape = (layout.rows, layout.width, layout.encoding.samples)
    view = np.ndarray(shape, item, data, strides=strides)
    samples = np.ascontiguousarray(view, item.newbyteorder("="))
    return samples[:, :, 0] if layout.encoding.samples == 1 else samples


def decode(message: Message) -> Pixels:
    """The image as OpenCV would read it: (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA.

    Raises:
        MessageError: see `Layout.of`.
    """
    layout = Layout.of(message)
    return to_viewable(layout, raw_samples(layout, byte_array(message.data)))


def to_viewable(layout: Layout, samples: Pixels) -> Pixels:
    """Samples from `raw_samples` as grey, BGR or BGRA; depth stays as it is."""
    encoding = layout.encoding
    if encoding.family == "rgb":
        return cv2.cvtColor(samples, cv2.COLOR_RGB2BGR)
    if encoding.family == "rgba":
        return cv2.cvtColor(samples, cv2.COLOR_RGBA2BGRA)
    if encoding.family == "bayer":
        return _demosaic(samples, encoding.code)
    if encoding.family == "packed" or (encoding.family == "planar" and encoding.code):
        return cv2.cvtColor(samples, getattr(cv2, encoding.code))
    if encoding.family == "planar":
        return _bgr_of_nv24(samples, layout.height)
    return samples


def from_viewable(layout: Layout, image: Pixels) -> Pixels | None:
    """The exact samples that `to_viewable` turned into this image; None for YUV."""
    encoding = layout.encoding
    if encoding.family == "rgb":
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if encoding.family == "rgba":
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    if encoding.family == "bayer":
        mosaic = np.empty(image.shape[:2], image.dtype)
        for place, colour in enumerate(encoding.code):
            site = np.s_[place // 2 :: 2, place % 2 :: 2]
            mosaic[site] = image[(*site, _BGR_CHANNEL[colour])]
        return mosaic
    return image if encoding.family in ("grey", "bgr", "bgra", "depth") else None


def _demosaic(mosaic: Pixels, pattern: str) -> Pixels:
    """Bilinear, which keeps every measured sample in its own channel at its own place.

    OpenCV copies neighbours into the outermost pixels; with a mirrored border (which goes
    on with the same mosaic) these are measured ones as well.
    """
    wide = cv2.copyMakeBorder(mosaic, 2, 2, 2, 2, cv2.BORDER_REFLECT_101)
    return cv2.cvtColor(wide, getattr(cv2, f"COLOR_Bayer{pattern}2BGR"))[2:-2, 2:-2]


def _bgr_of_nv24(samples: Pixels, height: int) -> Pixels:
    """ITU-R BT.601, video range, as OpenCV's conversions of the other YUV encodings."""
    luma = samples[:height].astype(np.float32)
    chroma = samples[height:].reshape(height, -1, 2).astype(np.float32) - 128.0
    y = 1.164 * (luma - 16.0)
    u, v = chroma[:, :, 0], chroma[:, :, 1]
    bgr = np.stack([y + 2.018 * u, y - 0.391 * u - 0.813 * v, y + 1.596 * v], axis=-1)
    image: Pixels = np.clip(np.rint(bgr), 0, 255).astype(np.uint8)
    return image

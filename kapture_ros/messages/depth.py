"""Depth images as `.depth` files (float32 little-endian metres), and back.

Raw 16UC1 is millimetres and 32FC1 metres (REP-118); compressed ones come from
compressed_depth_image_transport or as a 16-bit PNG. Invalid pixels stay what the camera
wrote: 0 in integer images, NaN or infinity in float ones.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.dataset.records import DepthRecord, FilePayload, JsonValue
from kapture_ros.messages import rvl
from kapture_ros.messages.common import Message, MessageError, byte_array
from kapture_ros.messages.encodings import Layout, Pixels, decode_raw
from kapture_ros.messages.images import PNG_MAGIC, file_size

MILLIMETRE = 0.001
CONFIG_SIZE = 12  # int32 format, float32 quantization a and b (compressed_depth_image_transport)


def is_depth(message: Message) -> bool:
    """Whether an Image or CompressedImage says of itself that it holds depth."""
    if hasattr(message, "encoding"):
        return str(message.encoding).strip().lower() in ("16uc1", "32fc1")
    encoding, _, transport = str(message.format).lower().partition(";")
    return "compresseddepth" in transport or encoding.strip() in ("16uc1", "32fc1")


def depth_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[DepthRecord, ...]:
    """A raw depth image; mono16 counts as millimetres.

    Raises:
        MessageError: `unknown-encoding` or `bad-size`.
    """
    layout = Layout.of(message)
    if layout.encoding.samples != 1 or layout.encoding.dtype not in ("u2", "f4"):
        raise MessageError("unknown-encoding", f"'{message.encoding}' is no depth encoding")
    extra: dict[str, JsonValue] = {"encoding": str(message.encoding)}
    if layout.step != layout.row_bytes:
        extra["step"] = layout.step
    if message.is_bigendian:
        extra["is_bigendian"] = int(message.is_bigendian)
    size = len(message.data)
    return (
        DepthRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=extra,
            payload=FilePayload(".depth", lambda: _file(metres(decode_raw(message))), size),
            size=(layout.width, layout.height),
        ),
    )


def compressed_depth_records(
    message: Message, stamp_ns: int, sensor_id: str
) -> tuple[DepthRecord, ...]:
    """A depth image of compressed_depth_image_transport, or in a plain 16-bit PNG.

    Raises:
        MessageError: `unknown-encoding` if it is neither PNG nor RVL inside, `bad-image` if
            broken.
    """
    body = _body(message)
    size = rvl.size(body) if _is_rvl(message) else file_size(body.data)
    extra: dict[str, JsonValue] = {"format": str(message.format)}
    if _has_config(message):
        kind, a, b = struct.unpack("<iff", byte_array(message.data)[:CONFIG_SIZE].tobytes())
        extra["config"] = [kind, a, b]
    payload = FilePayload(".depth", lambda: _file(compressed_metres(message)), len(message.data))
    return (
        DepthRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=extra,
            payload=payload,
            size=size,
        ),
    )


def metres(samples: Pixels) -> npt.NDArray[np.float32]:
    """Depth in metres (H, W) of uint16 millimetres or float metres."""
    if samples.dtype.kind == "u":
        return (samples * MILLIMETRE).astype(np.float32)
    return samples.astype(np.float32, copy=False)


def millimetres(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The exact integers that `metres` was given."""
    return np.rint(depth.astype(float) / MILLIMETRE).astype(np.uint16)


def compressed_metres(message: Message) -> npt.NDArray[np.float32]:
    """Depth in metres (H, W) of a compressed depth image.

    Raises:
        MessageError: `bad-image` if what is inside cannot be decoded.
    """
    body = _body(message)
    samples = rvl.decode(body) if _is_rvl(message) else cv2.imdecode(body, cv2.IMREAD_UNCHANGED)
    if samples is None or samples.ndim != 2:
        raise MessageError("bad-image", f"'{message.format}' holds no readable depth image")
    if not str(message.format).lower().startswith("32fc1"):
        return metres(samples)
    # Inverse depth quantization: depth = a / (value - b), 0 where there is none.
    _, a, b = struct.unpack("<iff", byte_array(message.data)[:CONFIG_SIZE].tobytes())
    depth = np.full(samples.shape, np.nan, np.float32)
    seen = samples > 0
    depth[seen] = a / (samples[seen].astype(np.float32) - np.float32(b))
    return depth


def _has_config(message: Message) -> bool:
    return "compresseddepth" in str(message.format).lower()


def _is_rvl(message: Message) -> bool:
    return _has_config(message) and str(message.format).strip().lower().endswith("rvl")


def _body(message: Message) -> npt.NDArray[np.uint8]:
    """The compressed image, without the configuration before it."""
    data = byte_array(message.data)
    body = data[CONFIG_SIZE:] if _has_config(message) else data
    if not _is_rvl(message) and body[:8].tobytes() != PNG_MAGIC:
        raise MessageError("unknown-encoding", f"'{message.format}' holds neither PNG nor RVL")
    return body


def _file(depth: npt.NDArray[np.float32]) -> bytes:
    return depth.astype("<f4", copy=False).tobytes()

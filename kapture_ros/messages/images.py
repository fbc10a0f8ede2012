"""sensor_msgs Image and CompressedImage as files of a dataset, and back byte for byte.

Raw images become PNG: lossless, and viewable in every encoding. Mosaics (bayer) are
demosaiced in a way that keeps each measured sample. What pixels cannot give back exactly
(YUV, padding that is not zero, bytes behind the image) travels in the same file as private
chunks, which viewers skip (PNG specification, third edition, section 14). Compressed images
are written as they came.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.dataset.records import FilePayload, ImageRecord, JsonValue
from kapture_ros.messages.common import Message, MessageError, byte_array
from kapture_ros.messages.encodings import (
    Layout,
    Pixels,
    decode,
    from_viewable,
    raw_samples,
    to_viewable,
)

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
RAW_CHUNK = b"roSr"  # ancillary, private, safe to copy
FRAME_HEADER = struct.Struct(">BHBHH")  # marker, length, bits, height, width
RAW_CHUNK_SIZE = 1 << 20  # libpng refuses chunks beyond 8 MB

# Level 1 behind one filter for all rows: libpng's search for the best filter of each row
# takes a third longer, and on camera images the files come out no smaller.
PNG_OPTIONS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_FILTERED,
    getattr(cv2, "IMWRITE_PNG_FILTER", 19),  # unknown, and ignored, before OpenCV 4.12
    getattr(cv2, "IMWRITE_PNG_FILTER_AVG", 64),
)


def image_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[ImageRecord, ...]:
    """A raw image as a PNG file, encoded later on a worker thread.

    Raises:
        MessageError: `unknown-encoding` or `bad-size`.
    """
    layout = Layout.of(message)
    data = byte_array(message.data)
    extra: dict[str, JsonValue] = {"encoding": str(message.encoding)}
    if layout.step != layout.row_bytes or message.step != layout.step:
        extra["step"] = int(message.step)
    if message.is_bigendian:
        extra["is_bigendian"] = int(message.is_bigendian)
    return (
        ImageRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=extra,
            payload=FilePayload(".png", lambda: encode_png(layout, data), data.size),
            size=(layout.width, layout.height),
        ),
    )


def compressed_image_records(
    message: Message, stamp_ns: int, sensor_id: str
) -> tuple[ImageRecord, ...]:
    """A JPEG or PNG image, byte for byte.

    Raises:
        MessageError: `unknown-encoding` if it is neither, `bad-image` if its header is broken.
    """
    data = byte_array(message.data)
    size = file_size(data.data)
    suffix = ".png" if data[0] == PNG_MAGIC[0] else ".jpg"
    return (
        ImageRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra={"format": str(message.format)},
            payload=FilePayload(suffix, lambda: data.data, data.size, ready=True),
            size=size,
        ),
    )


def encode_png(layout: Layout, data: npt.NDArray[np.uint8]) -> bytes:
    """A PNG from which `restore_image_data` gives these bytes."""
    samples = raw_samples(layout, data)
    done, buffer = cv2.imencode(".png", to_viewable(layout, samples), PNG_OPTIONS)
    if not done:
        raise MessageError("bad-image", f"{layout.width}×{layout.height} cannot become a PNG")
    png = buffer.tobytes()
    if _pixels_are_enough(layout, data):
        return png
    header_end = len(PNG_MAGIC) + 25  # the IHDR chunk has a fixed size
    packed = zlib.compress(data.tobytes(), 1)
    chunks = (
        _chunk(packed[at : at + RAW_CHUNK_SIZE]) for at in range(0, len(packed), RAW_CHUNK_SIZE)
    )
    return png[:header_end] + b"".join(chunks) + png[header_end:]


def restore_image_data(file: bytes, extra: dict[str, JsonValue]) -> bytes:
    """The `data` of the sensor_msgs/Image that `image_records` turned into this file.

    Args:
        extra: the record's entry in the sidecar.

    Raises:
        MessageError: `bad-image` if the file is damaged.
    """
    packed = b"".join(_raw_chunks(file))
    if packed:
        return zlib.decompress(packed)
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise MessageError("bad-image", "the PNG cannot be decoded")
    step = extra.get("step", 0)
    assert isinstance(step, int)
    size = (image.shape[1], image.shape[0])
    big_endian = bool(extra.get("is_bigendian", 0))
    layout = Layout.described(str(extra["encoding"]), size, step, big_endian)
    samples = from_viewable(layout, image)
    if samples is None:
        raise MessageError("bad-image", f"{extra['encoding']} without the original bytes")
    ordered = np.ascontiguousarray(samples, layout.sample_type)
    rows = np.zeros((layout.rows, layout.step), np.uint8)
    rows[:, : layout.row_bytes] = ordered.view(np.uint8).reshape(layout.rows, layout.row_bytes)
    return rows.tobytes()


def decode_message(message: Message) -> Pixels:
    """An Image or CompressedImage as grey (H, W), BGR (H, W, 3) or BGRA (H, W, 4).

    Raises:
        MessageError: if it cannot be decoded.
    """
    if hasattr(message, "encoding"):
        return decode(message)
    data = byte_array(message.data)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise MessageError("bad-image", f"'{message.format}' of {data.size} bytes is no image")
    return image


def file_size(file: bytes | memoryview) -> tuple[int, int]:
    """Width and height of a JPEG or PNG from its header.

    Raises:
        MessageError: `unknown-encoding` if it is neither, `bad-image` if the header is broken.
    """
    if file[:8] == PNG_MAGIC:
        if len(file) < 33 or file[12:16] != b"IHDR":
            raise MessageError("bad-image", "the PNG has no header")
        width, height = struct.unpack_from(">II", file, 16)
        return width, height
    if file[:3] != JPEG_MAGIC:
        raise MessageError(
            "unknown-encoding", f"neither JPEG nor PNG: begins with {bytes(file[:4])!r}"
        )
    at, end = 2, len(file) - 9
    while at <= end and file[at] == 0xFF:
        marker, length, _, height, width = FRAME_HEADER.unpack_from(file, at + 1)
        # SOF0 … SOF15 (ITU-T T.81, table B.1), without DHT, JPG and DAC among them
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return width, height
        at += 1 if marker == 0xFF else 2 + length
    raise MessageError("bad-image", f"the JPEG of {len(file)} bytes has no frame header")


def _pixels_are_enough(layout: Layout, data: npt.NDArray[np.uint8]) -> bool:
    if layout.encoding.family in ("packed", "planar"):
        return False
    if data.size != layout.rows * layout.step:
        return False
    return (
        layout.step == layout.row_bytes
        or not data.reshape(-1, layout.step)[:, layout.row_bytes :].any()
    )


def _chunk(data: bytes) -> bytes:
    check = zlib.crc32(RAW_CHUNK + data)
    return struct.pack(">I", len(data)) + RAW_CHUNK + data + struct.pack(">I", check)


def _raw_chunks(file: bytes) -> Iterator[bytes]:
    at = len(PNG_MAGIC)
    while at + 8 <= len(file):
        length, kind = struct.unpack(">I4s", file[at : at + 8])
        if kind == b"IDAT":
            return
        if kind == RAW_CHUNK:
            yield file[at + 8 : at + 8 + length]
        at += length + 12

"""Images: every encoding, padding and byte order becomes a viewable file, and comes back."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_tools import image, make
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from kapture_ros.messages.common import MessageError
from kapture_ros.messages.encodings import ENCODINGS, Layout, decode
from kapture_ros.messages.images import (
    compressed_image_records,
    decode_message,
    file_size,
    image_records,
    restore_image_data,
)

CAMERA_ENCODINGS = sorted(name for name, e in ENCODINGS.items() if e.family != "depth")


def random_image(encoding: str, size: tuple[int, int], padding: int, big_endian: bool, seed: int):
    """An Image message with random samples, and random padding if there is any."""
    layout = Layout.described(encoding, size, 0, big_endian)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (layout.rows, layout.row_bytes + padding), np.uint8)
    return make(
        "sensor_msgs/Image", stamp=1, width=size[0], height=size[1], encoding=encoding,
        step=layout.row_bytes + padding, is_bigendian=int(big_endian), data=rows.reshape(-1),
    )  # fmt: skip


@settings(max_examples=150)
@given(
    encoding=st.sampled_from(CAMERA_ENCODINGS),
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    padding=st.sampled_from([0, 0, 1, 4]),
    big_endian=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_bytes_of_any_raw_image_come_back(encoding, size, padding, big_endian, seed) -> None:
    family = ENCODINGS[encoding].family
    if family in ("packed", "planar"):
        size = (size[0] // 2 * 2, size[1] // 2 * 2)
    if family == "planar":
        padding = 0
    message = random_image(encoding, size, padding, big_endian, seed)
    (record,) = image_records(message, 1, "cam")
    file = record.payload.encode()
    assert restore_image_data(file, dict(record.extra)) == message.data.tobytes()
    shown = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(shown, decode(message))
    assert PillowImage.open(io.BytesIO(file)).size == size


@pytest.mark.parametrize("encoding", CAMERA_ENCODINGS)
def test_every_encoding_shows_the_same_scene(encoding: str, shared_data: Path) -> None:
    """A real photo, encoded as a camera would, decodes to that photo (to what YUV and a
    mosaic can keep of it)."""
    bgr = cv2.imread(str(shared_data / "strecha_fountain" / "0000.jpg"))
    bgr = cv2.resize(bgr, (320, 240), interpolation=cv2.INTER_AREA)
    message = encoded_as(encoding, bgr)
    shown = decode(message)
    if shown.dtype == np.uint16:
        shown = (shown // 257).astype(np.uint8)
    expected = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) if shown.ndim == 2 else bgr
    error = np.abs((shown if shown.ndim == 2 else shown[:, :, :3]).astype(int) - expected)
    assert np.median(error) <= 4
    exact = ENCODINGS[encoding].family in ("grey", "bgr", "rgb", "bgra", "rgba")
    assert error.max() == 0 if exact else error.mean() < 9


def encoded_as(encoding: str, bgr: np.ndarray):
    """What a camera with this encoding would send of a picture."""
    kind = ENCODINGS[encoding]
    height, width = bgr.shape[:2]
    pixels = {
        "grey": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY),
        "bgr": lambda: bgr,
        "rgb": lambda: bgr[:, :, ::-1],
        "bgra": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
        "rgba": lambda: cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA),
        "bayer": lambda: mosaic(bgr, kind.code),
        "packed": lambda: packed(bgr, uyvy="UYVY" in kind.code),
        "planar": lambda: planar(bgr, encoding),
    }[kind.family]()
    pixels = np.ascontiguousarray(pixels)
    if kind.dtype == "u2":
        pixels = pixels.astype(np.uint16) * 257
    message = image(pixels, encoding, 1, "cam")
    message.width, message.height = width, height
    message.step = pixels.nbytes // pixels.shape[0]
    return message


def mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    result = np.empty(bgr.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        result[rows, columns] = bgr[rows, columns, "BGR".index(colour)]
    return result


def yuv(bgr: np.ndarray) -> np.ndarray:
    """BT.601, video range (as the cameras' own encoders), float."""
    b, g, r = np.moveaxis(bgr.astype(float), 2, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return np.rint(np.stack([y, u, v], axis=-1)).clip(0, 255).astype(np.uint8)


def packed(bgr: np.ndarray, *, uyvy: bool) -> np.ndarray:
    y, u, v = np.moveaxis(yuv(bgr), 2, 0)
    first, second = (u[:, ::2], v[:, ::2])
    chroma = np.stack([first, second], axis=-1).reshape(y.shape)
    return np.stack([chroma, y] if uyvy else [y, chroma], axis=-1)


def planar(bgr: np.ndarray, encoding: str) -> np.ndarray:
    y, u, v = np.moveaxis(yuv(bgr), 2, 0)
    if encoding == "nv24":
        chroma = np.stack([u, v], axis=-1).reshape(2 * y.shape[0], y.shape[1])
        return np.vstack([y, chroma])
    pair = (u, v) if encoding == "nv12" else (v, u)
    chroma = np.stack([plane[::2, ::2] for plane in pair], axis=-1)
    return np.vstack([y, chroma.reshape(y.shape[0] // 2, y.shape[1])])


def test_a_large_yuv_image_is_kept_in_pieces_that_libpng_accepts() -> None:
    message = random_image("uyvy", (4096, 1200), 0, False, 1)
    (record,) = image_records(message, 1, "cam")
    file = record.payload.encode()
    assert len(message.data) > 8_000_000
    assert cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).shape == (1200, 4096, 3)
    assert restore_image_data(file, dict(record.extra)) == message.data.tobytes()


def test_bytes_behind_the_image_are_kept() -> None:
    message = image(np.arange(12, dtype=np.uint8).reshape(3, 4), "mono8", 1, "cam")
    message.data = np.append(message.data, np.uint8(77))
    (record,) = image_records(message, 1, "cam")
    assert restore_image_data(record.payload.encode(), dict(record.extra)) == bytes(
        [*range(12), 77]
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"height": 4}, "bad-size"),
        ({"step": 1}, "bad-size"),
        ({"width": 0, "step": 0}, "bad-size"),
        ({"height": 2**31}, "bad-size"),
        ({"encoding": "bgr8"}, "bad-size"),
        ({"encoding": "jpeg2000"}, "unknown-encoding"),
        ({"encoding": ""}, "unknown-encoding"),
    ],
)
def test_a_message_that_lies_about_its_size_is_refused(changes, reason) -> None:
    message = image(np.zeros((3, 4), np.uint8), "mono8", 1, "cam")
    with pytest.raises(MessageError) as caught:
        image_records(dataclasses.replace(message, **changes), 1, "cam")
    assert caught.value.reason == reason


def compressed(data: bytes, format: str = "jpeg"):
    return make(
        "sensor_msgs/CompressedImage", stamp=1, format=format, data=np.frombuffer(data, np.uint8)
    )


def test_jpeg_and_png_are_kept_byte_for_byte(shared_data: Path) -> None:
    jpeg = (shared_data / "kitti_00" / "000000.jpg").read_bytes()
    png = cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes()
    for data, suffix, size in ((jpeg, ".jpg", (1241, 376)), (png, ".png", (7, 5))):
        (record,) = compressed_image_records(compressed(data), 1, "cam")
        assert (record.payload.encode(), record.payload.suffix) == (data, suffix)
        assert file_size(data) == size
        assert decode_message(compressed(data)).shape[:2] == size[::-1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unknown-encoding"),
        (b"GIF89a" + bytes(50), "unknown-encoding"),
        (b"\xff\xd8\xff", "bad-image"),
        (b"\xff\xd8\xff\xe0\x00\x00" + bytes(50), "bad-image"),
        (b"\x89PNG\r\n\x1a\n", "bad-image"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        compressed_image_records(compressed(data), 1, "cam")
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_jpeg_header(data: bytes) -> None:
    try:
        file_size(b"\xff\xd8\xff" + data)
    except MessageError as error:
        assert error.reason == "bad-image"

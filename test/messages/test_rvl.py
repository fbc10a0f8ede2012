"""RVL depth: what an encoder written after the paper gives comes back, and nothing breaks it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from bag_tools import make
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kapture_ros.messages import MessageError, rvl
from kapture_ros.messages.depth import compressed_depth_records, is_depth

CONFIG = struct.pack("<iff", 0, 0.0, 0.0)


def nibbles_of(number: int) -> list[int]:
    """Three bits each, least significant first; 8 says that more follow."""
    found = []
    while True:
        number, rest = number >> 3, number & 7
        found.append(rest | (8 if number else 0))
        if not number:
            return found


def encode(samples: np.ndarray) -> bytes:
    """Figure 1 of the paper, number by number."""
    values = [int(value) for value in samples.reshape(-1)]
    nibbles: list[int] = []
    at, previous = 0, 0
    while at < len(values):
        first = at
        while at < len(values) and values[at] == 0:
            at += 1
        nibbles += nibbles_of(at - first)
        first = at
        while at < len(values) and values[at] != 0:
            at += 1
        nibbles += nibbles_of(at - first)
        for value in values[first:at]:
            difference = value - previous
            nibbles += nibbles_of(2 * difference if difference >= 0 else -2 * difference - 1)
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(nibble << (28 - 4 * place) for place, nibble in enumerate(nibbles[start : start + 8]))
        for start in range(0, len(nibbles), 8)
    ]
    height, width = samples.shape
    return struct.pack(f"<ii{len(words)}I", width, height, *words)


def message(body: bytes, kind: str = "16UC1; compressedDepth rvl"):
    data = np.frombuffer(CONFIG + body, np.uint8)
    return make("sensor_msgs/CompressedImage", format=kind, data=data)


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
depth = st.one_of(st.just(0), st.integers(0, 65535), st.integers(900, 1100))


@given(hnp.arrays(np.uint16, shapes, elements=depth))
def test_any_image_comes_back(samples: np.ndarray) -> None:
    assert np.array_equal(rvl.decode(np.frombuffer(encode(samples), np.uint8)), samples)


def test_a_message_becomes_metres_and_knows_its_size() -> None:
    samples = np.array([[0, 1500, 1501], [0, 0, 40000]], np.uint16)
    rvl_message = message(encode(samples))
    assert is_depth(rvl_message)
    (record,) = compressed_depth_records(rvl_message, 1, "d")
    assert record.size == (3, 2)
    assert np.allclose(np.frombuffer(record.payload.encode(), "<f4"), samples.ravel() / 1000)


@given(st.binary(max_size=60))
def test_no_bytes_break_it(body: bytes) -> None:
    data = np.frombuffer(struct.pack("<ii", 4, 3) + body, np.uint8)
    try:
        assert rvl.decode(data).shape == (3, 4)
    except MessageError as error:
        assert error.reason == "bad-image"


@pytest.mark.parametrize(
    "body",
    [b"", struct.pack("<ii", 0, 4), struct.pack("<ii", -1, -1), struct.pack("<ii", 1 << 30, 4)],
    ids=["no header", "no width", "negative", "larger than any camera"],
)
def test_a_header_that_lies_is_refused_at_once(body: bytes) -> None:
    with pytest.raises(MessageError, match="bad-image"):
        compressed_depth_records(message(body), 1, "d")


def test_a_stream_that_is_cut_is_refused() -> None:
    whole = encode(np.arange(1, 101, dtype=np.uint16).reshape(10, 10))
    with pytest.raises(MessageError, match="bad-image"):
        rvl.decode(np.frombuffer(whole[: len(whole) // 2], np.uint8))

"""Escapes: whatever a topic, frame or access point is called, it reads back as it was."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kapture.io.csv import table_from_file

from kapture_ros.dataset.escape import ID_LENGTH, check_id, escape, sensor_id, unescape
from kapture_ros.errors import OptionError

any_text = st.text(st.characters(), max_size=60)  # lone surrogates and control characters too


@given(any_text)
@example("a,b\nc\rd%2C")
@example(" \u3000padded\u00a0 ")
@example("\udc80 half a character")
@example("# comment")
@example("100%")
def test_what_was_escaped_reads_back_through_kapture_s_own_parser(text: str) -> None:
    line = f"{escape(text)},middle,{escape(text)}\n"
    # As a file: universal newlines, which is what kapture's reader opens.
    file = io.TextIOWrapper(io.BytesIO(line.encode("utf-8")), encoding="utf-8")
    ((first, middle, last),) = table_from_file(file)
    assert (unescape(first), middle, unescape(last)) == (text, "middle", text)


@pytest.mark.parametrize("text", ["Home WLAN", "潮品挚尚2.4G", "a#b", "x  y", "café/2"])
def test_readable_names_stay_readable(text: str) -> None:
    assert escape(text) == text


def test_text_of_others_that_is_no_escape_stays() -> None:
    assert unescape("100% wool") == "100% wool"
    assert unescape("%FF") == "%FF"


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("/camera/front/image_raw", "camera.front.image_raw"),
        ("imu", "imu"),
        ("/", "_"),
        ("", "_"),
        ("..", "%2E%2E"),
        ("../../etc/passwd", "%2E%2E.%2E%2E.etc.passwd"),
        ("//absolute", "_.absolute"),
        ("a, b", "a%2C%20b"),
        ("#1", "%231"),
    ],
)
def test_a_topic_becomes_one_folder_name(topic: str, expected: str) -> None:
    assert sensor_id(topic) == expected


@given(any_text)
@example("..")
@example("/" * 300)
@example("x" * 300)
def test_every_name_gives_an_id_that_is_one_safe_folder(name: str) -> None:
    made = sensor_id(name)
    check_id(made)
    assert len(made) <= ID_LENGTH
    assert PurePosixPath(made).parts == (made,)
    assert made not in (".", "..")
    assert escape(made).replace("%25", "%") == made


@given(
    st.lists(
        st.from_regex(r"(/[A-Za-z][A-Za-z0-9_]{0,8}){1,4}", fullmatch=True), unique=True, min_size=2
    )
)
def test_different_topics_get_different_ids(topics: list[str]) -> None:
    assert len({sensor_id(topic) for topic in topics}) == len(topics)


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert sensor_id("x" * 300 + "a") != sensor_id("x" * 300 + "b")


@pytest.mark.parametrize("identifier", ["", ".", "..", "a/b", "a,b", "/a", "a b", "x" * 129, "#a"])
def test_an_unsafe_id_is_refused_with_a_safe_one(identifier: str) -> None:
    with pytest.raises(OptionError, match="use '"):
        check_id(identifier)

"""estimates.csv: what is written is read back, and what is damaged is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kapture_ros.errors import InputError
from kapture_ros.evaluation.estimates import (
    COLUMNS,
    STAGES,
    EstimateRow,
    MatchedPair,
    matches_path,
    read_estimates,
    read_matches,
    write_estimates,
    write_matches,
)
from kapture_ros.transforms import Transform

numbers = st.floats(-1e6, 1e6)
words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\x00"), max_size=20)


@st.composite
def estimate_rows(draw: st.DrawFn) -> EstimateRow:
    pose = draw(st.none() | st.builds(Transform.exp, arrays(float, 6, elements=st.floats(-3, 3))))
    root = draw(arrays(float, (6, 6), elements=st.floats(-1, 1)))
    return EstimateRow(
        stamp_ns=draw(st.integers(0, 2**63 - 1)),
        query=draw(words),
        accepted=pose is not None and draw(st.booleans()),
        reason=draw(words),
        inliers=draw(st.integers(0, 10**6)),
        matches=draw(st.integers(0, 10**6)),
        candidates=draw(st.integers(0, 10**6)),
        best_map_image=draw(words),
        map_from_base=pose,
        covariance=draw(st.none() | st.just(root @ root.T + np.eye(6))),
        latency_ms=draw(st.dictionaries(st.sampled_from(STAGES), st.floats(0, 1e9))),
        condition=draw(words),
    )


def key(row: EstimateRow) -> tuple[int, str]:
    return row.stamp_ns, row.query


@given(rows=st.lists(estimate_rows(), min_size=1, max_size=4, unique_by=key))
def test_what_is_written_is_read_back(rows: list[EstimateRow], tmp_path_factory):
    path = tmp_path_factory.mktemp("estimates") / "estimates.csv"
    write_estimates(path, rows)
    for row, again in zip(rows, read_estimates(path), strict=True):
        plain = {"map_from_base": None, "covariance": None}
        assert replace(again, **plain) == replace(row, **plain)
        assert (again.covariance is None) == (row.covariance is None)
        if row.covariance is not None:
            np.testing.assert_array_equal(again.covariance, row.covariance)
        assert (again.map_from_base is None) == (row.map_from_base is None)
        if row.map_from_base is not None and again.map_from_base is not None:
            np.testing.assert_array_equal(
                again.map_from_base.translation, row.map_from_base.translation
            )
            assert again.map_from_base.distance_to(row.map_from_base)[1] < 1e-12


def test_the_covariance_is_read_row_by_row(tmp_path: Path):
    covariance = np.diag([1.0, 2, 3, 4, 5, 6])
    covariance[0, 5] = covariance[5, 0] = 0.5
    row = EstimateRow(1, "car", True, map_from_base=Transform(), covariance=covariance)
    cells = dict(zip(COLUMNS, row.cells(), strict=True))
    assert (cells["cov_05"], cells["cov_50"], cells["cov_44"]) == ("0.5", "0.5", "5.0")


GOOD = EstimateRow(
    1, "car", True, map_from_base=Transform(), covariance=np.eye(6), latency_ms={"total": 5.0}
)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("stamp_ns", "1.5", r"line 2: stamp_ns is '1.5', not a whole number"),
        ("stamp_ns", "", "line 2: stamp_ns is ''"),
        ("accepted", "yes", "line 2: accepted is 'yes' but must be 0 or 1"),
        ("inliers", "many", "line 2: inliers is 'many'"),
        ("tx", "nan", "line 2: tx is 'nan', not a finite number"),
        ("ty", "", "line 2: ty is empty, but not its neighbours"),
        ("qw", "0", "line 2: not a rigid transform"),
        ("cov_11", "inf", "line 2: cov_11 is 'inf'"),
        ("cov_11", "-1", "covariance is not symmetric positive definite"),
        ("cov_01", "0.5", "covariance is not symmetric positive definite"),
        ("cov_33", "", "line 2: cov_33 is empty"),
        ("latency_total", "fast", "latency_total is 'fast'"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, column: str, value: str, words: str):
    cells = GOOD.cells()
    cells[COLUMNS.index(column)] = value
    path = tmp_path / "estimates.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(cells) + "\n")
    with pytest.raises(InputError, match=words):
        read_estimates(path)


HEADER = ",".join(COLUMNS)
LINE = ",".join(GOOD.cells())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (HEADER + "\n", "nothing was localized"),
        (HEADER.replace("inliers", "inlier"), "unknown column 'inlier'; did you mean 'inliers'"),
        (HEADER.replace(",condition", ""), "column 'condition' is missing"),
        (HEADER.replace("stamp_ns,query", "query,stamp_ns"), "not in the order"),
        (f"{HEADER}\n{LINE[:40]}", "line 2: .* cut off"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "query 'car' at 1 comes twice"),
        (f"{HEADER}\n{LINE.replace('0.0,0.0,0.0,1.0,0.0,0.0,0.0', ',,,,,,', 1)}", "no pose"),
        (b"\xff\xfe\x00garbage", "not a CSV file"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str | bytes, words: str):
    path = tmp_path / "estimates.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        read_estimates(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read .*estimates.csv"):
        read_estimates(tmp_path / "estimates.csv")


def test_matches_are_read_back(tmp_path: Path):
    xy = np.arange(6, dtype=np.float32).reshape(3, 2)
    pair = MatchedPair("front/1.jpg", "map/7.jpg", xy, xy + 1, np.array([True, False, True]))
    path = matches_path(tmp_path, 5, "front/1.jpg")
    write_matches(path, pair)
    again = read_matches(path)
    assert (again.query_image, again.map_image) == ("front/1.jpg", "map/7.jpg")
    np.testing.assert_array_equal(again.query_xy, xy)
    np.testing.assert_array_equal(again.map_xy, xy + 1)
    np.testing.assert_array_equal(again.inlier, [True, False, True])


def test_damaged_matches_are_named(tmp_path: Path):
    path = tmp_path / "1.npz"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"1\.npz holds no matches"):
        read_matches(path)
    np.savez(path, query_image="a", map_image="b", query_xy=np.zeros((2, 2)), map_xy=1, inlier=[1])
    with pytest.raises(InputError, match="differ in length"):
        read_matches(path)

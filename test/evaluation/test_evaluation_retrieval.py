"""Retrieval recall: known answers, and what a pairs file must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.evaluation.metrics import Threshold
from kapture_ros.evaluation.retrieval import read_pairs, retrieval_recall
from kapture_ros.transforms import Transform


def at(x: float, yaw: float = 0.0) -> Transform:
    return Transform(Rotation.from_euler("z", yaw, degrees=True), np.array([x, 0.0, 0.0]))


MAP = {"m0": at(0), "m10": at(10), "m10 back": at(10, 180), "m20": at(20)}
WITHIN = Threshold(3, 45)


def test_a_query_counts_from_the_rank_of_its_first_near_image_on():
    queries = {"a": at(1), "b": at(9), "nowhere": at(500)}
    pairs = {
        "a": ["m0", "m20"],
        "b": ["m20", "m10 back", "m10"],
        "nowhere": ["m0", "m10", "m20"],
        "without a pose": ["m0"],
    }
    found = retrieval_recall(pairs, queries, MAP, WITHIN, (1, 2, 3))
    assert found.queries == 3
    assert found.possible == pytest.approx(2 / 3)
    assert found.recall == {
        1: pytest.approx(1 / 3),
        2: pytest.approx(1 / 3),
        3: pytest.approx(2 / 3),
    }


def test_names_that_do_not_agree_are_told():
    with pytest.raises(InputError, match="no query image of the pairs has a pose"):
        retrieval_recall({"a": ["m0"]}, {"b": at(0)}, MAP, WITHIN, (1,))
    with pytest.raises(InputError, match="no map image of the pairs has a pose"):
        retrieval_recall({"a": ["m0"]}, {"a": at(0)}, {}, WITHIN, (1,))


def test_pairs_are_read_best_first(tmp_path: Path):
    path = tmp_path / "pairs.txt"
    path.write_text("# query, map, score\nq/1.jpg, m/1.jpg, 0.2\nq/1.jpg, m/2.jpg, 0.9\n")
    assert read_pairs(path) == {"q/1.jpg": ["m/2.jpg", "m/1.jpg"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        ("", "holds no pairs"),
        ("# only a header\n", "holds no pairs"),
        ("a, b\n", "expected 'query image, map image, score'"),
        ("a, b, best\n", "expected 'query image, map image, score'"),
    ],
)
def test_what_is_no_pairs_file_is_refused(tmp_path: Path, content: str | None, words: str):
    path = tmp_path / "pairs.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_pairs(path)

"""Retrieval: gates, fusion of retrievers, places, coarse poses, Wi-Fi."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic_map import (
    CAM_FROM_BASE,
    IMAGES,
    STEP,
    STREETS,
    TYPES,
    World,
    base_at,
    make_world,
)

from kapture_ros.localization.approximation import approximate_pose
from kapture_ros.localization.gpu_retrieval import GpuRetrieval
from kapture_ros.localization.options import APPROXIMATIONS, RetrievalOptions
from kapture_ros.localization.query import Candidate
from kapture_ros.localization.retrieval import (
    covisibility_clusters,
    fuse,
    retrieve,
    shown_points,
)
from kapture_ros.localization.wifi import WifiLocator
from kapture_ros.mapping.retrieval_index import RetrievalIndex
from kapture_ros.mapping.visual_map import WifiScans

FUSIONS = ("mean", "power", "max", "min", "round_robin")
NAME = TYPES.global_features


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("map") / "map")


def _descriptor(world: World, x: float, street: int = 0) -> np.ndarray:
    map_from_cam = base_at(x, street) @ CAM_FROM_BASE.inverse()
    return world.place(map_from_cam, np.random.default_rng(0))


def test_the_nearest_places_come_first(world) -> None:
    found = retrieve(
        {NAME: world.map.retrieval}, {NAME: _descriptor(world, 17.0, 1)}, None, RetrievalOptions()
    )
    assert {c.image for c in found[:2]} == {IMAGES + 4, IMAGES + 5}
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_a_gate_limits_the_search(world) -> None:
    rows = np.array([0, 1, 2], np.int64)
    found = retrieve(
        {NAME: world.map.retrieval}, {NAME: _descriptor(world, 17.0, 1)}, rows, RetrievalOptions()
    )
    assert sorted(c.image for c in found) == [0, 1, 2]


def test_a_second_retriever_decides_where_the_first_is_blind() -> None:
    rng = np.random.default_rng(1)
    blind = np.tile(np.eye(8)[0], (30, 1)).astype(np.float32)
    sharp = rng.normal(0, 1, (30, 8)).astype(np.float32)
    for values in (blind, sharp):
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    retrievers = {"blind": RetrievalIndex(blind), "sharp": RetrievalIndex(sharp)}
    query = {"blind": np.array([3, 4, 0, 0, 0, 0, 0, 0], np.float32), "sharp": sharp[17]}
    for fusion in FUSIONS:
        options = RetrievalOptions(top_k=30, fusion=fusion)
        found = retrieve(retrievers, query, None, options)
        assert 17 in [c.image for c in found[:2]], fusion
    assert retrieve(retrievers, {"other": sharp[0]}, None, RetrievalOptions()) == ()


scores = hnp.arrays(
    float, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(0.0625, 1, width=32)
)


@given(scores, st.sampled_from(FUSIONS))
def test_fusion_ranks_every_image_once(values: np.ndarray, method: str) -> None:
    order, fused = fuse(values, method)
    assert sorted(order) == list(range(values.shape[1]))
    assert (np.diff(fused[order]) <= 0).all()


@given(scores, st.sampled_from(FUSIONS))
def test_fusing_one_retriever_with_itself_changes_nothing(values, method: str) -> None:
    twice = np.stack([values[0], values[0]])
    single, _ = fuse(values[:1], method)
    double, _ = fuse(twice, method)
    assert np.array_equal(values[0][single], values[0][double])


def test_fusions_are_what_their_names_say() -> None:
    values = np.array([[0.9, 0.8, 0.1], [0.1, 0.8, 0.95]])
    assert fuse(values, "mean")[1] == pytest.approx([0.5, 0.8, 0.525])
    assert fuse(values, "power")[1] == pytest.approx([0.3, 0.8, np.sqrt(0.095)])
    assert fuse(values, "max")[1] == pytest.approx([0.9, 0.8, 0.95])
    assert fuse(values, "min")[1] == pytest.approx([0.1, 0.8, 0.1])
    assert fuse(values, "round_robin")[0].tolist() == [0, 2, 1]


def test_the_search_for_gpus_finds_what_the_index_finds(world) -> None:
    resident = GpuRetrieval(world.map.retrieval, torch.device("cpu"))
    query = 3 * _descriptor(world, 17.0, 1)
    for rows in (None, np.array([3, 5, 9, 20], np.int64)):
        ours, theirs = resident.search(query, 3, rows), world.map.retrieval.search(query, 3, rows)
        assert ours[0].tolist() == theirs[0].tolist()
        assert ours[1] == pytest.approx(theirs[1], abs=1e-5)
    unit = query / np.linalg.norm(query)
    assert resident.scores(unit) == pytest.approx(world.map.retrieval.scores(unit), abs=1e-5)


def test_streets_are_two_places(world) -> None:
    labels = covisibility_clusters(shown_points(world.map, [0, IMAGES, 1, IMAGES + 1]))
    assert labels[0] == labels[2] != labels[1] == labels[3]
    assert covisibility_clusters(shown_points(world.map, [])).tolist() == []


@pytest.mark.parametrize("method", APPROXIMATIONS)
def test_a_coarse_pose_lies_among_its_candidates(world, method: str) -> None:
    descriptor = _descriptor(world, 17.0)
    found = retrieve(
        {NAME: world.map.retrieval}, {NAME: descriptor}, None, RetrievalOptions(top_k=2)
    )
    coarse = approximate_pose(world.map, found, descriptor, CAM_FROM_BASE, method)
    metres, radians = coarse.map_from_base.distance_to(base_at(17.0))
    assert metres < STEP / 2 + 0.1
    assert radians < 0.05
    assert coarse.method == method


def test_equal_weights_average_and_barycentric_weights_interpolate(world) -> None:
    """At an image's own descriptor, only equal weights are pulled away from it."""
    own = np.asarray(world.map.retrieval.descriptors[4], np.float32)
    found = [Candidate(4, 1.0), Candidate(7, 0.5)]
    truth = base_at(4 * STEP)
    error = {
        method: approximate_pose(
            world.map, found, own, CAM_FROM_BASE, method
        ).map_from_base.distance_to(truth)[0]
        for method in APPROXIMATIONS
    }
    assert error["ewb"] == pytest.approx(1.5 * STEP, abs=0.01)
    assert error["bdi"] < 0.05
    assert error["csi"] < 0.3 * error["ewb"]


def _scan(x: float, street: int) -> dict[str, float]:
    return {f"02:00:00:00:0{street}:{ap:02d}": -40 - 1.2 * abs(x - 8 * ap) for ap in range(6)}


@pytest.mark.parametrize("street", [0, 1])
def test_wifi_alone_tells_the_place_roughly(world, street: int) -> None:
    place = WifiLocator(world.map.wifi).locate(_scan(22.0, street))
    assert place is not None
    error = np.linalg.norm(place.position_map[:2] - (22.0, STREETS[street]))
    assert error < 8
    assert error < 3 * place.sigma


def test_unknown_access_points_tell_nothing(world) -> None:
    locator = WifiLocator(world.map.wifi)
    assert locator.locate({"ff:ff:ff:ff:ff:ff": -40.0}) is None
    assert locator.locate({}) is None
    mostly_unknown = {f"ff:00:00:00:00:{n:02d}": -40.0 for n in range(30)} | _scan(22.0, 0)
    assert locator.locate(mostly_unknown) is None


def test_a_map_without_wifi_has_no_locator_answer() -> None:
    nothing = WifiScans(
        np.empty((0, 3)), np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), ()
    )
    assert WifiLocator(nothing).locate({"ff:ff:ff:ff:ff:ff": -40.0}) is None

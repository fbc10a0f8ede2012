"""The localizer: right poses, honest refusals, and nothing that ends a drive."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_map import (
    CAM_FROM_BASE,
    CAMERA,
    SIDE_FROM_BASE,
    TYPES,
    World,
    base_at,
    gnss_at,
    make_world,
)

from kapture_ros.errors import InputError, OptionError
from kapture_ros.localization.acceptance import judge, limits_by
from kapture_ros.localization.extractor import StartedFeatures, there_already
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import (
    AcceptanceOptions,
    AnswerOptions,
    LocalizerOptions,
    load_preset,
    localizer_options,
    preset_names,
)
from kapture_ros.localization.pose import lengths
from kapture_ros.localization.query import Query, QueryFeatures, QueryImage, Reason, Scores
from kapture_ros.localization.refinement import GravityPrior, PosePrior
from kapture_ros.mapping.manifest import FeatureTypes

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("map") / "map")


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("alike") / "map", alike=True)


@pytest.fixture(scope="module")
def localizer(world: World) -> Localizer:
    return Localizer(world.map)


def test_reasons_are_those_of_the_message() -> None:
    text = (REPOSITORY / "msg" / "LocalizationStatus.msg").read_text()
    constants = dict(re.findall(r"^uint8 REASON_(\w+)=(\d+)", text, flags=re.MULTILINE))
    assert {reason.name: str(reason.value) for reason in Reason} == constants


@pytest.mark.parametrize("street", [0, 1])
def test_an_instant_between_map_images_is_found(world, localizer, street: int) -> None:
    truth = base_at(18.3, street, side=0.8, yaw=0.1)
    estimate = localizer.localize(world.query(truth))
    assert estimate.accepted, estimate.reason_text
    metres, radians = estimate.map_from_base.distance_to(truth)
    assert metres < 0.05
    assert radians < np.deg2rad(0.3)
    assert estimate.scores.inliers > 60
    assert estimate.covariance.shape == (6, 6)
    assert np.linalg.eigvalsh(estimate.covariance)[0] > 0
    assert estimate.cams_from_map[0] == CAM_FROM_BASE @ estimate.map_from_base.inverse()
    nearest = world.map.image_centers[estimate.best_image]
    assert np.linalg.norm(nearest - truth.translation) < 15
    assert set(estimate.latency_ms) == {"extraction", "retrieval", "matching", "pose", "total"}


def test_a_rig_is_more_certain_than_its_camera(world, localizer) -> None:
    truth = base_at(22.0, side=-0.5)
    alone = localizer.localize(world.query(truth))
    both = localizer.localize(world.query(truth, cameras=(CAM_FROM_BASE, SIDE_FROM_BASE)))
    assert both.accepted
    assert len(both.cams_from_map) == 2
    assert both.scores.inliers > alone.scores.inliers
    assert both.map_from_base.distance_to(truth)[0] < 0.05


def test_a_blind_camera_does_not_stop_the_rig(world, localizer) -> None:
    truth = base_at(22.0)
    query = world.query(truth, cameras=(CAM_FROM_BASE, SIDE_FROM_BASE))
    blind = replace(query.images[1], features=None, pixels=np.zeros((480, 640), np.uint8))
    estimate = localizer.localize(replace(query, images=(query.images[0], blind)))
    assert estimate.accepted
    assert len(estimate.cams_from_map) == 2, "its pose is known although it saw nothing"
    assert [len(k) > 0 for k in estimate.evidence.keypoints] == [True, False]


def test_the_coarse_pose_is_near_and_never_accepted(world, localizer) -> None:
    truth = base_at(20.0)
    estimate = localizer.localize_coarsely(world.query(truth))
    assert not estimate.accepted
    assert estimate.map_from_base is None
    assert estimate.coarse.map_from_base.distance_to(truth)[0] < 8


def test_gnss_tells_streets_apart_that_look_alike(alike: World) -> None:
    localizer = Localizer(alike.map)
    truth = base_at(20.0, street=1)
    query = alike.query(truth)
    assert localizer.localize(query).reason is Reason.AMBIGUOUS
    arm = np.array([0.0, 0.5, 1.0])
    fix = gnss_at(truth.apply(arm), 3.0, arm)
    estimate = localizer.localize(replace(query, gnss=fix))
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(truth)[0] < 0.05


def test_wifi_tells_streets_apart_that_look_alike(alike: World) -> None:
    truth = base_at(20.0, street=1)
    wifi = {f"02:00:00:00:01:{ap:02d}": -40 - 1.2 * abs(20 - 8 * ap) + (ap % 2) for ap in range(6)}
    estimate = Localizer(alike.map).localize(replace(alike.query(truth), wifi=wifi))
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(truth)[0] < 0.05


def test_a_prediction_tells_streets_apart_and_is_not_mixed_in(alike: World) -> None:
    truth = base_at(20.0, street=1)
    wrong = base_at(21.0, street=1)
    query = alike.query(truth)
    prior = PosePrior(wrong, np.diag([1.0, 1, 1, 0.1, 0.1, 0.1]) ** 2)
    estimate = Localizer(alike.map).localize(replace(query, prior=prior))
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(truth)[0] < 0.05
    sure = PosePrior(wrong, np.diag([0.05] * 3 + [0.01] * 3) ** 2)
    refused = Localizer(alike.map).localize(replace(query, prior=sure))
    assert refused.reason is Reason.PRIOR_DISAGREES


def test_a_fix_that_disagrees_is_reported(world, localizer) -> None:
    truth = base_at(20.0)
    away = truth.translation + np.array([0.0, 20.0, 0.0])
    estimate = localizer.localize(replace(world.query(truth), gnss=gnss_at(away, 1.0)))
    assert estimate.reason is Reason.GNSS_DISAGREES
    assert "GNSS" in estimate.reason_text


def test_gravity_may_be_given(world, localizer) -> None:
    truth = base_at(20.0)
    query = replace(world.query(truth), gravity=GravityPrior(np.array([0.0, 0, 1]), 0.01))
    assert localizer.localize(query).accepted


def test_another_place_is_refused(world, localizer) -> None:
    rng = np.random.default_rng(0)
    described = rng.normal(0, 1, (600, 64))
    described /= np.linalg.norm(described, axis=1, keepdims=True)
    for seed in range(4):
        query = world.query(base_at(20.0), seed)
        features = replace(
            query.images[0].features,
            keypoints=rng.uniform((0, 0), (640, 480), (600, 2)).astype(np.float32),
            descriptors=described[rng.permutation(600)].astype(np.float32),
        )
        estimate = localizer.localize(
            replace(query, images=(replace(query.images[0], features=features),))
        )
        assert not estimate.accepted, estimate.reason_text


def _features(count: int, types: FeatureTypes = TYPES) -> QueryFeatures:
    described = np.ones(256, np.float32)
    return QueryFeatures(
        np.zeros((count, 2), np.float32),
        np.ones((count, 64), np.float32) / 8,
        {TYPES.global_features: described},
        types,
    )


OTHER = replace(TYPES, descriptors="other-desc")
NAN = replace(CAMERA, params=(400.0, float("nan"), 320.0, 240.0))
UNKNOWN = replace(CAMERA, model="UNKNOWN_CAMERA", params=())


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        (QueryImage(CAMERA), Reason.BAD_INPUT, "no image"),
        (QueryImage(NAN, features=_features(9)), Reason.BAD_INPUT, "not finite"),
        (QueryImage(UNKNOWN, features=_features(9)), Reason.BAD_INPUT, "no calibration"),
        (QueryImage(CAMERA, features=_features(9, OTHER)), Reason.BAD_INPUT, "'other-desc'"),
        (QueryImage(CAMERA, features=_features(0)), Reason.NO_FEATURES, "no keypoint"),
        (QueryImage(CAMERA, features=_features(3)), Reason.TOO_FEW_MATCHES, "needed"),
        (QueryImage(CAMERA, pixels=np.zeros((480, 640), np.uint8)), Reason.NO_FEATURES, "black"),
        (
            QueryImage(CAMERA, pixels=np.full((480, 640, 3), 255, np.uint8)),
            Reason.NO_FEATURES,
            "white",
        ),
        (QueryImage(CAMERA, pixels=np.zeros((48, 64), np.uint8)), Reason.BAD_INPUT, "64×48"),
        (QueryImage(CAMERA, pixels=np.zeros((480, 640), float)), Reason.BAD_INPUT, "8-bit"),
        (
            QueryImage(CAMERA, features=replace(_features(9), global_descriptors={})),
            Reason.NO_CANDIDATES,
            "global descriptor",
        ),
        (
            QueryImage(
                CAMERA,
                features=replace(
                    _features(9), global_descriptors={TYPES.global_features: np.ones(3)}
                ),
            ),
            Reason.BAD_INPUT,
            "unexpected",
        ),
    ],
)
def test_a_bad_frame_gets_a_reason(world, image: QueryImage, reason: Reason, words: str) -> None:
    localizer = Localizer(world.map, extractor=Nothing())
    estimate = localizer.localize(Query(7, (image,)))
    assert estimate.reason is reason, estimate.reason_text
    assert words in estimate.reason_text
    assert estimate.map_from_base is None
    assert estimate.stamp_ns == 7


class Nothing:
    """An extractor that finds no keypoint."""

    types = TYPES

    def start(self, images: list[np.ndarray], describe: bool) -> list[StartedFeatures]:
        return [there_already(_features(0)) for _ in images]


def test_images_in_memory_are_looked_at_together(world) -> None:
    truth = base_at(22.0)
    query = world.query(truth, cameras=(CAM_FROM_BASE, SIDE_FROM_BASE))
    known = [image.features for image in query.images]
    noise = np.random.default_rng(0).integers(0, 255, (2, 480, 640, 3), dtype=np.uint8)
    noise[:, 0, 0, 0] = 0, 1  # which camera it is
    seen = []

    class Eyes(Nothing):
        def start(self, images, describe):
            seen.append(len(images))
            return [there_already(known[image[0, 0, 0]]) for image in images]

    images = [replace(i, features=None, pixels=p) for i, p in zip(query.images, noise, strict=True)]
    estimate = Localizer(world.map, extractor=Eyes()).localize(replace(query, images=tuple(images)))
    assert seen == [2], "one batch"
    assert estimate.accepted, estimate.reason_text
    assert estimate.map_from_base.distance_to(truth)[0] < 0.05


def test_images_without_an_extractor_get_a_reason(world, localizer) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    estimate = localizer.localize(Query(7, (QueryImage(CAMERA, pixels=noise),)))
    assert estimate.reason is Reason.BAD_INPUT
    assert "extractor" in estimate.reason_text


def test_a_query_without_images_gets_a_reason(localizer) -> None:
    assert localizer.localize(Query(7, ())).reason is Reason.BAD_INPUT


def test_gates_that_leave_nothing_get_a_reason(world, localizer) -> None:
    query = world.query(base_at(20.0))
    far = gnss_at(np.array([5000.0, 0, 0]), 2.0)
    estimate = localizer.localize(replace(query, gnss=far))
    assert estimate.reason is Reason.NO_CANDIDATES
    assert "GNSS" in estimate.reason_text


def test_features_of_another_extractor_are_refused_at_once(world) -> None:
    other = Nothing()
    other.types = OTHER
    with pytest.raises(InputError, match=r"'other-desc'.*'synthetic-desc'"):
        Localizer(world.map, extractor=other)


@pytest.mark.parametrize(
    ("thresholds", "reason"),
    [
        ({"min_inliers": 100_000}, Reason.TOO_FEW_INLIERS),
        ({"min_ratio": 1.0}, Reason.LOW_INLIER_RATIO),
        # Everything agrees in this world.
        ({"min_seen": 1.01, "min_agreeing": 1.01}, Reason.LOW_INLIER_RATIO),
        ({"min_coverage": 1.0}, Reason.POOR_SPREAD),
        ({"min_depth_spread": 50.0}, Reason.POOR_SPREAD),
        ({"max_position_sigma": 1e-6}, Reason.UNCERTAIN),
        ({"max_rotation_sigma": 1e-6}, Reason.UNCERTAIN),
    ],
)
def test_every_threshold_refuses(world, thresholds: dict[str, float], reason: Reason) -> None:
    options = LocalizerOptions(acceptance=replace(AcceptanceOptions(), **thresholds))
    estimate = Localizer(world.map, options).localize(world.query(base_at(20.0)))
    assert estimate.reason is reason
    assert estimate.map_from_base is not None, "kept for those who weigh evidence themselves"


def test_a_threshold_may_be_infinite(alike: World) -> None:
    acceptance = AcceptanceOptions(max_second=np.inf)
    localizer = Localizer(alike.map, LocalizerOptions(acceptance=acceptance))
    estimate = localizer.localize(alike.query(base_at(20.0)))
    assert estimate.accepted, estimate.reason_text


def test_what_should_be_seen_agrees_with_the_right_pose_only(world, localizer) -> None:
    truth = base_at(18.3, 0, side=0.8, yaw=0.1)
    query = world.query(truth)
    sights = localizer.look(query)
    offers = localizer.prepare(localizer.retrieve(query, sights))
    known = localizer.match(localizer.views(sights), offers)
    right = localizer.solve(query, known, localizer.priors(query))
    wrong = base_at(18.3, 0, side=0.8, yaw=0.5)
    errors = lengths(known.matches, known.cameras, wrong)
    turned = replace(right, map_from_base=wrong, errors=errors)
    of_right, of_turned = (localizer.expect(Scores(), known, pose) for pose in (right, turned))
    assert of_right.seen > 0.3
    assert of_right.agreeing > 0.5 * of_right.expected
    assert of_turned.seen < 0.05
    assert of_turned.agreeing < 0.1 * of_turned.expected


@pytest.mark.parametrize(
    ("seen", "expected", "agreeing", "accepted"),
    [
        (0.3, 100, 5, True),  # enough of the map's points
        (0.03, 100, 40, True),  # few of those, but enough of the keypoints that match them
        (0.03, 300, 40, False),  # the others contradict
        (0.03, 15, 15, False),  # too few to tell
    ],
)
def test_points_or_keypoints_must_show_what_should_be_seen(
    seen: float, expected: int, agreeing: int, accepted: bool
) -> None:
    others = {"inliers": 60, "matched": 600, "ratio": 0.1, "coverage": 0.5, "depth_spread": 1.0}
    scores = Scores(**others, seen=seen, expected=expected, agreeing=agreeing)
    reason, text = judge(scores, AcceptanceOptions())
    assert (reason is Reason.ACCEPTED) == accepted, text
    assert accepted or f"but {agreeing} of the {expected} keypoints" in text


def test_more_is_asked_where_the_map_cannot_speak_against_a_pose() -> None:
    options = AcceptanceOptions()
    known, unknown = (limits_by(seen, options, clashing=False) for seen in (0.5, np.nan))
    assert known == options
    assert unknown.min_inliers == 2 * known.min_inliers
    assert unknown.min_ratio == 2 * known.min_ratio


def test_more_is_asked_where_the_poses_of_the_map_may_contradict_each_other(localizer) -> None:
    assert localizer.map.manifest.poses_may_clash
    asked = localizer.options.acceptance.min_agreeing
    assert localizer.limits(0.5).min_agreeing == 2 * asked


@pytest.mark.parametrize(
    ("step", "may_clash"),
    [
        ({"step": "check poses", "fit": True}, False),  # places seen again were there, and fit
        ({"step": "check poses", "fit": False}, True),
        ({"step": "check poses"}, True),  # a map made before it was noted
        ({"step": "reconstruct (refine poses)"}, False),
        ({"step": "reconstruct (fixed poses)"}, True),
    ],
)
def test_poses_may_clash_unless_the_map_has_shown_that_they_fit(
    localizer, step: dict, may_clash: bool
) -> None:
    manifest = replace(localizer.map.manifest, record={"steps": [step]})
    assert manifest.poses_may_clash == may_clash


def test_the_same_query_gives_the_same_answer(world, localizer) -> None:
    query = world.query(base_at(13.0), cameras=(CAM_FROM_BASE, SIDE_FROM_BASE))
    first, second = localizer.localize(query), localizer.localize(query)
    assert first.map_from_base == second.map_from_base
    assert np.array_equal(first.covariance, second.covariance)
    assert first.scores.inliers == second.scores.inliers


def test_covariances_are_those_of_the_errors(world) -> None:
    exact = AnswerOptions(map_sigma=0.0, map_sigma_degrees=0.0)  # this map is
    localizer = Localizer(world.map, LocalizerOptions(answer=exact))
    errors = []
    for seed in range(20):
        truth = base_at(6.0 + seed, side=np.sin(seed), yaw=0.1 * np.cos(seed))
        estimate = localizer.localize(world.query(truth, seed))
        turn = (estimate.map_from_base.rotation * truth.rotation.inv()).as_rotvec()
        error = np.concatenate([estimate.map_from_base.translation - truth.translation, turn])
        errors.append(error @ np.linalg.solve(estimate.covariance, error))
    # The map's points are exact here, but the map says they are not: too careful, never bold.
    assert 2.0 < np.mean(errors) < 6 + 1.96 * np.sqrt(12 / 20)


def test_options_come_from_one_flat_mapping() -> None:
    options = localizer_options({"top_k": 5, "max_error": 4.0}, "config.yaml")
    assert (options.retrieval.top_k, options.pose.max_error) == (5, 4.0)
    changed = localizer_options({"top_k": 7}, "command line", options)
    assert (changed.retrieval.top_k, changed.pose.max_error) == (7, 4.0)
    with pytest.raises(OptionError, match=r"config.yaml: unknown option 'topk'"):
        localizer_options({"topk": 5}, "config.yaml")


def test_presets_are_valid_and_naver_is_among_them() -> None:
    assert "naver" in preset_names()
    for name in preset_names():
        load_preset(name)
    options, pipeline = load_preset("naver")
    assert (options.pose.max_error, pipeline) == (12.0, "global_map")
    options, pipeline = load_preset("naver_local_sfm")
    assert (options.pose.max_error, pipeline) == (8.0, "local_sfm")
    with pytest.raises(OptionError, match="no preset 'navre'"):
        load_preset("navre")

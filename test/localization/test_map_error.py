"""The map's own error: measured by holding instants out, and added to what poses tell."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import least_squares
from street_world import CAMERA, POINTS_SIGMA, Trip, make_drive, make_query, make_world

from kapture_ros.errors import InputError
from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.guided import GuidedOptions
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.map_change import FREEDOM
from kapture_ros.localization.map_error import (
    REACH,
    UNMEASURED,
    MapError,
    Spread,
    second_nearest,
)
from kapture_ros.localization.options import AnswerOptions, LocalizerOptions
from kapture_ros.localization.refinement import residuals
from kapture_ros.mapping import held_out
from kapture_ros.mapping.gnss import map_from_rig
from kapture_ros.mapping.held_out import (
    RATES,
    match_again,
    match_without,
    measure_map,
    nearest,
    points_without,
)
from kapture_ros.mapping.relocate import query_of
from kapture_ros.mapping.subset import open_map
from kapture_ros.mapping.visual_map import HELD_OUT, HELD_OUT_COLUMNS, VisualMap
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The street of a bent map and of a straight one, both measured."""
    folder = tmp_path_factory.mktemp("measured")
    made = {
        "bent": make_world(folder / "bent", wrong="points"),
        "straight": make_world(folder / "straight", wrong="nothing"),
    }
    for world in made.values():
        measure_map(world.map.path)
    return made


NOTHING = np.zeros((6, 6))
OWN = np.diag(np.repeat([0.01, 0.0005], 3) ** 2)  # about that of the street's poses
DEGREES = np.repeat([1.0, np.degrees(1.0)], 3)


def sigmas_along(world, centers):
    error = MapError(VisualMap.load(world.map.path))
    assert error.measured
    return np.sqrt([np.diagonal(error.covariance(center, OWN))[[0, 3]] for center in centers])


def test_a_bent_map_knows_that_it_is_and_a_straight_one_that_it_is_not(worlds):
    centers = np.asarray(worlds["bent"].map.image_centers[:190:10])
    bent, straight = (sigmas_along(worlds[name], centers) for name in ("bent", "straight"))
    usual = np.sqrt((bent**2).mean(axis=0))
    assert 0.5 * POINTS_SIGMA[0] < usual[0] < 2 * POINTS_SIGMA[0]
    assert 0.5 * POINTS_SIGMA[3] < usual[1] < 2 * POINTS_SIGMA[3]
    assert (np.median(straight, axis=0) < 0.6 * np.median(bent, axis=0)).all()


def test_gaps_of_several_widths_are_tried(worlds, tmp_path, monkeypatch):
    """An image between two, next to each other, and with one more on either side."""
    shutil.copytree(worlds["straight"].map.path, tmp_path / "map")
    left_out = set()

    def tried(source, row_of, localizer, drift, frame, without):
        assert frame in without
        left_out.add(tuple((np.unique(without) - without.min()).tolist()))

    monkeypatch.setattr(held_out, "_try", tried)
    measure_map(tmp_path / "map")
    assert {(0, 2), (0, 1), (0, 1, 2, 3)} <= left_out


@pytest.mark.parametrize(
    ("name", "least"),
    # Instants held out two by two have fewer points than a query, and places next to each other
    # one error; without errors of the map's own, those of the poses held out are taken for it.
    [("bent", 3.0), ("straight", 1.5)],
)
def test_poses_in_a_measured_map_are_as_wrong_as_they_say(worlds, name, least):
    world = worlds[name]
    localizer = Localizer(VisualMap.load(world.map.path))
    rng = np.random.default_rng(4)
    drive = make_drive(rng, Trip(start=5, end=370))
    squares = []
    for stamp in drive.frames[::6]:
        estimate = localizer.localize(make_query(world, drive.truth[stamp], stamp, rng))
        if estimate.accepted:
            error = difference(estimate.map_from_base, drive.truth[stamp])
            squares.append(error @ np.linalg.solve(estimate.covariance, error))
    assert len(squares) > 40
    # Of 6 degrees of freedom; a few dozen different places of the map.
    assert least < np.mean(squares) < 10.0


def padded(rows):
    """Rows of an older table, which had fewer columns."""
    missing = len(HELD_OUT_COLUMNS) - rows.shape[1]
    return np.pad(rows, [(0, 0), (0, missing)], constant_values=np.nan)


def made_up(rows, *, estimated=False):
    """A map of images every metre along x, and these held-out instants."""
    centers = np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1)
    grid = SimpleNamespace(
        within=lambda at, radius: np.flatnonzero(np.linalg.norm(centers - at, axis=1) < radius)
    )
    return SimpleNamespace(
        held_out=padded(np.reshape(rows, (-1, 6))),
        image_grid=grid,
        image_centers=centers,
        image_frames=np.arange(100),
        manifest=SimpleNamespace(poses_estimated=estimated),
    )


def rows_of(rng, sigma_at, count=60):
    rows = []
    for x in np.linspace(0, 99, count):
        near = rng.choice([1.0, 2.0, 3.0])
        error = np.linalg.norm(rng.normal(size=(2, 3)), axis=1) / np.sqrt(3)
        metres, radians = sigma_at(x, near)
        rows.append([x, 0, 0, near, error[0] * metres, np.degrees(error[1] * radians)])
    return rows


def test_the_error_grows_with_the_distance_to_the_images():
    rng = np.random.default_rng(1)
    measured = made_up(rows_of(rng, lambda _, near: (0.02 * near, 0.001 * near), 400))
    error = MapError(measured)
    sigmas = [
        np.sqrt(np.diagonal(error.covariance([50.0, y, 0.0], NOTHING))[[0, 3]]) for y in (1.0, 3.0)
    ]
    for found, y in zip(sigmas, (1.0, 3.0), strict=True):
        second = np.hypot(1.0, y)
        assert found == pytest.approx([0.02 * second, 0.001 * second], rel=0.4)


def test_where_the_images_end_is_further_from_them_than_between_them():
    along = made_up(np.empty((0, 6)))
    every = np.arange(100)
    between, beyond = (np.array([x, 0.0, 0.0]) for x in (50.5, 99.5))
    assert second_nearest(along, every, between) == pytest.approx(0.5)
    assert second_nearest(along, every, beyond) == pytest.approx(1.5)
    along.image_frames = every // 2  # two cameras of a rig are one instant
    assert second_nearest(along, every, beyond) == pytest.approx(2.5)
    for few in ([], [3], [98, 99]):
        assert second_nearest(along, np.array(few, int), beyond) == REACH


def test_a_place_that_is_worse_than_the_others_is_known():
    rng = np.random.default_rng(2)
    bad = lambda x: 10.0 if 40 < x < 60 else 1.0  # noqa: E731
    error = MapError(made_up(rows_of(rng, lambda x, _: (0.01 * bad(x), 0.001 * bad(x)))))
    here, there = (
        np.sqrt(error.covariance(np.array([x, 1.5, 0]), NOTHING)[0, 0]) for x in (50.0, 80.0)
    )
    assert here > 2 * there
    assert there == pytest.approx(0.01, rel=0.4), "the others do not look worse for it"


def shapes(rng, count):
    """Covariances (count, 6, 6) of poses that know some directions far better than others."""
    axes = np.linalg.qr(rng.normal(size=(count, 6, 6)))[0] * np.exp(rng.normal(size=(count, 1, 6)))
    sizes = np.repeat([0.01, 0.0005], 3)
    return sizes[:, None] * (axes @ axes.swapaxes(1, 2)) * sizes


def test_what_most_places_are_wrong_by_is_found_again():
    rng = np.random.default_rng(3)
    near, own = rng.uniform(0.2, 5.0, 3000), shapes(rng, 3000)
    truth = Spread(7.0, np.array([0.03, 0.002]), np.array([0.6, 0.2]), float(np.median(near)))
    errors = normal(rng, truth.covariance(near, own))
    errors *= np.sqrt(FREEDOM / rng.chisquare(FREEDOM, 3000))[:, None]  # some places are far worse
    found = Spread.fitted(near, errors, own)
    assert found.times == pytest.approx(7.0, rel=0.15)
    assert found.start == pytest.approx(truth.start, rel=0.15)
    assert found.growth == pytest.approx(truth.growth, abs=0.05)
    unknown = Spread.fitted(near, errors, np.zeros_like(own))
    assert unknown.times < 1e-6, "an older table does not tell of it"


def normal(rng, covariance):
    """A sample (n, 6) of covariances (n, 6, 6)."""
    white = rng.normal(size=(len(covariance), 6, 1))
    return (np.linalg.cholesky(covariance) @ white)[:, :, 0]


def rows_with_shapes(rng, times, count=400):
    """Instants whose errors are so many times their own covariances."""
    own = shapes(rng, count)
    errors = normal(rng, times * own) * DEGREES
    sizes = np.sqrt((errors.reshape(count, 2, 3) ** 2).mean(axis=2))
    rows, columns = np.triu_indices(6)
    told = (own * np.outer(DEGREES, DEGREES))[:, rows, columns]
    at = np.tile([0, 0, 0, 1.0], (count, 1))
    at[:, 0] = np.linspace(0, 99, count)
    return np.hstack([at, sizes, errors, told]), own


def test_the_map_is_wrong_where_a_view_tells_little():
    rows, own = rows_with_shapes(np.random.default_rng(7), times=30.0)
    measured = made_up(np.empty((0, 6)))
    measured.held_out = rows
    error = MapError(measured)
    at = np.array([50.0, 1.0, 0.0])
    told = error.covariance(at, own[0])
    scale = np.sqrt(np.diagonal(told) / np.diagonal(own[0]))
    assert scale**2 == pytest.approx(30.0, rel=0.3)
    np.testing.assert_allclose(
        told, own[0] * np.outer(scale, scale), rtol=0.1, atol=0.1 * told.max()
    )
    few = 1e4 * own[0]  # fewer keypoints than any instant had that was tried
    widest = np.diagonal(own, axis1=1, axis2=2)[:, :3].mean(axis=1).max()
    assert np.diagonal(error.covariance(at, few))[:3].mean() < 60 * widest


def test_a_map_that_was_not_measured_and_options_that_say_otherwise():
    unmeasured = MapError(made_up(np.empty((0, 6))))
    assert not unmeasured.measured
    assert np.sqrt(unmeasured.covariance(np.zeros(3), NOTHING)[[0, 3], [0, 3]]) == pytest.approx(
        UNMEASURED
    )
    rows = rows_of(np.random.default_rng(5), lambda *_: (0.01, 0.001))
    told = MapError(made_up(rows), metres=0.5)
    assert told.covariance(np.zeros(3), NOTHING)[0, 0] == pytest.approx(0.25)
    assert told.covariance(np.zeros(3), NOTHING)[3, 3] < 0.01**2, "the other one is as measured"


def test_where_poses_were_estimated_a_bend_is_assumed_that_does_not_show():
    rows = rows_of(np.random.default_rng(5), lambda *_: (0.01, 0.001))
    given, estimated = (MapError(made_up(rows, estimated=bent)) for bent in (False, True))
    at = np.array([50.0, 1.0, 0.0])
    added = np.diagonal(estimated.covariance(at, NOTHING) - given.covariance(at, NOTHING))
    assert np.sqrt(added[[0, 3]]) == pytest.approx(UNMEASURED)


def signed_rows(rng, alike):
    """Instants every metre, with errors that change along the way over `alike` (2,) metres."""
    x = np.arange(60.0)
    apart = (x[:, None] - x) / np.reshape(alike, (2, 1, 1))
    roots = np.linalg.cholesky(np.exp(-0.5 * apart**2) + 1e-6 * np.eye(60))
    errors = np.concatenate([root @ rng.normal(size=(60, 3)) * 0.01 for root in roots], axis=1)
    sizes = np.sqrt((errors.reshape(60, 2, 3) ** 2).mean(axis=2))
    return np.column_stack([x, 0 * x, 0 * x, 1 + 0 * x, sizes, errors])


@pytest.mark.parametrize("alike", [(1.0, 1.0), (8.0, 8.0), (1.0, 8.0), (8.0, 1.0)])
def test_the_table_tells_over_how_many_metres_position_and_orientation_err_alike(alike):
    measured, found = made_up(np.empty((0, 6))), []
    for seed in range(6):
        measured.held_out = padded(signed_rows(np.random.default_rng(seed), alike))
        found.append(MapError(measured).alike)
    usual = np.median(found, axis=0) / alike
    assert (usual > 0.7).all()
    assert (usual < 2.0).all()


def test_a_table_without_the_errors_themselves_does_not_tell_it(worlds, tmp_path):
    copy = shutil.copytree(worlds["bent"].map.path, tmp_path / "map")
    assert np.isfinite(MapError(VisualMap.load(copy)).alike).all()
    lines = (copy / HELD_OUT).read_text().splitlines()
    (copy / HELD_OUT).write_text("\n".join(",".join(line.split(",")[:6]) for line in lines) + "\n")
    old = MapError(VisualMap.load(copy))
    assert old.measured
    assert old.alike == (np.inf, np.inf)
    assert old.change.lasting(np.eye(6)) == pytest.approx(np.eye(6)), "nobody knows better"
    assert VisualMap.load(copy).weighs_points
    assert VisualMap.load(copy).drift_rate == 0.0


def instants_by_way(gain):
    """Sixty of them, whose errors are exp(gain) times as large a way as weighed without drift."""
    rng = np.random.default_rng(1)
    columns = [HELD_OUT_COLUMNS.index(name) for name in ("error_m", "error_deg")]
    found = []
    for error in 0.02 * np.exp(rng.normal(size=60)):
        rows = {}
        for rate in RATES:
            for weighed in (True, False):
                row = np.array([*np.ones(len(HELD_OUT_COLUMNS) - 2), weighed, rate])
                noise = 0.2 * rng.normal(size=2) if rate or not weighed else 0.0
                row[columns] = error * np.exp(gain(rate, weighed) + noise)
                by_retrieval = 2 * row
                rows[rate, weighed] = tuple(by_retrieval), tuple(row)
        found.append(rows)
    return found


@pytest.mark.parametrize(("gain", "weighed"), [(0.3, 1.0), (0.0, 1.0), (-0.02, 1.0), (-0.3, 0.0)])
def test_points_weigh_alike_only_where_that_surely_finds_instants_nearer(gain, weighed):
    found = instants_by_way(lambda rate, weighed: 0.5 * (rate > 0) + gain * (not weighed))
    assert {row[-2:] for row in nearest(found)} == {(weighed, 0.0)}
    assert {row[-2:] for row in nearest(found[:5])} == {(1.0, 0.0)}, "five do not tell"
    assert nearest([]) == []


@pytest.mark.parametrize(
    ("gain", "rate"),
    [
        (lambda rate: rate, 0.0),
        (lambda rate: 0.0, 0.0),
        (lambda rate: -0.3 * (rate >= 0.002), 0.002),
        (lambda rate: abs(np.log((rate + 1e-4) / 0.005)), 0.005),
    ],
)
def test_a_map_drifts_as_little_as_finds_instants_surely_nearer(gain, rate):
    found = instants_by_way(lambda rate, weighed: gain(rate) + 0.5 * (not weighed))
    assert {row[-2:] for row in nearest(found)} == {(1.0, rate)}


@pytest.mark.parametrize("sure", [0, 1])
def test_either_way_of_matching_may_tell_the_drift(sure):
    told = instants_by_way(lambda rate, weighed: -0.3 * (rate >= 0.002) + 0.5 * (not weighed))
    silent = instants_by_way(lambda rate, weighed: 0.5 * (not weighed))
    found = [
        {way: tuple((a, b)[k == sure][way][k] for k in (0, 1)) for way in a}
        for a, b in zip(silent, told, strict=True)
    ]
    assert {row[-2:] for row in nearest(found)} == {(1.0, 0.002)}
    assert {row[-2:] for row in nearest(silent)} == {(1.0, 0.0)}


def test_what_measuring_found_decides_how_points_weigh(worlds, tmp_path):
    world = worlds["straight"]
    copy = shutil.copytree(world.map.path, tmp_path / "map")
    lines = (copy / HELD_OUT).read_text().splitlines()
    assert all(line.endswith(",1,0") for line in lines[1:]), "points are as wrong as they say"
    (copy / HELD_OUT).write_text("\n".join([lines[0], *(row[:-3] + "0,0" for row in lines[1:])]))
    drive = make_drive(np.random.default_rng(0), Trip(start=30, end=40))
    stamp = drive.frames[0]
    query = make_query(world, drive.truth[stamp], stamp, np.random.default_rng(0))
    maps = (VisualMap.load(world.map.path), VisualMap.load(copy))
    weighed, alike = (Localizer(loaded).localize(query) for loaded in maps)
    assert weighed.evidence.matches.point_covariance is not None
    assert alike.evidence.matches.point_covariance is None
    for estimate in (weighed, alike):
        assert estimate.accepted
        assert difference(estimate.map_from_base, drive.truth[stamp]) == pytest.approx(0, abs=0.05)


def test_the_option_overrides_what_was_measured(worlds):
    world = worlds["bent"]
    exact = LocalizerOptions(answer=AnswerOptions(map_sigma=0.0, map_sigma_degrees=0.0))
    loaded = VisualMap.load(world.map.path)
    drive = make_drive(np.random.default_rng(0), Trip(start=30, end=40))
    stamp = drive.frames[0]
    query = make_query(world, drive.truth[stamp], stamp, np.random.default_rng(0))
    alone, whole = (Localizer(loaded, options).localize(query) for options in (exact, None))
    assert not alone.map_covariance.any()
    np.testing.assert_allclose(whole.covariance - whole.map_covariance, alone.covariance)


def test_a_damaged_table_is_refused(worlds, tmp_path):
    copy = shutil.copytree(worlds["straight"].map.path, tmp_path / "map")
    (copy / HELD_OUT).write_text(",".join(HELD_OUT_COLUMNS) + "\n1,2,three\n")
    with pytest.raises(InputError, match=HELD_OUT):
        Localizer(VisualMap.load(copy))


def test_instants_held_out_are_matched_as_the_fixes_of_a_drive(worlds):
    """Around their poses, with what the other images show: so drives are as wrong as they tell."""
    path = worlds["straight"].map.path
    source, localizer = open_map(path), Localizer(VisualMap.load(path))
    images, row = source.images, 60
    query = query_of(images, [row], images.names, source.folders, source.manifest.features)
    gap = np.arange(row - 1, row + 2)
    left = points_without(localizer.map, gap)
    assert set(left.others) == set(range(len(images.names))) - set(gap)
    known = match_without(localizer, query, left)
    pose = map_from_rig(images, row)
    matches, cameras = match_again(localizer, known.views, pose, left)
    assert len(matches) > 50
    assert not set(matches.point) & set(left.rows[left.lost])
    assert localizer.map.are_seen(np.unique(matches.point), left.others).all()
    off = np.linalg.norm(residuals(matches, cameras, pose), axis=1)
    assert (off < GuidedOptions().min_radius).mean() > 0.95, "without the gap points move a little"
    assert (off < 4).mean() > 0.8
    assert len(match_again(localizer, known.views, pose.inverse(), left)[0]) == 0


def test_points_without_an_image_are_as_if_the_others_alone_had_made_them():
    scene = Triangulated(np.random.default_rng(8))
    left = points_without(scene, np.array([2]))
    without = [scene.solved(point, leave_out=2) for point in left.rows]
    before = scene.points.xyz[left.rows]
    moved = np.linalg.norm(before - without, axis=1)
    off = np.linalg.norm(left.xyz - without, axis=1)
    assert not left.lost.any()
    assert np.median(moved) > 0.003, "an image out of five matters"
    # To first order, and by what a bearing tells rather than a pixel.
    assert np.median(off / moved) < 0.25
    assert off.mean() < 0.4 * moved.mean()
    alone = points_without(scene, np.array([0, 1, 2, 3]))
    assert alone.lost.all(), "one ray does not make a point"


class Triangulated:
    """Points seen by five cameras in a row, each where its reprojection errors are least."""

    def __init__(self, rng):
        self.image_centers = np.array([[x, 0.1 * x, 0.0] for x in np.linspace(-2, 2, 5)])
        true = rng.uniform([-3, -2, 8], [3, 2, 14], (30, 3))
        self.pixels = np.array(
            [self._seen(image, true) + rng.normal(0, 1.0, (30, 2)) for image in range(5)]
        )
        xyz = np.array([self.solved(point) for point in range(30)])
        self.points = SimpleNamespace(
            xyz=xyz, covariance=self._covariance(xyz), track_length=np.full(30, 5)
        )

    def camera(self, _):
        return CAMERA

    def cam_from_map(self, image):
        return Transform(translation=-self.image_centers[image])

    def features(self, image):
        rows = np.arange(30, dtype=np.int32)
        return SimpleNamespace(points=rows, keypoints=self.pixels[image].astype(np.float32))

    def _seen(self, image, points):
        return MountedCamera(CAMERA).project(points - self.image_centers[image])

    def solved(self, point, leave_out=None):
        images = [image for image in range(5) if image != leave_out]
        residual = lambda xyz: np.concatenate(  # noqa: E731
            [self._seen(image, xyz[None])[0] - self.pixels[image, point] for image in images]
        )
        return least_squares(residual, [0.0, 0.0, 10.0]).x

    def _covariance(self, xyz):
        information = np.zeros((len(xyz), 3, 3))
        for center in self.image_centers:
            ray = xyz - center
            distance = np.linalg.norm(ray, axis=1)[:, None, None]
            bearing = ray[:, :, None] / distance
            across = np.eye(3) - bearing @ bearing.transpose(0, 2, 1)
            information += (CAMERA.focal / distance) ** 2 * across
        upper = np.triu_indices(3)
        return np.linalg.inv(information)[:, upper[0], upper[1]].astype(np.float32)

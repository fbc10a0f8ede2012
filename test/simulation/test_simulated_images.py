"""Simulated images show one street: the same geometry from everywhere, changed as asked."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.camera import OPTICAL_FROM_LINK
from kapture_ros.simulation.drive import Exposure, Photographer
from kapture_ros.simulation.exposure import develop
from kapture_ros.simulation.light import make_light
from kapture_ros.simulation.options import Changes, DriveOptions, QueryOptions, StreetOptions, laps
from kapture_ros.simulation.street import World, build_world
from kapture_ros.simulation.vehicle import make_camera
from kapture_ros.transforms.se3 import Transform

SMALL = DriveOptions(width=160, height=120)
LAP1, LAP2 = laps(QueryOptions())

pytestmark = pytest.mark.slow  # they share a street that takes some seconds to build


def facing(place: tuple[float, float], yaw: float) -> Transform:
    """map_from_camera: 4 m before a place on the pavement, looking along `yaw`."""
    back = 4.0 * np.array([np.cos(yaw), np.sin(yaw)])
    turned = Rotation.from_euler("z", yaw) * OPTICAL_FROM_LINK.inv()
    return Transform(turned, np.array([*(np.array(place) - back), 1.6]))


def photograph(world: World, pose: Transform, light: str = "overcast") -> np.ndarray:
    rendering = world.renderer.render(make_camera("front", 96, 72), pose, make_light(light, 1))
    return develop(rendering.radiance, np.random.default_rng(0), noise=0.0)


def likeness(one: np.ndarray, two: np.ndarray) -> float:
    """Correlation of two images."""
    return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


@pytest.mark.parametrize("name", ["front", "left", "right"])
def test_depth_and_poses_agree_between_two_images(world: World, name: str):
    """Points seen in one image lie where the other image sees a surface as far away."""
    photographer = Photographer(LAP1, world, SMALL)
    camera = make_camera(name, SMALL.width, SMALL.height)
    depths, poses = [], []
    for time in (20.0, 20.3):
        _, depth = photographer.take(Exposure(camera, 0, time, depth=True))
        depths.append(depth)
        poses.append(photographer.trajectory.pose(time) @ camera.base_from_camera)
    seen = np.isfinite(depths[0]) & (depths[0] < 15)  # the sensor's noise grows with distance
    rows, columns = np.nonzero(seen)
    rays = camera.rays(np.stack([columns, rows], -1).astype(float))
    points = rays / rays[:, 2:] * depths[0][seen][:, None]
    moved = (poses[1].inverse() @ poses[0]).apply(points)
    pixels = np.round(camera.project(moved))
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= 0) & (pixels < [SMALL.width, SMALL.height])).all(axis=1)
    u, v = pixels[inside].astype(int).T
    found, expected = depths[1][v, u], moved[inside, 2]
    error = np.abs(found - expected) / expected
    assert len(error) > 1500
    assert np.mean(error < 0.05) > 0.75, "the rest is hidden in one of the two"
    assert np.median(error) < 0.02  # a pixel of 160 is coarse


def test_colours_agree_with_depth_and_poses(world: World):
    """The first image, moved into the second by depth and poses, looks like the second."""
    camera = make_camera("left", 160, 120)
    light = make_light("overcast", 1)
    poses = [facing((30.0, 6.0), np.pi / 2), facing((30.6, 6.2), np.pi / 2 + 0.05)]
    images, depths = [], []
    for pose in poses:
        rendering = world.renderer.render(camera, pose, light)
        images.append(develop(rendering.radiance, np.random.default_rng(0), 0.0).mean(axis=2))
        depths.append(rendering.depth)
    rays = camera.ray_table() / camera.ray_table()[:, 2:]
    points = rays * np.where(np.isfinite(depths[1]), depths[1], 1e3).reshape(-1, 1)
    pixels = camera.project((poses[0].inverse() @ poses[1]).apply(points)).astype(np.float32)
    columns, rows = pixels.reshape(120, 160, 2).transpose(2, 0, 1)
    moved = cv2.remap(images[0], columns, rows, cv2.INTER_LINEAR, borderValue=-1)
    common = moved >= 0
    assert common.mean() > 0.7
    after = likeness(moved[common], images[1][common])
    before = likeness(images[0][common], images[1][common])
    assert after > 0.9
    assert after > before + 0.15


def test_an_image_is_the_same_every_time_and_another_in_the_second_lap(world: World):
    camera = make_camera("front", 160, 120)
    images = [
        Photographer(lap, world, SMALL).take(Exposure(camera, 0, 12.0, depth=False))[0]
        for lap in (LAP1, LAP1, LAP2)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.abs(images[0].astype(int) - images[2]).mean() > 10
    for image in images:
        assert image.std() > 25, "a street, not a wall"


def test_night_is_dark_but_for_lamps_and_windows(world: World):
    camera = make_camera("front", 160, 120)
    pose = Photographer(LAP1, world, SMALL).trajectory.pose(10.0) @ camera.base_from_camera
    day, night = (
        world.renderer.render(camera, pose, make_light(name, 1)).radiance.mean(axis=2)
        for name in ("overcast", "night")
    )
    assert np.median(night) < 0.15 * np.median(day)
    assert night.max() > 8 * np.median(night)


@pytest.mark.parametrize("part", [0.2, 0.5])
def test_a_van_ahead_hides_the_part_of_the_image_asked_for(world: World, part: float):
    camera = make_camera("front", 160, 120)
    free, hidden = (
        Photographer(dataclasses.replace(LAP1, occlusion=occlusion), world, SMALL).take(
            Exposure(camera, 0, 12.0, depth=True)
        )[1]
        for occlusion in (0.0, part)
    )
    nearer = np.mean(hidden < free - 0.2)
    assert abs(nearer - part) < 0.12


def test_places_made_to_look_alike_do_and_others_do_not(world: World):
    alike, different = [], []
    views = []
    for one, two in world.lookalikes:
        yaw = np.pi / 2 * np.sign(one[1])  # these façades look north and south
        views.append((photograph(world, facing(one, yaw)), photograph(world, facing(two, -yaw))))
    for index, (one, two) in enumerate(views):
        alike.append(likeness(one, two))
        different.append(likeness(one, views[(index + 1) % len(views)][1]))
    assert np.median(alike) > np.median(different) + 0.25


def test_another_day_repaints_a_part_of_the_same_street(world: World, coarse_street: StreetOptions):
    repainted = build_world(coarse_street, Changes(day=1, repainted=0.3))
    changed = []
    for x in np.arange(0.0, 150.0, 7.5):
        pose = facing((x, -6.0), -np.pi / 2)
        light, camera = make_light("overcast", 1), make_camera("front", 96, 72)
        before, after = (w.renderer.render(camera, pose, light) for w in (world, repainted))
        # Chimneys, coolers and signs may differ, the houses stay.
        assert np.mean(np.isclose(before.depth, after.depth, rtol=1e-3)) > 0.9
        changed.append(np.abs(before.radiance - after.radiance).mean() > 0.02)
    assert 0.1 < np.mean(changed) < 0.8


def test_another_number_is_another_street(world: World):
    other = build_world(StreetOptions(street=2, detail=0.05))
    poses = [facing((x, -6.0), -np.pi / 2) for x in (20.0, 60.0, 100.0)]
    same = [likeness(photograph(world, p), photograph(world, p, "afternoon")) for p in poses]
    unlike = [likeness(photograph(world, p), photograph(other, p)) for p in poses]
    assert np.median(unlike) < 0.6 < np.median(same)

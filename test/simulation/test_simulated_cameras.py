"""Simulated cameras follow OpenCV's distortion models, both ways."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kapture_ros.simulation.vehicle import make_camera

NAMES = ("front", "left", "right")


@pytest.mark.parametrize("name", NAMES)
def test_projection_is_that_of_opencv(name: str):
    camera = make_camera(name, 640, 480)
    points = np.random.default_rng(1).uniform([-2, -1.5, 2], [2, 1.5, 9], (200, 3))
    distortion = np.array(camera.distortion)
    if camera.model == "equidistant":
        expected, _ = cv2.fisheye.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), camera.matrix, distortion
        )
    else:
        expected, _ = cv2.projectPoints(
            points[:, None], np.zeros(3), np.zeros(3), camera.matrix, distortion
        )
    np.testing.assert_allclose(camera.project(points), expected[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_ray_of_a_pixel_projects_to_that_pixel(name: str):
    camera = make_camera(name, 64, 48)
    pixels = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)), -1).reshape(-1, 2)
    rays = camera.rays(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1)
    ahead = rays[:, 2] > 0  # the corners of the fisheye look backwards
    assert ahead.mean() > 0.95
    np.testing.assert_allclose(camera.project(rays[ahead]), pixels[ahead], atol=1e-4)


def test_points_behind_the_camera_have_no_pixel():
    assert np.isnan(make_camera("front", 64, 48).project([[0.0, 0.0, -1.0]])).all()

"""Keypoints are the best local maxima above the thresholds, in pixels of the image given."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import save_local, texture

from kapture_ros.errors import InputError
from kapture_ros.features.detection import detect, peak_scores
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_inference import RawMaps
from kapture_ros.features.r2d2_network import PATCH_SIZE, R2D2Config

ALL = R2D2Options(top_k=10_000, reliability=0, repeatability=0)


class Spots:
    """A network that is sure of the bright pixels of an image, and of nothing else."""

    how = "spots"
    stride = 1

    def __call__(self, images: torch.Tensor) -> RawMaps:
        grey = images.mean(dim=1)
        low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
        shown = (grey - low) / (high - low).clamp(min=1e-9)
        return RawMaps(images.permute(0, 2, 3, 1), torch.ones_like(shown), shown)


def with_spots(size: tuple[int, int], *places: tuple[int, int]) -> torch.Tensor:
    """A black picture (1, 3, H, W) with white pixels at (x, y)."""
    image = torch.zeros(1, 3, *size, dtype=torch.uint8)
    for x, y in places:
        image[:, :, y, x] = 255
    return image


maps = st.integers(0, 10_000).map(
    lambda seed: torch.rand(2, 2, 13, 17, generator=torch.Generator().manual_seed(seed))
)


@settings(max_examples=10)
@given(
    values=maps,
    reliability=st.floats(0, 1),
    repeatability=st.floats(0, 1),
    radius=st.integers(1, 3),
)
def test_a_keypoint_is_no_worse_than_its_neighbours_and_the_thresholds(
    values: torch.Tensor, reliability: float, repeatability: float, radius: int
) -> None:
    sure, repeated = values
    options = R2D2Options(reliability=reliability, repeatability=repeatability, nms_radius=radius)
    scores = peak_scores(sure, repeated, options)
    padded = torch.nn.functional.pad(repeated, (radius,) * 4, value=-1)
    side = 2 * radius + 1
    for b, y, x in np.ndindex(*scores.shape):
        around = padded[b, y : y + side, x : x + side].max()
        peak = repeated[b, y, x] == around
        good = sure[b, y, x] >= reliability and repeated[b, y, x] >= repeatability
        wanted = sure[b, y, x] * repeated[b, y, x] if peak and good else 0
        assert scores[b, y, x] == wanted


@settings(max_examples=30)
@given(
    places=st.sets(
        st.tuples(st.integers(0, 19), st.integers(0, 14)).map(lambda p: (2 * p[0], 2 * p[1])),
        min_size=1,
        max_size=20,
    )
)
def test_spots_are_found_where_they_are(places: set[tuple[int, int]]) -> None:
    found = detect(Spots(), R2D2Options(), with_spots((30, 40), *places))
    assert {tuple(row[:2]) for row in found.keypoints[0].tolist()} == places
    assert (found.keypoints[0, :, 2] == PATCH_SIZE).all()


@pytest.mark.parametrize("count", [1, 5, 50])
def test_the_best_are_kept_best_first(tmp_path: Path, count: int) -> None:
    path = save_local(tmp_path / "tiny.safetensors", R2D2Config(width=1))
    image = texture(60, 80)
    (all_of_them,) = R2D2Extractor(path, ALL).extract([image])
    limited = R2D2Options(top_k=count, reliability=0, repeatability=0)
    (best,) = R2D2Extractor(path, limited).extract([image])
    assert len(all_of_them.scores) > 50
    assert (np.diff(all_of_them.scores) <= 0).all()
    np.testing.assert_array_equal(best.keypoints, all_of_them.keypoints[:count])
    np.testing.assert_allclose(np.linalg.norm(best.descriptors, axis=1), 1, atol=1e-5)


def test_a_shrunk_image_gives_pixels_of_the_image_as_given() -> None:
    """A block of 4×4 pixels is one at a quarter of the size: the keypoint is its centre."""
    image = torch.zeros(1, 3, 400, 400, dtype=torch.uint8)
    image[:, :, 200:204, 120:124] = 255
    found = detect(Spots(), R2D2Options(max_size=100, top_k=1), image)
    assert found.keypoints[0, 0].tolist() == [121.5, 201.5, 4 * PATCH_SIZE]


def test_the_pyramid_has_navers_scales() -> None:
    """Every 2^(1/4) from the largest allowed to the smallest, and none else."""
    sizes = []

    class Looking(Spots):
        def __call__(self, images: torch.Tensor) -> RawMaps:
            sizes.append(tuple(images.shape[2:]))
            return super().__call__(images)

    options = R2D2Options(pyramid=True, min_size=256, max_size=1024, min_scale=0.3)
    found = detect(Looking(), options, with_spots((1080, 1920), (500, 500)))
    assert sizes == [(540, 960), (454, 807), (382, 679)]
    assert found.keypoints.shape[2] == 3


@pytest.mark.parametrize("pyramid", [False, True])
def test_no_keypoint_lies_where_the_mask_is_zero(tmp_path: Path, pyramid: bool) -> None:
    path = save_local(tmp_path / "tiny.safetensors", R2D2Config(width=1))
    options = R2D2Options(
        top_k=10_000, reliability=0, repeatability=0, pyramid=pyramid, min_size=40
    )
    extractor = R2D2Extractor(path, options)
    image = texture(60, 80)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:50, 30:70] = 255
    (free,), (held,) = extractor.extract([image]), extractor.extract([image], [mask])
    x, y = np.rint(held.keypoints[:, :2]).astype(int).T
    assert len(x) > 10
    # NAVER's pyramid scales pixel indices, which is up to a pixel off.
    allowed = cv2.dilate(mask, np.ones((3, 3), np.uint8)) if pyramid else mask
    assert (allowed[y, x] > 0).all()
    if not pyramid:
        inside = mask[tuple(np.rint(free.keypoints[:, 1::-1]).astype(int).T)] > 0
        np.testing.assert_array_equal(held.keypoints, free.keypoints[inside])


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    extractor = R2D2Extractor(save_local(tmp_path / "t.safetensors", R2D2Config(width=1)))
    with pytest.raises(InputError, match="uint8"):
        extractor.extract([np.zeros((20, 20, 3), np.float32)])
    with pytest.raises(InputError, match=r"mask is \(10, 20\)"):
        extractor.extract([texture(20, 20)], [np.ones((10, 20), np.uint8)])


def test_grey_images_are_seen_as_colour_ones(tmp_path: Path) -> None:
    path = save_local(tmp_path / "tiny.safetensors", R2D2Config(width=1))
    grey = texture(40, 60)[..., 0]
    one, other = R2D2Extractor(path, ALL).extract([grey, np.repeat(grey[..., None], 3, axis=2)])
    np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_mirrored_and_locked_arrays_are_images_as_well(tmp_path: Path) -> None:
    """numpy's views: torch takes neither negative strides nor read-only memory."""
    path = save_local(tmp_path / "tiny.safetensors", R2D2Config(width=1))
    extractor = R2D2Extractor(path, ALL)
    image = texture(60, 80)
    mirrored = image[:, ::-1]
    mirrored.flags.writeable = False
    mask = np.ones((60, 80), np.uint8)[::-1]
    seen, wanted = (
        extractor.extract([view], [mask])[0].keypoints for view in (mirrored, mirrored.copy())
    )
    np.testing.assert_array_equal(seen, wanted)


def test_images_of_any_size_are_looked_at(tmp_path: Path) -> None:
    for number, config in enumerate((R2D2Config(width=1), R2D2Config(1, downsample=2, stem=2))):
        path = save_local(tmp_path / f"{number}.safetensors", config)
        extractor = R2D2Extractor(path, ALL, RuntimeOptions("cpu"))
        images = [texture(*size) for size in ((4, 4), (5, 31), (33, 8))]
        for image, found in zip(images, extractor.extract(images), strict=True):
            height, width = image.shape[:2]
            assert (found.keypoints[:, 0] <= width - 1).all()
            assert (found.keypoints[:, 1] <= height - 1).all()
            assert np.isfinite(found.descriptors).all()


@pytest.mark.parametrize("moved", [1, 2])
def test_keypoints_of_the_bundled_network_follow_the_image_pixel_by_pixel(moved: int) -> None:
    """Though its cells are 4×4 pixels: no place in a cell attracts them."""
    image = texture(240, 320)
    extractor = R2D2Extractor("r2d2-fast-free", R2D2Options(reliability=0, repeatability=0))
    here, there = (
        {(x + first, y) for x, y, _ in extractor.extract([image[:, first:]])[0].keypoints}
        for first in (0, moved)
    )
    inner = {(x, y) for x, y in here if 40 < x < 280 and 40 < y < 200}
    assert len(inner & there) > 0.4 * len(inner) > 20

"""One AP-GeM vector an image: the same folded or not, pooled over scales, whitened."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_networks import global_network, save_global, texture

from kapture_ros.errors import InputError, OptionError
from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.options import ApGemOptions, RuntimeOptions
from kapture_ros.features.r2d2_network import normalise_images


def plain(network: ApGemNet, image: np.ndarray) -> np.ndarray:
    """The network as it is trained."""
    pixels = torch.tensor(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(normalise_images(pixels))[0].numpy()


@pytest.mark.parametrize("trunk", ["mobilenet_v2", "resnet18", "resnet50"])
def test_folded_networks_give_what_plain_ones_give(tmp_path: Path, trunk: str) -> None:
    extractor = ApGemExtractor(save_global(tmp_path / "tiny.safetensors", trunk))
    image = texture(70, 100)
    (found,) = extractor.extract([image])
    np.testing.assert_allclose(found, plain(global_network(trunk), image), atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert extractor.descriptor_size == len(found) == 32


def test_every_image_has_its_own_vector_in_the_order_given(tmp_path: Path) -> None:
    extractor = ApGemExtractor(save_global(tmp_path / "tiny.safetensors"))
    images = [texture(64, 64, 1), texture(48, 96, 2), texture(64, 64, 3)]
    together = extractor.extract(images)
    for image, vector in zip(images, together, strict=True):
        np.testing.assert_allclose(extractor.extract([image])[0], vector, atol=1e-6)
    assert len(extractor.extract([])) == 0


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    path = save_global(tmp_path / "tiny.safetensors")
    image = texture(64, 96)
    enlarged = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    small = ApGemExtractor(path, ApGemOptions(global_max_size=96)).extract([image, enlarged])
    (large,) = ApGemExtractor(path).extract([enlarged])
    assert small[0] @ small[1] > 0.99
    assert small[0] @ large < small[0] @ small[1]


def test_scales_are_pooled_by_the_power_mean(tmp_path: Path) -> None:
    path = save_global(tmp_path / "tiny.safetensors")
    image = texture(96, 128)
    one, two = (
        ApGemExtractor(path, ApGemOptions(global_scales=(scale,))).extract([image])[0].astype(float)
        for scale in (1.0, 0.5)
    )
    both = ApGemExtractor(path, ApGemOptions(global_scales=(1.0, 0.5), global_scale_power=3.0))
    mean = np.cbrt((one**3 + two**3) / 2)
    wanted = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(both.extract([image])[0], wanted, atol=1e-5)


def test_settings_that_make_other_vectors_make_another_type(tmp_path: Path) -> None:
    path = save_global(tmp_path / "tiny.safetensors")
    names = {
        ApGemExtractor(path, options).type_name
        for options in (
            ApGemOptions(),
            ApGemOptions(global_max_size=512),
            ApGemOptions(global_scales=(1.0, 0.7)),
        )
    }
    assert len(names) == 3
    assert ApGemExtractor(path).type_name == ApGemExtractor(path, ApGemOptions()).type_name


def test_a_whitening_that_the_weights_lack_is_refused(tmp_path: Path) -> None:
    path = save_global(tmp_path / "tiny.safetensors")
    with pytest.raises(OptionError, match=r"'Landmarks_clean' but tiny holds none"):
        ApGemExtractor(path, ApGemOptions(whitening="Landmarks_clean"))


def test_an_unknown_trunk_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown AP-GeM trunk 'vgg'; known are resnet18"):
        ApGemConfig("vgg")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_no_reason_to_take_another(tmp_path: Path) -> None:
    path = save_global(tmp_path / "tiny.safetensors")
    with pytest.raises(OptionError, match=r"'device' is cuda:0 but torch .* sees 0 CUDA devices"):
        ApGemExtractor(path, runtime=RuntimeOptions("cuda:0"))
    with pytest.raises(OptionError, match="'precision' float16 needs a CUDA device"):
        ApGemExtractor(path, runtime=RuntimeOptions("cpu", "float16"))
    with pytest.raises(OptionError, match="must be auto, cpu, cuda or cuda:N"):
        ApGemExtractor(path, runtime=RuntimeOptions("tpu"))

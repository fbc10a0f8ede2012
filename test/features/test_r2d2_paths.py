"""Every exact way of running R2D2 gives what the plain network gives; bfloat16 nearly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import local_network, save_local, texture

from kapture_ros.features.detection import detect
from kapture_ros.features.local import R2D2Extractor
from kapture_ros.features.options import R2D2Options, RuntimeOptions
from kapture_ros.features.r2d2_inference import (
    Engine,
    FoldedR2D2,
    Layer,
    RawMaps,
    WinogradR2D2,
    convolve,
    convolve_linearly,
)
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net, normalise_images
from kapture_ros.features.runtime import Runtime
from kapture_ros.features.weights_file import load_network

FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
EXACT = {
    "folded": lambda network: FoldedR2D2(network, FLOAT32),
    "winograd": WinogradR2D2,
}
FAMILIES = {
    "paper": R2D2Config(),  # the last layers take Winograd's form
    "quad relu": R2D2Config(width=1, quad_relu=True),
    "fast": R2D2Config(width=2, downsample=2),
    "stem": R2D2Config(width=2, downsample=2, stem=2),
}


class Eager:
    """The network as it is published, with the interface of an engine."""

    how = "eager"

    def __init__(self, network: R2D2Net) -> None:
        self.stride = 1
        self._network = network

    def __call__(self, images: torch.Tensor) -> RawMaps:
        dense = self._network(images)
        maps = dense.reliability[:, 0], dense.repeatability[:, 0]
        return RawMaps(dense.descriptors.permute(0, 2, 3, 1), *maps)


def pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(texture(height, width, seed)).permute(2, 0, 1)[None]


def same_keypoints(network: R2D2Net, engine: Engine, image: torch.Tensor) -> float:
    """Share of the plain network's keypoints found again; checks their descriptors."""
    options = R2D2Options(top_k=300, reliability=0, repeatability=0)
    wanted, found = (detect(way, options, image) for way in (Eager(network), engine))
    places = [{tuple(p[:2].tolist()): i for i, p in enumerate(w.keypoints[0])}
              for w in (wanted, found)]  # fmt: skip
    common = sorted(places[0].keys() & places[1].keys())
    rows = [[place[key] for key in common] for place in places]
    torch.testing.assert_close(
        found.descriptors[0, rows[1]], wanted.descriptors[0, rows[0]], atol=1e-4, rtol=0
    )
    return len(common) / len(places[0])


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(96, 128), (61, 47), (9, 150)], ids=str)
def test_exact_ways_give_the_plain_networks_maps(
    way: str, family: str, size: tuple[int, int]
) -> None:
    network = local_network(FAMILIES[family])
    image = normalise_images(pixels(*size))
    with torch.no_grad():
        dense, maps = network(image), EXACT[way](network)(image)
    torch.testing.assert_close(maps.reliability, dense.reliability[:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.repeatability, dense.repeatability[:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize("family", ["paper", "quad relu"])
def test_exact_ways_find_the_plain_networks_keypoints(way: str, family: str) -> None:
    network = local_network(FAMILIES[family])
    assert same_keypoints(network, EXACT[way](network), pixels(120, 160)) >= 0.99


def test_descriptors_of_pooled_features_are_those_of_upsampled_ones() -> None:
    """Sampling between cells and upsampling everything first are the same (fast family)."""
    network = local_network(FAMILIES["fast"])
    assert same_keypoints(network, WinogradR2D2(network), pixels(120, 160)) >= 0.99


def test_sizes_may_change_from_call_to_call() -> None:
    """Buffers are reused: nothing of a larger image may be left in a smaller one."""
    network = local_network(FAMILIES["paper"])
    engine = WinogradR2D2(network)
    small = normalise_images(pixels(40, 56, seed=1))
    alone = RawMaps(*(part.clone() for part in WinogradR2D2(network)(small)))
    engine(normalise_images(pixels(90, 120)))
    for again, wanted in zip(engine(small), alone, strict=True):
        torch.testing.assert_close(again, wanted, atol=0, rtol=0)


def test_without_numba_plain_convolutions_run_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_local(tmp_path / "tiny.safetensors", FAMILIES["quad relu"])
    image = texture(60, 80)
    wanted = R2D2Extractor(path, runtime=RuntimeOptions("cpu"))
    assert wanted.runtime == "cpu, float32, Winograd convolutions"
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it raises ImportError
    for name in ("winograd", "cpu_kernels"):
        monkeypatch.delitem(sys.modules, f"kapture_ros.features.{name}")
    found = R2D2Extractor(path, runtime=RuntimeOptions("cpu"))
    assert found.runtime.endswith(
        "folded channels-last convolutions, since numba does not run here"
    )
    assert "numba" in caplog.text
    one, other = (extractor.extract([image])[0] for extractor in (found, wanted))
    np.testing.assert_array_equal(one.keypoints, other.keypoints)


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize(
    "name", ["r2d2_WASF_N16", "r2d2_WAF_N16", "r2d2_WASF_N8_big", "faster2d2_WASF_N16"]
)
def test_published_networks_give_the_same_keypoints_every_way(
    shared_weights: Path, name: str, way: str
) -> None:
    network = load_network(shared_weights / f"{name}.pt").network
    assert isinstance(network, R2D2Net)
    assert same_keypoints(network, EXACT[way](network), pixels(96, 120)) >= 0.99


def test_bfloat16_finds_most_keypoints() -> None:
    network = local_network(FAMILIES["paper"])
    options = R2D2Options(top_k=300, reliability=0, repeatability=0)
    rough = FoldedR2D2(network, Runtime(torch.device("cpu"), torch.bfloat16))
    wanted = detect(WinogradR2D2(network), options, pixels(120, 160))
    found = detect(rough, options, pixels(120, 160))
    distance = (wanted.keypoints[0, :, None, :2] - found.keypoints[0, None, :, :2]).abs().amax(2)
    nearest, index = distance.min(dim=1)
    assert (nearest <= 1).float().mean() > 0.8
    near = nearest <= 1
    cosine = (wanted.descriptors[0, near] * found.descriptors[0, index[near]]).sum(dim=1)
    assert cosine.median() > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_float32_on_a_gpu_gives_the_keypoints_of_the_cpu(tmp_path: Path, family: str) -> None:
    path = save_local(tmp_path / "tiny.safetensors", FAMILIES[family])
    options = R2D2Options(top_k=300, reliability=0, repeatability=0)
    images = [texture(120, 160, seed) for seed in range(3)]
    gpu = R2D2Extractor(path, options, RuntimeOptions("cuda", "float32"))
    wanted = R2D2Extractor(path, options, RuntimeOptions("cpu")).extract(images)
    for _ in range(3):  # as it comes, recorded, replayed
        for one, other in zip(gpu.extract(images), wanted, strict=True):
            common = {tuple(p) for p in one.keypoints} & {tuple(p) for p in other.keypoints}
            assert len(common) >= 0.98 * len(other.keypoints)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
def test_images_begun_before_others_are_waited_for_keep_their_own_features(
    tmp_path: Path, device: str
) -> None:
    """On a GPU they share the memory of one recording."""
    path = save_local(tmp_path / "tiny.safetensors", FAMILIES["fast"])
    options = R2D2Options(top_k=300, reliability=0, repeatability=0)
    extractor = R2D2Extractor(path, options, RuntimeOptions(device))
    images = [texture(120, 160, seed) for seed in range(3)]
    for _ in range(3):  # as it comes, recorded, replayed
        alone = [extractor.extract([image])[0] for image in images]
        started = [extractor.start([image]) for image in images]
        for wait, wanted in reversed(list(zip(started, alone, strict=True))):
            (found,) = wait()
            np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
            np.testing.assert_array_equal(found.descriptors, wanted.descriptors)


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.sampled_from([2, 4, 8]), max_size=3))
def test_biases_without_relu_between_are_added_once(
    height: int, width: int, dilations: list[int]
) -> None:
    """Also near the border, and where all of the image is near it."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    layers = [Layer(rand(3, 3, 2, 2), rand(3), dilation) for dilation in dilations]
    maps = rand(2, 3, height, width)
    expected = maps
    for layer in layers:
        expected = convolve(expected, layer)
    torch.testing.assert_close(convolve_linearly(maps, layers), expected, rtol=1e-4, atol=1e-4)

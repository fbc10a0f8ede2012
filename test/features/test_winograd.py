"""Winograd's convolutions are convolutions, whatever the size, dilation and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.features.winograd import WinogradConv
from kapture_ros.workers import Workers

WORKERS = Workers()


def error(weight: torch.Tensor, size: tuple[int, int], dilation: int, *, relu: bool) -> float:
    """Largest difference from PyTorch's convolution, relative to the largest sum of magnitudes.

    Rounding is in proportion to what is added up, not to what is left of it.
    """
    outs, ins, kernel, _ = weight.shape
    bias, image = torch.randn(outs), torch.randn(ins, *size)
    conv = WinogradConv(weight, bias, dilation=dilation, relu=relu)
    source = np.zeros((*size, conv.in_channels), np.float32)
    source[..., :ins] = image.permute(1, 2, 0)
    target = np.full((*size, conv.out_channels), np.nan, np.float32)
    conv(source, target, WORKERS)
    assert not target[..., outs:].any()  # channels that fill up a vector
    before = (kernel - 1) * dilation // 2
    after = (kernel - 1) * dilation - before
    padded = torch.nn.functional.pad(image, (before, after, before, after)).double()[None]
    wanted, added = (
        torch.nn.functional.conv2d(*operands, dilation=dilation)[0].permute(1, 2, 0)
        for operands in (
            (padded, weight.double(), bias.double()),
            (padded.abs(), weight.double().abs(), bias.double().abs()),
        )
    )
    wanted = wanted.relu() if relu else wanted
    difference = (torch.from_numpy(target[..., :outs]) - wanted).abs().max()
    return (difference / added.max()).item()


@settings(max_examples=60)
@given(
    kernel=st.sampled_from([2, 3]),
    dilation=st.sampled_from([1, 2, 4, 8, 16]),
    relu=st.booleans(),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 1000),
)
def test_any_size_gives_the_convolution(
    kernel: int,
    dilation: int,
    relu: bool,
    channels: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(*channels, kernel, kernel)
    assert error(weight, size, dilation, relu=relu) < 1e-5


@pytest.mark.parametrize("kernel", [2, 3])
def test_maps_of_many_groups_of_tiles_give_the_convolution(kernel: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, 128, kernel, kernel)
    assert error(weight, (150, 90), 2, relu=True) < 2e-6

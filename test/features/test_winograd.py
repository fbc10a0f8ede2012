"""Winograd's and banded convolutions are convolutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.features.winograd import BandWorkers, DirectConv, PaddedMap, WinogradConv

WORKERS = BandWorkers()


def convolved(kind: type, weight: torch.Tensor, size: tuple[int, int], **options: int) -> float:
    """Largest difference from PyTorch's convolution, relative to the largest value."""
    dilation, relu = options["dilation"], bool(options["relu"])
    out, inp, kernel, _ = weight.shape
    bias, image = torch.randn(out), torch.randn(inp, *size)
    conv = kind(weight, bias, dilation=dilation, relu=relu)
    rows, columns = conv.input_size(*size)
    source = PaddedMap(torch.full((rows, columns, inp), torch.nan), conv.padding, *size)
    source.map.copy_(image.permute(1, 2, 0))
    source.clear_margins()
    target = PaddedMap(torch.full((*conv.output_size(*size), out), torch.nan), 0, *size)
    conv(source, target, WORKERS)
    reach = (kernel - 1) * dilation
    padded = torch.nn.functional.pad(
        image, (conv.padding, reach - conv.padding, conv.padding, reach - conv.padding)
    )
    wanted = torch.nn.functional.conv2d(
        padded[None].double(), weight.double(), bias.double(), dilation=dilation
    )[0]
    if relu:
        wanted = wanted.relu()
    difference = (target.map.permute(2, 0, 1) - wanted).abs().max() / wanted.abs().max().clamp_min(
        1e-3
    )
    return difference.item()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([WinogradConv, DirectConv]),
    kernel=st.sampled_from([2, 3]),
    dilation=st.sampled_from([2, 4, 8]),
    relu=st.booleans(),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 1000),
)
def test_any_size_gives_the_convolution(
    kind: type,
    kernel: int,
    dilation: int,
    relu: bool,
    channels: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(*channels, kernel, kernel)
    assert convolved(kind, weight, size, dilation=dilation, relu=relu) < 1e-5


@pytest.mark.parametrize("dilation", [1, 2])
def test_maps_of_many_bands_give_the_convolution(dilation: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64, 3, 3)
    assert convolved(WinogradConv, weight, (150, 90), dilation=dilation, relu=True) < 1e-5

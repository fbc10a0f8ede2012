"""Settings of the networks; light to import, since commands offer them as options."""

from __future__ import annotations

from dataclasses import dataclass

from kapture_ros.options import option

DEFAULT_LOCAL = "r2d2-fast-free"
DEFAULT_GLOBAL = "apgem-small-free"


@dataclass(frozen=True)
class R2D2Options:
    """Which keypoints are kept, and at which scales an image is looked at."""

    top_k: int = option(5000, "most keypoints kept of an image, the best by score", minimum=1)
    reliability: float = option(
        0.7, "least reliability of a keypoint's descriptor", minimum=0, maximum=1
    )
    repeatability: float = option(0.7, "least repeatability of a keypoint", minimum=0, maximum=1)
    nms_radius: int = option(
        2,
        "a keypoint is the most repeatable within this distance; NAVER's is 1",
        unit="px",
        minimum=1,
    )
    max_size: int = option(
        1024, "longest side at which an image is looked at", unit="px", minimum=32
    )
    pyramid: bool = option(
        False, "look at several scales: slower, but distances may change more between images"
    )
    min_size: int = option(
        256, "pyramid only: longest side of the smallest scale", unit="px", minimum=32
    )
    min_scale: float = option(0.0, "pyramid only: smallest scale", minimum=0, maximum=1)
    scale_step: float = option(
        2**0.25, "pyramid only: ratio of neighbouring scales", minimum=1.01, maximum=4
    )


@dataclass(frozen=True)
class ApGemOptions:
    """How an image becomes one vector; all of it decides what vectors can be compared."""

    global_max_size: int = option(
        1024, "longest side at which an image is looked at", unit="px", minimum=32
    )
    global_scales: tuple[float, ...] = option(
        (1.0,), "scales that are looked at and pooled", minimum=0.1, maximum=4
    )
    global_scale_power: float = option(3.0, "power of the mean over scales", minimum=1)
    whitening: str = option("", "name of the whitening in the weights; empty for none")
    whitening_power: float = option(
        0.25, "power of the variance that components are divided by", minimum=0, maximum=1
    )
    whitening_size: int = option(0, "components kept; 0 for all", minimum=0)


@dataclass(frozen=True)
class RuntimeOptions:
    """Device and precision of the networks."""

    device: str = option("auto", "where networks run: auto, cpu, cuda, cuda:1, …")
    precision: str = option(
        "auto",
        "arithmetic: auto is exact float32 on the CPU and float16 on a GPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )

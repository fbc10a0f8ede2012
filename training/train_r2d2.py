"""Trains R2D2 from scratch on homographies of photographs and on ray-traced rooms.

    PYTHONPATH=. python training/train_r2d2.py --pack out/images.zip --out out/r2d2 --minutes 9

The loss and the mean matching accuracy on held-out images go to OUT/log.csv and
OUT/validation.csv, the network to OUT/network.safetensors. Started again with the same OUT it
goes on where it stopped; `--call-minutes` ends one call before the training ends.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from box_scenes import scene_pairs
from compiling import constant, recorded
from facades import add_facades
from image_bank import ImageBank, load_bank, split
from photometry import change_photometry
from r2d2_losses import (
    CoarseFeatures,
    LossOptions,
    coarse_features,
    descriptors_at,
    localization_loss,
    peakiness_loss,
    reliability_loss,
    repeatability_loss,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from training_state import (
    CHECKPOINT_SECONDS,
    Clock,
    Log,
    learning_rate_factor,
    make_optimizer,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from view_pairs import ViewPairs, concatenate, homography_pairs

from kapture_ros.features.r2d2_network import (
    IMAGE_MEAN,
    IMAGE_STD,
    R2D2Config,
    R2D2Net,
    repeatability_of,
    upsample,
)
from kapture_ros.features.weights_file import save_network

FACADES = 200
VALIDATION_SEED = 7
VALIDATION_KEYPOINTS = 300


@dataclass(frozen=True, slots=True)
class Batch:
    """How a batch is made: `photos` homography pairs and `rooms` scene pairs of side `size`."""

    photos: int
    rooms: int
    size: int


def make_pairs(bank: ImageBank, batch: Batch, generator: torch.Generator) -> ViewPairs:
    """A batch of pairs, each view with its own photometric change."""
    parts = []
    if batch.photos:
        indices = bank.draw(batch.photos, generator)
        parts.append(homography_pairs(bank, indices, batch.size, generator))
    if batch.rooms:
        parts.append(scene_pairs(bank, batch.rooms, batch.size, generator))
    pairs = concatenate(parts)
    # So that a group of the reliability loss holds both kinds.
    order = torch.rand(len(pairs.flow), generator=generator, device=pairs.flow.device).argsort()
    first = change_photometry(pairs.first[order], generator)
    second = change_photometry(pairs.second[order], generator)
    return ViewPairs(first, second, pairs.flow[order], pairs.valid[order])


def describe(net: R2D2Net, pairs: ViewPairs) -> tuple[CoarseFeatures, CoarseFeatures]:
    """Features of both views in one pass."""
    device = pairs.first.device
    images = normalised(torch.cat([pairs.first, pairs.second]))
    half = device.type == "cuda" and net.training
    # A recorded step must not use the weights that were rounded for another.
    with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
        both = coarse_features(net, images)
    count = len(pairs.first)
    return CoarseFeatures(*(m[:count] for m in both)), CoarseFeatures(*(m[count:] for m in both))


def normalised(images: Tensor) -> Tensor:
    """What the network takes, of images in 0..1."""
    mean, std = (constant(v, images.device).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def losses(net: R2D2Net, pairs: ViewPairs, options: LossOptions) -> dict[str, Tensor]:
    """The total and its parts."""
    first, second = describe(net, pairs)
    reliability, precision = reliability_loss(first, second, pairs.flow, pairs.valid, options)
    parts = repeatability_losses(first.repeatability, second.repeatability, pairs, options)
    return {
        "loss": reliability + total(parts, options),
        "reliability": reliability,
        **parts,
        "ap": precision,
        "reliable": first.reliability.mean(),
    }


def detector_losses(net: R2D2Net, pairs: ViewPairs, options: LossOptions) -> dict[str, Tensor]:
    """Those of the detector alone, on a body that stays as it is."""
    images = normalised(torch.cat([pairs.first, pairs.second]))
    net.body.eval()
    with torch.no_grad():
        fine = net.fine_maps(images)
    both = repeatability_of(upsample(net.repeatability_head(fine), net.config.stem))
    parts = repeatability_losses(*both.chunk(2), pairs, options)
    return {"loss": total(parts, options), **parts}


def repeatability_losses(
    first: Tensor, second: Tensor, pairs: ViewPairs, options: LossOptions
) -> dict[str, Tensor]:
    """Of both views' maps (B, 1, S, S)."""
    flow, valid = pairs.flow, pairs.valid
    return {
        "repeatability": repeatability_loss(first, second, flow, valid, options.patch),
        "peakiness": peakiness_loss(torch.cat([first, second]), options.patch),
        "localization": localization_loss(first, second, flow, valid, options),
    }


def total(parts: dict[str, Tensor], options: LossOptions) -> Tensor:
    """The detector's part of the loss."""
    weighted = options.localization * parts["localization"]
    return parts["repeatability"] + parts["peakiness"] + weighted


@torch.no_grad()
def validate(net: R2D2Net, batches: list[ViewPairs]) -> dict[str, float]:
    """Mean matching accuracy at 1 and 3 px and the matches per pair."""
    net.eval()
    within = {1: 0.0, 3: 0.0}
    matches = count = 0.0
    for pairs in batches:
        first, second = describe(net, pairs)
        for i in range(len(pairs.flow)):
            one, two = keypoints(first, i), keypoints(second, i)
            similarity = one[1] @ two[1].T
            best, back = similarity.argmax(1), similarity.argmax(0)
            mutual = back[best] == torch.arange(len(best), device=best.device)
            x, y = one[0].unbind(1)
            mutual &= pairs.valid[i, y, x]
            error = (pairs.flow[i, y, x] - two[0][best]).norm(dim=1)[mutual]
            if len(error):
                matches += len(error)
                count += 1
                for limit in within:
                    within[limit] += float((error <= limit).float().mean())
    net.train()
    return {**{f"mma{k}": v / max(count, 1) for k, v in within.items()},
            "matches": matches / max(count, 1)}  # fmt: skip


def keypoints(features: CoarseFeatures, index: int) -> tuple[Tensor, Tensor]:
    """Places (n, 2) x, y and descriptors (n, D) of an image's best local maxima."""
    repeatability = features.repeatability[index]
    peak = repeatability == functional.max_pool2d(repeatability, 3, stride=1, padding=1)
    score = (repeatability * features.reliability[index] * peak)[0]
    score[:8], score[-8:], score[:, :8], score[:, -8:] = 0, 0, 0, 0
    chosen = score.flatten().topk(VALIDATION_KEYPOINTS).indices
    y, x = chosen // score.shape[1], chosen % score.shape[1]
    places = torch.stack([x, y], 1)
    found = descriptors_at(features.descriptors[index, None], places[None, None].float(),
                           score.shape[1])  # fmt: skip
    return places, found[0, 0]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    bank, held = split(load_bank(args.pack, args.device, args.limit_images))
    bank = add_facades(bank, args.facades, args.seed)
    held = add_facades(held, max(1, args.facades // 20), args.seed + 1)
    print(f"{len(bank.names)} images to train with, {len(held.names)} to validate with")
    net = R2D2Net(R2D2Config(width=args.width, downsample=args.downsample, stem=args.stem)).to(
        args.device
    )
    net.to(memory_format=torch.channels_last)
    # Squared descriptors are large: with weights drawn at random it starts saturated and stays so.
    torch.nn.init.zeros_(net.reliability_head.weight)
    if args.initial:
        body = load_file(args.initial)
        net.load_state_dict({k: v for k, v in body.items() if "repeat" not in k}, strict=False)
    learning = net.repeatability_head if args.detector_only else net
    group = {"params": list(learning.parameters()), "peak": args.learning_rate}
    optimizer = make_optimizer([group], weight_decay=5e-4, device=args.device)
    clock = Clock(args.minutes * 60, 0)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    step = resume(checkpoint, net, optimizer, clock) if checkpoint.exists() else 0

    batch = Batch(args.photos, args.rooms, args.size)
    options = LossOptions(localization=args.localization, ring=args.ring)
    fixed = torch.Generator(args.device).manual_seed(VALIDATION_SEED)
    validation = [make_pairs(held, batch, fixed) for _ in range(args.validation_batches)]
    # A resumed call must not repeat the pairs of the first.
    generator = torch.Generator(args.device).manual_seed(args.seed * 1_000_003 + step)

    def plain_step() -> dict[str, Tensor]:
        pairs = make_pairs(bank, batch, generator)
        values = (detector_losses if args.detector_only else losses)(net, pairs, options)
        optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return {key: value.detach() for key, value in values.items()}

    make_step = recorded(plain_step, generator)
    log, validated = Log(args.out / "log.csv"), Log(args.out / "validation.csv")
    clock.start(args.call_minutes * 60)
    saved = checked = time.monotonic()
    while not clock.over:
        set_learning_rate(optimizer, learning_rate_factor(clock.progress))
        log.add(make_step())
        step += 1
        if step % args.log_every == 0:
            log.write(step=step, seconds=clock.trained)
        if time.monotonic() - checked > args.validate_seconds:
            validated.write(step=step, seconds=clock.trained, **validate(net, validation))
            checked = time.monotonic()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, net, optimizer, step, clock)
            saved = time.monotonic()
    validated.write(step=step, seconds=clock.trained, **validate(net, validation))
    save_checkpoint(checkpoint, net, optimizer, step, clock)
    save_network(args.out / "network.safetensors", net.cpu().eval(), version=args.version,
                 licence="BSD-3-Clause")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pack", type=Path, nargs="+", required=True, help="image packs")
    parser.add_argument("--out", type=Path, required=True, help="folder of logs and results")
    parser.add_argument("--minutes", type=float, default=9, help="of the whole training")
    parser.add_argument("--call-minutes", type=float, default=600, help="of this call")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--version", default="1", help="written into the network's file")
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--downsample", type=int, default=2)
    parser.add_argument("--stem", type=int, default=2)
    parser.add_argument("--initial", type=Path, help="network to go on from, but for its detector")
    parser.add_argument("--detector-only", action="store_true", help="leave the rest as it is")
    parser.add_argument("--photos", type=int, default=30, help="homography pairs a batch")
    parser.add_argument("--rooms", type=int, default=18, help="scene pairs a batch")
    parser.add_argument("--size", type=int, default=224, help="side of a view in pixels")
    parser.add_argument("--localization", type=float, default=LossOptions().localization,
                        help="weight of that loss")  # fmt: skip
    parser.add_argument("--ring", type=float, default=LossOptions().ring,
                        help="pixels from the true place to a distractor")  # fmt: skip
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--facades", type=int, default=FACADES)
    parser.add_argument("--limit-images", type=int, help="load only so many images")
    parser.add_argument("--validation-batches", type=int, default=2)
    parser.add_argument("--validate-seconds", type=float, default=90)
    parser.add_argument("--log-every", type=int, default=20)
    train(parser.parse_args())


if __name__ == "__main__":
    main()

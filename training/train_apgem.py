"""Trains the small AP-GeM with the listwise loss (Revaud et al., ICCV 2019) over places.

    PYTHONPATH=. python training/train_apgem.py --pack out/images.zip \\
        --trunk out/mobilenet_v2.safetensors --out out/apgem --minutes 8

The trunk starts from the file of mobilenet_from_tflite.py, the linear layer from a whitening
PCA of the training images. Batch norms keep their statistics. Logs and results as in
train_r2d2.py; started again with the same OUT it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from average_precision import NOT_COUNTED, average_precision, to_unit_range
from facades import add_facades
from image_bank import ImageBank, load_bank, split
from photometry import change_photometry
from places import PlaceSampler
from torch import Tensor, nn
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

from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.r2d2_network import IMAGE_MEAN, IMAGE_STD
from kapture_ros.features.weights_file import save_network

BINS = 20
SHRINKAGE = 0.1  # of the whitening's variances towards their mean
VALIDATION_SEED = 7


def normalised(images: Tensor) -> Tensor:
    """0..1 to the network's input."""
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGE_STD, device=images.device).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def describe(net: ApGemNet, images: Tensor) -> Tensor:
    """(B, D) float32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        return functional.normalize(net(normalised(images)).float(), dim=1)


def listwise_loss(descriptors: Tensor, labels: Tensor) -> Tensor:
    """1 − the mean average precision of every view among all others."""
    similarity = to_unit_range(descriptors @ descriptors.T)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = similarity.masked_fill(~same | itself, NOT_COUNTED)
    negative = similarity.masked_fill(same, NOT_COUNTED)
    return 1 - average_precision(positive, negative, BINS).mean()


@torch.no_grad()
def initialise(net: ApGemNet, bank: ImageBank, size: int, power: float) -> None:
    """The linear layer as a PCA whitening of the pooled features of the training images.

    Args:
        power: of the variance that components are divided by; 0.5 whitens fully.
    """
    pooled = []
    for start in range(0, len(bank.names), 64):
        rows = range(start, min(start + 64, len(bank.names)))
        crops = [
            functional.interpolate(
                bank.pixels[row, : int(h), : int(w)].permute(2, 0, 1)[None].float() / 255,
                (size, round(size * 4 / 3)),
                mode="bilinear",
                antialias=True,
            )
            for row, (w, h) in ((row, bank.sizes[row].tolist()) for row in rows)
        ]
        features = net.pool(net.trunk(normalised(torch.cat(crops))))
        pooled.append(functional.normalize(features, dim=1).double().cpu())
    vectors = torch.cat(pooled)
    mean = vectors.mean(0)
    covariance = torch.cov((vectors - mean).T)
    variance, directions = torch.linalg.eigh(covariance)
    keep = net.config.descriptor_size
    variance, directions = variance.flip(0)[:keep].clamp(min=0), directions.flip(1)[:, :keep]
    variance = (1 - SHRINKAGE) * variance + SHRINKAGE * variance.mean()
    whitening = (directions * variance**-power).T
    whitening = whitening / (whitening @ (vectors - mean).T).norm(dim=0).mean()
    net.fc.weight.copy_(whitening)
    net.fc.bias.copy_(-whitening @ mean)


@torch.no_grad()
def validate(net: ApGemNet, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Recall@1 and mean average precision (by rank) among the views of held-out places."""
    net.eval()
    recalls, precisions = [], []
    for images, labels in batches:
        descriptors = describe(net, images)
        similarity = (descriptors @ descriptors.T).fill_diagonal_(-2)
        relevant = (labels[:, None] == labels).gather(1, similarity.argsort(1, descending=True))
        relevant[:, -1] = False  # itself
        ranks = torch.arange(1, len(labels) + 1, device=labels.device)
        precision = relevant.cumsum(1) / ranks * relevant
        recalls.append(relevant[:, 0].float().mean().item())
        precisions.append((precision.sum(1) / relevant.sum(1)).mean().item())
    return {"recall1": float(np.mean(recalls)), "map": float(np.mean(precisions))}


def make_batch(
    sampler: PlaceSampler, places: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Photometrically changed views and their places."""
    images, labels = sampler.draw(places, size)
    return change_photometry(images, generator), labels


def parameter_groups(net: ApGemNet, args: argparse.Namespace) -> list[dict[str, object]]:
    """A small learning rate for what was trained before, a larger one for the rest."""
    return [
        {"params": list(net.trunk.parameters()), "peak": args.trunk_rate},
        {"params": list(net.fc.parameters()), "peak": args.head_rate},
        {"params": list(net.pool.parameters()), "peak": 20 * args.head_rate, "weight_decay": 0.0},
    ]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    bank, held = split(load_bank(args.pack, args.device, args.limit_images))
    config = ApGemConfig("mobilenet_v2", args.descriptor_size, norm_features=True)
    net = ApGemNet(config).to(args.device, memory_format=torch.channels_last).eval()
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    if args.trunk:
        trunk = safetensors.torch.load_file(args.trunk)
        net.trunk.load_state_dict({k: v.float() for k, v in trunk.items()}, strict=False)
    optimizer = make_optimizer(parameter_groups(net, args), weight_decay=1e-4, device=args.device)
    clock = Clock(args.minutes * 60, 0)
    step = 0
    if checkpoint.exists():
        step = resume(checkpoint, net, optimizer, clock)
    else:
        initialise(net, bank, args.size, args.whitening_power)
    bank = add_facades(bank, args.facades, args.seed)
    print(f"{len(bank.names)} images to train with, {len(held.names)} to validate with")

    generator = torch.Generator(args.device).manual_seed(args.seed * 1_000_003 + step)
    fixed = torch.Generator(args.device).manual_seed(VALIDATION_SEED)
    held_sampler = PlaceSampler(held, args.views, VALIDATION_SEED)
    validation = [make_batch(held_sampler, args.validation_places, args.size, fixed)
                  for _ in range(4)]  # fmt: skip
    sampler = PlaceSampler(bank, args.views, args.seed * 1_000_003 + step)
    log, validated = Log(args.out / "log.csv"), Log(args.out / "validation.csv")
    validated.write(step=step, seconds=clock.before, **validate(net, validation))
    clock.start(args.call_minutes * 60)
    saved = checked = time.monotonic()
    while not clock.over:
        set_learning_rate(optimizer, learning_rate_factor(clock.progress))
        images, labels = make_batch(sampler, args.places, args.size, generator)
        loss = listwise_loss(describe(net, images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        log.add({"loss": loss})
        step += 1
        if step % args.log_every == 0:
            log.write(step=step, seconds=clock.trained, power=float(net.pool.p.detach()))
        if time.monotonic() - checked > args.validate_seconds:
            validated.write(step=step, seconds=clock.trained, **validate(net, validation))
            checked = time.monotonic()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, net, optimizer, step, clock)
            saved = time.monotonic()
    validated.write(step=step, seconds=clock.trained, **validate(net, validation))
    save_checkpoint(checkpoint, net, optimizer, step, clock)
    save_network(args.out / "network.safetensors", net.cpu(), version=args.version,
                 licence="BSD-3-Clause", half=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, nargs="+", required=True, help="image packs")
    parser.add_argument("--trunk", type=Path, help="initial trunk (else random)")
    parser.add_argument("--out", type=Path, required=True, help="folder of logs and results")
    parser.add_argument("--minutes", type=float, default=8, help="of the whole training")
    parser.add_argument("--call-minutes", type=float, default=600, help="of this call")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--version", default="1", help="written into the network's file")
    parser.add_argument("--descriptor-size", type=int, default=512)
    parser.add_argument("--places", type=int, default=96, help="places a batch")
    parser.add_argument("--views", type=int, default=4, help="views of a place")
    parser.add_argument("--size", type=int, default=256, help="side of a view in pixels")
    parser.add_argument("--trunk-rate", type=float, default=1e-4)
    parser.add_argument("--head-rate", type=float, default=3e-4)
    parser.add_argument("--whitening-power", type=float, default=0.4)
    parser.add_argument("--facades", type=int, default=300)
    parser.add_argument("--limit-images", type=int, help="load only so many images")
    parser.add_argument("--validation-places", type=int, default=24)
    parser.add_argument("--validate-seconds", type=float, default=60)
    parser.add_argument("--log-every", type=int, default=20)
    train(parser.parse_args())


if __name__ == "__main__":
    main()

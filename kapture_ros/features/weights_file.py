"""Networks in files: our own safetensors layout written and read, NAVER's checkpoints read.

Our layout is a safetensors file whose header holds, as text: `architecture` (r2d2 or
apgem), `version`, `licence`, and the fields of the network's config. Tensors are stored
under the names of the module's `state_dict`, in float32 or float16.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kapture_ros.errors import InputError
from kapture_ros.features import apgem_network, r2d2_network
from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.checkpoint import PickledPca, read_checkpoint
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net

BUNDLED_WEIGHTS = Path(__file__).parent.parent / "weights"
SUFFIXES = (".safetensors", ".pt", ".pth")
NAVER_R2D2_LICENCE = "CC BY-NC-SA 3.0 (NAVER, non-commercial)"
NAVER_APGEM_LICENCE = "as stated by NAVER deep-image-retrieval (non-commercial)"


@dataclass(frozen=True, slots=True)
class Whitening:
    """A principal component analysis of descriptors.

    Attributes:
        mean: (D,)
        components: (K, D), one principal direction a row, largest variance first.
        variance: (K,), the variance along each.
        scales: whether components are to be divided by a power of their variance.
    """

    mean: Tensor
    components: Tensor
    variance: Tensor
    scales: bool = True


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A network as read from a file, in evaluation mode, float32, on the CPU.

    Attributes:
        name: the file's name without suffix; part of the feature type's name.
        version: of the weights; empty for published checkpoints.
        sha256: of the file.
        whitenings: by the name of the data they were learned on; AP-GeM only.
    """

    name: str
    network: R2D2Net | ApGemNet
    version: str
    licence: str
    sha256: str
    whitenings: Mapping[str, Whitening]

    @property
    def model_name(self) -> str:
        """NAME-HASH: which weights these are."""
        # kapture's tables know no escape, so nothing may need one.
        return re.sub(r"[^\w.+-]+", "_", self.name) + f"-{self.sha256[:8]}"


def type_name(network: NetworkFile, readable: str, options: Any) -> str:
    """The kapture feature type NAME-HASH-SETTINGS of a network with these settings.

    Args:
        readable: what people want to see of the settings, without hyphens.
        options: the dataclass of all settings, of which the name holds a hash.
    """
    settings = hashlib.sha256(repr(dataclasses.astuple(options)).encode()).hexdigest()
    return f"{network.model_name}-{readable}_{settings[:6]}"


def weights_of_type(name: str) -> str:
    """The name of the weights in a feature type's name.

    Raises:
        InputError: if the type was not made by `kapture_ros extract`.
    """
    match = re.fullmatch(r"(.+)-[0-9a-f]{8}-[^-]+", name)
    if match is None:
        raise InputError(
            f"features of type '{name}' do not tell their weights: they were not made by "
            "`kapture_ros extract`"
        )
    return match[1]


def save_network(
    path: Path, network: R2D2Net | ApGemNet, *, version: str, licence: str, half: bool = False
) -> None:
    """Write a network in our layout; `half` stores float16 (the reader gives float32)."""
    state = {
        key: (value.half() if half and value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    metadata = {
        "architecture": "r2d2" if isinstance(network, R2D2Net) else "apgem",
        "version": version,
        "licence": licence,
        **network.config.metadata(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, str(path), metadata)


def find_weights(name: str | Path) -> Path:
    """The file that a name stands for: a path, installed weights, or bundled ones.

    Raises:
        InputError: if there is none, naming those there are.
    """
    path = Path(name)
    if path.suffix or path.is_file():
        if not path.is_file():
            raise InputError(f"no weights at {path}")
        return path
    folders = (installed_weights(), BUNDLED_WEIGHTS)
    for folder in folders:
        for candidate in sorted(folder.glob(f"{glob.escape(str(name))}.*")):
            if candidate.suffix in SUFFIXES:
                return candidate
    known = sorted(p.stem for f in folders for p in f.glob("*") if p.suffix in SUFFIXES)
    raise InputError(f"no weights '{name}'; known are {', '.join(known) or 'none'}, or give a path")


def installed_weights() -> Path:
    """Where `kapture_ros weights install` puts files."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "kapture_ros" / "weights"


def load_network(path: Path) -> NetworkFile:
    """A network from our layout (`.safetensors`) or a NAVER checkpoint (any other suffix).

    Raises:
        InputError: if the file is missing, damaged, or describes another network.
        UnsafeCheckpointError: if a checkpoint contains more than data.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    checkpoint = read_checkpoint(path)
    try:
        if "net" in checkpoint:
            config: R2D2Config | ApGemConfig = r2d2_network.naver_config(checkpoint["net"])
            state = r2d2_network.naver_state(checkpoint["state_dict"])
            licence = NAVER_R2D2_LICENCE
        elif "model_options" in checkpoint:
            config = apgem_network.naver_config(checkpoint["model_options"])
            state = apgem_network.naver_state(checkpoint["state_dict"])
            licence = NAVER_APGEM_LICENCE
        else:
            raise InputError(f"{path} holds neither R2D2 ('net') nor AP-GeM ('model_options')")
        pcas = dict(checkpoint.get("pca", {}))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not laid out as NAVER's checkpoints: {error!r}") from error
    network = _network(config, state, path)
    whitenings = {
        str(name): _whitening(pca, network.config.descriptor_size, path)
        for name, pca in pcas.items()
    }
    return NetworkFile(path.stem, network, "", licence, _sha256(path), whitenings)


def _load_safetensors(path: Path) -> NetworkFile:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise InputError(f"cannot read {path}: no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    architecture = metadata.get("architecture")
    if architecture == "r2d2":
        config: R2D2Config | ApGemConfig = R2D2Config.from_metadata(metadata)
    elif architecture == "apgem":
        config = ApGemConfig.from_metadata(metadata)
    else:
        raise InputError(f"{path}: unknown architecture {architecture!r} in its header")
    return NetworkFile(
        path.stem,
        _network(config, state, path),
        metadata.get("version", ""),
        metadata.get("licence", "unknown"),
        _sha256(path),
        {},
    )


def _network(
    config: R2D2Config | ApGemConfig, state: Mapping[str, Tensor], path: Path
) -> R2D2Net | ApGemNet:
    """The network with this state, strictly, except for batch counters, which nothing uses.

    It is built without memory of its own, so that what a file claims costs nothing.
    """
    try:
        with torch.device("meta"):
            network = R2D2Net(config) if isinstance(config, R2D2Config) else ApGemNet(config)
        counters = (key for key in network.state_dict() if key.endswith("num_batches_tracked"))
        values = {key: value.float() for key, value in state.items()}
        values |= {key: torch.zeros((), dtype=torch.long) for key in counters}
        network.load_state_dict(values, assign=True)
    except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} does not fit its own description: {reason}") from error
    return network.eval().requires_grad_(False)


def _whitening(pca: Any, size: int, path: Path) -> Whitening:
    """The whitening of descriptors of this size that a pickled PCA is."""
    if not isinstance(pca, PickledPca):
        raise InputError(f"{path}: the whitening is {type(pca).__name__}, not a PCA")
    values = vars(pca)
    try:
        mean, components, variance = (
            torch.as_tensor(values[key], dtype=torch.float64)
            for key in ("mean_", "components_", "explained_variance_")
        )
        scales = bool(values["whiten"])
    except KeyError as error:
        raise InputError(f"{path}: the whitening lacks {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the whitening is not made of numbers: {error}") from error
    shapes = tuple(mean.shape), tuple(components.shape), tuple(variance.shape)
    if shapes != ((size,), (len(variance), size), (len(variance),)):
        raise InputError(f"{path}: a whitening of {shapes} does not fit descriptors of {size}")
    return Whitening(mean, components, variance, scales)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

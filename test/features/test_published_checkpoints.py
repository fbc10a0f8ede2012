"""NAVER's checkpoint layouts are read as data; whatever else a file holds is not run."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import enliven, local_network, texture
from torch import Tensor
from torch.nn import functional

import kapture_ros.features.checkpoint as checkpoint_reader
from kapture_ros.errors import InputError, OptionError
from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet
from kapture_ros.features.checkpoint import UnsafeCheckpointError
from kapture_ros.features.global_descriptors import ApGemExtractor
from kapture_ros.features.options import ApGemOptions
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net, normalise_images
from kapture_ros.features.weights_file import load_network

PCA_MODULES = ("sklearn.decomposition.pca", "sklearn.decomposition._pca")
SIZE = 24


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A ResNet-18 AP-GeM under the names of NAVER's release."""
    network = ApGemNet(ApGemConfig("resnet18", SIZE))
    enliven(network)
    network.pool.p.data.fill_(2.7)
    return {
        key.removeprefix("trunk.").replace("pool.p", "adpool.p"): value
        for key, value in network.state_dict().items()
    }


def checkpoint(state: dict[str, Tensor], pca: Any = None) -> dict[str, Any]:
    options = {"arch": "resnet18_rmac", "out_dim": SIZE, "pooling": "gem", "gemp": 3}
    content: dict[str, Any] = {"model_options": options, "state_dict": state}
    return content | ({"pca": {"Landmarks_clean": pca}} if pca is not None else {})


def pickled_pca(monkeypatch: pytest.MonkeyPatch, module: str) -> Any:
    """What scikit-learn leaves in a pickle, under its module's name then or now."""
    pca = type("PCA", (), {"__module__": module})
    holder = types.ModuleType(module)
    holder.PCA = pca  # type: ignore[attr-defined]
    for name in ("sklearn", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module, holder)
    rng = np.random.default_rng(0)
    directions, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    made = pca()
    vars(made).update(
        n_components=SIZE,
        whiten=True,
        mean_=rng.normal(size=SIZE) * 0.1,
        components_=directions,
        explained_variance_=np.sort(rng.uniform(0.1, 2, SIZE))[::-1].copy(),
        noise_variance_=np.float64(0.1),
        n_samples_=100,
    )
    return made


def resnet18_apgem(state: dict[str, Tensor], image: np.ndarray) -> np.ndarray:
    """The network written out with PyTorch's functions."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = normalise_images(torch.tensor(image).permute(2, 0, 1)[None])
    x = functional.max_pool2d(functional.relu(conv(x, "conv1", "bn1", 2)), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            out = functional.relu(conv(x, f"{at}.conv1", f"{at}.bn1", stride))
            out = conv(out, f"{at}.conv2", f"{at}.bn2")
            if stride == 2:
                x = conv(x, f"{at}.downsample.0", f"{at}.downsample.1", 2)
            x = functional.relu(out + x)
    power = state["adpool.p"]
    pooled = x.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)
    return functional.normalize(pooled @ state["fc.weight"].T + state["fc.bias"])[0].numpy()


@pytest.mark.parametrize(("layout", "module"), [*zip(("legacy", "zip"), PCA_MODULES, strict=True)])
def test_apgem_with_a_pickled_whitening_gives_what_a_direct_computation_gives(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: dict[str, Tensor],
    layout: str,
    module: str,
) -> None:
    path = tmp_path / "Resnet18-AP-GeM.pt"
    pca = pickled_pca(monkeypatch, module)
    content = checkpoint({f"module.{key}": value for key, value in trained.items()}, pca)
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    monkeypatch.undo()  # scikit-learn is not there when the file is read
    image = texture(80, 96)
    vector = resnet18_apgem(trained, image)
    np.testing.assert_allclose(ApGemExtractor(path).extract([image])[0], vector, atol=1e-5)

    options = ApGemOptions(whitening="Landmarks_clean", whitening_power=0.5, whitening_size=16)
    whitened = (vector - pca.mean_) @ pca.components_[:16].T
    whitened /= pca.explained_variance_[:16] ** 0.5
    whitened /= np.linalg.norm(whitened)
    extractor = ApGemExtractor(path, options)
    assert extractor.descriptor_size == 16
    np.testing.assert_allclose(extractor.extract([image])[0], whitened, atol=1e-5)
    with pytest.raises(OptionError, match="'whitening_size' is 25 but 'Landmarks_clean' has 24"):
        ApGemExtractor(path, ApGemOptions(whitening="Landmarks_clean", whitening_size=25))


@pytest.mark.parametrize(
    ("net", "config"),
    [
        ("Quad_L2Net_ConfCFS()", R2D2Config()),
        ("Quad_L2Net_ConfCFS(mchan=6)", R2D2Config(width=6)),
        ("Fast_Quad_L2Net_ConfCFS(downsample_factor=2)", R2D2Config(downsample=2)),
        ("Fast_Quad_L2Net_ConfCFS(mchan=6, relu22=True)", R2D2Config(6, 128, 2, True)),
    ],
)
def test_r2d2_is_built_as_the_checkpoint_describes_it(
    tmp_path: Path, net: str, config: R2D2Config
) -> None:
    network = local_network(config)
    names = {"body": "ops", "reliability_head": "clf", "repeatability_head": "sal"}
    state = {}
    for key, value in network.state_dict().items():
        part, _, rest = key.partition(".")
        state[f"module.{names[part]}.{rest}"] = value
    path = tmp_path / "r2d2.pt"
    torch.save({"net": net, "state_dict": state}, path)
    loaded = load_network(path).network
    assert isinstance(loaded, R2D2Net)
    assert loaded.config == config
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, atol=0, rtol=0)


@pytest.mark.parametrize(
    "net",
    ["Quad_L2Net(dim=__import__('os').getcwd())", "print('x')", "Quad_L2Net_ConfCFS(", "a.b()"],
)
def test_a_networks_description_is_never_evaluated(tmp_path: Path, net: str) -> None:
    path = tmp_path / "r2d2.pt"
    torch.save({"net": net, "state_dict": {}}, path)
    with pytest.raises(InputError):
        load_network(path)


class Hostile:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("where", ["value", "whitening", "state"])
@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, f"{os.name}.system"), (eval, "__builtin__.eval")]
)
def test_a_hostile_checkpoint_is_refused_by_name_and_not_run(
    tmp_path: Path,
    where: str,
    layout: str,
    function: Any,
    named: str,
) -> None:
    trace = tmp_path / "it-ran"
    command = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()"
    hostile = Hostile(function, command)
    content = checkpoint({"fc.weight": torch.ones(3, 4)}, hostile if where == "whitening" else None)
    if where == "value":
        content["note"] = hostile
    if where == "state":
        content["state_dict"]["fc.bias"] = hostile
    path = tmp_path / "hostile.pt"
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(UnsafeCheckpointError, match=named):
        load_network(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile))  # but it would have
    assert trace.exists()


def test_a_class_inside_a_whitening_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pca = pickled_pca(monkeypatch, PCA_MODULES[0])
    pca.random_state = np.random.RandomState(0)
    path = tmp_path / "stateful.pt"
    torch.save(checkpoint({}, pca), path)
    with pytest.raises(UnsafeCheckpointError, match=r"numpy\.random"):
        load_network(path)


def zipped(path: Path, instructions: bytes) -> Path:
    """A checkpoint that consists of these pickle instructions."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", instructions)
    return path


TOUCH = b"X\x06\x00\x00\x00it-ran"
TO_HARM = {
    "by REDUCE": (b"cos\nmkdir\n" + TOUCH + b"\x85R.", r"os\.mkdir"),
    "by INST": (b"(" + TOUCH + b"ios\nmkdir\n.", r"os\.mkdir"),
    "by OBJ": (b"(cos\nmkdir\n" + TOUCH + b"o.", r"os\.mkdir"),
    "by NEWOBJ": (b"cos\nDirEntry\n)\x81.", r"os\.DirEntry"),
    "by a dotted name": (b"\x80\x04\x8c\x05torch\x8c\x0ahub.os.abc\x93.", r"torch\.hub\.os"),
    "by what is admitted": (b"csklearn.decomposition.pca\nPCA.__init__\n.", r"PCA\.__init__"),
    "by the registry": (b"\x82\x01.", "extension"),
    "by a memo of gigabytes": (b"}r\xff\xff\xff\x7f.", "exhaust memory"),
    "by a string of exabytes": (b"\x8d" + b"\x7f" * 8 + b".", "bytes"),
    "by a stack of tuples": (b"})" + b"\x85" * 100_000 + b"Ns.", "exhaust memory"),
    "by a loop": (b"}q\x00Nh\x00s.", "recursion"),
    "by doubling": (b"}X\x03\x00\x00\x00net)" + b"2\x86" * 90 + b"s.", "that is no text"),
}


@pytest.mark.parametrize("how", TO_HARM)
def test_pickle_instructions_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    instructions, named = TO_HARM[how]
    with pytest.raises(InputError, match=named):
        load_network(zipped(tmp_path / "hostile.pt", b"\x80\x02" + instructions))
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["_codecs encode", "torch._utils _rebuild_tensor_v2"])
def test_what_a_pickle_writes_to_what_it_names_is_gone_with_it(tmp_path: Path, name: str) -> None:
    named = b"c" + name.replace(" ", "\n").encode() + b"\n"
    writes = b"N}X\x0c\x00\x00\x00__defaults__K\x07\x85s\x86b."
    with pytest.raises(InputError, match="found function"):  # it did write
        load_network(zipped(tmp_path / "hostile.pt", b"\x80\x02" + named + writes))
    assert checkpoint_reader._encode.__defaults__ is None
    assert checkpoint_reader._rebuild_tensor.__defaults__ is None


@pytest.mark.parametrize(
    "content",
    [
        {"net": "Quad_L2Net_ConfCFS()"},
        {"net": "Quad_L2Net_ConfCFS()", "state_dict": [1]},
        {"net": "Quad_L2Net_ConfCFS()", "state_dict": {1: 2}},
        {"net": "Quad_L2Net_ConfCFS()", "state_dict": {"ops.0.weight": "text"}},
        {"net": "Quad_L2Net_ConfCFS()", "state_dict": {"ops.0.weight": torch.ones(2)}},
        {"net": "Quad_L2Net_ConfCFS(mchan=-1)", "state_dict": {}},
        {"net": "Fast_Quad_L2Net_ConfCFS(downsample_factor=0)", "state_dict": {}},
        {"net": "Quad_L2Net_ConfCFS(mchan=100000)", "state_dict": {}},  # 23 TB
        {"net": f"Quad_L2Net_ConfCFS(mchan={10**30})", "state_dict": {}},
        {"net": "Quad_L2Net_ConfCFS(dim=" + "-" * 200_000 + "1)", "state_dict": {}},
        {"model_options": [1], "state_dict": {}},
        {"model_options": {"arch": "resnet18_rmac", "out_dim": "many"}, "state_dict": {}},
        {"model_options": {"arch": "resnet18_rmac", "out_dim": 10**12}, "state_dict": {}},
        {"weights": {}},
    ],
    ids=lambda content: str(content)[:70],
)
def test_what_is_no_network_is_an_error_that_names_the_file(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError):
        load_network(tmp_path / "other.pt")


def test_a_whitening_of_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Tensor]
) -> None:
    pca = pickled_pca(monkeypatch, PCA_MODULES[0])
    pca.mean_ = pca.mean_[:-1]
    torch.save(checkpoint(trained, pca), tmp_path / "cut.pt")
    with pytest.raises(InputError, match="does not fit descriptors of 24"):
        load_network(tmp_path / "cut.pt")


@pytest.mark.parametrize("keep", [0, 10, 200, -100])
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_torn_checkpoint_is_an_error_that_names_the_file(
    tmp_path: Path, layout: str, keep: int
) -> None:
    path = tmp_path / "torn.pt"
    torch.save(
        checkpoint({"fc.weight": torch.ones(9, 9)}),
        path,
        _use_new_zipfile_serialization=layout == "zip",
    )
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"torn\.pt"):
        load_network(path)

"""Which networks are known by name, under which licence, and whether a file is really one.

Bundled files lie beside this module; others are installed from a file or an address into
the user's folder. Neither is ever downloaded without being asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import http.client
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from kapture_ros.errors import InputError, OutputError
from kapture_ros.features.r2d2_network import R2D2Net
from kapture_ros.features.weights_file import (
    BUNDLED_WEIGHTS,
    SUFFIXES,
    NetworkFile,
    installed_weights,
    load_network,
)

DOWNLOAD_TIMEOUT = 60  # seconds without a byte
LOCAL, GLOBAL = "local features", "global features"

_R2D2_LICENCE = "CC BY-NC-SA 3.0, non-commercial"
_R2D2_SOURCE = "https://github.com/naver/r2d2/raw/master/models/"
_APGEM_LICENCE = "NAVER, see github.com/naver/deep-image-retrieval; trained on Google Landmarks"


@dataclass(frozen=True, slots=True)
class Known:
    """A network that has a name.

    Attributes:
        sha256: of the file; empty where it was never published.
        source: an address to install it from; empty where there is none.
    """

    name: str
    use: str
    licence: str
    sha256: str
    source: str = ""
    bundled: bool = False


KNOWN = (
    Known(
        "r2d2-fast-free",
        LOCAL,
        "BSD-3-Clause",
        "022965140d48aa3003a5fd17db020763da21224e43124a4325b10533f0c1330c",
        bundled=True,
    ),
    Known(
        "apgem-small-free",
        GLOBAL,
        "BSD-3-Clause; trunk from Apache-2.0 weights",
        "ec03f0cbc512cc498aac8d1a59aa89922edc250c99bf738f37ab45107005b6be",
        bundled=True,
    ),
    Known(
        "r2d2_WASF_N16",
        LOCAL,
        _R2D2_LICENCE,
        "9ae90e02a9a133d100ca7aeaa32f4d4d7736a6dd222a530a25c8f7da5e508528",
        _R2D2_SOURCE + "r2d2_WASF_N16.pt",
    ),
    Known(
        "r2d2_WAF_N16",
        LOCAL,
        _R2D2_LICENCE,
        "27cebd6608317b35198a76f60f87492110dee3e88ca382586a729dadb1a16b90",
        _R2D2_SOURCE + "r2d2_WAF_N16.pt",
    ),
    Known(
        "r2d2_WASF_N8_big",
        LOCAL,
        _R2D2_LICENCE,
        "597dc13998e211e827c550bdc8f76dbb4aca32747846f96962c9168586cec418",
        _R2D2_SOURCE + "r2d2_WASF_N8_big.pt",
    ),
    Known(
        "faster2d2_WASF_N16",
        LOCAL,
        _R2D2_LICENCE,
        "217daa3a166bfe9bf2b68c05c1607a09dd4d552ae1bbeda885479d504eefc14b",
        _R2D2_SOURCE + "faster2d2_WASF_N16.pt",
    ),
    Known(
        "faster2d2_WASF_N8_big",
        LOCAL,
        _R2D2_LICENCE,
        "",
        _R2D2_SOURCE + "faster2d2_WASF_N8_big.pt",
    ),
    Known("Resnet101-AP-GeM-LM18", GLOBAL, _APGEM_LICENCE, ""),
)


class State(Enum):
    """What is known about a file."""

    MISSING = "not installed"
    VERIFIED = "ok, the hash is right"
    UNPUBLISHED = "readable, but there is no published hash to compare with"
    DAMAGED = "DAMAGED: another hash than published"
    UNREADABLE = "UNREADABLE"


@dataclass(frozen=True, slots=True)
class Found:
    """A network and its file, if there is one."""

    known: Known
    path: Path | None
    state: State
    sha256: str = ""


def everything() -> list[Known]:
    """The listed networks, and what else the user installed."""
    listed = {known.name for known in KNOWN}
    found = list(KNOWN)
    for path in sorted(installed_weights().glob("*")):
        if path.suffix in SUFFIXES and path.stem not in listed:
            try:
                found.append(_described(load_network(path)))
            except InputError:
                found.append(Known(path.stem, "unreadable", "unknown", ""))
    return found


def _described(loaded: NetworkFile) -> Known:
    """A network that is not listed, by what its file says."""
    use = LOCAL if isinstance(loaded.network, R2D2Net) else GLOBAL
    return Known(loaded.name, use, loaded.licence, "")


def find(name: str) -> Known:
    """The network of this name.

    Raises:
        InputError: if it is not known, with the nearest known one.
    """
    names = {known.name: known for known in everything()}
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}"
        raise InputError(f"unknown weights '{name}'; {hint}")
    return names[name]


def path_of(known: Known) -> Path | None:
    """Its bundled or installed file."""
    folder = BUNDLED_WEIGHTS if known.bundled else installed_weights()
    paths = (folder / f"{known.name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def verify(known: Known) -> Found:
    """Compare its file with the published hash, or at least read it."""
    path = path_of(known)
    if path is None:
        return Found(known, None, State.MISSING)
    try:
        sha256 = hash_of(path)
        if known.sha256:
            right = sha256 == known.sha256
            return Found(known, path, State.VERIFIED if right else State.DAMAGED, sha256)
        load_network(path)
    except InputError:
        return Found(known, path, State.UNREADABLE)
    return Found(known, path, State.UNPUBLISHED, sha256)


def install(source: str, name: str | None = None, sha256: str | None = None) -> Found:
    """Copy or download a network into the user's folder, if it is the right one.

    Args:
        source: a file, an http(s) or file address, or a known name that has an address.
        name: which network it is; by default the file's name.
        sha256: what to expect where no hash is published, or instead of a known name.

    Raises:
        InputError: if the name is unknown and no hash is given, if the source cannot be read
            or is no network, or if its hash is not the expected one; nothing is installed.
        OutputError: if the user's folder cannot be written.
    """
    listed = next((known for known in KNOWN if known.name == source), None)
    if listed is not None:
        if not listed.source:
            raise InputError(f"'{source}' has no address to download from; give a file")
        source, name = listed.source, listed.name
    file = Path(_address(source) or source)
    if file.suffix not in SUFFIXES:
        near = difflib.get_close_matches(source, [known.name for known in KNOWN], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{source}: expected a file that ends with {' or '.join(SUFFIXES)}{hint}")
    name = name or file.stem
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise InputError(f"'{name}' cannot be the name of a network")
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"'{sha256}' is no SHA-256: 64 hexadecimal digits")
    known = Known(name, "", "", sha256.lower()) if sha256 else find(name)
    if known.bundled or (BUNDLED_WEIGHTS / f"{name}.safetensors").exists():
        raise InputError(f"'{name}' is bundled and needs no installation")
    folder = installed_weights()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that it becomes one in a single step.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            fetched = Path(temporary) / f"{name}{file.suffix}"
            _fetch(source, fetched)
            loaded = _checked(fetched, known, source)
            target = fetched.replace(folder / fetched.name)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    if sha256:
        known = dataclasses.replace(_described(loaded), sha256=known.sha256)
    state = State.VERIFIED if known.sha256 else State.UNPUBLISHED
    return Found(known, target, state, loaded.sha256)


def _checked(fetched: Path, known: Known, source: str) -> NetworkFile:
    """The network in the file, if the file is the expected one."""
    found = hash_of(fetched)
    if known.sha256 and found != known.sha256:
        raise InputError(
            f"{source} is not {known.name}: its SHA-256 is {found}, expected {known.sha256};"
            " the download is damaged or the file another one"
        )
    try:
        return load_network(fetched)
    except InputError as error:
        raise type(error)(str(error).replace(str(fetched), source)) from error


def hash_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _address(source: str) -> str:
    """The path in an address, or nothing if it is none.

    Raises:
        InputError: if it is a malformed one.
    """
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise InputError(f"{source} is not an address: {error}") from error
    return parts.path if parts.scheme in ("http", "https", "file") else ""


def _fetch(source: str, target: Path) -> None:
    """Copy or download the source."""
    try:
        if _address(source):
            request = urllib.request.Request(source, headers={"User-Agent": "kapture_ros"})
            with (
                urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT) as response,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
        else:
            shutil.copyfile(source, target)
    except urllib.error.URLError as error:
        raise InputError(f"cannot download {source}: {error.reason}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise InputError(f"cannot download {source}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error

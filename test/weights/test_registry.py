"""Known networks are told apart by their hashes; nothing wrong is ever installed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from kapture_ros.cli.main import main
from kapture_ros.errors import InputError
from kapture_ros.features.r2d2_network import R2D2Config, R2D2Net
from kapture_ros.features.weights_file import find_weights, load_network, save_network
from kapture_ros.weights import registry
from kapture_ros.weights.registry import KNOWN, Known, State, find, install, path_of, verify

BUNDLED = [known for known in KNOWN if known.bundled]
LIMIT_BYTES = {"r2d2-fast-free": 3_000_000, "apgem-small-free": 25_000_000}


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs go to a folder of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "mine.safetensors"
    save_network(path, R2D2Net(R2D2Config(width=1)), version="1", licence="BSD-3-Clause")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("known", BUNDLED, ids=lambda known: known.name)
def test_bundled_weights_have_the_published_hash_a_card_and_a_free_licence(known: Known) -> None:
    found = verify(known)
    assert found.state is State.VERIFIED
    assert found.path is not None
    assert found.path.stat().st_size <= LIMIT_BYTES[known.name]
    card = found.path.with_suffix(".md").read_text()
    for heading in ("## Data", "## Licence", "## Training", "## Measured"):
        assert heading in card
    assert load_network(found.path).licence.startswith("BSD-3-Clause")


@pytest.mark.parametrize("known", BUNDLED, ids=lambda known: known.name)
def test_bundled_weights_are_found_by_name(known: Known) -> None:
    assert find_weights(known.name) == path_of(known)


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match="did you mean 'r2d2_WASF_N16'"):
        find("r2d2_WASF_N61")


def test_every_published_hash_is_a_sha256() -> None:
    assert all(len(known.sha256) in (0, 64) for known in KNOWN)
    assert len({known.name for known in KNOWN}) == len(KNOWN)


def test_a_file_with_the_expected_hash_is_installed_and_found(network: Path) -> None:
    found = install(str(network), sha256=sha256(network))
    assert found.state is State.VERIFIED
    assert found.path is not None
    assert find_weights("mine") == found.path
    assert sha256(found.path) == sha256(network)


def test_an_address_is_downloaded(network: Path) -> None:
    found = install(network.as_uri(), name="theirs", sha256=sha256(network))
    assert find_weights("theirs") == found.path


def test_a_network_that_is_not_listed_appears_after_its_installation(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["weights", "install", str(network), "--sha256", sha256(network)])
    assert main(["weights", "list"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split() == ["mine", "local", "features", "installed", "BSD-3-Clause"]
    assert verify(find("mine")).state is State.UNPUBLISHED


def test_a_failed_installation_leaves_the_installed_network_alone(network: Path) -> None:
    installed = install(str(network), sha256=sha256(network)).path
    with pytest.raises(InputError):
        install(str(network), sha256="0" * 64)
    assert installed.read_bytes() == network.read_bytes()
    assert list(installed.parent.iterdir()) == [installed]


@pytest.mark.parametrize(
    "name", ["../mine", "..", ".mine", "/etc/mine", "a/b", "a\\b", "a\nb", "*"]
)
def test_a_name_cannot_lead_out_of_the_folder(network: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        install(str(network), name=name, sha256=sha256(network))


def test_what_is_no_hash_is_refused(network: Path) -> None:
    with pytest.raises(InputError, match="'9ae9…' is no SHA-256"):
        install(str(network), sha256="9ae9…")


class Server(BaseHTTPRequestHandler):
    """Gives a file whole, cut off, or not at all."""

    content = b""

    def do_GET(self) -> None:
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[:100] if "cut" in self.path else self.content)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(network: Path) -> Iterator[str]:
    handler = type("Handler", (Server,), {"content": network.read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_is_installed_only_if_all_of_it_came(
    server: str, network: Path, user_folder: Path
) -> None:
    expected = sha256(network)
    for path, complaint in (
        ("missing/mine.safetensors", "cannot download .*: Not Found"),
        ("cut/mine.safetensors", "is not mine: its SHA-256 is .* the download is damaged"),
    ):
        with pytest.raises(InputError, match=complaint):
            install(f"{server}/{path}", sha256=expected)
    assert not list(user_folder.rglob("*.safetensors"))
    found = install(f"{server}/mine.safetensors?raw=true", sha256=expected)
    assert found.state is State.VERIFIED
    assert find_weights("mine") == found.path


def test_another_hash_is_refused_and_nothing_is_installed(network: Path, user_folder: Path) -> None:
    with pytest.raises(InputError, match=r"its SHA-256 is .*, expected 0000"):
        install(str(network), sha256="0" * 64)
    assert not list(user_folder.rglob("*.safetensors"))


def test_a_known_name_demands_its_published_hash(network: Path) -> None:
    with pytest.raises(InputError, match="is not r2d2_WASF_N16"):
        install(str(network), name="r2d2_WASF_N16")


def test_an_unknown_network_needs_a_hash(network: Path) -> None:
    with pytest.raises(InputError, match="unknown weights 'mine'"):
        install(str(network))


def test_a_file_that_is_no_network_is_refused_by_its_own_name(tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not a network")
    with pytest.raises(InputError, match=f"{text} is not a safetensors file"):
        install(str(text), sha256=sha256(text))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("/nowhere/net.pt", "cannot read /nowhere/net.pt"),
        ("file:///nowhere/net.pt", "cannot download file:///nowhere/net.pt"),
        ("http://127.0.0.1:9/net.pt", "cannot download http://127.0.0.1:9/net.pt"),
        ("http://[bad/net.pt", "is not an address"),
        ("http://127.0.0.1:many/net.pt", "cannot download"),
        ("readme.txt", "expected a file that ends with"),
        ("r2d2_WAF_N61", "did you mean 'r2d2_WAF_N16'"),
        ("Resnet101-AP-GeM-LM18", "has no address"),
    ],
)
def test_sources_that_cannot_be_read_are_named(source: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        install(source, sha256="0" * 64)


def test_bundled_names_cannot_be_replaced(network: Path) -> None:
    with pytest.raises(InputError, match="is bundled"):
        install(str(network), name="r2d2-fast-free")


def test_a_known_network_without_published_hash_is_at_least_read(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known("old-one", "local features", "unknown", "")
    monkeypatch.setattr(registry, "KNOWN", (*KNOWN, known))
    found = install(str(network), name="old-one")
    assert found.state is State.UNPUBLISHED
    assert verify(known).state is State.UNPUBLISHED
    found.path.write_bytes(b"damaged")
    assert verify(known).state is State.UNREADABLE


def test_damage_after_installation_is_noticed(
    network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Known("good-one", "local features", "MIT", sha256(network))
    monkeypatch.setattr(registry, "KNOWN", (*KNOWN, known))
    found = install(str(network), name="good-one")
    assert verify(known).state is State.VERIFIED
    with found.path.open("ab") as file:
        file.write(b"!")
    assert verify(known).state is State.DAMAGED
    assert main(["weights", "verify", "good-one"]) == 1
    assert "another hash than published" in capsys.readouterr().out


def test_the_command_lists_every_network_with_its_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(KNOWN)
    for known, line in zip(KNOWN, lines, strict=True):
        assert known.name in line
        assert known.licence in line


def test_the_command_installs_and_shows_the_licence(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "install", str(network), "--sha256", sha256(network)]) == 0
    shown = capsys.readouterr().out
    assert "licence:" in shown
    assert sha256(network) in shown


def test_the_command_verifies_what_is_bundled() -> None:
    assert main(["weights", "verify"]) == 0


def test_naver_weights_of_the_shared_folder_have_the_published_hash(shared_data: Path) -> None:
    for path in (shared_data.parent / "weights").glob("*.pt"):
        assert sha256(path) == find(path.stem).sha256

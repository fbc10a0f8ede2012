"""`kapture_ros weights list|install|verify`: networks, their licences and their files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kapture_ros.weights.registry import Found

HELP = "List, install and verify networks for local and global features."
EXAMPLES = """\
  kapture_ros weights list                            what there is, and its licence
  kapture_ros weights verify                          compare every file with its hash
  kapture_ros weights install r2d2_WASF_N16           download NAVER's (non-commercial)
  kapture_ros weights install Downloads/r2d2_WASF_N16.pt
  kapture_ros weights install https://example.org/mine.safetensors --sha256 9ae9…

exit codes: 0 as asked; 1 an error, or a file that is damaged
"""
EXIT_DAMAGED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three actions and their arguments."""
    actions = parser.add_subparsers(title="actions", dest="action", required=True)
    actions.add_parser("list", help="known networks, licences, where they are")
    verify = actions.add_parser("verify", help="compare files with their hashes")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are there")
    install = actions.add_parser("install", help="add a network from a file or an address")
    install.add_argument("source", metavar="SOURCE", help="file, http(s) address or known name")
    install.add_argument("--name", help="which network it is (default: the file's name)")
    install.add_argument("--sha256", help="its hash, for networks that are not in the list")


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    if args.action == "list":
        return _list()
    if args.action == "verify":
        return _verify(args.names)
    return _install(args)


def _list() -> int:
    from kapture_ros.weights.registry import everything, path_of

    for known in everything():
        path = path_of(known)
        where = "bundled" if known.bundled else "installed" if path else "not installed"
        print(f"{known.name:24s} {known.use:16s} {where:14s} {known.licence}")
    return 0


def _verify(names: list[str]) -> int:
    from kapture_ros.weights.registry import State, everything, find, verify

    results = [verify(known) for known in (map(find, names) if names else everything())]
    if not names:
        results = [found for found in results if found.state is not State.MISSING]
    for found in results:
        print(f"{found.known.name:24s} {found.state.value}{_location(found)}")
    wrong = {State.DAMAGED, State.UNREADABLE, State.MISSING}
    return EXIT_DAMAGED if any(found.state in wrong for found in results) else 0


def _location(found: Found) -> str:
    return f" ({found.path}, SHA-256 {found.sha256 or 'none'})" if found.path else ""


def _install(args: argparse.Namespace) -> int:
    from kapture_ros.weights.registry import install

    found = install(args.source, args.name, args.sha256)
    print(f"installed {found.path}")
    print(f"SHA-256 {found.sha256}: {found.state.value}")
    print(f"licence: {found.known.licence}")
    return 0

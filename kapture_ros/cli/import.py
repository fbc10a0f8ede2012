"""`kapture_ros import`: recordings in other formats to kapture datasets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kapture_ros.errors import InputError

HELP = "Import recordings in other formats (Wi-Fi walks of phones)."
EXAMPLES = """\
  kapture_ros import wifi-walks walks/ datasets/     one dataset a walk: datasets/WALK
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("format", choices=("wifi-walks",), help="what is imported")
    parser.add_argument("source", type=Path, help="file of a walk, or folder of them (*.txt)")
    parser.add_argument("out", type=Path, help="folder that gets one dataset a walk")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> None:
    """Import every walk; one that cannot be read is named and passed over."""
    from tqdm import tqdm

    from kapture_ros.dataset.wifi_walks import read_walk, write_walk
    from kapture_ros.files import new_output

    paths = sorted(args.source.glob("*.txt")) if args.source.is_dir() else [args.source]
    if not paths or not paths[0].exists():
        raise InputError(f"no walks at {args.source}: expected a file, or a folder with *.txt")
    done = 0
    with new_output(args.out, overwrite=args.overwrite, inputs=[args.source]) as folder:
        for path in tqdm(paths, "walks", unit="walk", disable=None):
            try:
                walk = read_walk(path)
            except InputError as error:
                print(f"skipped: {error}", file=sys.stderr)
                continue
            write_walk(walk, folder / path.stem)
            done += 1
            if walk.damaged:
                print(f"{path}: {len(walk.damaged)} damaged lines skipped", file=sys.stderr)
        if not done:
            raise InputError(f"no walk at {args.source} could be read (see above)")
    print(f"{args.out}: {done} of {len(paths)} walks")

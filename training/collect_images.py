"""Packs the training images that sources.yaml lists into one zip that travels to the GPU.

Repositories are bare clones (`git clone --bare` into MIRROR/OWNER+NAME/repo), folders lie
under --shared. Entries are `SOURCE/GROUP/POSITION[_LAP].webp`: near positions of one group
show the same place (frames of a walk, views of a panorama); a photo is a group of its own.

    python training/collect_images.py --mirror MIRROR --shared ../shared --out out/images.zip
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from tqdm import tqdm

WEBP_QUALITY = 82
MIN_SIDE = 200  # shorter sides leave too little for a training crop


def list_files(source: dict[str, Any], mirror: Path, shared: Path) -> list[str]:
    """Sorted paths of a source's files that are at hand."""
    if "repository" in source:
        listing = git(source, mirror, "ls-tree", "-r", "-l", source["commit"]).decode()
        rows = [line.split("\t", 1) for line in listing.splitlines()]
        # A partial clone lists its largest files as BAD: absent.
        paths = [path for head, path in rows if not head.endswith("BAD")]
    else:
        root = shared / source["folder"]
        paths = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    included = re.compile(source["include"])
    excluded = re.compile(source.get("exclude", "(?!)"))
    return sorted(
        (path for path in paths if included.fullmatch(path) and not excluded.search(path)),
        key=natural_order,
    )


def natural_order(path: str) -> list[tuple[int, str]]:
    """`2.jpg` before `10.jpg`."""
    return [
        (int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", path) if part
    ]


def git(source: dict[str, Any], mirror: Path, *arguments: str) -> bytes:
    clone = mirror / source["repository"].replace("/", "+") / "repo"
    return subprocess.run(
        ["git", "-C", str(clone), *arguments], check=True, capture_output=True
    ).stdout


def read(source: dict[str, Any], mirror: Path, shared: Path, path: str) -> bytes:
    if "repository" in source:
        return git(source, mirror, "show", f"{source['commit']}:{path}")
    return (shared / source["folder"] / path).read_bytes()


def images_of(
    source: dict[str, Any], mirror: Path, shared: Path
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Group, position and BGR image of everything a source contributes."""
    every = source.get("every", 1)
    for number, path in enumerate(list_files(source, mirror, shared)):
        if source["kind"] in ("photos", "frames") and number % every:
            continue
        data = read(source, mirror, shared, path)
        name = re.sub(r"\W+", "_", Path(path).stem)
        if source["kind"] == "video":
            yield from ((name, f"{i:06d}", image) for i, image in frames_of_video(data, every))
        elif source["kind"] == "panoramas":
            panorama = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            for view in range(source["views"]):
                image = view_of_panorama(panorama, view, source["views"], source["side"])
                yield name, f"{view:06d}", image
        else:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                continue  # e.g. a file that only its name makes an image
            if source["kind"] == "photos":
                yield f"{name}_{number}", "000000", image
            else:
                walk, index = re.fullmatch(r"(.*?)_?(\d+)", Path(path).stem).groups()
                folder = Path(path).parent.as_posix()
                group = re.sub(r"\W+", "_", f"{folder}_{walk}").strip("_") or "all"
                # Laps of a known length: the position on the lap, then the number of the lap.
                lap, position = divmod(int(index) - 1, source.get("period", 10**6))
                yield group, f"{position:06d}_{lap}", image


def frames_of_video(data: bytes, every: int) -> Iterator[tuple[int, np.ndarray]]:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        for number in range(10**6):
            more, image = capture.read()
            if not more:
                return
            if number % every == 0:
                yield number, image


def view_of_panorama(panorama: np.ndarray, view: int, views: int, width: int) -> np.ndarray:
    """A perspective view, exposed for itself: yaw steps round the horizon, 85° wide.

    Every other view is tilted up or down by 12°, so that overlapping ones differ.
    """
    height = width * 3 // 4
    focal = width / 2 / math.tan(math.radians(85) / 2)
    yaw = 2 * math.pi * view / views
    pitch = math.radians((0, 12, 0, -12)[view % 4])
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([x, y, np.full_like(x, focal)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    tilted_y = rays[..., 1] * math.cos(pitch) - rays[..., 2] * math.sin(pitch)
    tilted_z = rays[..., 1] * math.sin(pitch) + rays[..., 2] * math.cos(pitch)
    longitude = np.arctan2(rays[..., 0], tilted_z) + yaw
    rows, columns = panorama.shape[:2]
    u = (longitude / (2 * math.pi) % 1) * columns - 0.5
    v = (np.arcsin(np.clip(tilted_y, -1, 1)) / math.pi + 0.5) * rows - 0.5
    radiance = cv2.remap(
        panorama, u.astype(np.float32), v.astype(np.float32), cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_WRAP,
    )  # fmt: skip
    exposed = np.clip(radiance, 0, None) * (0.35 / max(float(np.median(radiance)), 1e-4))
    tone = exposed * (1 + exposed / 16) / (1 + exposed)  # Reinhard's curve, white at 4
    return (255 * np.clip(tone, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def encode(image: np.ndarray, side: int) -> bytes | None:
    """WebP of the image with at most this longer side; none when it is too small."""
    scale = min(1.0, side / max(image.shape[:2]))
    if scale < 1:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if min(image.shape[:2]) < MIN_SIDE:
        return None
    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])[1].tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, default=Path(__file__).with_name("sources.yaml"))
    parser.add_argument("--mirror", type=Path, required=True, help="folder of the bare clones")
    parser.add_argument("--shared", type=Path, required=True, help="folder of the local sources")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        for source in yaml.safe_load(args.sources.read_text()):
            count = size = 0
            images = images_of(source, args.mirror, args.shared)
            for group, position, image in tqdm(images, source["name"], disable=None):
                data = encode(image, source["side"])
                if data is not None:
                    archive.writestr(f"{source['name']}/{group}/{position}.webp", data)
                    count, size = count + 1, size + len(data)
            print(f"{source['name']:22s} {count:5d} images {size / 1e6:6.1f} MB")


if __name__ == "__main__":
    main()

"""Textured quadrilaterals: built piece by piece, then packed into one atlas and one mesh.

A texture is an image of four channels: blue, green, red, and how much of its colour the
surface emits when the lights are on (0 to 255). Lengths are metres, in the map frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from kapture_ros.transforms.se3 import Array

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rect = tuple[float, float, float, float]

WHOLE: Rect = (0.0, 0.0, 1.0, 1.0)
ATLAS_WIDTH = 8192
ATLAS_MAX_HEIGHT = 32_000  # cv2.remap addresses less than 2**15 rows
GUTTER = 8  # texels around each texture, so that coarse mip levels do not mix neighbours
MIP_LEVELS = 6
_AROUND = [[0, 3], [2, 3], [2, 1], [0, 1]]  # x, y of a rectangle's corners from its four numbers
STATIC = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """A place to build on: x along `right`, y up, z along `out`, from `origin`.

    Seen from outside, `right` points to the right and `out` to the viewer.
    """

    origin: Array
    right: Array
    out: Array
    up: Array

    @classmethod
    def upright(cls, origin: npt.ArrayLike, yaw: float) -> Frame:
        """`right` turned by `yaw` from east, up vertical."""
        right = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        return cls(np.asarray(origin, float), right, np.cross(right, up), up)

    def at(self, x: float, y: float = 0.0, z: float = 0.0) -> Frame:
        """The same axes from another origin."""
        return Frame(self.points([[x, y, z]])[0], self.right, self.out, self.up)

    def turned(self, angle: float) -> Frame:
        """Turned about `up`."""
        cos, sin = np.cos(angle), np.sin(angle)
        right = cos * self.right - sin * self.out
        return Frame(self.origin, right, np.cross(right, self.up), self.up)

    def points(self, local: npt.ArrayLike) -> Array:
        """Map points of local ones (…, 3)."""
        axes = np.stack([self.right, self.up, self.out])
        result: Array = np.asarray(local, float) @ axes + self.origin
        return result


@dataclass(frozen=True, slots=True)
class Mesh:
    """What the renderer needs of a street.

    Attributes:
        corners: (Q, 4, 3) of the quads, counter-clockwise from the lower left.
        texel_corners: (Q, 4, 2) their places in the atlas, texels.
        shade: (Q, 4) how much of the ambient light arrives; NaN where still to be baked.
        atlas: mip levels, each half as large as the one before, (H, W, 4).
        parts: the quads [begin, end) of the static street ("") and of each actor.
    """

    corners: Floats
    texel_corners: Floats
    shade: Floats
    atlas: tuple[Image, ...]
    parts: dict[str, tuple[int, int]]


class MeshBuilder:
    """Collects quads and textures."""

    def __init__(self) -> None:
        self._textures: list[Image] = []
        self._corners: dict[str, list[Array]] = {STATIC: []}
        self._places: dict[str, list[tuple[int, Array, Array]]] = {STATIC: []}
        self._part = STATIC

    @contextmanager
    def actor(self, name: str) -> Iterator[None]:
        """Quads added inside belong to an actor, in its own frame, not to the street."""
        self._part = name
        self._corners[name], self._places[name] = [], []
        try:
            yield
        finally:
            self._part = STATIC

    def texture(self, image: Image) -> int:
        """Register a texture (H, W, 3 or 4); returns its number."""
        if image.shape[2] == 3:
            image = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
        self._textures.append(np.ascontiguousarray(image))
        return len(self._textures) - 1

    def quads(
        self,
        corners: npt.ArrayLike,
        texture: int,
        places: npt.ArrayLike = WHOLE,
        shade: npt.ArrayLike = np.nan,
    ) -> None:
        """Add quads (N, 4, 3), each counter-clockwise from its lower left as seen from outside.

        Args:
            places: where in the texture, as fractions from its upper left: left, top, right,
                bottom of a part, (4,) or (N, 4), or every corner's x and y, (N, 4, 2).
            shade: ambient light that arrives, (N,); baked when left out.
        """
        corners = np.asarray(corners, float).reshape(-1, 4, 3)
        count = len(corners)
        self._corners[self._part].append(corners)
        places = np.asarray(places, float)
        if places.ndim < 3:
            places = np.broadcast_to(places[..., _AROUND], (count, 4, 2))
        self._places[self._part].append((texture, places, np.asarray(shade, float)))

    def panel(
        self, frame: Frame, area: Rect, texture: int, rect: Rect = WHOLE, depth: float = 0.0
    ) -> None:
        """A rectangle x0, y0, x1, y1 in the frame's plane, moved outwards by `depth`."""
        x0, y0, x1, y1 = area
        local = [[x0, y0, depth], [x1, y0, depth], [x1, y1, depth], [x0, y1, depth]]
        self.quads(frame.points(local), texture, rect)

    def box(
        self, frame: Frame, low: npt.ArrayLike, high: npt.ArrayLike, texture: int, sides: str = ""
    ) -> None:
        """A box between two local corners; each face shows the whole texture.

        Args:
            sides: of front, back, left, right, top, bottom the initials to build; all if empty.
        """
        (x0, y0, z0), (x1, y1, z1) = np.asarray(low, float), np.asarray(high, float)
        faces = {
            "f": [[x0, y0, z1], [x1, y0, z1], [x1, y1, z1], [x0, y1, z1]],
            "b": [[x1, y0, z0], [x0, y0, z0], [x0, y1, z0], [x1, y1, z0]],
            "l": [[x0, y0, z0], [x0, y0, z1], [x0, y1, z1], [x0, y1, z0]],
            "r": [[x1, y0, z1], [x1, y0, z0], [x1, y1, z0], [x1, y1, z1]],
            "t": [[x0, y1, z1], [x1, y1, z1], [x1, y1, z0], [x0, y1, z0]],
            "d": [[x0, y0, z0], [x1, y0, z0], [x1, y0, z1], [x0, y0, z1]],
        }
        chosen = [faces[side] for side in (sides or "fblrtd")]
        self.quads(frame.points(chosen), texture)

    def prism(
        self, points: npt.ArrayLike, radii: npt.ArrayLike, texture: int, sides: int = 8
    ) -> None:
        """A round bar through points (N, 3) with radii (N,): poles, trunks, limbs."""
        points, radii = np.asarray(points, float), np.asarray(radii, float)
        angles = np.linspace(0, 2 * np.pi, sides + 1)
        axis = points[-1] - points[0]
        helper = np.array([1.0, 0, 0]) if abs(axis[2]) > 0.5 * np.linalg.norm(axis) else [0, 0, 1.0]
        first = np.cross(helper, axis)
        first /= np.linalg.norm(first)
        second = np.cross(axis / np.linalg.norm(axis), first)
        circle = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
        rings = points[:, None] + radii[:, None, None] * circle
        low, high = rings[:-1], rings[1:]
        walls = np.stack([low[:, :-1], low[:, 1:], high[:, 1:], high[:, :-1]], axis=2)
        left = np.arange(sides) / sides
        rects = np.stack([left, left * 0, left + 1 / sides, left * 0 + 1], axis=1)
        self.quads(walls, texture, np.tile(rects, (len(points) - 1, 1)))

    def finish(self) -> Mesh:
        """Pack the textures and concatenate the quads."""
        places, height = _pack([image.shape[:2] for image in self._textures])
        atlas = np.zeros((height, ATLAS_WIDTH, 4), np.uint8)
        for image, (x, y) in zip(self._textures, places, strict=True):
            margins = (GUTTER, GUTTER, GUTTER, GUTTER)
            framed = cv2.copyMakeBorder(image, *margins, cv2.BORDER_REPLICATE)
            atlas[y : y + framed.shape[0], x : x + framed.shape[1]] = framed
        sizes = np.array([image.shape[1::-1] for image in self._textures], float)
        origins = np.array(places, float) + GUTTER
        corners, texels, shades, parts, count = [], [], [], {}, 0
        for part, quads in self._corners.items():
            begin = count
            for points, (texture, where, shade) in zip(quads, self._places[part], strict=True):
                corners.append(points)
                # From the first texel's centre to the last one's.
                texels.append(where * (sizes[texture] - 1.0) + origins[texture])
                shades.append(np.broadcast_to(shade[..., None], (len(points), 4)))
                count += len(points)
            parts[part] = (begin, count)
        return Mesh(
            np.concatenate(corners).astype(np.float32),
            np.concatenate(texels).astype(np.float32),
            np.concatenate(shades).astype(np.float32),
            _mip_levels(atlas),
            parts,
        )


def _pack(shapes: list[tuple[int, ...]]) -> tuple[list[tuple[int, int]], int]:
    """Shelves of falling height: the place (x, y) of each texture and the height needed."""
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i][0], i))
    places = [(0, 0)] * len(shapes)
    x = y = shelf = 0
    # Starting on a multiple of the coarsest level's texel keeps the levels aligned.
    grain = 2 ** (MIP_LEVELS - 1)
    for index in order:
        height, width = (size + 2 * GUTTER for size in shapes[index])
        if x + width > ATLAS_WIDTH:
            x, y = 0, y + shelf
            shelf = 0
        places[index] = (x, y)
        x += -(-width // grain) * grain
        shelf = max(shelf, -(-height // grain) * grain)
    if y + shelf > ATLAS_MAX_HEIGHT:
        raise ValueError(f"textures need {y + shelf} rows of an atlas of {ATLAS_MAX_HEIGHT}")
    return places, y + shelf


def _mip_levels(atlas: Image) -> tuple[Image, ...]:
    levels = [atlas]
    for _ in range(MIP_LEVELS - 1):
        height, width = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(half.astype(np.uint8, copy=False))
    return tuple(levels)

"""Images of a street by ray casting (Embree): radiance and depth of a camera at a pose.

One ray is cast through every pixel; where neighbouring rays do not lie on one plane
(edges, foliage) three more are. Textures are filtered by mip levels chosen from the
footprint of a pixel. Distortion is exact, since rays come from the camera model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from kapture_ros.simulation.camera import Camera
from kapture_ros.simulation.light import Light
from kapture_ros.simulation.mesh import STATIC, Floats, Mesh
from kapture_ros.simulation.paint import LINEAR_FROM_SRGB, fractal_noise
from kapture_ros.transforms.se3 import Array, Transform

Ints = npt.NDArray[np.int64]
_Sample = TypeVar("_Sample", np.uint8, np.float32)

_SUBPIXELS = ((-0.25, -0.375), (0.375, -0.125), (-0.125, 0.375))
_TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])  # of a quad
_OFFSET = 2e-3  # metres a secondary ray starts above its surface
_GRAIN = 0.004  # metres of a texel of the fine grain that all surfaces have
_REMAP_COLUMNS = 1024  # cv2.remap wants images, not lists; less than 2**15 rows of this


@dataclass(frozen=True, slots=True)
class Actor:
    """Something that moves: a part of the mesh and where it is now."""

    part: str
    map_from_actor: Transform


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a perfect sensor would see.

    Attributes:
        radiance: (H, W, 3) linear blue-green-red.
        distance: (H, W) metres along the ray; infinite where the sky is.
        depth: (H, W) metres along the optical axis; infinite where the sky is.
    """

    radiance: Floats
    distance: Floats
    depth: Floats


@dataclass(frozen=True, slots=True)
class _Hits:
    """Rays that met a surface: which quads' triangles, where in them, how far."""

    ray: Ints
    triangle: Ints
    uv: Floats
    distance: Floats
    points: Floats
    normals: Floats


class Renderer:
    """A mesh made ready for rays, and light baked into it.

    Args:
        lamps: positions (L, 3) of street lamps.
    """

    def __init__(self, mesh: Mesh, lamps: npt.ArrayLike = ()):
        self._mesh = mesh
        self._corners = mesh.corners[:, _TRIANGLES].reshape(-1, 3, 3)
        a, b, c = (self._corners[:, i] for i in range(3))
        normals = np.cross(b - a, c - a)
        doubled = np.linalg.norm(normals, axis=1, keepdims=True)
        self._normals = normals / np.maximum(doubled, 1e-12)
        texels = mesh.texel_corners[:, _TRIANGLES].reshape(-1, 3, 2)
        edge1, edge2 = texels[:, 1] - texels[:, 0], texels[:, 2] - texels[:, 0]
        texel_area = np.abs(edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0])
        # Metres a texel is wide, the geometric mean of both directions.
        size = np.sqrt(doubled[:, 0] / np.maximum(texel_area, 1e-6))
        self._table = np.concatenate(
            [texels[:, 0], edge1, edge2, size[:, None]], axis=1, dtype=np.float32
        )
        begin, end = mesh.parts[STATIC]
        self._static = _scene(self._corners[2 * begin : 2 * end])
        grain = fractal_noise(np.random.default_rng(5), (512, 512), 24, 5) - 0.5
        self._grain = (1.0 + 0.75 * grain).astype(np.float32)
        self._lamps = np.asarray(lamps, float).reshape(-1, 3)
        self._shade = self._ambient_light()

    def render(
        self,
        camera: Camera,
        map_from_camera: Transform,
        light: Light,
        actors: Sequence[Actor] = (),
    ) -> Rendering:
        """The image of a camera at a pose (`map_from_camera`, optical frame)."""
        view = _View(self, camera, map_from_camera, light, self._moving(actors, map_from_camera))
        return view.render()

    def _moving(self, actors: Sequence[Actor], eye: Transform) -> tuple[EmbreeScene, Ints] | None:
        """A scene of the actors within sight, and which triangles of the mesh these are."""
        corners, numbers = [], []
        for actor in actors:
            if np.linalg.norm(actor.map_from_actor.translation - eye.translation) > 90.0:
                continue
            begin, end = self._mesh.parts[actor.part]
            number = np.arange(2 * begin, 2 * end)
            points = actor.map_from_actor.apply(self._corners[number].reshape(-1, 3))
            corners.append(points.reshape(-1, 3, 3).astype(np.float32))
            numbers.append(number)
        if not corners:
            return None
        return _scene(np.concatenate(corners)), np.concatenate(numbers)

    def _corner_points(self) -> tuple[Floats, Floats]:
        """Points just inside and above every quad's corners and their normals: (Q, 4, 3)."""
        corners = self._mesh.corners
        centre = corners.mean(axis=1, keepdims=True)
        normals = np.repeat(self._normals[::2, None], 4, axis=1)
        return corners + 0.04 * (centre - corners) + 0.01 * normals, normals

    def _ambient_light(self) -> Floats:
        """Ambient light that arrives at the triangles' corners (T, 3)."""
        points, normals = self._corner_points()
        shade = self._mesh.shade.copy()
        begin, end = self._mesh.parts[STATIC]
        unknown = np.zeros(len(shade), bool)
        unknown[begin:end] = np.isnan(shade[begin:end, 0])
        at, out = points[unknown].reshape(-1, 3), normals[unknown].reshape(-1, 3)
        shade[unknown] = self._openness(at, out).reshape(-1, 4)
        shade = np.nan_to_num(shade, nan=0.85)  # of actors, who are anywhere
        return shade[:, _TRIANGLES].reshape(-1, 3)

    @cached_property
    def _lit(self) -> Floats:
        """Lamp light that arrives at the triangles' corners (T, 3); needed after dusk only."""
        points, normals = self._corner_points()
        begin, end = self._mesh.parts[STATIC]
        lit = np.zeros((len(points), 4), np.float32)
        lit[begin:end] = self._lamp_light(
            points[begin:end].reshape(-1, 3), normals[begin:end].reshape(-1, 3), self._lamps
        ).reshape(-1, 4)
        return lit[:, _TRIANGLES].reshape(-1, 3)

    def _openness(self, points: Floats, normals: Floats) -> Floats:
        """How much of the hemisphere is open within reach: ambient occlusion, 0.25 to 1."""
        count, reach = 20, 4.0
        # A spiral over the hemisphere, denser at the pole: cosine-weighted.
        turn = 2.399963 * np.arange(count)
        radius = np.sqrt((np.arange(count) + 0.5) / count)
        local = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - radius**2)], 1)
        helper = np.where(np.abs(normals[:, 2:]) > 0.7, [[1.0, 0, 0]], [[0, 0, 1.0]])
        first = np.cross(helper, normals)
        first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
        second = np.cross(normals, first)
        free = np.zeros(len(points), np.float32)
        for x, y, z in local:
            ray = (x * first + y * second + z * normals).astype(np.float32)
            blocked = self._static.run(points, ray, dists=reach, query="OCCLUDED") >= 0
            free += ~blocked
        return np.float32(0.25) + np.float32(0.75 / count) * free

    def _lamp_light(self, points: Floats, normals: Floats, lamps: Array) -> Floats:
        """Light of the street lamps, relative to 1 straight below a lamp at 4 m."""
        total = np.zeros(len(points), np.float32)
        for lamp in lamps:
            towards = lamp - points
            distance = np.linalg.norm(towards, axis=1)
            facing = np.einsum("ij,ij->i", towards, normals) / distance
            near = np.nonzero((distance < 22.0) & (facing > 0))[0]
            ray = (towards[near] / distance[near, None]).astype(np.float32)
            reach = (distance[near] - 0.6).astype(np.float32)
            free = self._static.run(points[near], ray, dists=reach, query="OCCLUDED") < 0
            total[near] += free * facing[near] * (4.0 / np.maximum(distance[near], 1.0)) ** 2
        return total


def _scene(corners: Floats) -> EmbreeScene:
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(corners, np.float32))
    nowhere = np.zeros((1, 3), np.float32)
    scene.run(nowhere, np.ones_like(nowhere))  # the first run builds the tree: not thread-safe
    return scene


class _View:
    """One image in the making."""

    def __init__(
        self,
        renderer: Renderer,
        camera: Camera,
        map_from_camera: Transform,
        light: Light,
        moving: tuple[EmbreeScene, Ints] | None,
    ):
        self._renderer = renderer
        self._camera = camera
        self._map_from_camera = map_from_camera
        self._light = light
        self._moving = moving
        self._eye = map_from_camera.translation.astype(np.float32)
        self._pixel_angle = 1.0 / camera.focal

    def render(self) -> Rendering:
        camera = self._camera
        rays = camera.ray_table()
        in_map = self._in_map(rays)
        hits = self._trace(in_map)
        radiance = self._radiance(in_map, hits)
        distance = np.full(len(rays), np.inf, np.float32)
        distance[hits.ray] = hits.distance
        # A fisheye sees what is beside and behind it: that has no depth.
        forward = np.where(rays[:, 2] > 1e-3, rays[:, 2], np.inf)
        depth = np.where(np.isfinite(distance), distance * forward, np.inf).astype(np.float32)
        edge = np.nonzero(self._edges(hits).ravel())[0]
        for shift in _SUBPIXELS:
            more = self._in_map(camera.ray_table(shift)[edge])
            radiance[edge] += self._radiance(more, self._trace(more))
        radiance[edge] /= 1 + len(_SUBPIXELS)
        shape = (camera.height, camera.width)
        return Rendering(radiance.reshape(*shape, 3), distance.reshape(shape), depth.reshape(shape))

    def _in_map(self, rays_camera: Floats) -> Floats:
        rotation = self._map_from_camera.rotation.as_matrix().astype(np.float32)
        rotated: Floats = np.einsum("ij,kj->ik", rays_camera, rotation)
        return rotated

    def _trace(self, rays: Floats) -> _Hits:
        renderer = self._renderer
        origins = np.broadcast_to(self._eye, rays.shape)
        origins = np.ascontiguousarray(origins)
        found = renderer._static.run(origins, rays, output=1)
        triangle, distance = found["primID"].astype(np.int64), found["tfar"]
        uv = np.stack([found["u"], found["v"]], axis=1)
        normals = renderer._normals[triangle]
        if self._moving is not None:
            scene, numbers = self._moving
            closer = scene.run(origins, rays, dists=distance.copy(), output=1)
            index = np.nonzero(closer["primID"] >= 0)[0]
            triangle[index] = numbers[closer["primID"][index]]
            distance[index] = closer["tfar"][index]
            uv[index] = np.stack([closer["u"], closer["v"]], axis=1)[index]
            turned = closer["Ng"][index]
            normals[index] = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        ray = np.nonzero(triangle >= 0)[0]
        direction, normals, distance = rays[ray], normals[ray], distance[ray]
        away = np.einsum("ij,ij->i", direction, normals) > 0
        normals[away] *= -1
        points = self._eye + direction * distance[:, None]
        return _Hits(ray, triangle[ray], uv[ray], distance, points, normals)

    def _edges(self, hits: _Hits) -> npt.NDArray[np.bool_]:
        """(H, W) pixels whose neighbours lie on another surface."""
        camera = self._camera
        shape = (camera.height, camera.width)
        normals = np.zeros((shape[0] * shape[1], 3), np.float32)
        points = np.full((shape[0] * shape[1], 3), 1e4, np.float32)
        normals[hits.ray], points[hits.ray] = hits.normals, hits.points - self._eye
        normals, points = normals.reshape((*shape, 3)), points.reshape((*shape, 3))
        edges = np.zeros(shape, bool)
        for here, there in (
            ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
            ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ):
            turned = np.einsum("ijk,ijk->ij", normals[here], normals[there]) < 0.9
            sky = (normals[here] == 0).all(-1) & (normals[there] == 0).all(-1)
            step = points[there] - points[here]
            off = np.abs(np.einsum("ijk,ijk->ij", step, normals[here])) > 0.03
            differ = (turned | off) & ~sky
            edges[here] |= differ
            edges[there] |= differ
        return edges

    def _radiance(self, rays: Floats, hits: _Hits) -> Floats:
        """Light (N, 3) that comes along each ray."""
        light = self._light
        result = np.empty((len(rays), 3), np.float32)
        missed = np.ones(len(rays), bool)
        missed[hits.ray] = False
        result[missed] = self._sky(rays[missed])
        albedo, emission = self._surface(rays[hits.ray], hits)
        renderer = self._renderer
        weights = np.stack([1 - hits.uv.sum(1), hits.uv[:, 0], hits.uv[:, 1]], axis=1)
        shade = np.einsum("ij,ij->i", weights, renderer._shade[hits.triangle])
        # The sky is brighter above than the street is below.
        shade *= 0.8 + 0.2 * hits.normals[:, 2]
        arriving = shade[:, None] * light.ambient.astype(np.float32)
        arriving += self._sunlight(hits)[:, None] * light.sun.astype(np.float32)
        if light.lamps:
            lit = np.einsum("ij,ij->i", weights, renderer._lit[hits.triangle])
            warm = np.array([0.10, 0.17, 0.24], np.float32)
            arriving += light.lamps * (lit[:, None] + 0.02) * warm
            emission *= 0.4 * light.lamps
            arriving += emission[:, None]
        result[hits.ray] = albedo * arriving
        return result

    def _sunlight(self, hits: _Hits) -> Floats:
        """Cosine of the sun's angle to the surface, 0 in shadow."""
        towards = self._light.sun_direction.astype(np.float32)
        cosine = hits.normals @ towards
        cosine[cosine < 0] = 0
        if self._light.sun.max() < 0.01:
            return cosine
        facing = np.nonzero(cosine > 0)[0]
        origins = hits.points[facing] + _OFFSET * hits.normals[facing] * (
            1 + 0.02 * hits.distance[facing, None]
        )
        ray = towards[None, :].repeat(len(origins), axis=0)
        blocked = self._renderer._static.run(origins, ray, query="OCCLUDED") >= 0
        if self._moving is not None:
            blocked |= self._moving[0].run(origins, ray, query="OCCLUDED") >= 0
        cosine[facing[blocked]] = 0
        return cosine

    def _surface(self, rays: Floats, hits: _Hits) -> tuple[Floats, Floats]:
        """Linear colour (N, 3) and emission (N,) of the surfaces."""
        renderer = self._renderer
        table = renderer._table[hits.triangle]
        texel = table[:, 0:2] + hits.uv[:, :1] * table[:, 2:4] + hits.uv[:, 1:] * table[:, 4:6]
        size = table[:, 6]
        slant = np.maximum(np.abs(np.einsum("ij,ij->i", rays, hits.normals)), 0.02)
        footprint = hits.distance * self._pixel_angle
        # Between the short side of a slanted footprint and its mean: a little aliasing is
        # better than the blur that isotropic filtering gives on façades seen along the street.
        level = np.log2(footprint / size * slant**-0.4)
        levels = len(renderer._mesh.atlas)
        level = np.clip(np.round(level), 0, levels - 1).astype(np.int64)
        colour = np.empty((len(texel), 4), np.uint8)
        for index in range(levels):
            chosen = np.nonzero(level == index)[0]
            if len(chosen):
                at = (texel[chosen] + 0.5) / 2**index - 0.5
                colour[chosen] = _look_up(renderer._mesh.atlas[index], at)
        albedo = LINEAR_FROM_SRGB[colour[:, :3]]
        near = np.nonzero(footprint < 2.5 * _GRAIN)[0]
        grain = (texel[near] * (size[near, None] / _GRAIN)) % 512
        albedo[near] *= _look_up(renderer._grain, grain)[:, None]
        return albedo, colour[:, 3].astype(np.float32) / np.float32(255)

    def _sky(self, rays: Floats) -> Floats:
        rows, columns = self._light.sky.shape[:2]
        elevation = np.arcsin(np.clip(rays[:, 2], -1, 1))
        azimuth = np.arctan2(rays[:, 1], rays[:, 0]) % (2 * np.pi)
        at = np.stack(
            [
                azimuth / (2 * np.pi) * columns - 0.5,
                np.minimum((1 - elevation / (np.pi / 2)) * rows - 0.5, rows - 1),
            ],
            axis=1,
        )
        return _look_up(self._light.sky, at.astype(np.float32))


def _look_up(image: npt.NDArray[_Sample], at: Floats) -> npt.NDArray[_Sample]:
    """Bilinear samples of an image at (N, 2) columns and rows; wraps around."""
    count = len(at)
    if not count:
        return np.empty((0, *image.shape[2:]), image.dtype)
    rows = -(-count // _REMAP_COLUMNS)
    padded = np.zeros((rows * _REMAP_COLUMNS, 2), np.float32)
    padded[:count] = at
    maps = padded.reshape(rows, _REMAP_COLUMNS, 2)
    columns, lines = maps[..., 0], maps[..., 1]
    found = cv2.remap(image, columns, lines, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)
    samples = found.reshape(rows * _REMAP_COLUMNS, *image.shape[2:])[:count]
    return samples.astype(image.dtype, copy=False)

"""Two views of random rooms full of boxes, ray traced: parallax, occlusion, another light.

Photographs and painted facades are the textures. A room is a box seen from inside; others
stand in it. Each view has a sun of its own with cast shadows, so that the same surface looks
different in both, as between two drives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from compiling import constant
from image_bank import ImageBank
from torch import Tensor
from torch.nn import functional
from view_pairs import SUPERSAMPLING, ViewPairs, pixel_grid

BOXES = 12  # the first is the room
OCCLUSION_TOLERANCE = 0.01  # of the distance
AMBIENT = (0.35, 0.8)
FARTHEST = 1e3


@dataclass(frozen=True, slots=True)
class Boxes:
    """B scenes of K boxes.

    Attributes:
        centre: (B, K, 3) in the first camera's frame (x right, y down, z ahead).
        axes: (B, K, 3, 3) rows are the box's own axes.
        half: (B, K, 3) half the sides.
        texture: (B, K, 6) image of each face.
        origin: (B, K, 6, 2) place on that image, in pixels, of the face's corner.
        density: (B, K, 6) pixels of the texture per unit of length.
    """

    centre: Tensor
    axes: Tensor
    half: Tensor
    texture: Tensor
    origin: Tensor
    density: Tensor


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera in each scene: rows of `axes` are its x, y and z."""

    centre: Tensor  # (B, 3)
    axes: Tensor  # (B, 3, 3)
    focal: Tensor  # (B,) pixels


@dataclass(frozen=True, slots=True)
class Hits:
    """What rays (B, n, n) meet first."""

    distance: Tensor
    box: Tensor
    face: Tensor
    point: Tensor  # (B, n, n, 3) in the frame of the scene
    local: Tensor  # (B, n, n, 3) in the frame of the box


def scene_pairs(bank: ImageBank, count: int, size: int, generator: torch.Generator) -> ViewPairs:
    """Views of `count` random scenes."""
    device = bank.pixels.device
    boxes = random_boxes(bank, count, generator)
    first, second = random_cameras(count, size, generator, device)
    hits = trace(boxes, first.centre, rays(first, pixel_grid(size, device), size))
    flow, depth = project(second, hits.point, size)
    again = trace(boxes, second.centre, rays(second, flow, size))
    expected = (hits.point - second.centre[:, None, None]).norm(dim=-1)
    seen = (again.distance - expected).abs() < OCCLUSION_TOLERANCE * expected
    inside = ((flow >= 0) & (flow <= size - 1)).all(-1) & (depth > 0.1)
    views = [render(bank, boxes, camera, size, generator) for camera in (first, second)]
    return ViewPairs(views[0], views[1], flow, seen & inside)


def random_boxes(bank: ImageBank, count: int, generator: torch.Generator) -> Boxes:
    """Rooms 16 to 32 wide with boxes of 1 to 5 ahead of the camera."""
    device = bank.pixels.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand(count, BOXES, *shape, generator=generator, device=device)
        return low + (high - low) * values

    half = torch.exp(uniform(math.log(0.4), math.log(2.5), 3))
    half[:, 0] = uniform(8, 16, 3)[:, 0]
    half[:, 0, 1] *= 0.5
    ahead = uniform(3.5, 14)
    centre = torch.stack([uniform(-0.8, 0.8) * ahead, uniform(-1.5, 1.5), ahead], -1)
    # Both cameras stay inside the room however it is turned.
    centre[:, 0] = uniform(-1, 1, 3)[:, 0] + constant((0.0, 0.0, 3.0), device)
    yaw = uniform(-math.pi, math.pi)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    axes = torch.stack(
        [yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos()], -1
    ).view(count, BOXES, 3, 3)
    texture = bank.draw(count * BOXES * 6, generator).view(count, BOXES, 6)
    origin = uniform(0, 1, 6, 2) * bank.sizes[texture]
    # So that a pixel of a view shows 0.5 to 2 pixels of texture at the usual distance.
    density = torch.exp(uniform(math.log(25), math.log(100), 6))
    density[:, 0] *= 0.5
    return Boxes(centre, axes, half, texture, origin, density)


def random_cameras(
    count: int, size: int, generator: torch.Generator, device: torch.device
) -> tuple[Camera, Camera]:
    """One at the origin looking ahead; one moved up to 2.5 that looks at the same region."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    identity = torch.eye(3, device=device).expand(count, 3, 3)
    first = Camera(torch.zeros(count, 3, device=device), identity, size * uniform(0.7, 1.2))
    moved = uniform(-1, 1, 3) * constant((2.2, 0.6, 2.0), device)
    target = torch.stack([uniform(-0.8, 0.8), uniform(-0.4, 0.4), uniform(6, 10)], -1)
    forward = functional.normalize(target - moved, dim=-1)
    roll = math.radians(5) * torch.randn(count, generator=generator, device=device)
    down = torch.stack([-roll.sin(), roll.cos(), torch.zeros_like(roll)], -1)
    right = functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    axes = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    return first, Camera(moved, axes, first.focal * uniform(-0.25, 0.25).exp())


def rays(camera: Camera, pixels: Tensor, size: int) -> Tensor:
    """(B, n, n, 3) unit directions through pixels (n, n, 2) or (B, n, n, 2)."""
    plane = (pixels - (size - 1) / 2) / camera.focal[:, None, None, None]
    directions = torch.cat([plane, torch.ones_like(plane[..., :1])], -1)
    turned = torch.einsum("bhwi,bij->bhwj", directions, camera.axes)
    return functional.normalize(turned, dim=-1)


def project(camera: Camera, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixels (B, n, n, 2) and depths (B, n, n) of points (B, n, n, 3)."""
    seen = torch.einsum("bhwj,bij->bhwi", points - camera.centre[:, None, None], camera.axes)
    depth = seen[..., 2]
    plane = seen[..., :2] / depth.clamp(min=1e-3)[..., None]
    return plane * camera.focal[:, None, None, None] + (size - 1) / 2, depth


def trace(boxes: Boxes, start: Tensor, directions: Tensor) -> Hits:
    """The first hits of rays from one point per scene, (B, 3)."""
    start = start[:, None, None].expand_as(directions)
    best, box = _nearest(boxes.centre, boxes.axes, boxes.half, start, directions)
    point = start + best[..., None] * directions
    scene = torch.arange(len(best), device=best.device)[:, None, None]
    offset = point - boxes.centre[scene, box]
    local = (boxes.axes[scene, box] * offset[..., None, :]).sum(-1)
    relative = local / boxes.half[scene, box]
    axis = relative.abs().argmax(-1)
    positive = relative.gather(-1, axis[..., None])[..., 0] > 0
    return Hits(best, box, 2 * axis + positive.long(), point, local)


def _nearest(
    centre: Tensor, axes: Tensor, half: Tensor, start: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    best = torch.full_like(start[..., 0], FARTHEST)
    box = torch.zeros_like(best, dtype=torch.long)
    for k in range(BOXES):
        near, far = _slabs(centre[:, k], axes[:, k], half[:, k], start, directions)
        distance = far if k == 0 else near
        hit = (far > 0 if k == 0 else (near > 1e-3) & (near < far)) & (distance < best)
        best = torch.where(hit, distance, best)
        box = torch.where(hit, k, box)
    return best, box


def _hidden(
    centre: Tensor, axes: Tensor, half: Tensor, start: Tensor, directions: Tensor
) -> Tensor:
    """Whether a ray meets any box but the room."""
    hidden = torch.zeros_like(start[..., 0], dtype=torch.bool)
    for k in range(1, BOXES):
        near, far = _slabs(centre[:, k], axes[:, k], half[:, k], start, directions)
        hidden = hidden | ((near < far) & (near > 0))
    return hidden


def _slabs(
    centre: Tensor, axes: Tensor, half: Tensor, start: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Where rays (B, n, n, 3) enter and leave one box (B, …) of each scene."""
    near = torch.full_like(start[..., 0], -FARTHEST)
    far = torch.full_like(near, FARTHEST)
    offset = start - centre[:, None, None]
    for axis in range(3):
        row = axes[:, None, None, axis]
        origin, along = (row * offset).sum(-1), (row * directions).sum(-1)
        along = torch.where(along.abs() < 1e-6, 1e-6, along)
        side = half[:, None, None, axis]
        one, two = (-side - origin) / along, (side - origin) / along
        near = torch.maximum(near, torch.minimum(one, two))
        far = torch.minimum(far, torch.maximum(one, two))
    return near, far


def render(
    bank: ImageBank, boxes: Boxes, camera: Camera, size: int, generator: torch.Generator
) -> Tensor:
    """(B, 3, S, S) in 0..1."""
    device = bank.pixels.device
    directions = rays(camera, pixel_grid(size, device, SUPERSAMPLING), size)
    hits = trace(boxes, camera.centre, directions)
    shaded = texture_of(bank, boxes, hits) * light_on(boxes, hits, generator)[..., None]
    view = functional.avg_pool2d(shaded.permute(0, 3, 1, 2), SUPERSAMPLING)
    return view.clamp(0, 1)


def texture_of(bank: ImageBank, boxes: Boxes, hits: Hits) -> Tensor:
    """(B, n, n, 3) colours in 0..1; textures repeat mirrored."""
    scene = torch.arange(len(hits.box), device=hits.box.device)[:, None, None]
    axis = hits.face // 2
    u = torch.where(axis == 0, hits.local[..., 2], hits.local[..., 0])
    v = torch.where(axis == 1, hits.local[..., 2], hits.local[..., 1])
    where = (scene, hits.box, hits.face)
    place = torch.stack([u, v], -1) * boxes.density[where][..., None] + boxes.origin[where]
    image = boxes.texture[where]
    last = bank.sizes[image] - 1.001
    place = last - (place % (2 * last) - last).abs()
    low = place.floor().long().clamp(min=0)
    part = (place - low).clamp(0, 1)
    colour = torch.zeros(*image.shape, 3, device=image.device)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (part[..., 0] if dx else 1 - part[..., 0]) * (
                part[..., 1] if dy else 1 - part[..., 1]
            )
            texel = bank.pixels[image, low[..., 1] + dy, low[..., 0] + dx].float() / 255
            colour += weight[..., None] * texel
    return colour


def light_on(boxes: Boxes, hits: Hits, generator: torch.Generator) -> Tensor:
    """(B, n, n) brightness: ambient light, and a sun unless it is behind or hidden."""
    count, device = len(hits.box), hits.box.device
    random = torch.rand(count, 4, generator=generator, device=device)
    azimuth, elevation = 2 * math.pi * random[:, 0], 0.3 + 1.1 * random[:, 1]
    sun = torch.stack(
        [azimuth.cos() * elevation.cos(), -elevation.sin(), azimuth.sin() * elevation.cos()], -1
    )
    ambient = AMBIENT[0] + (AMBIENT[1] - AMBIENT[0]) * random[:, 2]
    scene = torch.arange(count, device=device)[:, None, None]
    axis = hits.face // 2
    outward = boxes.axes[scene, hits.box, axis] * (2 * (hits.face % 2) - 1)[..., None]
    inside_room = hits.box == 0
    normal = torch.where(inside_room[..., None], -outward, outward)
    facing = (normal * sun[:, None, None]).sum(-1).clamp(min=0)
    start = hits.point + 1e-2 * normal
    towards = sun[:, None, None].expand_as(start)
    hidden = _hidden(boxes.centre, boxes.axes, boxes.half, start, towards)
    strength = (0.4 + 0.9 * random[:, 3])[:, None, None]
    return ambient[:, None, None] + strength * facing * ~hidden

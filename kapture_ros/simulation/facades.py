"""Buildings along a street: drawn up from one generator, painted from another.

A `Design` fixes the geometry (storeys, windows, doors, what stands out); painting it with
another generator gives the same building after a renovation. Façade coordinates are
metres: x to the right as seen from the street, y up, depth towards the street.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kapture_ros.simulation import paint
from kapture_ros.simulation.mesh import Image, Rect
from kapture_ros.simulation.paint import Random

GROUND_SCALE = 64.0  # texels per metre of the ground floor, which cameras pass closely
UPPER_SCALE = 32.0
BUILDING_DEPTH = 9.0
GROUND_KINDS = ("shop", "shop", "home", "home", "cafe", "garage", "blank")


@dataclass(frozen=True, slots=True)
class Opening:
    """A recessed rectangle of a façade: window, shop window, door or gate."""

    area: Rect
    recess: float
    kind: str


@dataclass(frozen=True, slots=True)
class Design:
    """The shape of one building.

    Attributes:
        ground: height of the ground floor.
        extras: names of what is added in relief (sills, cornice, awning, …).
        balconies: the windows that have one.
        seed: of the relief's measures and colours, which no painter changes.
        shell: which of left side, right side and top (with the back) are built.
    """

    width: float
    height: float
    ground: float
    kind: str
    material: str
    ground_openings: tuple[Opening, ...]
    upper_openings: tuple[Opening, ...]
    extras: frozenset[str]
    balconies: tuple[Rect, ...]
    seed: int
    shell: str = "lrt"


def draw_up(random: Random, width: float, height: float | None = None) -> Design:
    """A building for a lot of that width; the height is drawn too unless it is given."""
    ground = random.uniform(3.3, 4.2)
    storey = random.uniform(2.8, 3.4)
    if height is None:
        height = ground + storey * int(random.integers(1, 5)) + random.uniform(0.4, 0.9)
    kind = str(random.choice(GROUND_KINDS)) if width > 5 else "blank"
    upper = _upper_windows(random, (width, height), ground, storey)
    chances = {
        "cornice": 0.6, "sills": 0.7, "band": 0.6, "pipe": 0.6, "cooler": 0.35, "blade": 0.45,
        "pilasters": 0.2,
    }  # fmt: skip
    extras = {name for name, chance in chances.items() if random.random() < chance}
    if kind in ("shop", "cafe") and random.random() < 0.6:
        extras.add("awning")
    share = random.choice([0.0, 0.0, 0.35, 0.8])
    balconies = tuple(o.area for o in upper if share and random.random() < share)
    return Design(
        width=width,
        height=height,
        ground=ground,
        kind=kind,
        material=str(random.choice(list(paint.MATERIALS), p=[0.27, 0.37, 0.12, 0.12, 0.12])),
        ground_openings=_ground_openings(random, kind, width, ground),
        upper_openings=upper,
        extras=frozenset(extras),
        balconies=balconies,
        seed=int(random.integers(2**32)),
    )


def _upper_windows(
    random: Random, size: tuple[float, float], ground: float, storey: float
) -> tuple[Opening, ...]:
    width, height = size
    columns = max(int(width / random.uniform(1.8, 2.8)), 1)
    pitch = width / columns
    wide = pitch * random.uniform(0.42, 0.62)
    tall = storey * random.uniform(0.48, 0.62)
    base, recess = ground + random.uniform(0.7, 1.0), random.uniform(0.10, 0.22)
    skipped = random.integers(0, columns) if columns > 2 and random.random() < 0.3 else -1
    openings = []
    while base + tall < height - 0.4:
        for column in range(columns):
            if column == skipped:
                continue
            left = (column + 0.5) * pitch - wide / 2
            openings.append(Opening((left, base, left + wide, base + tall), recess, "window"))
        base += storey
    return tuple(openings)


def _ground_openings(random: Random, kind: str, width: float, top: float) -> tuple[Opening, ...]:
    head = top - random.uniform(0.9, 1.2)
    if kind in ("shop", "cafe"):
        door = random.uniform(0.9, 1.2)
        if random.random() < 0.5:
            entrance, left, right = 0.3, 0.5 + door, width - 0.4
        else:
            entrance, left, right = width - 0.3 - door, 0.4, width - 0.5 - door
        panes = max(int((right - left) / random.uniform(1.8, 3.2)), 1)
        step = (right - left) / panes
        found = [
            Opening((left + i * step + 0.08, 0.5, left + (i + 1) * step - 0.08, head), 0.12, "shop")
            for i in range(panes)
        ]
        return (*found, Opening((entrance, 0.08, entrance + door, head), 0.3, "door"))
    if kind == "home":
        slots = max(int(width / random.uniform(1.9, 2.6)), 2)
        pitch = width / slots
        entrance = int(random.integers(0, slots))
        wide = min(pitch * random.uniform(0.45, 0.6), 1.5)
        found = []
        for slot in range(slots):
            middle = (slot + 0.5) * pitch
            if slot == entrance:
                found.append(Opening((middle - 0.55, 0.15, middle + 0.55, 2.5), 0.3, "door"))
            else:
                area = (middle - wide / 2, 1.0, middle + wide / 2, min(2.7, head))
                found.append(Opening(area, 0.16, "window"))
        return tuple(found)
    if kind == "garage":
        wide = min(2.8, width - 1.0)
        left = random.uniform(0.5, width - wide - 0.5)
        found = [Opening((left, 0.05, left + wide, 2.5), 0.25, "gate")]
        if left > 1.8:
            found.append(Opening((0.5, 0.12, 1.4, 2.3), 0.2, "door"))
        return tuple(found)
    return ()


# ------------------------------------------------------------------ painting


def paint_window(random: Random, shape: tuple[int, int], scale: float) -> Image:
    """Glass with a reflected sky, curtains or blinds behind it, and its frame."""
    height, width = shape
    sky = np.linspace(random.uniform(130, 190), random.uniform(50, 90), height)
    glass = np.repeat(sky[:, None], width, 1) * (0.8 + 0.4 * paint.fractal_noise(
        random, shape, max(width / 2, 2), 4))  # fmt: skip
    skyline = int(height * random.uniform(0.35, 0.7))
    for left in range(0, width, max(int(0.25 * scale), 2)):
        top = skyline + int(random.normal(0, 0.07) * height)
        glass[max(top, 0) :, left : left + max(int(0.25 * scale), 2)] *= 0.55
    image = paint.coloured((1.0, 0.93, 0.84), glass.astype(np.float32))
    style = random.choice(["curtain", "blind", "plain", "drape", "plain"])
    if style == "curtain":
        drop = int(height * random.uniform(0.5, 1.0))
        folds = 0.82 + 0.18 * np.sin(np.arange(width) / (0.03 * scale) + 6 * random.random())
        tone = np.broadcast_to(folds.astype(np.float32), (drop, width))
        image[:drop] = paint.coloured(paint.jitter(random, (205, 212, 215), 14), tone)
    elif style == "blind":
        drop = int(height * random.uniform(0.2, 0.95))
        slats = 0.75 + 0.25 * ((np.arange(drop) / (0.05 * scale)) % 1 > 0.3)
        tone = np.repeat(slats[:, None], width, 1).astype(np.float32)
        image[:drop] = paint.coloured(paint.jitter(random, (190, 200, 205), 18), tone)
    elif style == "drape":
        cloth = paint.vivid(random)
        for side in (slice(0, int(0.28 * width)), slice(int(0.75 * width), width)):
            image[:, side] = (0.5 * image[:, side] + 0.5 * np.array(cloth)).astype(np.uint8)
    if random.random() < 0.3:
        _flower_pots(random, image, scale)
    bar = max(int(0.06 * scale), 1)
    frame = paint.jitter(random, (225, 228, 230) if random.random() < 0.65 else (48, 60, 78), 8)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), frame, 2 * bar)
    if random.random() < 0.85:
        cv2.line(image, (width // 2, 0), (width // 2, height), frame, bar)
    if random.random() < 0.6:
        row = int(height * random.uniform(0.25, 0.5))
        cv2.line(image, (0, row), (width, row), frame, bar)
    lit = 150 if random.random() < 0.35 else 0
    return np.dstack([image, np.full(shape, lit, np.uint8)])


def _flower_pots(random: Random, image: Image, scale: float) -> None:
    height, width = image.shape[:2]
    for x in random.uniform(0.15, 0.85, int(random.integers(1, 4))) * width:
        tall = random.uniform(0.12, 0.35) * scale
        for _ in range(14):
            leaf = (
                int(x + random.normal(0, 0.08) * scale),
                int(height - tall + random.normal(0, 0.3) * tall),
            )
            green = paint.jitter(random, (50, 120, 60), 22)
            cv2.circle(image, leaf, max(int(0.04 * scale), 1), green, -1, cv2.LINE_AA)


def paint_shop_window(random: Random, shape: tuple[int, int], scale: float) -> Image:
    """Goods on shelves behind glass, bills stuck on it."""
    height, width = shape
    back = paint.jitter(random, (92, 112, 128), 24)
    image = paint.coloured(back, 0.4 + 0.7 * paint.fractal_noise(random, shape, width / 2 + 2, 4))
    shelf = random.uniform(0.4, 0.9) * scale
    for floor in np.arange(height - 0.1 * scale, 0.25 * height, -shelf):
        _goods(random, image, scale, (float(floor), shelf))
        board = max(int(0.03 * scale), 1)
        cv2.line(image, (0, int(floor)), (width, int(floor)), (52, 62, 72), board)
    sheen = np.linspace(0.42, 0.08, height, dtype=np.float32)[:, None]
    sheen = sheen * (0.5 + paint.fractal_noise(random, shape, width / 3 + 2, 3))
    reflected = sheen[..., None] * np.array([205.0, 192, 178], np.float32)
    image = np.clip(image * 0.7 + reflected, 0, 255).astype(np.uint8)
    for _ in range(int(random.integers(0, 3))):
        tall, wide = (int(v * scale) for v in random.uniform((0.25, 0.3), (0.55, 0.7)))
        y, x = random.integers(0, max(height - tall, 1)), random.integers(0, max(width - wide, 1))
        bill = paint.poster(random, (max(tall, 4), max(wide, 4)))
        part = image[y : y + tall, x : x + wide]
        part[:] = bill[: part.shape[0], : part.shape[1]]
    frame = paint.jitter(random, (50, 55, 60), 15)
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), frame, max(int(0.07 * scale), 1))
    return np.dstack([image, np.full(shape, 110, np.uint8)])


def _goods(random: Random, image: Image, scale: float, shelf: tuple[float, float]) -> None:
    """A row of things on a shelf: its height in the image and the room above it."""
    floor, room = shelf
    kind = random.integers(0, 3)  # alike in a row, as in shops
    colour = paint.vivid(random)
    x = random.uniform(0, 0.3) * scale
    while x < image.shape[1]:
        wide, tall = random.uniform(0.08, 0.3) * scale, random.uniform(0.25, 0.8) * room
        tone = paint.jitter(random, colour, 30)
        low, high = (int(x), int(floor)), (int(x + wide), int(floor - tall))
        middle = ((low[0] + high[0]) // 2, (low[1] + high[1]) // 2)
        if random.random() < 0.25:
            colour = paint.vivid(random)
        elif kind == 0:
            cv2.rectangle(image, low, high, tone, -1)
            label = int(floor - tall * random.uniform(0.3, 0.7))
            cv2.line(image, (low[0], label), (high[0], label), paint.vivid(random), 2)
        elif kind == 1:
            cv2.ellipse(
                image, middle, (int(wide / 2), int(tall / 2)), 0, 0, 360, tone, -1, cv2.LINE_AA
            )
        else:
            neck = (middle[0], int(floor - 1.15 * tall))
            cv2.line(image, middle, neck, tone, max(int(0.04 * scale), 1), cv2.LINE_AA)
            cv2.rectangle(image, low, (high[0], middle[1]), tone, -1)
        x += wide + random.uniform(0.02, 0.25) * scale


def paint_door(random: Random, shape: tuple[int, int], scale: float, *, glass: bool) -> Image:
    """A panelled or glazed door."""
    height, width = shape
    colour = (
        paint.vivid(random) if random.random() < 0.6 else paint.jitter(random, (60, 75, 100), 25)
    )
    tone = 0.75 + 0.25 * paint.fractal_noise(random, shape, 0.15 * scale, 4, 6)
    image = paint.coloured(colour, tone)
    dark = paint.dimmed(colour, 0.55)
    inset = max(int(0.1 * scale), 2)
    rows = 1 if glass else int(random.integers(1, 4))
    for row in range(rows):
        y0, y1 = inset + row * height // rows, (row + 1) * height // rows - inset
        corners = (inset, y0), (width - inset, y1)
        if glass:
            cv2.rectangle(image, *corners, paint.jitter(random, (130, 115, 100), 20), -1)
        cv2.rectangle(image, *corners, dark, max(int(0.03 * scale), 1))
    knob = (int(0.85 * width), int(0.55 * height))
    cv2.circle(image, knob, max(int(0.04 * scale), 1), (120, 190, 210), -1, cv2.LINE_AA)
    if random.random() < 0.7:
        area = (width // 3, int(0.08 * height), 2 * width // 3, int(0.17 * height))
        paint.write(image, area, str(random.integers(1, 140)), paint.FONTS[0], (235, 235, 235))
    return image


def paint_gate(random: Random, shape: tuple[int, int], scale: float) -> Image:
    """A ribbed garage door, often with a sign or graffiti."""
    ribs = 0.75 + 0.25 * np.abs(np.sin(np.arange(shape[0]) / (0.04 * scale)))
    colour = paint.jitter(random, (150, 150, 150), 45)
    image = paint.coloured(colour, np.repeat(ribs[:, None], shape[1], 1).astype(np.float32))
    if random.random() < 0.6:
        paint.graffiti(random, image, scale)
    if random.random() < 0.5:
        area = (shape[1] // 4, shape[0] // 6, 3 * shape[1] // 4, shape[0] // 3)
        paint.write(image, area, "KEEP CLEAR", paint.FONTS[0], (40, 40, 200))
    return paint.weather(random, image, scale, at_ground=True)


def _paint_opening(random: Random, opening: Opening, scale: float, design: Design) -> Image:
    x0, y0, x1, y1 = opening.area
    shape = (max(int((y1 - y0) * scale), 8), max(int((x1 - x0) * scale), 8))
    if opening.kind == "shop":
        return paint_shop_window(random, shape, scale)
    if opening.kind == "door":
        door = paint_door(random, shape, scale, glass=design.kind in ("shop", "cafe"))
        return np.dstack([door, np.zeros(shape, np.uint8)])
    if opening.kind == "gate":
        return np.dstack([paint_gate(random, shape, scale), np.zeros(shape, np.uint8)])
    return paint_window(random, shape, scale)


@dataclass(frozen=True, slots=True)
class Coat:
    """The two painted images of a façade and its colours."""

    ground: Image
    upper: Image
    wall: paint.Colour
    accent: paint.Colour
    name: str


def paint_facade(random: Random, design: Design, detail: float) -> Coat:
    """Paint a building; `detail` scales the number of texels."""
    colours = paint.WALL_COLOURS[design.material]
    wall = paint.jitter(random, colours[int(random.integers(len(colours)))], 9)
    accent = (
        paint.vivid(random) if design.kind in ("shop", "cafe") else paint.jitter(random, wall, 25)
    )
    name = paint.invent_name(random).title()
    lower_material, lower_wall = design.material, wall
    if random.random() < 0.45:
        lower_material = str(random.choice(["ashlar", "plaster", "panels"]))
        lower_wall = paint.jitter(random, paint.WALL_COLOURS[lower_material][0], 14)
    images = []
    for at_ground, material, colour in (
        (True, lower_material, lower_wall),
        (False, design.material, wall),
    ):
        scale = detail * (GROUND_SCALE if at_ground else UPPER_SCALE)
        base, top = (0.0, design.ground) if at_ground else (design.ground, design.height)
        shape = (max(int((top - base) * scale), 8), max(int(design.width * scale), 8))
        image = paint.MATERIALS[material](random, shape, scale, colour)
        image = paint.weather(random, image, scale, at_ground=at_ground)
        if at_ground:
            _decorate(random, image, scale, design, name)
        image = np.dstack([image, np.zeros(shape, np.uint8)])
        openings = design.ground_openings if at_ground else design.upper_openings
        for opening in openings:
            _place(random, image, opening, (base, scale), design)
        images.append(image)
    return Coat(images[0], images[1], wall, accent, name)


def _place(
    random: Random, image: Image, opening: Opening, place: tuple[float, float], design: Design
) -> None:
    """Paint an opening, its surround and the streaks below into the façade's image."""
    base, scale = place
    x0, _, _, y1 = opening.area
    height = image.shape[0]
    left, top = round(x0 * scale), round(height - (y1 - base) * scale)
    picture = _paint_opening(random, opening, scale, design)
    rim = max(int(0.1 * scale), 1)
    right, bottom = left + picture.shape[1], top + picture.shape[0]
    if opening.kind == "window":
        trim = paint.jitter(random, (200, 208, 212), 10)
        cv2.rectangle(image, (left - rim, top - rim), (right + rim, bottom + rim), (*trim, 0), -1)
        below = image[bottom : bottom + int(0.7 * scale), max(left, 0) : right, :3]
        below[:] = (below * random.uniform(0.72, 1.0)).astype(np.uint8)
    part = image[max(top, 0) : bottom, max(left, 0) : right]
    part[:] = picture[-part.shape[0] :, : part.shape[1]]


def _decorate(random: Random, image: Image, scale: float, design: Design, name: str) -> None:
    """The fascia of a shop; posters and graffiti where a wall invites them."""
    height, width = image.shape[:2]
    if design.kind in ("shop", "cafe"):
        tall = int(0.62 * scale)
        top = int(0.2 * scale)
        text = (
            f"{random.choice(['Café', 'Bar', 'Bistro'])} {name}" if design.kind == "cafe" else name
        )
        fascia = paint.sign(random, (tall, width - int(0.3 * scale)), text)
        image[top : top + tall, int(0.15 * scale) : int(0.15 * scale) + fascia.shape[1]] = fascia
        return
    for _ in range(int(random.poisson(0.8 if design.kind != "blank" else 3.0))):
        paint.graffiti(random, image, scale)
    bills = random.poisson(0.7) if design.kind != "blank" else random.integers(4, 12)
    for _ in range(int(bills)):
        size = random.uniform(0.4, 0.9)
        bill = paint.poster(random, (max(int(1.4 * size * scale), 8), max(int(size * scale), 8)))
        x = int(random.uniform(0, max(width - bill.shape[1], 1)))
        y = int(height - (random.uniform(0.7, 1.3) + 1.4 * size) * scale)
        part = image[max(y, 0) : y + bill.shape[0], x : x + bill.shape[1]]
        part[:] = bill[: part.shape[0], : part.shape[1]]

"""Settings of a simulated street and drive, and what they mean for each of the two laps."""

from __future__ import annotations

from dataclasses import dataclass

from kapture_ros.options import option
from kapture_ros.simulation import light

FORMATS = ("mcap", "db3", "ros1")
LANE = 1.65  # metres from the middle of the road to the middle of a lane


@dataclass(frozen=True)
class StreetOptions:
    """Which street it is and how finely it is painted."""

    street: int = option(1, "number of the street: another number is another place", minimum=0)
    detail: float = option(
        1.0, "texels relative to 64 a metre; less is faster to paint", minimum=0.1, maximum=1.5
    )


@dataclass(frozen=True)
class Changes:
    """What is different on another day in the same street.

    Attributes:
        day: another number has other parked cars.
        repainted: part of the buildings that were painted anew.
        parked: how many of the parking places are taken.
    """

    day: int = 1
    repainted: float = 0.0
    parked: float = 0.55


@dataclass(frozen=True)
class DriveOptions:
    """The vehicle, its sensors and the files."""

    seed: int = option(1, "of noise, weaving, traffic and clouds", minimum=0)
    duration: float = option(
        60.0, "length of a lap; once around takes 59 s at the default speed", unit="s", minimum=1.0
    )
    speed: float = option(8.0, "on straight road", unit="m/s", minimum=1.0, maximum=15.0)
    cameras: tuple[str, ...] = option(
        ("front",), "which cameras look out", choices=("front", "left", "right")
    )
    width: int = option(640, "of the images", unit="px", minimum=32, maximum=4096)
    height: int = option(480, "of the images", unit="px", minimum=24, maximum=4096)
    rate: float = option(10.0, "of every camera", unit="Hz", minimum=0.1, maximum=60.0)
    depth_rate: float = option(
        1.0, "of depth images, at most the cameras' rate; 0 for none", unit="Hz", minimum=0.0
    )
    gnss: str = option(
        "single", "receiver: errors of a metre, or with corrections (rtk) of centimetres",
        choices=("single", "rtk"),
    )  # fmt: skip
    raw: bool = option(False, "publish uncompressed images instead of JPEG")
    formats: tuple[str, ...] = option(("mcap",), "of the bags", choices=FORMATS)


@dataclass(frozen=True)
class QueryOptions:
    """How the second lap differs from the first."""

    light: str = option(
        "afternoon", "time of day; the first lap is in the morning", choices=light.NAMES
    )
    exposure: float = option(
        8.0, "shutter time, which blurs what moves; 2 ms in the first lap", unit="ms", minimum=0.0
    )
    noise: float = option(1.5, "of the image sensor, 1 in the first lap", minimum=0.0)
    repainted: float = option(0.15, "part of the buildings painted anew", minimum=0.0, maximum=1.0)
    occlusion: float = option(
        0.0, "part of the front image that a van driving ahead hides", minimum=0.0, maximum=0.7
    )
    kidnap: float | None = option(
        None, "when the vehicle is suddenly half a round further on", unit="s", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class Lap:
    """Everything that distinguishes one lap from another.

    Attributes:
        start_ns: time of the first instant.
        lane: metres to the right of the middle of the road.
        exposure: seconds.
    """

    name: str
    number: int
    start_ns: int
    lane: float
    light: str
    exposure: float
    noise: float
    changes: Changes
    occlusion: float = 0.0
    kidnap: float | None = None


def laps(query: QueryOptions) -> tuple[Lap, Lap]:
    """The mapping lap and the query lap."""
    morning = 1_760_000_400_000_000_000
    five_days_later = morning + 5 * 86_400_000_000_000 + 25_200_000_000_000
    return (
        Lap("lap1", 1, morning, LANE, "morning", 0.002, 1.0, Changes()),
        Lap(
            "lap2", 2, five_days_later, -LANE, query.light, query.exposure / 1000, query.noise,
            Changes(day=2, repainted=query.repainted), query.occlusion, query.kidnap,
        ),
    )  # fmt: skip

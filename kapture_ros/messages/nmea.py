"""NMEA 0183 sentences, from nmea_msgs/Sentence or a receiver's log, as GNSS records.

GGA gives positions with altitude; RMC gives positions without one, as a sensor of its own.
The whole sentence is kept in the sidecar, with the status that a NavSatFix would have: positions
that no satellite gave (dead reckoning, typed in, simulated) are records, but no fixes. All other
sentences are counted as skipped.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path

from kapture_ros.dataset.escape import derived_id
from kapture_ros.dataset.records import GnssRecord, Record
from kapture_ros.errors import InputError
from kapture_ros.messages.common import NANOSECONDS, Message, MessageError
from kapture_ros.messages.gnss import FIX, NO_FIX, UNKNOWN_DOP, check_position

RMC = "-rmc"
# Estimated (dead reckoning), manual input, simulator; "data not valid" contradicts status A.
NO_SATELLITES = {"GGA": ("6", "7", "8"), "RMC": ("E", "M", "S", "N")}
RMC_MODE = 12  # the field of its mode indicator, which NMEA 0183 has since 2.3
DAY_S = 86_400
TIME_FIELD = {"GGA": 1, "RMC": 1, "GST": 1, "ZDA": 1, "GNS": 1, "GBS": 1, "GLL": 5}


@dataclass(frozen=True, slots=True)
class Time:
    """As builtin_interfaces/Time."""

    sec: int
    nanosec: int


@dataclass(frozen=True, slots=True)
class Header:
    """As std_msgs/Header."""

    stamp: Time
    frame_id: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """As nmea_msgs/Sentence."""

    header: Header
    sentence: str


def sentence_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """The position of a GGA or RMC sentence.

    Raises:
        MessageError: `nmea-broken` (checksum, missing fields), `nmea-other` for sentences
            without a position, `no-position` or `out-of-range`.
    """
    text = str(message.sentence).strip()
    kind, fields = parse(text)
    if kind not in ("GGA", "RMC"):
        raise MessageError("nmea-other", kind)
    at = 2 if kind == "GGA" else 3
    has_fix = fields[6] not in ("", "0") if kind == "GGA" else fields[2] == "A"
    if not has_fix:
        raise MessageError("no-position", f"{kind} without a fix")
    try:
        latitude = _angle(fields[at], fields[at + 1])
        longitude = _angle(fields[at + 2], fields[at + 3])
        # Above mean sea level plus the geoid's height: above the ellipsoid.
        altitude = float("nan")
        if kind == "GGA" and fields[9]:  # else a fix in the plane
            altitude = float(fields[9]) + float(fields[11] or 0)
        dop = float(fields[8] or UNKNOWN_DOP) if kind == "GGA" else UNKNOWN_DOP
        utc = _nearest_utc(_time_of_day(fields[1]), stamp_ns // NANOSECONDS)
    except (ValueError, IndexError) as error:
        raise MessageError("nmea-broken", f"{text!r}: {error}") from error
    check_position(latitude, longitude, altitude, no_fix=False)
    source = fields[6] if kind == "GGA" else "".join(fields[RMC_MODE : RMC_MODE + 1])
    status = NO_FIX if source in NO_SATELLITES[kind] else FIX
    return (
        GnssRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id if kind == "GGA" else derived_id(sensor_id, RMC),
            extra={"sentence": str(message.sentence), "status": {"status": status}},
            latitude=latitude,
            longitude=longitude,
            altitude=altitude,
            utc=utc,
            dop=dop,
        ),
    )


def parse(sentence: str) -> tuple[str, list[str]]:
    """The kind (GGA, RMC, …) and all fields of a sentence, its address first.

    Raises:
        MessageError: `nmea-broken` if the frame, the checksum or the fields are wrong.
    """
    body, star, checksum = sentence.partition("*")
    if not body.startswith(("$", "!")) or not star:
        raise MessageError("nmea-broken", f"{sentence[:90]!r} is no whole sentence")
    try:
        expected = int(checksum[:2], 16)
        computed = reduce(xor, body[1:].encode("ascii"), 0)
    except ValueError as error:  # UnicodeEncodeError is one as well
        raise MessageError("nmea-broken", f"{sentence[:90]!r}: {error}") from error
    if computed != expected:
        raise MessageError("nmea-broken", f"{sentence[:90]!r}: the checksum is {computed:02X}")
    fields = body[1:].split(",")
    kind = fields[0][-3:]
    if len(fields) < {"GGA": 12, "RMC": 10}.get(kind, 1):
        raise MessageError("nmea-broken", f"{sentence[:90]!r} has too few fields")
    return kind, fields


def read_log(path: Path) -> Iterator[Sentence]:
    """The sentences of a receiver's log, stamped with the UTC time they give.

    A sentence without a time has the stamp of the one before it (the first ones that of the
    one behind); broken ones too, so that whoever takes them can count them.

    Raises:
        InputError: if the file cannot be read or never gives a date (RMC or ZDA).
    """
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    day = next((found for found in map(_date, lines) if found is not None), None)
    if day is None:
        raise InputError(f"{path}: no RMC or ZDA sentence gives the date of this NMEA log")
    first = next((time for time in map(_sentence_time, lines) if time is not None), 0.0)
    stamp_ns, previous = _stamp(day, first), first
    for line in filter(None, map(str.strip, lines)):
        time = _sentence_time(line)
        if time is not None:
            given = _date(line)
            if given is not None:
                day = given
            elif time < previous - DAY_S / 2:
                day += 1  # past midnight, before the next sentence with a date
            previous = time
            stamp_ns = _stamp(day, time)
        yield Sentence(Header(Time(*divmod(stamp_ns, NANOSECONDS)), ""), line)


def _stamp(day: int, time: float) -> int:
    """Nanoseconds of a day since 1970 and seconds in it, exact to the microsecond."""
    return day * DAY_S * NANOSECONDS + round(time * 1e6) * 1000


def _sentence_time(line: str) -> float | None:
    try:
        kind, fields = parse(line)
        return _time_of_day(fields[TIME_FIELD[kind]])
    except (MessageError, KeyError, ValueError, IndexError):
        return None


def _date(line: str) -> int | None:
    """Days since 1970 given by an RMC or ZDA sentence."""
    try:
        kind, fields = parse(line)
        if kind == "RMC":
            day, month, year = (int(fields[9][at : at + 2]) for at in (0, 2, 4))
            year += 2000 if year < 80 else 1900
        elif kind == "ZDA":
            day, month, year = (int(field) for field in fields[2:5])
        else:
            return None
        return (datetime.date(year, month, day) - datetime.date(1970, 1, 1)).days
    except (MessageError, ValueError):
        return None


def _time_of_day(field: str) -> float:
    """Seconds of hhmmss.ss."""
    return int(field[:2]) * 3600 + int(field[2:4]) * 60 + float(field[4:])


def _angle(field: str, side: str) -> float:
    """Degrees of (d)ddmm.mmmm and N, S, E or W."""
    point = field.index(".") if "." in field else len(field)
    degrees = int(field[: point - 2]) + float(field[point - 2 :]) / 60
    return degrees * {"N": 1, "E": 1, "S": -1, "W": -1}.get(side, float("nan"))


def _nearest_utc(time_of_day: float, near_s: int) -> int:
    """Whole seconds UTC with this time of day, on the day that is nearest to a stamp."""
    start = near_s - near_s % DAY_S + int(time_of_day)
    return min((start - DAY_S, start, start + DAY_S), key=lambda second: abs(second - near_s))

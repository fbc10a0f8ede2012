"""NavSatFix and GPSFix as GNSS records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kapture_ros.dataset.records import GnssRecord, Record
from kapture_ros.messages.common import NANOSECONDS, Message, MessageError, plain

NO_FIX, FIX = -1, 0  # of sensor_msgs/NavSatStatus
UNKNOWN_DOP = 0.0  # kapture's default


def nav_sat_fix_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """A sensor_msgs/NavSatFix; status and covariance go to the sidecar.

    Receivers disagree on what status -1 means, so the position decides whether there is a
    fix; only "no fix" at latitude and longitude 0 is taken for a placeholder.

    Raises:
        MessageError: `no-position` (NaN or placeholder) or `out-of-range`.
    """
    position = (float(message.latitude), float(message.longitude), float(message.altitude))
    check_position(*position, no_fix=message.status.status == NO_FIX)
    extra = plain(message, without=("header", "latitude", "longitude", "altitude"))
    return (
        GnssRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=extra,
            latitude=position[0],
            longitude=position[1],
            altitude=position[2],
            utc=stamp_ns // NANOSECONDS,
            dop=UNKNOWN_DOP,
        ),
    )


def gps_fix_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """A gps_msgs/GPSFix (gps_common in ROS 1); all it knows besides goes to the sidecar.

    Raises:
        MessageError: `no-position` (NaN or placeholder) or `out-of-range`.
    """
    position = (float(message.latitude), float(message.longitude), float(message.altitude))
    check_position(*position, no_fix=message.status.status == NO_FIX)
    time, hdop = float(message.time), float(message.hdop)
    return (
        GnssRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=plain(message, without=("header", "latitude", "longitude", "altitude")),
            latitude=position[0],
            longitude=position[1],
            altitude=position[2],
            utc=int(time) if math.isfinite(time) and time > 0 else stamp_ns // NANOSECONDS,
            dop=hdop if math.isfinite(hdop) and hdop > 0 else UNKNOWN_DOP,
        ),
    )


def is_vouched_for(extra: Mapping[str, Any]) -> bool:
    """Whether a receiver stands by a position, by what its message says besides.

    'No fix' without a covariance is a position that it kept, or guessed, through an outage, or
    that was typed in or simulated.

    Args:
        extra: of a `GnssRecord`.
    """
    status = extra.get("status")
    if not isinstance(status, Mapping) or status.get("status") != NO_FIX:
        return True
    covariance = extra.get("position_covariance") or ()
    told = extra.get("position_covariance_type", 0) != 0
    return told and len(covariance) == 9 and all(value > 0 for value in covariance[::4])


def check_position(latitude: float, longitude: float, altitude: float, *, no_fix: bool) -> None:
    """Refuse what is no place on the Earth; the altitude may be NaN (a 2D fix).

    Raises:
        MessageError: `no-position` or `out-of-range`.
    """
    place = f"latitude {latitude}, longitude {longitude}, altitude {altitude}"
    if not math.isfinite(latitude) or not math.isfinite(longitude) or math.isinf(altitude):
        raise MessageError("no-position", place)
    if no_fix and latitude == 0 and longitude == 0:
        raise MessageError("no-position", f"{place} without a fix")
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise MessageError("out-of-range", place)

"""Wi-Fi scans: our WifiScan, messages of others known by name, and any other by a mapping.

No standard message exists. A `WifiMapping` names the fields of one; types of packages that
are not installed are understood as well, since only attributes are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kapture_ros.dataset.records import AccessPoint, JsonValue, Record, WifiRecord
from kapture_ros.messages.common import Message, MessageError, plain, time_ns
from kapture_ros.options import option

UNKNOWN_BSSID = "00:00:00:00:00:00"
ENV_SENSOR_WIFI = 1  # rtabmap_msgs/EnvSensor TYPE_WIFI_SIGNAL_STRENGTH
RSSI_RANGE = (-200.0, 50.0)  # dBm that a radio can report


@dataclass(frozen=True)
class WifiMapping:
    """Where a message keeps what a Wi-Fi scan needs; nested fields are joined by dots."""

    rssi: str = option("rssi", "field of the received signal strength in dBm")
    bssid: str = option("", "field of the access point's MAC address, text or six bytes")
    ssid: str = option("", "field of the network's name")
    frequency: str = option("", "field of the channel's frequency in Hz, MHz or GHz")
    channel: str = option("", "field of the channel's number, where no frequency is given")
    access_points: str = option("", "field of the list of access points; empty: one a message")


KNOWN_WIFI: dict[str, WifiMapping] = {
    "wireless_msgs/Connection": WifiMapping(
        rssi="signal_level", bssid="bssid", ssid="essid", frequency="frequency"
    ),
    "rf_msgs/AccessPoints": WifiMapping(
        rssi="rssi", bssid="mac", channel="channel", access_points="aps"
    ),
    "rf_msgs/Station": WifiMapping(rssi="rssi", bssid="mac", channel="channel"),
    "rtabmap_msgs/EnvSensor": WifiMapping(rssi="value"),
    "rtabmap_msgs/EnvSensors": WifiMapping(rssi="value", access_points="sensors"),
    "rtabmap_ros/EnvSensor": WifiMapping(rssi="value"),
    "rtabmap_ros/EnvSensors": WifiMapping(rssi="value", access_points="sensors"),
}


def wifi_scan_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """A kapture_ros/WifiScan."""
    points = tuple(
        AccessPoint(
            bssid=str(point.bssid),
            ssid=str(point.ssid),
            frequency=int(point.frequency),
            rssi=int(point.rssi),
            last_seen_ns=time_ns(point.last_seen),
        )
        for point in message.access_points
    )
    return (
        WifiRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            access_points=points,
            scan_start_ns=time_ns(message.scan_start),
            scan_end_ns=time_ns(message.scan_end),
        ),
    )


def mapped_wifi_records(
    mapping: WifiMapping, message: Message, stamp_ns: int, sensor_id: str
) -> tuple[Record, ...]:
    """A scan in a message of another package; the whole message goes to the sidecar.

    Raises:
        MessageError: `bad-mapping` if a field does not exist or has no usable value,
            `not-wifi` for an EnvSensor of another kind.
    """
    items = _get(message, mapping.access_points) if mapping.access_points else [message]
    wifi = [item for item in items if getattr(item, "type", None) in (None, ENV_SENSOR_WIFI)]
    if items and not wifi:
        raise MessageError("not-wifi", "an environment sensor of another kind")
    extra: dict[str, JsonValue] = {"message": plain(message, without=("header",))}
    return (
        WifiRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=extra,
            access_points=tuple(_access_point(mapping, item) for item in wifi),
            scan_start_ns=0,
            scan_end_ns=0,
        ),
    )


def frequency_of_channel(channel: int) -> int:
    """MHz of a 2.4 or 5 GHz channel (IEEE 802.11-2020, annex E); 0 if there is none."""
    if channel == 14:
        return 2484
    if 1 <= channel <= 13:
        return 2407 + 5 * channel
    return 5000 + 5 * channel if 32 <= channel <= 177 else 0


def _access_point(mapping: WifiMapping, item: Message) -> AccessPoint:
    try:
        rssi = float(_get(item, mapping.rssi))
        frequency = _megahertz(float(_get(item, mapping.frequency))) if mapping.frequency else 0
        if mapping.channel:
            frequency = frequency_of_channel(int(_get(item, mapping.channel)))
    except (TypeError, ValueError) as error:
        raise MessageError("bad-mapping", str(error)) from error
    if not RSSI_RANGE[0] <= rssi <= RSSI_RANGE[1]:
        raise MessageError("bad-mapping", f"'{mapping.rssi}' is {rssi}, which is no dBm")
    return AccessPoint(
        bssid=_bssid(_get(item, mapping.bssid)) if mapping.bssid else UNKNOWN_BSSID,
        ssid=str(_get(item, mapping.ssid)) if mapping.ssid else "",
        frequency=frequency,
        rssi=round(rssi),
    )


def _get(message: Message, path: str) -> Any:
    value = message
    for name in path.split("."):
        if not hasattr(value, name):
            raise MessageError("bad-mapping", f"no field '{path}' in {type(message).__name__}")
        value = getattr(value, name)
    return value


def _bssid(value: Any) -> str:
    return value if isinstance(value, str) else ":".join(f"{int(byte):02x}" for byte in value)


def _megahertz(frequency: float) -> int:
    """From GHz, MHz or Hz: their ranges for Wi-Fi do not touch."""
    if frequency != frequency or frequency < 0:
        return 0
    scale = 1e3 if frequency < 100 else 1e-6 if frequency > 1e6 else 1.0
    return round(frequency * scale)

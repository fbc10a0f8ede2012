"""Messages again, from what a dataset holds of them: the inverse of `kapture_ros.messages`.

Messages come as nested mappings of their fields, as `messages.common.plain` gives them, with
`data` as bytes. It proves that nothing was lost, and serves whoever needs the messages back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kapture_ros.dataset.records import (
    AccelerometerRecord,
    DepthRecord,
    GnssRecord,
    GyroscopeRecord,
    ImageRecord,
    LidarRecord,
    MagneticRecord,
    Record,
    Sensor,
    WifiRecord,
)
from kapture_ros.messages.common import NANOSECONDS, MessageError
from kapture_ros.messages.depth import millimetres
from kapture_ros.messages.encodings import Layout
from kapture_ros.messages.images import file_size, restore_image_data
from kapture_ros.messages.pointclouds import DATATYPES, PADDING, read_pcd

Fields = dict[str, Any]


def restore_header(record: Record, sensor: Sensor) -> Fields:
    """The std_msgs/Header of the message that a record was made from."""
    stamp = record.extra.get("stamp", record.stamp_ns)
    assert isinstance(stamp, int)
    header: Fields = {
        "stamp": _time(stamp),
        "frame_id": record.extra.get("frame_id", sensor.origin.get("frame_id", "")),
    }
    if "seq" in record.extra:
        header["seq"] = record.extra["seq"]
    return header


def restore_fields(records: Sequence[Record], sensor: Sensor) -> Fields:
    """The other fields of the message that these records were made from.

    Raises:
        MessageError: if a file of theirs is damaged, or one of them is missing.
    """
    type_name = str(sensor.origin["type"])
    restore = RESTORERS.get(type_name, _whole)
    return restore(records, sensor)


def _extra(record: Record, without: tuple[str, ...] = ()) -> Fields:
    added = ("received", "frame_id", "seq", "stamp", *without)
    return {name: value for name, value in record.extra.items() if name not in added}


def _time(stamp_ns: int) -> Fields:
    seconds, fraction = divmod(stamp_ns, NANOSECONDS)
    return {"sec": seconds, "nanosec": fraction}


def _xyz(values: tuple[float, float, float]) -> Fields:
    return dict(zip("xyz", values, strict=True))


def _whole(records: Sequence[Record], sensor: Sensor) -> Fields:
    """Odometry and poses are kept as they came."""
    return _extra(records[0])


def _image(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    size = (int(sensor.params[1]), int(sensor.params[2]))
    encoding = str(record.extra["encoding"])
    big_endian: Any = record.extra.get("is_bigendian", 0)
    step: Any = record.extra.get("step", 0)
    layout = Layout.described(encoding, size, step, bool(big_endian))
    assert isinstance(record, (ImageRecord, DepthRecord))
    file = bytes(record.payload.encode())
    if isinstance(record, ImageRecord):
        data = restore_image_data(file, dict(record.extra))
        size = file_size(file)
    else:
        data = _depth_data(file, layout)
    return {
        "height": size[1],
        "width": size[0],
        "encoding": encoding,
        "is_bigendian": int(big_endian),
        "step": step if "step" in record.extra else layout.row_bytes,
        "data": data,
    }


def _depth_data(file: bytes, layout: Layout) -> bytes:
    depth = np.frombuffer(file, "<f4")
    if depth.size != layout.width * layout.height:
        raise MessageError("bad-image", f"{depth.size} values, not {layout.describe()}")
    samples = millimetres(depth) if layout.encoding.dtype == "u2" else depth
    ordered = np.ascontiguousarray(samples, layout.sample_type).view(np.uint8)
    rows = np.zeros((layout.rows, layout.step), np.uint8)
    rows[:, : layout.row_bytes] = ordered.reshape(layout.rows, layout.row_bytes)
    return rows.tobytes()


def _compressed_image(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    assert isinstance(record, (ImageRecord, DepthRecord))
    return {"format": record.extra["format"], "data": bytes(record.payload.encode())}


def _point_cloud(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    assert isinstance(record, LidarRecord)
    header, data = read_pcd(bytes(record.payload.encode()))
    width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
    codes = {dtype: code for code, dtype in DATATYPES.items()}
    fields, offset = [], 0
    columns = (header[keyword] for keyword in ("FIELDS", "TYPE", "SIZE", "COUNT"))
    for name, kind, size, count in zip(*columns, strict=True):
        if name != PADDING:
            datatype = codes[kind.lower() + size]
            fields.append(
                {"name": name, "offset": offset, "datatype": datatype, "count": int(count)}
            )
        offset += int(size) * int(count)
    row_step: Any = record.extra.get("row_step", width * offset)
    return {
        "height": height,
        "width": width,
        "fields": fields,
        "is_bigendian": bool(record.extra.get("is_bigendian", False)),
        "point_step": offset,
        "row_step": row_step,
        "data": data,
        "is_dense": record.extra["is_dense"],
    }


def _fix(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    assert isinstance(record, GnssRecord)
    place = {"latitude": record.latitude, "longitude": record.longitude}
    return {**place, "altitude": record.altitude, **_extra(record)}


def _imu(records: Sequence[Record], sensor: Sensor) -> Fields:
    if len(records) != 2:
        raise MessageError("incomplete", f"of an Imu there is only {type(records[0]).__name__}")
    acceleration, rate = records
    assert isinstance(acceleration, AccelerometerRecord)
    assert isinstance(rate, GyroscopeRecord)
    return {
        "linear_acceleration": _xyz(acceleration.xyz),
        "angular_velocity": _xyz(rate.xyz),
        **_extra(acceleration),
        **_extra(rate),
    }


def _magnetic(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    assert isinstance(record, MagneticRecord)
    return {"magnetic_field": _xyz(record.xyz), **_extra(record)}


def _wifi_scan(records: Sequence[Record], sensor: Sensor) -> Fields:
    (record,) = records
    assert isinstance(record, WifiRecord)
    points = [
        {
            "bssid": point.bssid,
            "ssid": point.ssid,
            "frequency": point.frequency,
            "rssi": point.rssi,
            "last_seen": _time(point.last_seen_ns),
        }
        for point in record.access_points
    ]
    times = {"scan_start": _time(record.scan_start_ns), "scan_end": _time(record.scan_end_ns)}
    return {**times, "access_points": points}


RESTORERS: dict[str, Callable[[Sequence[Record], Sensor], Fields]] = {
    "sensor_msgs/Image": _image,
    "sensor_msgs/CompressedImage": _compressed_image,
    "sensor_msgs/PointCloud2": _point_cloud,
    "sensor_msgs/NavSatFix": _fix,
    "gps_msgs/GPSFix": _fix,
    "gps_common/GPSFix": _fix,
    "sensor_msgs/Imu": _imu,
    "sensor_msgs/MagneticField": _magnetic,
    "kapture_ros/WifiScan": _wifi_scan,
}

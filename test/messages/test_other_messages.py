"""Depth, point clouds, GNSS, NMEA, Wi-Fi and motion as records."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_tools import START, image, make, pose_fields, transforms
from hypothesis import given
from hypothesis import strategies as st

from kapture_ros.errors import InputError
from kapture_ros.messages import MessageError, record_function
from kapture_ros.messages.depth import (
    compressed_depth_records,
    depth_records,
    is_depth,
    metres,
    millimetres,
)
from kapture_ros.messages.gnss import is_vouched_for
from kapture_ros.messages.motion import stamped_transforms
from kapture_ros.messages.nmea import parse, read_log
from kapture_ros.messages.pointclouds import point_cloud_records, read_pcd
from kapture_ros.messages.wifi import WifiMapping, frequency_of_channel


def refused(call, *args) -> str:
    with pytest.raises(MessageError) as caught:
        call(*args)
    return caught.value.reason


def records(message, **config):
    name = message.__msgtype__
    return record_function(name, **config)(message, START, "id")


# -- depth ------------------------------------------------------------------------------------


def test_depth_of_millimetres_and_metres_becomes_float_metres() -> None:
    raw = np.array([[0, 1, 1500], [65535, 2, 3]], np.uint16)
    (record,) = depth_records(image(raw, "16UC1", 1, "d"), 1, "d")
    depth = np.frombuffer(record.payload.encode(), "<f4").reshape(2, 3)
    assert np.allclose(depth, raw / 1000.0)
    floats = np.array([[np.nan, 0.25], [np.inf, 7.5]], np.float32)
    (record,) = depth_records(image(floats, "32FC1", 1, "d"), 1, "d")
    assert record.payload.encode() == floats.tobytes()


def test_every_millimetre_comes_back_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(millimetres(metres(every)), every)


def test_big_endian_padded_depth_is_understood() -> None:
    raw = np.array([[1000, 2000], [3000, 4000]], ">u2")
    rows = np.hstack([raw.view(np.uint8).reshape(2, 4), np.full((2, 3), 9, np.uint8)])
    message = make("sensor_msgs/Image", height=2, width=2, encoding="16UC1", is_bigendian=1, step=7,
                   data=rows.reshape(-1))  # fmt: skip
    (record,) = depth_records(message, 1, "d")
    assert np.frombuffer(record.payload.encode(), "<f4").tolist() == [1.0, 2.0, 3.0, 4.0]


def compressed_depth(samples, encoding: str, a: float = 0.0, b: float = 0.0, config: bool = True):
    png = cv2.imencode(".png", samples)[1].tobytes()
    header = struct.pack("<iff", 0, a, b) if config else b""
    kind = f"{encoding}; compressedDepth png" if config else f"{encoding}; png compressed "
    data = np.frombuffer(header + png, np.uint8)
    return make("sensor_msgs/CompressedImage", format=kind, data=data)


def test_compressed_depth_is_unpacked_and_dequantized() -> None:
    raw = np.array([[0, 1500], [2, 40000]], np.uint16)
    for config in (True, False):
        message = compressed_depth(raw, "16UC1", config=config)
        assert is_depth(message)
        (record,) = compressed_depth_records(message, 1, "d")
        assert np.allclose(np.frombuffer(record.payload.encode(), "<f4"), raw.ravel() / 1000)
    # quantization as in compressed_depth_image_transport, with its default of 100 m
    a = 100.0 * (100.0 + 1.0)
    b = 1.0 - a / 10.0
    depth = np.array([[0.5, 2.0], [5.0, 0.0]])
    quantized = np.where(depth > 0, a / np.maximum(depth, 1e-9) + b, 0).round().astype(np.uint16)
    (record,) = compressed_depth_records(compressed_depth(quantized, "32FC1", a, b), 1, "d")
    found = np.frombuffer(record.payload.encode(), "<f4").reshape(2, 2)
    assert np.isnan(found[1, 1])
    assert np.allclose(found.ravel()[:3], depth.ravel()[:3], rtol=1e-3)


def test_colour_is_no_depth() -> None:
    colour = image(np.zeros((2, 2, 3), np.uint8), "rgb8", 1, "d")
    assert not is_depth(colour)
    assert refused(depth_records, colour, 1, "d") == "unknown-encoding"


# -- point clouds -----------------------------------------------------------------------------


def cloud(points: np.ndarray, row_padding: int = 0, big_endian: bool = False, **changes):
    """A cloud of a structured array (H, W)."""
    codes = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
    fields = [
        make("sensor_msgs/PointField", name=name, offset=points.dtype.fields[name][1],
             datatype=codes[points.dtype[name].base.str[1:]],
             count=int(np.prod(points.dtype[name].shape) or 1))
        for name in points.dtype.names
    ]  # fmt: skip
    height, width = points.shape
    rows = points.view(np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, row_padding), 7, np.uint8)])
    values = {
        "height": height, "width": width, "fields": fields, "point_step": points.dtype.itemsize,
        "row_step": rows.shape[1], "is_bigendian": big_endian, "data": rows.reshape(-1),
        "is_dense": True,
    }  # fmt: skip
    return make("sensor_msgs/PointCloud2", **{**values, **changes})


LAYOUT = {
    "names": ["x", "y", "z", "intensity", "ring", "time", "normal"],
    "formats": ["f4", "f4", "f4", "f4", "u2", "f8", ("f4", 3)],
    "offsets": [0, 4, 8, 16, 20, 24, 32],
    "itemsize": 48,
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("row_padding", [0, 5])
def test_a_cloud_keeps_all_fields_and_the_bytes_between(order, row_padding) -> None:
    dtype = np.dtype(LAYOUT).newbyteorder(order)
    random = np.random.default_rng(0).integers(0, 100, (3, 4 * 48), np.uint8)
    points = random.view(dtype).reshape(3, 4)
    message = cloud(points, row_padding, big_endian=order == ">")
    (record,) = point_cloud_records(message, 1, "lidar")
    header, data = read_pcd(record.payload.encode())
    assert header["FIELDS"] == ["x", "y", "z", "_", "intensity", "ring", "_", "time", "normal", "_"]
    assert header["COUNT"] == ["1", "1", "1", "4", "1", "1", "2", "1", "3", "4"]
    assert (header["WIDTH"], header["HEIGHT"]) == (["4"], ["3"])
    found = np.frombuffer(data, np.dtype(LAYOUT)).reshape(3, 4)
    for name in LAYOUT["names"]:
        assert np.array_equal(found[name], points[name].astype(found[name].dtype), equal_nan=True)
    if order == "<":
        assert data == points.tobytes()


def test_an_empty_cloud_is_kept() -> None:
    points = np.zeros((1, 0), np.dtype({"names": ["x"], "formats": ["f4"]}))
    (record,) = point_cloud_records(cloud(points), 1, "lidar")
    assert read_pcd(record.payload.encode())[1] == b""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 5}, "bad-size"),
        ({"height": 4}, "bad-size"),
        ({"row_step": 3}, "bad-size"),
        ({"point_step": 20}, "bad-fields"),
        ({"fields": []}, "bad-fields"),
        ({"fields": [make("sensor_msgs/PointField", name="x", datatype=99)]}, "bad-fields"),
        (
            {
                "fields": [
                    make("sensor_msgs/PointField", name=n, offset=o, datatype=7, count=1)
                    for n, o in (("x", 0), ("y", 2))
                ]
            },
            "bad-fields",
        ),
    ],
)
def test_a_cloud_that_lies_is_refused(changes, reason) -> None:
    points = np.zeros((3, 4), np.dtype(LAYOUT))
    assert refused(point_cloud_records, cloud(points, **changes), 1, "lidar") == reason


# -- GNSS -------------------------------------------------------------------------------------


def fix(lat: float, lon: float, alt: float, status: int = 0):
    return make(
        "sensor_msgs/NavSatFix", latitude=lat, longitude=lon, altitude=alt,
        status=make("sensor_msgs/NavSatStatus", status=status, service=1),
        position_covariance=np.arange(9.0), position_covariance_type=2,
    )  # fmt: skip


def test_a_fix_keeps_status_and_covariance() -> None:
    (record,) = records(fix(48.5, 11.25, 500.0, status=2))
    assert (record.latitude, record.longitude, record.altitude) == (48.5, 11.25, 500.0)
    assert record.utc == START // 10**9
    assert record.extra["status"] == {"status": 2, "service": 1}
    assert record.extra["position_covariance"] == list(range(9))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((math.nan, 1, 1), "no-position"),
        ((1, math.inf, 1), "no-position"),
        ((0, 0, 0, -1), "no-position"),
        ((91, 0, 0), "out-of-range"),
        ((0, -181, 0), "out-of-range"),
    ],
)
def test_what_is_no_position_is_refused(values, reason) -> None:
    assert refused(records, fix(*values)) == reason


def test_a_position_counts_even_if_the_receiver_says_no_fix() -> None:
    (record,) = records(fix(40.07, -111.6, math.nan, status=-1))
    assert math.isnan(record.altitude)


def test_gpsfix_gives_dop_and_its_own_time() -> None:
    message = make("gps_common/GPSFix", latitude=1.0, longitude=2.0, altitude=3.0, hdop=0.8,
                   time=1234.5)  # fmt: skip
    (record,) = records(message)
    assert (record.dop, record.utc) == (0.8, 1234)


# -- NMEA -------------------------------------------------------------------------------------

GGA = "$GPGGA,124637.70,4811.7613024,N,01137.1665137,E,5,05,2.6,494.6412,M,47.5367,M,0.7,3119*48"
RMC = "$GPRMC,124637.70,A,4811.7613024,N,01137.1665137,E,17.0,251.7,071020,3.5,W,D*19"


def sentence(text: str):
    return make("nmea_msgs/Sentence", sentence=text)


def with_checksum(body: str) -> str:
    value = 0
    for character in body:
        value ^= ord(character)
    return f"${body}*{value:02X}"


def test_gga_gives_height_above_the_ellipsoid_and_rmc_none() -> None:
    at = 1_602_074_797_700_000_000
    (gga,) = record_function("nmea_msgs/Sentence")(sentence(GGA), at, "nmea")
    assert gga.latitude == pytest.approx(48 + 11.7613024 / 60, abs=1e-12)
    assert gga.longitude == pytest.approx(11 + 37.1665137 / 60, abs=1e-12)
    assert gga.altitude == pytest.approx(494.6412 + 47.5367)
    assert (gga.dop, gga.utc, gga.sensor_id) == (2.6, at // 10**9, "nmea")
    (rmc,) = record_function("nmea_msgs/Sentence")(sentence(RMC + "\r\n"), at, "nmea")
    assert rmc.sensor_id == "nmea-rmc" and math.isnan(rmc.altitude)


def test_the_southern_and_western_hemispheres_are_negative() -> None:
    body = "GNGGA,000001.00,3351.5,S,15112.9,W,1,05,2.6,1.0,M,,M,,"
    (record,) = records(sentence(with_checksum(body)))
    assert record.latitude == pytest.approx(-(33 + 51.5 / 60))
    assert record.longitude == pytest.approx(-(151 + 12.9 / 60))


def test_utc_is_on_the_day_nearest_to_the_stamp() -> None:
    body = "GNGGA,235959.00,0000.0,N,00000.1,E,1,05,2.6,1.0,M,0,M,,"
    just_after_midnight = 20_000 * 86_400 + 3
    (record,) = record_function("nmea_msgs/Sentence")(
        sentence(with_checksum(body)), just_after_midnight * 10**9, "n"
    )
    assert record.utc == 20_000 * 86_400 - 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GGA[:-1] + "9", "nmea-broken"),
        (GGA[:40], "nmea-broken"),
        ("", "nmea-broken"),
        ("$*00", "nmea-other"),
        ("$GPGGA,ü*00", "nmea-broken"),
        (with_checksum("GPGGA,1,2"), "nmea-broken"),
        (with_checksum("GPGGA,124637.70,xx,N,01137.1,E,5,05,2.6,494.6,M,47.5,M,,"), "nmea-broken"),
        (with_checksum("GPGGA,124637.70,,,,,0,05,2.6,,M,,M,,"), "no-position"),
        (with_checksum("GPRMC,124637.70,V,,,,,,,071020,3.5,W,D"), "no-position"),
        (
            with_checksum("GPGGA,124637.70,4811.7,Q,01137.1,E,5,05,2.6,494.6,M,47.5,M,,"),
            "no-position",
        ),
        (with_checksum("GPGSV,3,1"), "nmea-other"),
    ],
)
def test_broken_and_other_sentences_are_refused(text, reason) -> None:
    assert refused(records, sentence(text)) == reason


def test_a_fix_without_an_altitude_is_one_in_the_plane() -> None:
    text = with_checksum("GPGGA,124637.70,4811.7,N,01137.1,E,1,03,2.6,,M,47.5,M,,")
    (record,) = records(sentence(text))
    assert math.isnan(record.altitude)
    assert record.latitude == pytest.approx(48 + 11.7 / 60)


def gga_of(quality: str) -> str:
    return with_checksum(f"GPGGA,124637.70,4811.7,N,01137.1,E,{quality},05,2.6,494.6,M,47.5,M,,")


def rmc_of(mode: str) -> str:
    return with_checksum(f"GPRMC,124637.70,A,4811.7,N,01137.1,E,1,2,071020,3.5,W{mode}")


@pytest.mark.parametrize(
    ("text", "by_satellites"),
    [(gga_of(quality), True) for quality in "123459"]
    + [(gga_of(quality), False) for quality in "678"]
    + [(rmc_of(mode), True) for mode in ("", ",", ",A", ",D", ",R", ",F", ",P", ",A,V")]
    + [(rmc_of(mode), False) for mode in (",E", ",M", ",S", ",N", ",E,V")],
)
def test_positions_that_no_satellite_gave_are_kept_and_not_vouched_for(text, by_satellites) -> None:
    (record,) = records(sentence(text))
    assert record.extra["sentence"] == text
    assert record.latitude == pytest.approx(48 + 11.7 / 60)
    assert is_vouched_for(record.extra) is by_satellites


@given(st.text(max_size=90))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse(text)
    except MessageError as error:
        assert error.reason == "nmea-broken"


def test_a_log_is_stamped_with_its_utc_across_midnight(tmp_path: Path) -> None:
    bodies = [
        "GPGSV,1",
        "GPGGA,235959.50,0000.0,N,00000.1,E,1,05,2.6,1.0,M,0,M,,",
        "GPRMC,235959.50,A,0000.0,N,00000.1,E,1,2,311220,,",
        "GPGGA,000000.50,0000.0,N,00000.1,E,1,05,2.6,1.0,M,0,M,,",
    ]
    log = tmp_path / "log.nmea"
    log.write_text("\n".join(map(with_checksum, bodies)))
    stamps = [s.header.stamp.sec + s.header.stamp.nanosec / 1e9 for s in read_log(log)]
    last_day = 18_627 * 86_400  # 2020-12-31
    assert stamps == [last_day + 86_399.5] * 3 + [last_day + 86_400.5]
    log.write_text(with_checksum(bodies[1]))
    with pytest.raises(InputError, match="date"):
        list(read_log(log))


# -- Wi-Fi ------------------------------------------------------------------------------------


def test_our_scan_keeps_everything() -> None:
    stamp = {"sec": 5, "nanosec": 7}
    point = make("kapture_ros/WifiAccessPoint", bssid="aa:bb", ssid="a,b\n☕", frequency=5180,
                 rssi=-40, last_seen=make("builtin_interfaces/Time", **stamp))  # fmt: skip
    scan = make("kapture_ros/WifiScan", access_points=[point],
                scan_end=make("builtin_interfaces/Time", **stamp))  # fmt: skip
    (record,) = records(scan)
    (found,) = record.access_points
    assert (found.ssid, found.frequency, found.rssi) == ("a,b\n☕", 5180, -40)
    assert found.last_seen_ns == record.scan_end_ns == 5_000_000_007
    assert records(make("kapture_ros/WifiScan"))[0].access_points == ()


def test_messages_of_other_packages_are_known_by_name() -> None:
    connection = make("wireless_msgs/Connection", signal_level=-61, essid="net", bssid="AA:01",
                      frequency=2.437)  # fmt: skip
    (point,) = records(connection)[0].access_points
    assert (point.bssid, point.ssid, point.frequency, point.rssi) == ("AA:01", "net", 2437, -61)
    station = make("rf_msgs/Station", mac=np.array([1, 2, 3, 4, 5, 255], np.uint8), channel=36,
                   rssi=-70)  # fmt: skip
    (point,) = records(make("rf_msgs/AccessPoints", aps=[station]))[0].access_points
    assert (point.bssid, point.frequency, point.rssi) == ("01:02:03:04:05:ff", 5180, -70)
    (record,) = records(make("rtabmap_msgs/EnvSensor", type=1, value=-55.25))
    assert record.access_points[0].rssi == -55
    assert record.extra["message"]["value"] == -55.25
    assert refused(records, make("rtabmap_msgs/EnvSensor", type=2, value=20.0)) == "not-wifi"


def test_a_mapping_of_the_configuration_is_used() -> None:
    message = make("rtabmap_msgs/EnvSensor", value=-70.0)
    mapping = {"rtabmap_msgs/EnvSensor": WifiMapping(rssi="value", ssid="header.frame_id")}
    message.header.frame_id = "hall"
    message.type = 1
    (record,) = records(message, wifi_mappings=mapping)
    assert record.access_points[0].ssid == "hall"
    wrong = {"rtabmap_msgs/EnvSensor": WifiMapping(rssi="level")}
    with pytest.raises(MessageError, match="no field 'level'"):
        records(message, wifi_mappings=wrong)
    message.value = math.nan
    with pytest.raises(MessageError, match="bad-mapping"):
        records(message, wifi_mappings=mapping)


def test_channels_have_their_frequencies() -> None:
    known = {1: 2412, 13: 2472, 14: 2484, 36: 5180, 165: 5825, 0: 0, 300: 0}
    assert {channel: frequency_of_channel(channel) for channel in known} == known


# -- motion -----------------------------------------------------------------------------------


def test_imu_gives_two_records_with_all_covariances() -> None:
    message = make(
        "sensor_msgs/Imu", orientation_covariance=np.full(9, -1.0),
        linear_acceleration=make("geometry_msgs/Vector3", x=1.0, y=2.0, z=9.8),
        linear_acceleration_covariance=np.arange(9.0),
        angular_velocity=make("geometry_msgs/Vector3", x=0.1, y=0.2, z=0.3),
        angular_velocity_covariance=np.arange(9.0) * 2,
    )  # fmt: skip
    accelerometer, gyroscope = records(message)
    assert accelerometer.xyz == (1.0, 2.0, 9.8) and gyroscope.xyz == (0.1, 0.2, 0.3)
    assert set(accelerometer.extra) == {
        "orientation", "orientation_covariance", "linear_acceleration_covariance",
    }  # fmt: skip
    assert gyroscope.extra == {"angular_velocity_covariance": (np.arange(9.0) * 2).tolist()}
    message.angular_velocity.z = math.nan
    assert refused(records, message) == "not-finite"


def test_a_pose_without_a_direction_is_refused() -> None:
    odometry = make("nav_msgs/Odometry", frame="odom", child_frame_id="/base_link")
    assert refused(records, odometry) == "bad-pose"
    odometry.pose.pose = pose_fields("Pose", (2, 0, 0, 0), (1, 2, 3), 2)
    (record,) = records(odometry)
    assert (record.parent_frame, record.child_frame) == ("odom", "base_link")
    assert record.parent_from_child.translation.tolist() == [1, 2, 3]
    assert record.extra["pose"]["pose"]["orientation"]["w"] == 2  # as it came, not normalized
    odometry.pose.pose.position.x = math.inf
    assert refused(records, odometry) == "bad-pose"


def test_a_transform_on_a_topic_of_its_own_is_a_pose() -> None:
    """Motion capture sends one so, outside of /tf."""
    vicon = make("geometry_msgs/TransformStamped", frame="world", child_frame_id="/vicon/body")
    assert refused(records, vicon) == "bad-pose"
    vicon.transform = pose_fields("Transform", (0, 0, 0, 2), (1, 2, 3), 2)
    (record,) = records(vicon)
    assert (record.parent_frame, record.child_frame) == ("world", "vicon/body")
    assert record.parent_from_child.translation.tolist() == [1, 2, 3]
    assert record.extra["transform"]["rotation"]["z"] == 2


def test_a_bad_transform_does_not_hide_its_neighbours() -> None:
    good = (1, 0, 0, 0)
    message = transforms(
        [(1, "a", "b", good, (1, 2, 3)), (1, "a", "a", good, (0, 0, 0)),
         (1, "a", "c", (0, 0, 0, 0), (0, 0, 0)), (1, "/a", "/d", good, (4, 5, 6))]
    )  # fmt: skip
    found = list(stamped_transforms(message))
    assert [item.reason for item in found if isinstance(item, MessageError)] == [
        "bad-frame",
        "bad-pose",
    ]
    assert [(i.parent, i.child) for i in found if not isinstance(i, MessageError)] == [
        ("a", "b"),
        ("a", "d"),
    ]


def test_unknown_types_have_no_function() -> None:
    assert record_function("strange_msgs/msg/Thing") is None
    assert record_function("sensor_msgs/Image") is record_function("sensor_msgs/msg/Image")

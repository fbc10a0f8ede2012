"""The built messages cross from one process to another over real topics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from processes import end_process

MESSAGES = Path(__file__).parent.parent / "msg"

PUBLISHER = """
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from kapture_ros.msg import WifiAccessPoint, WifiScan
from tf2_msgs.msg import TFMessage

rclpy.init()
node = rclpy.create_node("publisher")
wifi = node.create_publisher(WifiScan, "wifi", 10)
tf = node.create_publisher(TFMessage, "/tf", 10)

scan = WifiScan(scan_start=Time(sec=1_700_000_000, nanosec=5), scan_end=Time(sec=1_700_000_002))
scan.header.stamp = Time(sec=1_700_000_002, nanosec=999_999_999)
scan.header.frame_id = "antenna"
scan.access_points = [
    WifiAccessPoint(bssid="aa:bb:cc:dd:ee:ff", ssid="café, \\n汉", frequency=5180, rssi=-67,
                    last_seen=Time(sec=1_700_000_001)),
]
transform = TransformStamped(child_frame_id="base_link")
transform.header.frame_id = "odom"
transform.transform.translation.x = 1.5

def publish():
    wifi.publish(scan)
    tf.publish(TFMessage(transforms=[transform]))

node.create_timer(0.05, publish)
rclpy.spin(node)
"""

LISTENER = """
import time
import rclpy
from kapture_ros.msg import WifiScan
from tf2_msgs.msg import TFMessage

rclpy.init()
node = rclpy.create_node("listener")
heard = {}
node.create_subscription(WifiScan, "wifi", lambda message: heard.update(wifi=message), 10)
node.create_subscription(TFMessage, "/tf", lambda message: heard.update(tf=message), 10)
end = time.monotonic() + 120
while len(heard) < 2 and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)

scan, transform = heard["wifi"], heard["tf"].transforms[0]
point = scan.access_points[0]
stamp = scan.header.stamp
print(stamp.sec, stamp.nanosec, scan.header.frame_id, scan.scan_start.nanosec)
print(point.bssid, repr(point.ssid), point.frequency, point.rssi, point.last_seen.sec)
print(transform.header.frame_id, transform.child_frame_id, transform.transform.translation.x)
"""


def test_a_wifi_scan_and_a_transform_arrive_unchanged(ros_environment: dict[str, str]):
    publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=ros_environment)
    try:
        listener = subprocess.run(
            [sys.executable, "-c", LISTENER],
            env=ros_environment | {"PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            timeout=150,
        )
    finally:
        end_process(publisher)
    assert listener.returncode == 0, listener.stderr
    assert listener.stdout.splitlines() == [
        "1700000002 999999999 antenna 5",
        "aa:bb:cc:dd:ee:ff 'café, \\n汉' 5180 -67 1700000001",
        "odom base_link 1.5",
    ]


def test_every_field_says_what_it_is():
    """Each field of our messages carries a comment: beside it, or above its group."""
    for path in MESSAGES.glob("*.msg"):
        for group in path.read_text().split("\n\n"):
            lines = group.strip().splitlines()
            if not lines[0].startswith("#"):
                assert all("#" in line for line in lines), group

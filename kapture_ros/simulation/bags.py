"""Bags of simulated messages: ROS 2 (mcap, db3) and ROS 1, written side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rosbags import rosbag1, rosbag2
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores

from kapture_ros.simulation.messages import ROS2, Message, make_typestore

_STORAGE = {"mcap": rosbag2.StoragePlugin.MCAP, "db3": rosbag2.StoragePlugin.SQLITE3}
_LATCHED = "/tf_static"
_FOREVER = QosTime(2147483647, 4294967295)
_LATCHED_QOS = Qos(
    QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
    _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, avoid_ros_namespace_conventions=False,
)  # fmt: skip


def bag_path(folder: Path, name: str, format: str) -> Path:
    """Where the bag of a format lies: NAME (mcap), NAME_db3, NAME.bag (ros1)."""
    return folder / {"mcap": name, "db3": f"{name}_db3", "ros1": f"{name}.bag"}[format]


class _Bag2:
    def __init__(self, writer: rosbag2.Writer):
        self._writer = writer
        self._connections: dict[str, Connection] = {}

    def write(self, message: Message, data: memoryview) -> None:
        connection = self._connections.get(message.topic)
        if connection is None:
            latched = [_LATCHED_QOS] if message.topic == _LATCHED else []
            connection = self._connections[message.topic] = self._writer.add_connection(
                message.topic, message.msgtype, typestore=ROS2, offered_qos_profiles=latched
            )
        self._writer.write(connection, message.receive_ns, data)


class _Bag1:
    def __init__(self, writer: rosbag1.Writer):
        self._writer = writer
        self._connections: dict[str, Connection] = {}
        self._typestore = make_typestore(Stores.ROS1_NOETIC)

    def write(self, message: Message, data: memoryview) -> None:
        connection = self._connections.get(message.topic)
        if connection is None:
            connection = self._connections[message.topic] = self._writer.add_connection(
                message.topic,
                message.msgtype,
                typestore=self._typestore,
                latching=int(message.topic == _LATCHED),
            )
        # Fields have the same order and types in both; rosbags adds the header's seq.
        self._writer.write(connection, message.receive_ns, ROS2.cdr_to_ros1(data, message.msgtype))


class BagSet:
    """The same messages in bags of several formats."""

    def __init__(self, bags: list[_Bag1 | _Bag2]):
        self._bags = bags

    def write(self, message: Message) -> None:
        """Append a message; topics are registered as they come."""
        data = ROS2.serialize_cdr(message.content, message.msgtype)
        for bag in self._bags:
            bag.write(message, data)


@contextmanager
def open_bags(folder: Path, name: str, formats: tuple[str, ...]) -> Iterator[BagSet]:
    """Bags named after a lap, one for each format."""
    with ExitStack() as stack:
        bags: list[_Bag1 | _Bag2] = []
        for format in dict.fromkeys(formats):
            path = bag_path(folder, name, format)
            if format == "ros1":
                bags.append(_Bag1(stack.enter_context(rosbag1.Writer(path))))
                continue
            writer = rosbag2.Writer(path, version=9, storage_plugin=_STORAGE[format])
            bags.append(_Bag2(stack.enter_context(writer)))
        yield BagSet(bags)

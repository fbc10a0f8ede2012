"""The bag player: publishes a bag of any kind on real topics in its own time, with /clock.

Messages of ROS 2 bags go out byte for byte, those of ROS 1 as the ROS 2 message of that name.
Everything is offered reliably, so that every subscription matches; what was latched (and
/tf_static) is latched again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from kapture_ros.errors import InputError, OptionError
from kapture_ros.messages.common import MessageError, normalized_type
from kapture_ros.nodes.ending import end_if_told, note_signals
from kapture_ros.nodes.recorder_node import message_class
from kapture_ros.recording.bag import Bag, BagMessage
from kapture_ros.recording.bagtypes import Channel, ros2_type
from kapture_ros.recording.playback import (
    SECOND_NS,
    PlayOptions,
    chosen_topics,
    matching,
    start_ns,
    timeline,
)

log = logging.getLogger(__name__)

CLOCK = "/clock"
DEPTH = 1000  # messages kept for a reliable subscriber that is slow
LARGE_DEPTH = 50  # of images and clouds: a stalled subscriber must not cost gigabytes
LARGE = ("/Image", "/PointCloud2")
MATCHING_S = 0.3  # a subscriber may match the publisher a moment after the publisher matched it
FLUSH = Duration(seconds=5)


class BagPlayer:
    """A bag on its way to topics.

    Args:
        node: gets the publishers.

    Raises:
        OptionError: if a pattern names no topic, or `start` lies behind the bag's end.
        InputError: if no message of the chosen topics can be published here.
    """

    def __init__(self, node: Node, bag: Bag, options: PlayOptions) -> None:
        self._bag = bag
        self._options = options
        self._node = node
        self._publishers: dict[str, Any] = {}
        self._types: dict[str, str] = {}  # of the topics that are published
        self._refused: dict[str, str] = {}
        self.published = 0
        chosen = chosen_topics(bag, options)
        if options.clock_rate:
            chosen.discard(CLOCK)  # ours says the same and follows `rate`
        for channel in bag.counts:
            if channel.topic in chosen and channel.topic not in self._publishers:
                self._advertise(channel)
        if not self._publishers:
            raise InputError("nothing to play: " + ("; ".join(self._refused.values()) or CLOCK))
        self._clock = node.create_publisher(Clock, CLOCK, 10) if options.clock_rate else None
        self._progress = tqdm(
            total=round((bag.end_ns - start_ns(bag, options)) / SECOND_NS, 1),
            unit="s",
            bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} s of the bag{postfix}",
            disable=None,
        )

    def play(self) -> None:
        """Publish everything, once or forever.

        Raises:
            InputError: if an awaited topic finds no subscriber.
        """
        self._await_subscribers()
        self._play_once()
        while self._options.loop:
            self._progress.reset()
            self._play_once()
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(FLUSH)  # what was sent is still on its way

    def close(self) -> None:
        """End the progress line."""
        self._progress.close()

    def _advertise(self, channel: Channel) -> None:
        """A publisher for a topic, or the reason why there is none."""
        type_name = ros2_type(channel)
        message_type = message_class(type_name) if type_name else None
        if message_type is None:
            self._refuse(channel.topic, f"no message package with {channel.type_name} here")
            return
        durability = (
            DurabilityPolicy.TRANSIENT_LOCAL if channel.latched else DurabilityPolicy.VOLATILE
        )
        depth = LARGE_DEPTH if channel.type_name.endswith(LARGE) else DEPTH
        profile = QoSProfile(depth=depth, durability=durability)
        try:
            publisher = self._node.create_publisher(message_type, channel.topic, profile)
        except InvalidTopicNameException as error:  # ROS 1 allows names that ROS 2 does not
            self._refuse(channel.topic, str(error).splitlines()[0])
            return
        self._publishers[channel.topic] = publisher
        self._types[channel.topic] = normalized_type(channel.type_name)

    def _refuse(self, topic: str, reason: str) -> None:
        self._refused[topic] = f"{topic}: {reason}"
        log.warning("not played: %s", self._refused[topic])

    def _await_subscribers(self) -> None:
        if not self._options.wait_for:
            return
        awaited = matching(sorted(self._publishers), self._options.wait_for)
        end = time.monotonic() + self._options.wait_seconds
        while missing := [
            topic
            for topic in sorted(awaited)
            if not self._publishers[topic].get_subscription_count()
        ]:
            end_if_told()
            if time.monotonic() > end:
                raise InputError(
                    f"nobody subscribed to {', '.join(missing)} within "
                    f"{self._options.wait_seconds:g} s (wait_seconds)"
                )
            time.sleep(0.05)
        time.sleep(MATCHING_S)

    def _play_once(self) -> None:
        first = start_ns(self._bag, self._options)
        pace = Pace(first, self._options, self._tick)
        self._tick(first)
        for message in timeline(self._bag, set(self._publishers), self._options):
            pace.wait_until(message.time_ns)
            self._publish(message)
        self._tick(self._bag.end_ns)

    def _tick(self, bag_ns: int) -> None:
        """Tell everybody what time it is in the bag."""
        if self._clock is not None:
            stamp = Time(sec=bag_ns // SECOND_NS, nanosec=bag_ns % SECOND_NS)
            self._clock.publish(Clock(clock=stamp))
        shown = (bag_ns - start_ns(self._bag, self._options)) / SECOND_NS
        self._progress.update(round(shown - self._progress.n, 3))

    def _publish(self, message: BagMessage) -> None:
        topic, type_name = message.channel.topic, message.channel.type_name
        if normalized_type(type_name) != self._types[topic]:  # in another bag
            if topic not in self._refused:
                self._refuse(topic, f"its messages of type {type_name}; the first ones are others")
            return
        try:
            data = self._bag.as_ros2(message)
        except MessageError as error:
            if topic not in self._refused:
                self._refuse(topic, f"a message of it is {error}")
            return
        self._publishers[topic].publish(data)
        self.published += 1


class Pace:
    """The bag's time as it passes, told `clock_rate` times a second.

    Args:
        tick: is told the time; when playing is late, no later than what is due.
    """

    def __init__(self, first_ns: int, options: PlayOptions, tick: Callable[[int], None]) -> None:
        self._first_ns, self._rate, self._tick = first_ns, options.rate, tick
        self._period = 1 / options.clock_rate if options.clock_rate else 0.1
        self._begin = self._told = time.monotonic()

    def wait_until(self, bag_ns: int) -> None:
        """Return when it is that time in the bag; at once if it is past.

        Raises:
            KeyboardInterrupt: if the process is told to end.
        """
        due = self._begin + (bag_ns - self._first_ns) / SECOND_NS / self._rate
        while True:
            end_if_told()
            now = time.monotonic()
            if now - self._told >= self._period:
                self._told = now
                passed = max(0.0, min(now, due) - self._begin)
                self._tick(self._first_ns + round(passed * self._rate * SECOND_NS))
            if now >= due:
                return
            time.sleep(min(due, self._told + self._period) - now)


def run(bag: Bag, options: PlayOptions, ros_arguments: Sequence[str] = ()) -> None:
    """Play a bag to its end or until a signal.

    Raises:
        OptionError: if ROS does not understand its arguments, or as `BagPlayer`.
        InputError: as `BagPlayer`.
    """
    try:
        rclpy.init(
            args=["--ros-args", *ros_arguments], signal_handler_options=SignalHandlerOptions.NO
        )
    except RuntimeError as error:  # what rclpy raises for a malformed remapping
        raise OptionError(f"ROS arguments {' '.join(ros_arguments)}: {error}") from error
    note_signals()
    node = rclpy.create_node("bag_player")
    begin = time.monotonic()
    player = None
    try:
        player = BagPlayer(node, bag, options)
        player.play()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if player is not None:
            player.close()
            log.info("%d messages in %.1f s", player.published, time.monotonic() - begin)
        for problem in bag.problems:
            log.warning("damaged: %s", problem)
        node.destroy_node()
        rclpy.try_shutdown()

"""Which messages of a bag are played, and what is said about choices that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from bag_tools import START, STEP, make, transforms, write_bag

from kapture_ros.errors import OptionError
from kapture_ros.messages.common import MessageError
from kapture_ros.recording.bag import Bag
from kapture_ros.recording.bagtypes import ros2_type
from kapture_ros.recording.playback import PlayOptions, chosen_topics, timeline

STILL = ((1, 0, 0, 0), (0.5, 0, 0))


@pytest.fixture(params=["ros1", "db3", "mcap"])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    ros = 1 if request.param == "ros1" else 2
    static = transforms([(START, "base_link", "camera", *STILL)], ros)
    stream = [("/tf_static", static, START)]
    for number in range(5):
        at = START + number * STEP
        stream.append(("/a/imu", make("sensor_msgs/Imu", ros, stamp=at), at))
        stream.append(("/fix", make("sensor_msgs/NavSatFix", ros, stamp=at), at))
    return write_bag(tmp_path / "bag", request.param, stream)


def played(path: Path, options: PlayOptions) -> list[tuple[str, int]]:
    with Bag([path]) as bag:
        messages = timeline(bag, chosen_topics(bag, options), options)
        return [(m.channel.topic, (m.time_ns - START) // STEP) for m in messages]


def test_everything_by_default(bag: Path):
    assert len(played(bag, PlayOptions())) == 11


def test_what_was_latched_before_the_start_comes_first(bag: Path):
    assert played(bag, PlayOptions(start=0.3, topics=("/a/*", "/tf_static"))) == [
        ("/tf_static", 0),
        ("/a/imu", 3),
        ("/a/imu", 4),
    ]


def test_a_start_behind_the_end_is_refused(bag: Path):
    with pytest.raises(OptionError, match=r"'start' is 9 s, but the bag lasts 0\.4 s"):
        played(bag, PlayOptions(start=9.0))


def test_a_pattern_without_a_topic_is_refused(bag: Path):
    with pytest.raises(OptionError, match="no topic is called /b/"):
        played(bag, PlayOptions(topics=("/b/*",)))


def test_ros_1_types_without_a_like_in_ros_2_are_told(tmp_path: Path):
    stream = [("/strange", make("strange_msgs/msg/Thing", 1, stamp=START), START)]
    with Bag([write_bag(tmp_path / "bag", "ros1", stream)]) as bag:
        (message,) = bag.messages()
        assert ros2_type(message.channel) is None
        with pytest.raises(MessageError, match="no ROS 2 message is like strange_msgs/msg/Thing"):
            bag.as_ros2(message)

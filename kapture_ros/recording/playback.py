"""What of a bag is published when: the messages in order, with the settings of a player.

`nodes/bag_player.py` publishes them; nothing here needs ROS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kapture_ros.errors import OptionError
from kapture_ros.options import option

if TYPE_CHECKING:  # the command line loads the options alone
    from kapture_ros.recording.bag import Bag, BagMessage

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played."""

    rate: float = option(1.0, "times as fast as it was recorded", minimum=0.01, maximum=1000)
    loop: bool = option(False, "begin again at the end, until interrupted")
    start: float = option(
        0.0,
        "to leave out at the beginning; what latched topics said there is published first",
        unit="s",
        minimum=0,
    )
    topics: tuple[str, ...] = option((), "topics to publish, as patterns; none: all")
    wait_for: tuple[str, ...] = option((), "begin when these topics (patterns) are subscribed to")
    wait_seconds: float = option(60.0, "for those subscribers at most", unit="s", minimum=0)
    clock_rate: float = option(
        100.0, "of /clock, which tells the bag's time; 0: none", unit="Hz", minimum=0, maximum=10000
    )


def matching(topics: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The topics that patterns like `/camera/*` name.

    Raises:
        OptionError: for a pattern that names none.
    """
    found: set[str] = set()
    for pattern in patterns:
        named = {topic for topic in topics if fnmatchcase(topic, pattern)}
        if not named:
            raise OptionError(f"no topic is called {pattern}; there are {', '.join(topics)}")
        found |= named
    return found


def chosen_topics(bag: Bag, options: PlayOptions) -> set[str]:
    """The topics to publish.

    Raises:
        OptionError: if `start` lies behind the bag's end or a pattern names no topic.
    """
    duration = (bag.end_ns - bag.start_ns) / SECOND_NS
    if options.start > duration:
        raise OptionError(f"'start' is {options.start:g} s, but the bag lasts {duration:.1f} s")
    topics = sorted({channel.topic for channel in bag.counts})
    return matching(topics, options.topics) if options.topics else set(topics)


def start_ns(bag: Bag, options: PlayOptions) -> int:
    """The bag's time where playing begins."""
    return bag.start_ns + round(options.start * SECOND_NS)


def timeline(bag: Bag, topics: set[str], options: PlayOptions) -> Iterator[BagMessage]:
    """The messages in order; first what latched topics had said before the start."""
    begin = start_ns(bag, options)
    latched = {channel.topic for channel in bag.counts if channel.latched} & topics
    if latched and begin > bag.start_ns:
        yield from bag.messages(latched, end_ns=begin)
    yield from bag.messages(topics, start_ns=begin)

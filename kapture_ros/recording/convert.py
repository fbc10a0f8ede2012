"""Bags to a dataset: the session that records live topics, fed from files."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.filequeue import WriterOptions
from kapture_ros.dataset.records import JsonValue
from kapture_ros.dataset.writer import DatasetWriter
from kapture_ros.errors import InputError, OptionError, OutputError
from kapture_ros.files import keep_inputs, remove_folder, write_atomically
from kapture_ros.messages.common import NANOSECONDS, MessageError, header_stamp_ns, normalized_type
from kapture_ros.messages.table import CAMERA_INFO, POSES, TRANSFORMS
from kapture_ros.options import option
from kapture_ros.recording.bag import Bag, BagMessage
from kapture_ros.recording.bagtypes import STAMP, Channel, encoded_stamp_ns
from kapture_ros.recording.config import Extrinsic, RecordingConfig
from kapture_ros.recording.health import HealthMonitor, HealthOptions
from kapture_ros.recording.pose_source import GNSS, TF
from kapture_ros.recording.poses import AUTO, NONE
from kapture_ros.recording.report import write_report
from kapture_ros.recording.resuming import DoneRecords
from kapture_ros.recording.session import RecordingSession, is_static

log = logging.getLogger(__name__)

CONVERSION = sidecar.FOLDER / "conversion.json"


@dataclass(frozen=True)
class WindowOptions:
    """Which part of the bag is converted, by the time its messages were recorded."""

    start_s: float = option(0.0, "begin this long after the bag does", unit="s", minimum=0)
    end_s: float | None = option(
        None, "end this long after the bag begins; empty: at its end", unit="s", minimum=0
    )

    def bounds(self, bag: Bag) -> tuple[int, int]:
        """First and (excluded) last time in nanoseconds.

        Raises:
            InputError: if nothing of the bag is inside.
        """
        start = bag.start_ns + round(self.start_s * NANOSECONDS)
        end = bag.end_ns + 1
        if self.end_s is not None:
            end = min(end, bag.start_ns + round(self.end_s * NANOSECONDS))
        if start >= end:
            length = (bag.end_ns - bag.start_ns) / NANOSECONDS
            until = "the end" if self.end_s is None else f"--end-s {self.end_s:g}"
            raise InputError(
                f"nothing lies between --start-s {self.start_s:g} and {until}: the bag is "
                f"{length:.3f} s long"
            )
        return start, end


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is converted, and how."""

    config: RecordingConfig = field(default_factory=RecordingConfig)
    window: WindowOptions = field(default_factory=WindowOptions)
    writer: WriterOptions = field(default_factory=WriterOptions)
    health: HealthOptions = field(default_factory=HealthOptions)


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of it."""

    report: str
    messages: int
    done_before: int  # records that a resumed conversion found in place
    problems: tuple[str, ...]  # where bags were damaged


def convert(
    bag: Bag,
    output: Path,
    conversion: Conversion,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write a dataset of all that is in the bag.

    Args:
        overwrite: replace a dataset that is there, once nothing is known to prevent it.

    Raises:
        OutputError: if the output exists (and is not resumed or overwritten), was begun with
            something else, or cannot be written.
        InputError: if there is nothing to convert.
        OptionError: if the bag lacks the topic of the trajectory.
    """
    bounds = conversion.window.bounds(bag)
    check_trajectory(bag, conversion.config.options.trajectory)
    for unknown in unknown_topics(bag, conversion.config):
        log.warning("%s", unknown)
    if overwrite:
        keep_inputs(output, bag.paths)
        remove_dataset(output)
    if resume:
        _check_begun(bag, output, conversion)
    monitor = HealthMonitor(conversion.health)
    with DatasetWriter(output, conversion.writer, resume=resume) as writer:
        done = DoneRecords(writer, output) if resume else None
        session = RecordingSession(writer, conversion.config, monitor, done)
        _note_conversion(bag, output, conversion)
        prepare(bag, session, bounds[0])
        messages = 0
        feeder = Feeder(bag, session)
        for message in _with_progress(bag, bounds):
            messages += 1
            feeder.feed(message)
        session.finish()
        writer.flush()
        report = monitor.report(writer.statistics, writer.sensors)
    damage = tuple(bag.problems)
    text = write_report(
        output, {**report, "poses": session.summary(), "damage": list[JsonValue](damage)}
    )
    return Converted(text, messages, done.count if done else 0, damage)


def check_trajectory(bag: Bag, wanted: str) -> None:
    """Refuse a source of poses that the bag does not have.

    Raises:
        OptionError: naming the topics that it has.
    """
    if wanted in (AUTO, TF, GNSS, NONE):
        return
    topics = {c.topic for c in bag.counts if normalized_type(c.type_name) in POSES}
    if wanted not in topics:
        known = ", ".join(sorted(topics)) or "none"
        raise OptionError(f"trajectory: no Odometry or Pose topic '{wanted}'; there are: {known}")


def unknown_topics(bag: Bag, config: RecordingConfig) -> list[str]:
    """Topics that the configuration names and the bag does not have, with the nearest it has."""
    there = {channel.topic for channel in bag.counts}
    found = []
    for topic in sorted(set(config.topics) - there):
        near = difflib.get_close_matches(topic, there, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        found.append(f"the configuration names '{topic}', which is not in the bag{hint}")
    return found


def remove_dataset(path: Path) -> None:
    """Delete an output that is to be overwritten.

    Raises:
        OutputError: if it is anything but a kapture dataset or an empty folder.
    """
    if not path.exists():
        return
    is_dataset = (path / "sensors").is_dir() or (path / sidecar.FOLDER).is_dir()
    if not path.is_dir() or (not is_dataset and any(path.iterdir())):
        raise OutputError(f"{path} is no kapture dataset and is not overwritten; remove it first")
    try:
        remove_folder(path)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}") from error


def prepare(bag: Bag, session: RecordingSession, start_ns: int) -> None:
    """Tell the session what holds throughout: all static transforms, the first calibrations.

    With a window, the last calibrations before it.
    """
    infos, statics = set(), set()
    for channel, count in bag.counts.items():
        name = normalized_type(channel.type_name)
        if count and name == CAMERA_INFO:
            infos.add(channel.topic)
        elif count and name in TRANSFORMS and is_static(channel.topic):
            statics.add(channel.topic)
    missing = set(infos)
    for message in bag.messages(infos) if infos else ():
        if message.time_ns >= start_ns and not missing:
            break
        if message.time_ns < start_ns or message.channel.topic in missing:
            _prepare_one(bag, session, message)
            missing.discard(message.channel.topic)
    for message in bag.messages(statics) if statics else ():
        _prepare_one(bag, session, message)


class Feeder:
    """Gives the messages of a bag to a session.

    Cameras repeat their CameraInfo with each image, and to decode it costs as much as the
    image: one that differs by its stamp alone from the one before on its topic is only counted.
    """

    def __init__(self, bag: Bag, session: RecordingSession) -> None:
        self._bag, self._session = bag, session
        self._calibrations: dict[str, tuple[Channel, bytes]] = {}  # by topic

    def feed(self, message: BagMessage) -> None:
        """Give one message."""
        channel, session = message.channel, self._session
        unused = session.unused_because(channel.topic, channel.type_name)
        if unused:
            session.skip(channel.topic, channel.type_name, unused, message.time_ns)
            return
        if channel.topic in self._calibrations and self._repeats(message):
            stamp_ns = encoded_stamp_ns(channel, message.data)
            session.repeated(channel.topic, channel.type_name, stamp_ns, message.time_ns)
            return
        try:
            decoded = self._bag.decode(message)
        except MessageError as error:
            session.skip(channel.topic, channel.type_name, error.reason, message.time_ns)
            return
        used = session.handle(channel.topic, channel.type_name, decoded, message.time_ns)
        if used and normalized_type(channel.type_name) == CAMERA_INFO:
            self._remember(message, header_stamp_ns(decoded))

    def _repeats(self, message: BagMessage) -> bool:
        channel, content = self._calibrations[message.channel.topic]
        return channel == message.channel and content == _but_stamp(message)

    def _remember(self, message: BagMessage, stamp_ns: int) -> None:
        channel = message.channel
        if encoded_stamp_ns(channel, message.data) == stamp_ns:  # its header comes first
            self._calibrations[channel.topic] = channel, _but_stamp(message)


def _prepare_one(bag: Bag, session: RecordingSession, message: BagMessage) -> None:
    try:
        decoded = bag.decode(message)
    except MessageError:
        return  # counted when its turn comes
    session.prepare(message.channel.topic, message.channel.type_name, decoded)


def _but_stamp(message: BagMessage) -> bytes:
    """The bytes of a message that begins with a header, without what changes each time."""
    encoding = bytes(message.data[:2]) if message.channel.encoding == "cdr" else b""
    return encoding + bytes(message.data[STAMP.stop :])


def _with_progress(bag: Bag, bounds: tuple[int, int]) -> Iterator[BagMessage]:
    """The messages of a window, with a bar of seconds of the drive."""
    whole = (bounds[1] - bounds[0]) / NANOSECONDS
    form = "{percentage:3.0f}% |{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
    count = 0
    if not sys.stderr.isatty():
        yield from bag.messages(None, *bounds)
        return
    with tqdm(total=whole, bar_format=form) as bar:
        for message in bag.messages(None, *bounds):
            yield message
            count += 1
            done = (message.time_ns - bounds[0]) / NANOSECONDS
            if done - bar.n > whole / 500:
                elapsed = bar.format_dict["elapsed"] or 1.0
                bar.set_postfix_str(f"{count / elapsed:.0f} messages/s", refresh=False)
                bar.update(done - bar.n)
        bar.update(whole - bar.n)


def _note_conversion(bag: Bag, output: Path, conversion: Conversion) -> None:
    """Keep what decided which messages are in the dataset; `verify` needs it."""
    content = {"bags": _names(bag), **_settings(conversion)}
    write_atomically(output / CONVERSION, json.dumps(content, indent=1) + "\n")


def _names(bag: Bag) -> list[str]:
    return [path.resolve().name for path in bag.paths]  # "." has none


def read_conversion(dataset: Path) -> dict[str, Any]:
    """What a dataset was converted from and with: names of bags, and settings by section.

    Raises:
        InputError: if what was noted is damaged.
    """
    path = dataset / CONVERSION
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _ = [content[section] for section in ("bags", "window", "options", "topics")]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: convert again with --overwrite") from error
    return content


def _settings(conversion: Conversion) -> dict[str, dict[str, Any]]:
    config = conversion.config
    return {
        "window": dataclasses.asdict(conversion.window),
        "options": dataclasses.asdict(config.options),
        "topics": {name: dataclasses.asdict(said) for name, said in config.topics.items()},
        "extrinsics": {item.child: _described(item) for item in config.extrinsics},
        "wifi": {name: dataclasses.asdict(said) for name, said in config.wifi.items()},
    }


def _described(item: Extrinsic) -> dict[str, Any]:
    pose = item.parent_from_child
    return {
        "parent": item.parent,
        "quaternion": pose.quaternion.tolist(),
        "xyz": pose.translation.tolist(),
    }


def _check_begun(bag: Bag, output: Path, conversion: Conversion) -> None:
    """Refuse to go on with what was begun otherwise: two drives, or two selections, in one.

    More parts may follow those it was begun with.

    Raises:
        OutputError: naming what differs.
        InputError: if nothing tells what it was begun with.
    """
    if not (output / CONVERSION).is_file():
        if sidecar.read_sensors(output):
            raise OutputError(f"{output} was not begun by convert, which cannot go on with it")
        return
    begun = read_conversion(output)
    names = _names(bag)
    if names[: len(begun["bags"])] != begun["bags"]:
        raise OutputError(
            f"{output} was begun with {', '.join(begun['bags'])}: name the same bags to go on, "
            "or another dataset"
        )
    different = [
        f"{name} {before.get(name)!r}, not {now.get(name)!r}"
        for section, now in _settings(conversion).items()
        for before in (begun.get(section, {}),)  # an older version noted fewer
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if different:
        raise OutputError(
            f"{output} was begun with other settings ({'; '.join(different)}): repeat those to go "
            "on, or pass --overwrite"
        )

"""Bags of every kind and in every state: what is readable is read, and damage is named."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from bag_tools import START, STEP, Stream, make, write_bag
from hypothesis import given, settings
from hypothesis import strategies as st

from kapture_ros.errors import InputError
from kapture_ros.messages import MessageError
from kapture_ros.recording.bag import Bag

COUNT = 60
KINDS = [
    ("ros1", ""), ("ros1", "bz2"), ("ros1", "lz4"), ("db3", ""), ("db3", "message"),
    ("db3", "file"), ("mcap", ""), ("mcap", "storage"), ("mcap", "message"), ("mcap", "file"),
]  # fmt: skip


def stream(ros: int, count: int = COUNT, size: int = 20_000) -> Stream:
    """Messages with random data, so that they fill several chunks."""
    rng = np.random.default_rng(0)
    return [
        (
            f"/cam{index % 2}",
            make("sensor_msgs/CompressedImage", ros, stamp=START + index * STEP, frame="cam",
                 format="jpeg", data=rng.integers(0, 256, size, np.uint8)),
            START + index * STEP,
        )
        for index in range(count)
    ]  # fmt: skip


def bag_of(folder: Path, kind: str, compression: str = "", **more) -> Path:
    return write_bag(folder / "bag", kind, stream(1 if kind == "ros1" else 2, **more), compression)


def file_of(path: Path) -> Path:
    """The storage file of a bag."""
    return path if path.is_file() else next(p for p in path.iterdir() if p.suffix != ".yaml")


def read(path: Path, *more: Path) -> tuple[list[int], list[str]]:
    """Stamps of all messages that can be decoded, and the problems."""
    with Bag([path, *more]) as bag:
        stamps = []
        for message in bag.messages():
            decoded = bag.decode(message)
            stamps.append(decoded.header.stamp.sec * 10**9 + decoded.header.stamp.nanosec)
        return stamps, bag.problems


ALL = [START + index * STEP for index in range(COUNT)]


@pytest.mark.parametrize(("kind", "compression"), KINDS)
def test_bags_of_all_kinds_are_read(kind: str, compression: str, tmp_path: Path) -> None:
    path = bag_of(tmp_path, kind, compression)
    with Bag([path]) as bag:
        assert sum(bag.counts.values()) == COUNT
        assert (bag.start_ns, bag.end_ns) == (ALL[0], ALL[-1])
        window = bag.messages({"/cam0"}, START + 10 * STEP, START + 20 * STEP)
        assert [m.time_ns for m in window] == ALL[10:20:2]
    assert read(path) == (ALL, [])


@pytest.mark.parametrize(("kind", "compression"), KINDS[3:])
def test_ros_2_files_are_read_without_their_metadata(kind, compression, tmp_path: Path) -> None:
    path = bag_of(tmp_path, kind, compression)
    (path / "metadata.yaml").unlink()
    assert read(path) == (ALL, [])
    assert read(file_of(path)) == (ALL, [])


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap"])
def test_split_bags_are_one(kind: str, tmp_path: Path) -> None:
    messages = stream(1 if kind == "ros1" else 2)
    parts = [
        file_of(write_bag(tmp_path / f"part{index}", kind, messages[index::2])) for index in (0, 1)
    ]
    assert read(*parts) == (ALL, [])
    folder = tmp_path / "together"
    folder.mkdir()
    for part in parts:
        shutil.copy(part, folder)
    assert read(folder) == (ALL, [])


def test_ros_1_and_ros_2_bags_are_read_together(tmp_path: Path) -> None:
    first = write_bag(tmp_path / "one", "ros1", stream(1)[:30])
    second = write_bag(tmp_path / "two", "mcap", stream(2)[30:])
    assert read(first, second) == (ALL, [])


@pytest.mark.parametrize(
    ("kind", "compression"), [k for k in KINDS if k[1] not in ("message", "file")]
)
@pytest.mark.parametrize("fraction", [0.3, 0.7, 0.99])
def test_truncated_bags_give_what_is_there(kind, compression, fraction, tmp_path: Path) -> None:
    count = 200 if compression == "bz2" else COUNT
    path = file_of(bag_of(tmp_path, kind, compression, count=count))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    stamps, problems = read(path)
    assert stamps == [START + index * STEP for index in range(len(stamps))]
    # Nothing of a chunk of bz2 can be unpacked that is cut off, and it holds 1 MB.
    lost_at_most = 54 if compression == "bz2" else 4
    assert len(stamps) >= fraction * count - lost_at_most
    assert problems and str(path) in problems[0]


@pytest.mark.parametrize(("kind", "compression"), [("ros1", ""), ("mcap", ""), ("mcap", "storage")])
def test_damage_in_the_middle_costs_only_what_it_hits(kind, compression, tmp_path: Path) -> None:
    path = file_of(bag_of(tmp_path, kind, compression, count=200))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 150_000] = bytes(150_000)
    path.write_bytes(data)
    with Bag([path]) as bag:
        found = Counter(message.time_ns for message in bag.messages())
        assert bag.problems
    assert len(found) >= 200 - 2 * 54  # a chunk of 1 MB holds 53 messages; two may be hit
    assert max(found) == START + 199 * STEP
    assert max(found.values()) == 1


def test_an_unindexed_ros_1_bag_is_read(tmp_path: Path) -> None:
    """As `rosbag record` leaves it when it is killed: no index, the position of it zero."""
    path = bag_of(tmp_path, "ros1")
    data = bytearray(path.read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    (index_at,) = struct.unpack("<Q", data[at : at + 8])
    data[at : at + 8] = bytes(8)
    active = path.with_suffix(".bag.active")
    active.write_bytes(data[:index_at])
    stamps, problems = read(active)
    assert stamps == ALL and "reading what is intact" in problems[0]


def test_an_mcap_without_summary_is_read(tmp_path: Path) -> None:
    path = file_of(bag_of(tmp_path, "mcap"))
    data = path.read_bytes()
    (summary,) = struct.unpack("<Q", data[-28:-20])
    path.write_bytes(data[:summary])
    assert read(path)[0] == ALL


def test_the_write_ahead_log_of_a_killed_recorder_is_read(tmp_path: Path) -> None:
    path = file_of(bag_of(tmp_path, "db3"))
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode=WAL")
    last = database.execute("SELECT max(id) FROM messages").fetchone()[0]
    (data,) = database.execute("SELECT data FROM messages WHERE id = ?", (last,)).fetchone()
    database.execute("INSERT INTO messages VALUES (?, 1, ?, ?)", (last + 1, ALL[-1] + STEP, data))
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for suffix in ("", "-wal", "-shm"):  # as they lie on the disk at this moment
        shutil.copy(f"{path}{suffix}", killed)
    database.close()
    with Bag([killed / path.name]) as bag:
        assert [m.time_ns for m in bag.messages()] == [*ALL, ALL[-1] + STEP]


def test_zeros_in_a_database_cost_no_more_than_the_rows_there(tmp_path: Path) -> None:
    """Row ids out of order once led round and round a damaged tree."""
    small, large = stream(2, size=300), stream(2, size=9000)  # which need pages of their own
    messages = [large[i] if i % 4 == 3 else small[i] for i in range(COUNT)]
    path = file_of(write_bag(tmp_path / "bag", "db3", messages))
    whole, hole = path.read_bytes(), bytes(2048)
    for at in range(4096, len(whole), 1024):
        path.write_bytes(whole[:at] + hole + whole[at + len(hole) :])
        try:
            with Bag([path]) as bag:
                times = [message.time_ns for message in bag.messages()]
        except InputError:  # nothing readable was left
            continue
        assert set(times) <= {*ALL, 0}
        assert len(times) == len(set(times))


def test_definitions_can_be_given_for_types_that_a_bag_does_not_define(tmp_path: Path) -> None:
    thing = make("strange_msgs/Thing", stamp=START, value=np.arange(3.0))
    path = file_of(write_bag(tmp_path / "bag", "db3", [("/thing", thing, START)]))
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
    database.close()
    with Bag([path]) as bag:
        (message,) = bag.messages()
        with pytest.raises(MessageError, match="unknown type"):
            bag.decode(message)
    package = tmp_path / "strange_msgs" / "msg"
    package.mkdir(parents=True)
    (package / "Thing.msg").write_text("std_msgs/Header header\nfloat64[3] value\n")
    with Bag([path], [package.parent]) as bag:
        (message,) = bag.messages()
        assert bag.decode(message).value.tolist() == [0, 1, 2]


def test_a_definition_that_is_broken_loses_only_its_topic(tmp_path: Path) -> None:
    thing = make("strange_msgs/Thing", stamp=START)
    path = file_of(write_bag(tmp_path / "bag", "mcap", [*stream(2)[:1], ("/thing", thing, START)]))
    data = path.read_bytes().replace(b"float64[3] value", b"float64[3 value ")
    path.write_bytes(data)
    decoded = []
    with Bag([path]) as bag:
        for message in bag.messages():
            with contextlib.suppress(MessageError):
                bag.decode(message)
                decoded.append(message.channel.topic)
    assert decoded == ["/cam0"]


def test_bytes_that_do_not_fit_their_type_are_named(tmp_path: Path) -> None:
    with Bag([bag_of(tmp_path, "mcap", count=1)]) as bag:
        (message,) = bag.messages()
        with pytest.raises(MessageError, match="not decodable"):
            bag.decode(message._replace(data=message.data[:50]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.mcap", b"", "empty"),
        ("noise.mcap", bytes(range(256)) * 9, "neither"),
        ("noise.bag", b"#ROSBAG V2.0\n" + bytes(100), "nothing can be read"),
        ("old.bag", b"#ROSBAG V1.2\n" + bytes(100), "neither"),
        ("noise.db3", b"SQLite format 3\0" + bytes(5000), "nothing can be read"),
        ("notes.txt", b"hello", "is no bag"),
        ("log.nmea", b"hello", "date"),
    ],
)
def test_what_is_no_bag_is_one_clear_error(name, content, words, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        Bag([path])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Bag([tmp_path / "none.mcap"])
    path = bag_of(tmp_path, "mcap")
    metadata = path / "metadata.yaml"
    metadata.write_text(
        metadata.read_text().replace(
            "relative_file_paths:\n", "relative_file_paths:\n  - gone.mcap\n"
        )
    )
    stamps, problems = read(path)
    assert stamps == ALL and "gone.mcap is missing" in problems[0]
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="is no bag"):
        Bag([tmp_path / "hollow"])


def test_a_single_file_packed_with_zstd_is_read(tmp_path: Path) -> None:
    path = file_of(bag_of(tmp_path, "mcap"))
    packed = tmp_path / "bag.mcap.zst"
    packed.write_bytes(zstd.compress(path.read_bytes()))
    assert read(packed) == (ALL, [])


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_breaks_the_reader(data: st.DataObject, tmp_path_factory) -> None:
    """Random bytes at random places: never an exception, never a message twice."""
    folder = tmp_path_factory.mktemp("damage")
    kind = data.draw(st.sampled_from(["ros1", "mcap", "db3"]))
    path = file_of(bag_of(folder, kind, count=8, size=3000))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))
        content[at : at + len(noise)] = noise
    path.write_bytes(content)
    try:
        with Bag([path]) as bag:
            found = 0
            for message in bag.messages():
                found += 1
                try:
                    bag.decode(message)
                except MessageError:
                    continue
            assert found <= 8
    except InputError:
        pass  # nothing readable was left
    shutil.rmtree(folder)


def test_a_bag_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    """Each of its images would be kept twice."""
    folder = write_bag(tmp_path / "bag", "mcap", [("/imu", make("sensor_msgs/Imu"), START)])
    (file,) = folder.glob("*.mcap")
    link = tmp_path / "link.mcap"
    link.symlink_to(file)
    for second in (folder, file, link):
        with pytest.raises(InputError, match="is named twice"):
            Bag([folder, second])


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_a_file_that_was_unpacked_beside_itself_is_read_once(kind: str, tmp_path: Path) -> None:
    path = bag_of(tmp_path, kind)
    expected, _ = read(path)
    (file,) = path.glob(f"*.{kind}")
    Path(f"{file}.zstd").write_bytes(zstd.compress(file.read_bytes()))
    file.write_bytes(file.read_bytes()[:3000])  # the player was interrupted
    found, problems = read(path)
    assert found == expected
    assert problems == []

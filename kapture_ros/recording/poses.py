"""Where sensors were: transforms and poses in, rig rows and trajectory rows out.

Every image (and Wi-Fi scan) asks for a pose at its stamp. The request waits until poses
around that stamp have come, so that it can be interpolated, never taken from the nearest.
Poses come from one source for the whole dataset: tf, one topic, or GNSS positions. Where
odometry was started again, poses are of another frame from then on: none is interpolated across
that, and the summary tells the stamp, so that what uses the poses takes two drives for two.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from kapture_ros.dataset.escape import derived_id
from kapture_ros.dataset.escape import sensor_id as safe_id
from kapture_ros.dataset.records import JsonValue, RigRow, TrajectoryRow
from kapture_ros.errors import (
    DisconnectedFramesError,
    ExtrapolationError,
    TransformError,
    UnknownFrameError,
)
from kapture_ros.messages.common import NANOSECONDS
from kapture_ros.recording.config import Extrinsic, RecordingOptions
from kapture_ros.recording.pose_source import GNSS, PREFERRED_WORLD, TF, PoseSource, Sample
from kapture_ros.transforms import Transform, TransformTree
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.restarts import PAUSE_NS
from kapture_ros.transforms.se3 import Array

AUTO, NONE = "auto", "none"
DECIDE_S = 10.0  # how much of a drive `auto` looks at
STEP_S = 0.5  # how often requests are looked at, by the receive clock
CLOCK_JUMP_S = 2.0  # a source whose stamps go back further was restarted
RECENT_ROWS = 4096
NO_SOURCE = "no pose source"
GNSS_WORLD, ANTENNA = "enu", "gnss"
PREFERRED_BASE = "base_link"


@dataclass(slots=True)
class Request:
    """A sensor's wish to know where it was at a stamp.

    Attributes:
        received_ns: when it came, by the receive clock.
        keep: called once with the position in the world, None when no pose came; says
            whether the sensor's record is kept, and with it the pose.
    """

    stamp_ns: int
    sensor_id: str
    frame: str
    received_ns: int
    keep: Callable[[Array | None], bool] | None = None


@dataclass(frozen=True, slots=True)
class _Mount:
    """How a sensor is carried: which device has its poses, and the frame of that device."""

    device_id: str
    frame: str
    rig_row: RigRow | None


class PoseBook:
    """The poses and transforms of one recording.

    Args:
        extrinsics: static transforms that are known beforehand; those of /tf_static with
            the same child do not replace them.
        add_rig, add_trajectory: take the rows.
        warn: told of each request without a pose, by sensor id and reason.
    """

    def __init__(
        self,
        options: RecordingOptions,
        extrinsics: tuple[Extrinsic, ...],
        add_rig: Callable[[RigRow], None],
        add_trajectory: Callable[[TrajectoryRow], object],
        warn: Callable[[str, str], None],
    ) -> None:
        self.options = options
        self.misses: Counter[str] = Counter()  # requests without a pose, by reason
        self.problems: Counter[str] = Counter()
        self.answered = 0
        self._add_rig, self._add_trajectory, self._warn = add_rig, add_trajectory, warn
        self._given = {item.child for item in extrinsics}
        self._statics = TransformTree()
        self._static_children: dict[str, Transform] = {}
        self._sources: dict[str, PoseSource] = {}
        self._chosen: PoseSource | None = None
        self._pending: deque[Request] = deque()
        self._mounts: dict[str, _Mount] = {}
        self._carried = {options.base_frame or PREFERRED_BASE}  # frames whose poses are asked for
        self._recent: dict[tuple[int, str], None] = {}
        self._clock = self._first = self._stepped = 0
        for item in extrinsics:
            self._insert_static(item.parent, item.child, item.parent_from_child)

    # -- what goes in -------------------------------------------------------------------------

    def add_static(self, parent: str, child: str, parent_from_child: Transform) -> bool:
        """A transform of /tf_static; False if nothing new."""
        if child in self._given:
            return False
        known = self._static_children.get(child)
        if known is not None:
            if known != parent_from_child:
                self.problems[f"static transform of '{child}' changed; the first one holds"] += 1
                return True
            return False
        self._insert_static(parent, child, parent_from_child)
        return True

    def add_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: Transform
    ) -> None:
        """A transform of /tf."""
        if child in self._static_children:
            static = "under 'extrinsics'" if child in self._given else "in /tf_static"
            self.problems[f"'{child}' is in /tf and {static}; the static one holds"] += 1
            return
        self._insert(self._source(TF), parent, child, stamp_ns, parent_from_child)

    def add_pose(
        self, topic: str, parent: str, child: str, stamp_ns: int, parent_from_child: Transform
    ) -> None:
        """A pose of an Odometry or Pose topic; child "" is the frame of the options."""
        child = child or self.options.pose_frame or self.options.base_frame
        if not child:
            child = PREFERRED_BASE
        if not parent or parent == child:
            self.problems[f"{topic}: poses from '{child}' to '{parent}' lead nowhere"] += 1
            return
        source = self._source(topic)
        if source.child is None:
            source.child = child
        source.world = source.world or parent
        if (source.world, source.child) != (parent, child):
            self.problems[f"{topic}: the frames changed; poses of the first two count"] += 1
            return
        self._insert(source, parent, child, stamp_ns, parent_from_child)

    def add_position(self, stamp_ns: int, latitude: float, longitude: float, alt: float) -> None:
        """A GNSS fix, for trajectories without orientation."""
        if not math.isfinite(alt):
            return
        source = self._source(GNSS)
        if source.datum is None:
            source.datum = Datum(latitude, longitude, alt)
            source.world, source.child = GNSS_WORLD, ANTENNA
        position = source.datum.map_from_geodetic(latitude, longitude, alt)[0]
        self._insert(source, GNSS_WORLD, ANTENNA, stamp_ns, Transform(translation=position))

    def request(self, request: Request) -> None:
        """Ask for a pose; the row is added when it is known."""
        if self.options.trajectory == NONE:
            if request.keep:
                request.keep(None)
            return
        self._first = self._first or request.received_ns
        self._carried.add(request.frame)
        self._pending.append(request)

    def advance(self, now_ns: int) -> None:
        """Let the receive clock go on: answers what can be answered by now."""
        self._clock = max(self._clock, now_ns)
        if self._clock - self._stepped < STEP_S * NANOSECONDS:
            return
        self._stepped = self._clock
        if self._chosen is None and self._first:
            waited = self._clock - self._first
            if waited < DECIDE_S * NANOSECONDS and self.options.trajectory == AUTO:
                return
            self._choose()
        self._answer(final=False)

    def finish(self) -> None:
        """No more messages: answer everything, and place the sensors on their rigs."""
        if self._chosen is None:
            self._choose()
        self._answer(final=True)
        base = self.options.base_frame
        if base and self._mounts and not any(base == m.frame for m in self._mounts.values()):
            self.problems[f"'base_frame' asks for '{base}', which carries no sensor"] += 1

    def mount(self, sensor_id: str, frame: str) -> None:
        """Place a sensor on its rig, from the transforms known by now; later ones are too late."""
        mount = self._mount(sensor_id, frame)
        if mount.rig_row is not None:
            self._add_rig(mount.rig_row)

    # -- what is known ------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests without an answer yet."""
        return len(self._pending)

    def awaits(self, received_ns: int) -> bool:
        """Whether a request that was received up to a time has no answer yet."""
        return any(request.received_ns <= received_ns for request in self._pending)

    def summary(self) -> dict[str, JsonValue]:
        """What became of the requests, for the report."""
        chosen = self._chosen
        datum = chosen.datum if chosen else None
        return {
            "source": chosen.name if chosen else None,
            "world_frame": chosen.world if chosen else None,
            "datum": dataclasses.asdict(datum) if datum else None,
            "poses": self.answered,
            "restarts": list[JsonValue](chosen.restarts) if chosen else [],
            "without_pose": dict(self.misses),
            "problems": dict(self.problems + chosen.problems if chosen else self.problems),
        }

    # -- transforms ---------------------------------------------------------------------------

    def _source(self, name: str) -> PoseSource:
        source = self._sources.get(name)
        if source is None:
            keep_s = DECIDE_S + self.options.wait_s + 10.0
            tree = TransformTree(
                int(keep_s * NANOSECONDS), int(self.options.max_gap_s * NANOSECONDS)
            )
            source = self._sources[name] = PoseSource(name, tree)
            for child, pose in self._static_children.items():
                parent = self._statics.parent(child)
                assert parent is not None
                tree.insert_static(parent, child, pose)
        return source

    def _insert_static(self, parent: str, child: str, pose: Transform) -> None:
        try:
            self._statics.insert_static(parent, child, pose)
        except TransformError as error:
            self.problems[str(error)] += 1
            return
        self._static_children[child] = pose
        for source in self._sources.values():
            if child != source.child:  # else the topic moves a frame that is static in tf
                source.tree.insert_static(parent, child, pose)

    def _insert(
        self, source: PoseSource, parent: str, child: str, stamp_ns: int, pose: Transform
    ) -> None:
        sample, known = Sample(stamp_ns, pose), source.tree.parent(child)
        before = source.newest.get(child)
        if before is not None and stamp_ns < before.stamp_ns - CLOCK_JUMP_S * NANOSECONDS:
            self.problems[f"the clock of {source.name} jumped back"] += 1
            if self._chosen is None:
                self._choose()
            self._answer(final=True)
            source.forget()
            before = known = None
        elif before is not None and known == parent:
            self._notice_gap(source, parent, child, sample)
        if before is None or stamp_ns > before.stamp_ns:
            source.newest[child] = sample
        if known is not None and known != parent:
            both = " and on ".join(f"'{frame}'" for frame in sorted((known, parent)))
            self.problems[f"'{child}' hangs on {both}: poses are lost at each change"] += 1
        try:
            source.tree.insert(parent, child, stamp_ns, pose)
        except TransformError as error:
            self.problems[f"{source.name}: {error}"] += 1

    def _notice_gap(self, source: PoseSource, parent: str, child: str, sample: Sample) -> None:
        """Answer what waits before a pause in which the tree would forget what it knows of it,
        and let poses of before and after a restart of odometry be of two drives.
        """
        pause_ns = sample.stamp_ns - source.newest[child].stamp_ns
        leaps = source.leaps(child, sample)
        if not (leaps or pause_ns >= PAUSE_NS) or not source.carries(child, self._carried):
            return
        if leaps or pause_ns > DECIDE_S * NANOSECONDS:
            self._answer_before(sample.stamp_ns, source)
        source.note(parent, child, sample, self._static_children)

    def _answer_before(self, stamp_ns: int, source: PoseSource) -> None:
        """Answer what waits for a pose before a stamp, if this source is what answers."""
        if self._chosen is None:
            self._choose()
        if self._chosen is not source:
            return
        later = [request for request in self._pending if request.stamp_ns >= stamp_ns]
        self._pending = deque(r for r in self._pending if r.stamp_ns < stamp_ns)
        self._answer(final=True)
        self._pending.extend(later)

    # -- rigs ---------------------------------------------------------------------------------

    def _mount(self, sensor_id: str, frame: str) -> _Mount:
        mount = self._mounts.get(sensor_id)
        if mount is None:
            mount = self._mounts[sensor_id] = self._new_mount(sensor_id, frame)
        return mount

    def _new_mount(self, sensor_id: str, frame: str) -> _Mount:
        base = self._base_of(frame)
        if base is None:
            return _Mount(sensor_id, frame, None)
        rig_id = derived_id("rig-", safe_id(base))
        sensor_from_rig = self._statics.lookup(frame, base, 0)
        return _Mount(rig_id, base, RigRow(rig_id, sensor_id, sensor_from_rig))

    def _base_of(self, frame: str) -> str | None:
        """The frame that carries a sensor's frame; None if no static transform touches it."""
        if frame not in self._statics.frames:
            return None
        for base in (self.options.base_frame, PREFERRED_BASE):
            try:
                self._statics.lookup(frame, base, 0)
            except TransformError:
                continue
            return base
        top = frame
        while (parent := self._statics.parent(top)) is not None:
            top = parent
        return top

    # -- trajectories -------------------------------------------------------------------------

    def _choose(self) -> None:
        """Decide on the source, by what it could have answered so far."""
        wanted = self.options.trajectory
        if wanted != AUTO:
            self._chosen = self._sources.get(wanted)
            return
        topics = [name for name in self._sources if name not in (TF, GNSS)]
        able = {}
        for name in (TF, *topics, GNSS):
            source = self._sources.get(name)
            if source is not None:
                able[name] = sum(
                    isinstance(self._row(source, request), TrajectoryRow)
                    for request in self._pending
                )
        best = max(able.values(), default=0)
        if best:
            self._chosen = self._sources[next(n for n, count in able.items() if 2 * count >= best)]

    def _answer(self, *, final: bool) -> None:
        """Go through what waits: write rows, keep what may still come, count the rest."""
        oldest = self._clock - int(self.options.wait_s * NANOSECONDS)
        if self._chosen is None:
            while self._pending and (final or self._pending[0].received_ns < oldest):
                request = self._pending.popleft()
                self._miss(request, self._why(request))
            return
        for _ in range(len(self._pending)):
            request = self._pending.popleft()
            patient = not final and request.received_ns >= oldest
            row = self._row(self._chosen, request)
            if isinstance(row, TrajectoryRow):
                self._write(request, row)
            elif patient:
                self._pending.append(request)
            else:
                why = self._reason(self._chosen, row, request.frame)
                newest = max((s.stamp_ns for s in self._chosen.newest.values()), default=0)
                if isinstance(row, ExtrapolationError) and not final and newest < request.stamp_ns:
                    why = f"no pose came within {self.options.wait_s:g} s ('wait_s')"
                self._miss(request, why)

    def _row(self, source: PoseSource, request: Request) -> TrajectoryRow | TransformError:
        """The pose that a source gives, or why it gives none."""
        mount = self._mount(request.sensor_id, request.frame)
        frame = ANTENNA if source.name == GNSS else mount.frame
        try:
            world = self._world(source, frame)
            device_from_world = source.tree.lookup(frame, world, request.stamp_ns)
        except TransformError as error:
            return error
        oriented = source.name != GNSS
        return TrajectoryRow(request.stamp_ns, mount.device_id, device_from_world, oriented)

    def _world(self, source: PoseSource, frame: str) -> str:
        if source.world:
            return source.world
        world = self.options.world_frame
        if not world:
            top, moves = frame, False
            while (parent := source.tree.parent(top)) is not None:
                moves |= top not in self._static_children
                top = parent
            if not moves:
                raise DisconnectedFramesError(f"nothing moves '{frame}'")
            world = PREFERRED_WORLD if PREFERRED_WORLD in source.tree.frames else top
        if source is self._chosen:
            source.world = world
        return world

    def _why(self, request: Request) -> str:
        """Why no source could answer a request."""
        for source in self._sources.values():
            row = self._row(source, request)
            if isinstance(row, TransformError):
                return self._reason(source, row, request.frame)
        return NO_SOURCE

    def _reason(self, source: PoseSource, error: TransformError, frame: str) -> str:
        """Why there is no pose, worded the same for every stamp."""
        world = self.options.world_frame
        if isinstance(error, ExtrapolationError):
            return "no pose at that time"
        if not frame:
            return "messages name no frame: give it as 'frame' under 'topics'"
        if source.name == TF and world and world not in source.tree.frames:
            return f"no transform names the frame '{world}', which 'world_frame' asks for"
        if isinstance(error, UnknownFrameError):
            return f"no transform names the frame '{frame}': give it under 'extrinsics'"
        return f"no transforms link '{frame}' to the poses: give the missing one under 'extrinsics'"

    def _miss(self, request: Request, reason: str) -> None:
        self.misses[reason] += 1
        self._warn(request.sensor_id, reason)
        if request.keep:
            request.keep(None)

    def _write(self, request: Request, row: TrajectoryRow) -> None:
        if request.keep and not request.keep(row.device_from_world.inverse().translation):
            return
        self.answered += 1
        key = (row.stamp_ns, row.device_id)
        if key in self._recent:
            return
        self._recent[key] = None
        if len(self._recent) > RECENT_ROWS:
            del self._recent[next(iter(self._recent))]
        rig_row = self._mounts[request.sensor_id].rig_row
        if rig_row is not None:
            self._add_rig(rig_row)
        self._add_trajectory(row)

"""The thread that localizes: the newest instant wins, the others are told to be late.

Instants and odometry come from the node's callbacks; answers go to a callback of the node,
called on this thread. The tracker lives here alone: who wants something of it sends an order.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch

from kapture_ros.errors import KaptureRosError
from kapture_ros.localization.extractor import Extractor, Pixels, StartedFeatures
from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.odometry import OdometrySample
from kapture_ros.localization.query import Estimate, Query, QueryFeatures, Reason
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import SequenceOptions, TrackedPose
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.messages import Message
from kapture_ros.nodes.predictor import Known, known_after
from kapture_ros.nodes.synchronizer import Instant

log = logging.getLogger(__name__)

Order: TypeAlias = Callable[[SequenceLocalizer], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an instant.

    Attributes:
        generation: how often `Inference.restart` was called before.
        query: None if the images could not be used at all.
        known: for the predictor; None if nothing was learned (a late instant).
        decode_ms: time to make the query of the messages.
        update_ms: time of the tracker, `extraction_ms` of the networks in it.
    """

    generation: int
    instant: Instant[Message]
    query: Query | None
    estimate: Estimate
    tracked: TrackedPose | None
    known: Known | None
    decode_ms: float = float("nan")
    update_ms: float = float("nan")
    extraction_ms: float = float("nan")


class WatchedExtractor:
    """An extractor that is timed, and does with one image at a time where a GPU is full."""

    def __init__(self, extractor: Extractor):
        self._ms = float("nan")
        self._extractor = extractor

    @property
    def types(self) -> FeatureTypes:
        """Names of the features it makes."""
        return self._extractor.types

    def start(self, images: Sequence[Pixels], describe: bool) -> list[StartedFeatures]:
        """Begin with the features of images, as `Extractor.start`.

        Raises:
            KaptureRosError: if the GPU's memory does not do for a single one.
        """
        self._ms = 0.0
        with self._timed():
            started = self._start(images, describe)
        return [replace(found, wait=partial(self._wait, found.wait)) for found in started]

    def take_ms(self) -> float:
        """How long features took since this was last asked; NaN if there were none."""
        taken, self._ms = self._ms, float("nan")
        return taken

    def _wait(self, wait: Callable[[], QueryFeatures]) -> QueryFeatures:
        with self._timed():
            return wait()

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._ms += 1e3 * (time.perf_counter() - start)

    def _start(self, images: Sequence[Pixels], describe: bool) -> list[StartedFeatures]:
        try:
            return self._extractor.start(images, describe)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        try:
            return [found for image in images for found in self._extractor.start([image], describe)]
        except torch.cuda.OutOfMemoryError as error:
            raise KaptureRosError(explain(error)) from error


class Inference:
    """Runs from `start` to `stop`.

    Args:
        make_query: what the messages of an instant say; raises KaptureRosError.
        age_of: seconds since an instant was taken.
        max_age: an instant older than that is late.
        deliver: takes the answers.
    """

    def __init__(
        self,
        localizer: Localizer,
        options: SequenceOptions,
        make_query: Callable[[Instant[Message]], Query],
        age_of: Callable[[Instant[Message]], float],
        deliver: Callable[[Answer], None],
    ):
        self.max_age = 1.0
        self.generation = 0
        self._localizer = localizer
        self._tracker = SequenceLocalizer(localizer, options)
        self._make_query, self._age_of, self._deliver = make_query, age_of, deliver
        self._wake = threading.Condition()
        self._next: Instant[Message] | None = None
        self._samples: list[OdometrySample | ImuSample] = []
        self._orders: list[Order] = []
        self._running = False
        self._thread = threading.Thread(target=self._run, name="localization", daemon=True)

    def start(self) -> None:
        """Begin to take instants."""
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """End after the instant that is being worked on."""
        with self._wake:
            self._running = False
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, instant: Instant[Message]) -> None:
        """Take an instant instead of the one that waits, which is answered as late."""
        with self._wake:
            left, self._next = self._next, instant
            generation = self.generation
            self._wake.notify()
        if left is not None:
            text = "a newer image came before this one was begun with"
            self._deliver(_refused(generation, left, Reason.LATE, text))

    def add(self, sample: OdometrySample | ImuSample) -> None:
        """Take a sample of odometry or of an IMU."""
        with self._wake:
            self._samples.append(sample)

    def order(self, order: Order) -> None:
        """Have something done with the tracker, between two instants."""
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    def restart(self) -> None:
        """Begin anew: nothing is known, of odometry either."""
        with self._wake:
            self.generation += 1
            self._samples.clear()
            self._next = None
            self._orders = [SequenceLocalizer.reset]
            self._wake.notify()

    def set_options(self, options: SequenceOptions) -> None:
        """Go on with other settings of tracking and guided matching."""

        def change(tracker: SequenceLocalizer) -> None:
            tracker.options = options

        self.order(change)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._next or self._orders or not self._running)
                if not self._running:
                    return
                orders, self._orders = self._orders, []
                instant, self._next = self._next, None
                samples, self._samples = self._samples, []
                generation = self.generation
            try:
                self._prepare(orders, samples)
                if instant is not None:
                    self._deliver(self._answered(generation, instant))
            except Exception as error:
                # Else this thread would end, and the node go on without it and without a word.
                explain(error)

    def _prepare(
        self, orders: Sequence[Order], samples: Sequence[OdometrySample | ImuSample]
    ) -> None:
        for order in orders:  # a restart is one: the samples came after it
            order(self._tracker)
        for sample in samples:
            if isinstance(sample, ImuSample):
                self._tracker.add_imu(sample)
            else:
                self._tracker.add_odometry(sample)

    def _answered(self, generation: int, instant: Instant[Message]) -> Answer:
        try:
            return self._answer(generation, instant)
        except Exception as error:
            # One bad frame must not end a drive, whatever a library makes of it.
            return _refused(generation, instant, Reason.BAD_INPUT, explain(error))

    def _extraction_ms(self) -> float:
        extractor = self._localizer.extractor
        return extractor.take_ms() if isinstance(extractor, WatchedExtractor) else float("nan")

    def _answer(self, generation: int, instant: Instant[Message]) -> Answer:
        age = self._age_of(instant)
        start = time.perf_counter()
        query, problem = None, None
        if age > self.max_age:
            problem = Estimate(instant.stamp_ns, Reason.LATE, f"{age:.2f} s old")
        else:
            try:
                query = self._make_query(instant)
            except KaptureRosError as error:
                problem = Estimate(instant.stamp_ns, Reason.BAD_INPUT, str(error))
        decoded = time.perf_counter()
        if query is None:
            assert problem is not None
            tracked = replace(self._tracker.pose_at(instant.stamp_ns), estimate=problem)
            return Answer(generation, instant, None, problem, tracked, None)
        tracked = self._tracker.update(query)
        assert tracked.estimate is not None  # an update always has one
        return Answer(
            generation,
            instant,
            query,
            tracked.estimate,
            tracked,
            known_after(self._tracker, tracked),
            1e3 * (decoded - start),
            1e3 * (time.perf_counter() - decoded),
            self._extraction_ms(),
        )


def explain(error: Exception) -> str:
    """What to tell about an error that nobody expected, and about a GPU that is full."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()
        return (
            "the GPU's memory is full; end other programs, make the images smaller "
            "(local_features.max_size) or use networks.device cpu"
        )
    log.error("unexpected; please report it", exc_info=error)
    return f"unexpected {type(error).__name__}: {error}"


def _refused(generation: int, instant: Instant[Message], reason: Reason, text: str) -> Answer:
    estimate = Estimate(instant.stamp_ns, reason, text)
    return Answer(generation, instant, None, estimate, None, None)

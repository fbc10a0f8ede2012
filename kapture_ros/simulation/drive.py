"""A simulated drive: two laps through one street as messages, and their bags.

for message in simulate_lap(lap, world, options): ...
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from kapture_ros import files
from kapture_ros.simulation import messages, sensors
from kapture_ros.simulation.bags import open_bags
from kapture_ros.simulation.camera import Camera
from kapture_ros.simulation.crowd import Crowd
from kapture_ros.simulation.exposure import blur, develop
from kapture_ros.simulation.light import Light, make_light
from kapture_ros.simulation.mesh import Floats, Image
from kapture_ros.simulation.messages import Message
from kapture_ros.simulation.motion import Trajectory
from kapture_ros.simulation.options import (
    DriveOptions,
    Lap,
    QueryOptions,
    StreetOptions,
    laps,
)
from kapture_ros.simulation.street import World, build_world
from kapture_ros.simulation.vehicle import MOUNTS, make_camera

TRUTH_HZ = 50.0
_CAMERA_ORDER = ("front", "left", "right")
_TRIGGER_DELAY = 0.0011  # seconds from one camera of the vehicle to the next
_TRIGGER_JITTER = 0.0004
# Seconds from the instant measured to arrival: mean and spread.
_LATENCY = {"image": (0.042, 0.005), "gnss": (0.110, 0.015), "wifi": (0.030, 0.01),
            "imu": (0.002, 0.0002), "odometry": (0.006, 0.0005)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exposure:
    """One image to be taken: by which camera, when (middle of the exposure), with depth?"""

    camera: Camera
    number: int
    time: float
    depth: bool


class Photographer:
    """Takes the images of a lap.

    It can be asked for any pose at any time, so that tests can look where they like.
    """

    def __init__(self, lap: Lap, world: World, options: DriveOptions):
        self.trajectory = make_trajectory(lap, options)
        self._lap = lap
        self._world = world
        self._seed = options.seed
        self._light: Light = make_light(lap.light, options.seed + lap.number)
        self._crowd = Crowd(options.seed, lap, self.trajectory)

    def take(self, exposure: Exposure) -> tuple[Image, Floats]:
        """Image (H, W, 3) and depth (H, W) in metres."""
        camera, time = exposure.camera, exposure.time
        half = self._lap.exposure / 2
        opened, middle, closed = (
            self.trajectory.pose(t) @ camera.base_from_camera
            for t in (time - half, time, time + half)
        )
        actors = self._crowd.at(time)
        rendering = self._world.renderer.render(camera, middle, self._light, actors)
        radiance = blur(rendering, camera, opened, middle, closed)
        number = _CAMERA_ORDER.index(camera.name)
        random = np.random.default_rng([self._seed, self._lap.number, number, exposure.number])
        return develop(radiance, random, self._lap.noise), _measured(rendering.depth, random)


def _measured(depth: Floats, random: np.random.Generator) -> Floats:
    """Depth as a stereo camera measures it: less well with distance, nothing beyond 40 m."""
    noise = random.standard_normal(depth.shape, dtype=np.float32)
    known = np.where(depth < 40.0, depth, 0.0)
    return np.where(known > 0, known + 0.0012 * known**2 * noise, np.inf).astype(np.float32)


def make_trajectory(lap: Lap, options: DriveOptions) -> Trajectory:
    """How the vehicle moves in a lap."""
    seed = options.seed * 10 + lap.number
    return Trajectory(options.duration, options.speed, lap.lane, seed, lap.kidnap)


def exposures(lap: Lap, options: DriveOptions) -> list[Exposure]:
    """The images of a lap in the order in which they are taken."""
    random = np.random.default_rng([options.seed, lap.number, 61])
    every = max(round(options.rate / options.depth_rate), 1) if options.depth_rate else 0
    found = []
    for number, time in enumerate(np.arange(0.05, options.duration - 0.05, 1 / options.rate)):
        jitter = float(random.normal(0, _TRIGGER_JITTER))
        for name in _CAMERA_ORDER:
            if name in options.cameras:
                delay = _CAMERA_ORDER.index(name) * _TRIGGER_DELAY
                camera = make_camera(name, options.width, options.height)
                depth = bool(every) and name == "front" and number % every == 0
                found.append(Exposure(camera, number, float(time) + jitter + delay, depth))
    return found


def simulate_lap(
    lap: Lap, world: World, options: DriveOptions, workers: int | None = None
) -> Iterator[Message]:
    """The messages of a lap in the order of their arrival.

    Args:
        workers: images rendered at the same time; as many as there are processors if None.
    """
    photographer = Photographer(lap, world, options)
    wanted = exposures(lap, options)
    random = np.random.default_rng([options.seed, lap.number, 62])
    arrivals = [_arrival(lap, shot.time, "image", random) for shot in wanted]
    order = np.argsort(arrivals, kind="stable")
    others = sorted(
        _other_messages(lap, world, options, photographer.trajectory, wanted),
        key=lambda message: message.receive_ns,
    )
    waiting = deque(others)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        images = _ahead(pool, photographer.take, [wanted[i] for i in order])
        for index, (image, depth) in zip(order, images, strict=True):
            while waiting and waiting[0].receive_ns <= arrivals[index]:
                yield waiting.popleft()
            yield from _image_messages(lap, wanted[index], arrivals[index], options, (image, depth))
    yield from waiting


def _ahead(
    pool: ThreadPoolExecutor,
    take: Callable[[Exposure], tuple[Image, Floats]],
    wanted: list[Exposure],
) -> Iterator[tuple[Image, Floats]]:
    """Results in order, a few computed in advance."""
    pending: deque[Future[tuple[Image, Floats]]] = deque()
    try:
        for shot in wanted:
            pending.append(pool.submit(take, shot))
            if len(pending) > 2 * (os.cpu_count() or 1):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _stamp(lap: Lap, time: float) -> int:
    return lap.start_ns + round(time * 1e9)


def _arrival(lap: Lap, time: float, kind: str, random: np.random.Generator) -> int:
    mean, spread = _LATENCY[kind]
    return _stamp(lap, time + max(random.normal(mean, spread), 0.0005))


def _image_messages(
    lap: Lap,
    shot: Exposure,
    receive_ns: int,
    options: DriveOptions,
    picture: tuple[Image, Floats],
) -> Iterator[Message]:
    stamp, camera = _stamp(lap, shot.time), shot.camera
    image, depth = picture
    base = f"/camera/{camera.name}"
    info = messages.camera_info(stamp, camera)
    yield Message(f"{base}/camera_info", "sensor_msgs/msg/CameraInfo", receive_ns, info)
    if options.raw:
        content = messages.raw_image(stamp, camera.frame_id, image)
        yield Message(f"{base}/image_raw", "sensor_msgs/msg/Image", receive_ns, content)
    else:
        content = messages.compressed_image(stamp, camera.frame_id, image)
        topic = f"{base}/image_raw/compressed"
        yield Message(topic, "sensor_msgs/msg/CompressedImage", receive_ns, content)
    if shot.depth:
        content = messages.depth_image(stamp, camera.frame_id, depth)
        yield Message(f"{base}/depth/camera_info", "sensor_msgs/msg/CameraInfo", receive_ns, info)
        yield Message(f"{base}/depth/image_raw", "sensor_msgs/msg/Image", receive_ns, content)


def _other_messages(
    lap: Lap, world: World, options: DriveOptions, trajectory: Trajectory, wanted: list[Exposure]
) -> Iterator[Message]:
    """Everything but images, in no particular order."""
    seed, duration = options.seed * 10 + lap.number, options.duration
    random = np.random.default_rng([options.seed, lap.number, 63])
    yield _static_transforms(lap, wanted)
    for sample in sensors.imu(trajectory, duration, seed):
        content = messages.imu(_stamp(lap, sample.time), sample)
        arrival = _arrival(lap, sample.time, "imu", random)
        yield Message("/imu/data", "sensor_msgs/msg/Imu", arrival, content)
    for wheels in sensors.odometry(trajectory, duration, seed):
        stamp, arrival = _stamp(lap, wheels.time), _arrival(lap, wheels.time, "odometry", random)
        content = messages.wheel_odometry(stamp, wheels)
        yield Message("/odom", "nav_msgs/msg/Odometry", arrival, content)
        link = messages.transform(stamp, "odom", "base_link", wheels.odom_from_base)
        yield Message("/tf", "tf2_msgs/msg/TFMessage", arrival, messages.transforms([link]))
    receiver = sensors.RECEIVERS[options.gnss]
    for fix in sensors.gnss(trajectory, duration, seed, world.datum, receiver):
        arrival = _arrival(lap, fix.time, "gnss", random)
        content = messages.nav_sat_fix(_stamp(lap, fix.time), fix)
        yield Message("/gnss/fix", "sensor_msgs/msg/NavSatFix", arrival, content)
    for end, heard in sensors.wifi(trajectory, duration, seed, world.access_points):
        arrival = _arrival(lap, end, "wifi", random)
        content = messages.wifi_scan(lap.start_ns, end, heard)
        yield Message("/wifi/scan", "kapture_ros/msg/WifiScan", arrival, content)
    yield from _truth(lap, options, trajectory, wanted)


def _static_transforms(lap: Lap, wanted: list[Exposure]) -> Message:
    mounts = dict(MOUNTS)
    mounts |= {shot.camera.frame_id: shot.camera.base_from_camera for shot in wanted}
    links = [
        messages.transform(lap.start_ns, "base_link", child, pose) for child, pose in mounts.items()
    ]
    content = messages.transforms(links)
    return Message("/tf_static", "tf2_msgs/msg/TFMessage", lap.start_ns, content)


def _truth(
    lap: Lap, options: DriveOptions, trajectory: Trajectory, wanted: list[Exposure]
) -> Iterator[Message]:
    """The true pose, regularly and at the stamp of every image."""
    regular = np.arange(0.0, options.duration, 1 / TRUTH_HZ)
    exact = np.zeros((6, 6))
    times = sorted({*regular.tolist(), *(shot.time for shot in wanted)})
    for time, *twist in zip(times, *trajectory.twists(times), strict=True):
        stamp, pose = _stamp(lap, time), trajectory.pose(time)
        frames = ("map", "base_link")
        content = messages.odometry(stamp, frames, pose, (twist[0], twist[1]), (exact, exact))
        yield Message("/ground_truth/odometry", "nav_msgs/msg/Odometry", stamp, content)


def write_drive(
    output: Path,
    street: StreetOptions,
    options: DriveOptions,
    query: QueryOptions,
    *,
    overwrite: bool = False,
) -> None:
    """Both laps as bags, and drive.yaml that describes them.

    Raises:
        OutputError: if the output exists and is not to be overwritten, or cannot be written.
    """
    with files.new_output(output, overwrite=overwrite) as folder:
        for lap in laps(query):
            world = build_world(street, lap.changes)
            with (
                open_bags(folder, lap.name, options.formats) as bags,
                tqdm(
                    total=len(exposures(lap, options)), desc=lap.name, unit="image", disable=None
                ) as progress,
            ):
                for message in simulate_lap(lap, world, options):
                    bags.write(message)
                    progress.update("/image_raw" in message.topic and "depth" not in message.topic)
        description = describe(street, options, query, world)
        text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
        (folder / "drive.yaml").write_text(text, encoding="utf-8")


def describe(
    street: StreetOptions, options: DriveOptions, query: QueryOptions, world: World
) -> dict[str, object]:
    """What is known about a drive that its bags do not say."""
    datum = world.datum
    return {
        "street": asdict(street),
        "drive": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
        "query": asdict(query),
        "datum": {
            "latitude": datum.latitude, "longitude": datum.longitude,
            "altitude": datum.altitude, "yaw": datum.yaw,
        },
        "laps": [
            {"name": lap.name, "start_ns": lap.start_ns, "lane": lap.lane, "light": lap.light}
            for lap in laps(query)
        ],
        "access_points": [
            {"bssid": messages.radio(i)[0], "position": [round(float(v), 3) for v in point]}
            for i, point in enumerate(world.access_points)
        ],
        "lookalikes": [[list(place) for place in pair] for pair in world.lookalikes],
    }  # fmt: skip

"""People on the pavements and cars on the road at a given time."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.simulation.furnish import PEOPLE, VEHICLES
from kapture_ros.simulation.ground import KERB
from kapture_ros.simulation.layout import STREET_HALF
from kapture_ros.simulation.motion import Trajectory, ring_path
from kapture_ros.simulation.options import Lap
from kapture_ros.simulation.render import Actor
from kapture_ros.simulation.vehicle import make_camera
from kapture_ros.transforms.se3 import Transform

_WALKERS = 44
_GAIT = (0, 1, 2, 1)  # of furnish.STRIDES
_STEPS_HZ = 3.6  # phases of a step a second
_VAN = VEHICLES.index("van")
_VAN_AREA = 3.7  # square metres seen from behind
_VAN_REAR = 2.55  # metres from its middle


class Crowd:
    """Everybody who moves in a lap.

    Args:
        seed: of who is where.
    """

    def __init__(self, seed: int, lap: Lap, trajectory: Trajectory):
        random = np.random.default_rng([seed, lap.number, 41])
        self._trajectory = trajectory
        side = np.where(random.random(_WALKERS) < 0.55, 1.0, -1.0)
        self._offset = side * (STREET_HALF - random.uniform(0.7, 2.4, _WALKERS))
        self._start = random.uniform(0, 400, _WALKERS)
        self._pace = random.normal(1.35, 0.2, _WALKERS) * random.choice([-1, 1], _WALKERS)
        self._other_lane = -lap.lane
        self._cars = np.linspace(18, 330, len(VEHICLES)) + random.normal(0, 8, len(VEHICLES))
        self._speeds = random.uniform(6.5, 9.0, len(VEHICLES))
        self._occlusion = lap.occlusion

    def at(self, time: float) -> list[Actor]:
        """Where everybody is, seconds after the start."""
        actors = [self._walker(index, time) for index in range(_WALKERS)]
        for index in range(len(VEHICLES)):
            if not (self._occlusion and index == _VAN):
                along = self._cars[index] + self._speeds[index] * time
                actors.append(_on_path(f"vehicle{index}", self._other_lane, along, 0.0))
        if self._occlusion:
            actors.append(self._van_ahead(time))
        return actors

    def _walker(self, index: int, time: float) -> Actor:
        phase = _GAIT[int(time * _STEPS_HZ + index) % len(_GAIT)]
        part = f"person{index % PEOPLE}.{phase}"
        along = self._start[index] + self._pace[index] * time
        actor = _on_path(part, round(float(self._offset[index]), 1), along, KERB)
        if self._pace[index] < 0:
            back = Transform(Rotation.from_euler("z", np.pi))
            return Actor(part, actor.map_from_actor @ back)
        return actor

    def _van_ahead(self, time: float) -> Actor:
        """A van so close ahead that it hides the part of the front image asked for."""
        camera = make_camera("front", 640, 480)
        hidden = self._occlusion * camera.width * camera.height
        gap = camera.focal * np.sqrt(_VAN_AREA / hidden)
        ahead = camera.base_from_camera.translation[0] + gap + _VAN_REAR
        pose = self._trajectory.pose(time)
        return Actor(f"vehicle{_VAN}", pose @ Transform(translation=np.array([ahead, 0.0, 0.0])))


def _on_path(part: str, offset: float, along: float, height: float) -> Actor:
    points, heading = ring_path(offset).at(along)
    turned = Rotation.from_euler("z", float(heading))
    return Actor(part, Transform(turned, np.array([*points, height])))

"""WGS84 coordinates to and from the map's local metric frame.

The map frame is east-north-up at the datum, turned by the datum's yaw about up (REP-103,
REP-105). The geodesy itself is pymap3d's, on the WGS84 ellipsoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pymap3d
from scipy.spatial.transform import Rotation

from kapture_ros.transforms.se3 import Array


@dataclass(frozen=True, slots=True)
class Datum:
    """Where a map's origin is on the Earth.

    Latitude and longitude in degrees, altitude in metres above the ellipsoid, yaw in
    radians from east to the map's x axis, counter-clockwise.
    """

    latitude: float
    longitude: float
    altitude: float
    yaw: float = 0.0

    def __post_init__(self) -> None:
        values = (self.latitude, self.longitude, self.altitude, self.yaw)
        if not np.isfinite(values).all() or abs(self.latitude) > 90 or abs(self.longitude) > 180:
            raise ValueError(f"not a place on the Earth: {values}")

    def map_from_geodetic(
        self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: npt.ArrayLike
    ) -> Array:
        """Positions (N, 3) in metres from degrees, degrees and metres (scalars or (N,))."""
        origin = (self.latitude, self.longitude, self.altitude)
        lla = (np.atleast_1d(np.asarray(v, float)) for v in (latitude, longitude, altitude))
        enu = np.stack(pymap3d.geodetic2enu(*lla, *origin), axis=-1)
        map_from_enu = Rotation.from_euler("z", -self.yaw)
        points: Array = map_from_enu.apply(enu)
        return points

    def geodetic_from_map(self, points_map: npt.ArrayLike) -> tuple[Array, Array, Array]:
        """Latitudes and longitudes (degrees) and altitudes (metres) of positions (N, 3)."""
        enu_from_map = Rotation.from_euler("z", self.yaw)
        enu = enu_from_map.apply(np.atleast_2d(np.asarray(points_map, float)))
        origin = (self.latitude, self.longitude, self.altitude)
        lat, lon, alt = pymap3d.enu2geodetic(*enu.T, *origin)
        return np.asarray(lat), np.asarray(lon), np.asarray(alt)

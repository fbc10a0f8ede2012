"""Where a Wi-Fi scan was taken, from the fingerprints of the map's own scans.

A scan is a vector of signal strengths by access point; the cosine between scans falls
with the distance between their places. The place is the mean of the map's scans weighted
by it. Used as a gate for retrieval and as a coarse place on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from kapture_ros.mapping.visual_map import WifiScans
from kapture_ros.transforms.se3 import Array

# Chosen on 157 walks on one floor, each located among the others (benchmarks/wifi.py).
FLOOR_DBM = -100.0
POWER = 2.0  # of the strength above the floor: near access points tell more
TEMPERATURE = 0.015  # of the cosines, in the weights
MIN_SIMILARITY = 0.3  # below, the scan is of another place
MIN_SIGMA = 4.0  # metres; people and doors move the signals by as much


@dataclass(frozen=True, slots=True)
class WifiPlace:
    """A coarse place: position (3,) in the map frame, σ in metres."""

    position_map: Array
    sigma: float


class WifiLocator:
    """The fingerprints of a map, ready to be compared with."""

    def __init__(self, scans: WifiScans):
        self._column = {bssid: column for column, bssid in enumerate(scans.bssids)}
        self._positions = np.asarray(scans.positions, dtype=float)
        shape = (len(self._positions), len(self._column))
        strengths = csr_matrix((_strength(scans.rssi), scans.bssid, scans.offsets), shape)
        lengths = np.sqrt(np.asarray(strengths.multiply(strengths).sum(axis=1))).ravel()
        self._unit = strengths.multiply(1 / np.maximum(lengths, 1e-9)[:, None]).tocsr()

    def locate(self, rssi: Mapping[str, float]) -> WifiPlace | None:
        """The place of a scan (dBm by BSSID); None if the map does not know it.

        Readings that the radio heard long before the scan ended belong to another place:
        leave them out.
        """
        query = np.zeros(len(self._column))
        strength = _strength(np.array(list(rssi.values()), dtype=float))
        for bssid, value in zip(rssi, strength, strict=True):
            if bssid in self._column:
                query[self._column[bssid]] = value
        # Access points the map never heard count as missing there.
        length = float(np.linalg.norm(strength))
        if length == 0 or len(self._positions) == 0:
            return None
        similarity = self._unit @ (query / length)
        best = float(similarity.max())
        if best < MIN_SIMILARITY:
            return None
        weights = np.exp((similarity - best) / TEMPERATURE)
        weights /= weights.sum()
        position = weights @ self._positions
        spread = weights @ ((self._positions - position)[:, :2] ** 2).sum(axis=1)
        return WifiPlace(position, float(np.hypot(np.sqrt(spread / 2), MIN_SIGMA)))


def _strength(rssi: npt.NDArray[np.floating]) -> Array:
    above = np.maximum(np.asarray(rssi, dtype=float) - FLOOR_DBM, 0.0) / -FLOOR_DBM
    return above**POWER

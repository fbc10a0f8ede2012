"""What the tests of the simulation share: one coarsely painted street."""

from __future__ import annotations

import pytest

from kapture_ros.simulation.options import StreetOptions
from kapture_ros.simulation.street import World, build_world


@pytest.fixture(scope="session")
def coarse_street() -> StreetOptions:
    return StreetOptions(detail=0.1)


@pytest.fixture(scope="session")
def world(coarse_street: StreetOptions) -> World:
    return build_world(coarse_street)

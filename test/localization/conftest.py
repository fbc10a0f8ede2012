"""What several modules of localization tests look at: made once."""

from __future__ import annotations

import pytest
from street_world import World, make_world

from kapture_ros.localization.localizer import Localizer


@pytest.fixture(scope="session")
def street(tmp_path_factory) -> World:
    """The street of `street_world`; nobody may change it."""
    return make_world(tmp_path_factory.mktemp("street") / "map")


@pytest.fixture(scope="session")
def world(street: World) -> World:
    """What is localized in: the street, where a module has no world of its own."""
    return street


@pytest.fixture(scope="session")
def localizer(world: World) -> Localizer:
    """A localizer in the street, with the default options."""
    return Localizer(world.map)

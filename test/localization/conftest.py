"""What several modules of localization tests look at: made once."""

from __future__ import annotations

import pytest
from street_world import World, make_world


@pytest.fixture(scope="session")
def street(tmp_path_factory) -> World:
    """The street of `street_world`; nobody may change it."""
    return make_world(tmp_path_factory.mktemp("street") / "map")

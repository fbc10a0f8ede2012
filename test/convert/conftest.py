from __future__ import annotations

from pathlib import Path

import pytest
from bag_tools import write_bag
from small_drive import drive


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """A bag of the small drive."""
    return write_bag(tmp_path / "drive", "mcap", drive())

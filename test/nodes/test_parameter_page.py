"""The page of parameters and config/localize.yaml agree with the options."""

from __future__ import annotations

from pathlib import Path

from kapture_ros.nodes.parameter_page import page
from kapture_ros.nodes.parameters import parameter_file
from kapture_ros.nodes.settings import FIXED_ONES, PARTS, TITLE, parameters

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_page_is_up_to_date():
    assert (DOCS / "parameters.md").read_text() == page(), (
        "run: python -m kapture_ros.nodes.parameter_page > docs/parameters.md"
    )


def test_every_parameter_has_a_row_with_its_range():
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert set(rows) == {name for name, _, _ in parameters()}
    assert {name for name in rows if "**fixed**" in rows[name]} == set(FIXED_ONES)
    assert "| 0.1 s | 0 to 10 |" in rows["transform_tolerance"]
    assert "map_to_odom or map_to_base or none" in rows["publish_tf"]


def test_the_pages_name_parameters_that_exist():
    """Those with a prefix, as `acceptance.min_inliers`, wherever docs/ speaks of them."""
    known = {name for name, _, _ in parameters()}
    prefixes = {name.partition(".")[0] for name in known if "." in name}
    for file in ("localizer.md", "troubleshooting.md", "integration.md"):
        words = set((DOCS / file).read_text().split("`")[1::2])
        named = {word for word in words if word.partition(".")[0] in prefixes and "." in word}
        assert {word for word in named if not word.endswith("*")} <= known, file


def test_the_parameter_file_is_that_of_the_options():
    assert (ROOT / "config" / "localize.yaml").read_text() == parameter_file(TITLE, PARTS.values())

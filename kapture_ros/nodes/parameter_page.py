"""docs/parameters.md: every parameter of the localizer, written from the options themselves.

python -m kapture_ros.nodes.parameter_page > docs/parameters.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from kapture_ros.nodes.settings import FIXED, FIXED_ONES, PARTS, full_name
from kapture_ros.options import OptionInfo, describe

HEAD = """\
# Parameters of the localizer

Written by `python -m kapture_ros.nodes.parameter_page` from the options in the code, as
[config/localize.yaml](../config/localize.yaml) is. On the command line of
`kapture_ros node localize` all of them follow `--ros-args -p`; with launch files they stand in
the file given as `config`. A value out of range is refused, with the range.

**Fixed** parts, and parameters marked so, hold while the node is configured; clean up, set,
configure again. The others change at once:
`ros2 param set /localizer acceptance.min_inliers 30`.
What to change when: [tuning](localizer.md#tuning).
"""
NOTHING = "–"
ANY = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_tables()])


def _tables() -> Iterator[str]:
    for part, (prefix, cls) in PARTS.items():
        yield f"## {prefix or part}{', fixed' if part in FIXED else ''}\n"
        yield f"{(cls.__doc__ or '').splitlines()[0]}\n"
        yield "| parameter | default | allowed | |\n|---|---|---|---|"
        for info in describe(cls):
            yield _row(full_name(prefix, info.name), info)
        yield ""


def _row(name: str, info: OptionInfo) -> str:
    default = _shown(info.default)
    if info.unit and default != NOTHING:
        default += f" {info.unit}"
    help_ = f"**fixed**; {info.help}" if name in FIXED_ONES else info.help
    allowed = info.allowed.replace("|", "or") or ANY[info.type]
    return f"| `{name}` | {default} | {allowed} | {help_} |"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value) or NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    return NOTHING if value in (None, "") else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())

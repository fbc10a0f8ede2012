"""Text that is safe as a field of a kapture file or as a folder name, reversibly.

kapture's files are comma-separated lines without quoting, so a name from the outside world
(an SSID, a frame id) could split its line. Both escapes here are the percent-encoding of
RFC 3986, section 2.1, over UTF-8; they differ in what they leave alone.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

from kapture_ros.errors import OptionError

ID_LENGTH = 128
"""The longest sensor id; file systems allow 255 bytes for a name."""

_SAFE_ID = re.compile(rf"(?!\.)[A-Za-z0-9_.%~+-]{{1,{ID_LENGTH}}}")
_HASH_LENGTH = 12


def escape(text: str) -> str:
    """A field of a kapture file that reads back as `text` with `unescape`.

    Encoded are `%`, `,`, control characters, lone surrogates, white space at the ends (kapture
    strips it) and a leading `#` (a comment to kapture). All else stays readable.
    """
    if not text:
        return text
    middle = "".join(_percent(c) if _is_unsafe(c) else c for c in text)
    if middle[0] == "#" or middle[0].isspace():
        middle = _percent(middle[0]) + middle[1:]
    if middle[-1].isspace():
        middle = middle[:-1] + _percent(middle[-1])
    return middle


def unescape(field: str) -> str:
    """What `escape` was given; text that others wrote and that encodes nothing stays."""
    try:
        decoded = unquote_to_bytes(field.encode("utf-8", "surrogatepass"))
        return decoded.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return field


def sensor_id(name: str) -> str:
    """A sensor id for a topic or any other name: one safe folder name, never a path.

    `/camera/front/image_raw` becomes `camera.front.image_raw`: ROS names hold no dots, so
    different topics get different ids. Other characters are percent-encoded; a name that
    would be too long ends with a part of its SHA-256 instead.
    """
    body = name.removeprefix("/")
    plain = re.compile(r"[A-Za-z0-9_+-]")
    safe = "".join("." if c == "/" else c if plain.match(c) else _percent(c) for c in body)
    if not safe or safe.startswith("."):
        safe = "_" + safe
    return _shortened(safe, name)


def derived_id(identifier: str, ending: str) -> str:
    """The id of something that belongs to a sensor: its own and an ending, shortened likewise."""
    return _shortened(identifier + ending, identifier + ending)


def _shortened(safe: str, name: str) -> str:
    if len(safe) <= ID_LENGTH:
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return safe[: ID_LENGTH - _HASH_LENGTH - 1] + "~" + digest[:_HASH_LENGTH]


def check_id(identifier: str) -> None:
    """Refuse an id that is unsafe in a kapture file or as a folder name.

    Raises:
        OptionError: naming the id and a safe one in its place.
    """
    if not _SAFE_ID.fullmatch(identifier):
        raise OptionError(
            f"'{identifier}' cannot be a sensor or rig id (letters, digits and _ . % ~ + -, "
            f"not beginning with a dot, at most {ID_LENGTH}); use '{sensor_id(identifier)}'"
        )


def _is_unsafe(character: str) -> bool:
    return (
        character in "%,\x7f\x85"
        or character < " "
        or "\ud800" <= character <= "\udfff"
        or character in "\u2028\u2029"
    )


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))

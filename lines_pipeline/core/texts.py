"""Texts of unknown origin, as they may be shown."""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[^\\S \\n]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text with escapes (``\\x1b``) in place of what a terminal would obey or an encoding could not hold.

    Line ends and letters of all scripts stay.
    """
    return _UNSAFE.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")

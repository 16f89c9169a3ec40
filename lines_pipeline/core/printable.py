"""Makes texts out of untrusted files safe to show in messages and on terminals."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable

MAX_LINE = 2_000
"""Characters of a line of a message; longer ones are cut in the middle."""
MAX_NAME = 200
"""Characters of a name in a message."""

SHOWN = 3
"""Names and files that a message lists before it counts the rest."""

# Controls (escape sequences begin with one), separators of lines, what turns the direction of writing, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_UNPRINTABLE_IN_MESSAGES = re.compile(_UNPRINTABLE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(name: object, length: int = MAX_NAME) -> str:
    """Return a name on one line: control characters escaped, cut in the middle where it is very long."""
    return _cut(_UNPRINTABLE.sub(_escaped, str(name)), length)


def exact_glob(name: str) -> str:
    """Return a glob that matches just this name, as quoted YAML; it is there to be copied and never cut."""
    text = glob.escape(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_UNPRINTABLE.sub(_escaped, text)}"'


def printable_message(text: str) -> str:
    """Return a message: control characters escaped but for line ends and tabs, very long lines cut."""
    lines = _UNPRINTABLE_IN_MESSAGES.sub(_escaped, text).split("\n")
    return "\n".join(_cut(line, MAX_LINE) for line in lines)


def shortened(text: str, limit: int = 60) -> str:
    """Return ``text`` on one line, at most ``limit`` characters of it, without what a terminal would obey."""
    line = printable_message(" ".join(text[: 20 * limit].split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def listed(names: Iterable[object]) -> str:
    """Return ``'a', 'b', 'c' and 4 more``."""
    return counted(f"'{printable(name)}'" for name in names)


def counted(texts: Iterable[str]) -> str:
    """Return the first texts with commas between them, and how many more there are."""
    texts = list(texts)
    remaining = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {remaining} more" if remaining > 0 else "")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} ... {text[-half:]} ({len(text):,} characters)"

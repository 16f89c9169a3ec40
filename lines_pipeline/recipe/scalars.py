"""What an unquoted YAML scalar means: the core schema of YAML 1.2 (source: yaml.org/spec/1.2.2, section 10.3).

PyYAML resolves scalars as YAML 1.1 does, where ``1e-3`` is text and ``no`` and ``on`` are booleans. One difference from
the core schema: digits with a leading zero (``007``) stay text, because they are names more often than numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})", re.ASCII)
_OTHER_BASE = re.compile(r"0(o[0-7]{1,40}|x[0-9a-fA-F]{1,40})", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)


def read_scalar(text: str) -> Any:
    """The value of a plain scalar: None, a bool, an int, a float or the text; ValueError where it is not finite."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
        raise ValueError(f"found the number {shortened(text)}, expected a finite number")
    return float(text) if _FLOAT.fullmatch(text) else text


def scalar_text(value: Any) -> str:
    """A scalar as a recipe would write it: ``true``, ``0.5``, ``digits``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def shortened(text: str, limit: int = 60) -> str:
    """``text`` on one line, at most ``limit`` characters of it."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""What an unquoted YAML scalar means: the core schema of YAML 1.2 (source: yaml.org/spec/1.2.2, section 10.3).

PyYAML resolves scalars as YAML 1.1 does, where ``1e-3`` is text and ``no`` and ``on`` are booleans. One difference from
the core schema: digits with a leading zero (``007``) stay text, because they are names more often than numbers.

A number or truth value that is written otherwise than Python would write it (``1.10``, ``1e-4``, ``True``) keeps its
spelling, because it may be put into a path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.printable import shortened

_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})", re.ASCII)
_OTHER_BASE = re.compile(r"0(o[0-7]{1,40}|x[0-9a-fA-F]{1,40})", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)


class SpelledInt(int):
    """A whole number, and how it was written."""

    spelling: str


class SpelledFloat(float):
    """A number, and how it was written."""

    spelling: str


@dataclass(frozen=True)
class SpelledBool:
    """A truth value, and how it was written: Python's own cannot hold that. Only items of ``for_each`` may be such."""

    value: bool
    spelling: str


def read_scalar(text: str) -> Any:
    """Return the value of a plain scalar: None, a bool, an int, a float or the text; ValueError for Inf and NaN."""
    value = read_spelled(text)
    return value.value if isinstance(value, SpelledBool) else value


def read_spelled(text: str) -> Any:
    """Return what ``read_scalar`` does; what Python would write in another way keeps its spelling."""
    value = _resolved(text)
    if value is None or isinstance(value, str) or scalar_text(value) == text:
        return value
    if isinstance(value, bool):
        return SpelledBool(value, text)
    return spelled(value, text)


def spelled(number: int | float, spelling: str) -> SpelledInt | SpelledFloat:
    """Return the number with a spelling of its own."""
    kept = SpelledInt(number) if isinstance(number, int) else SpelledFloat(number)
    kept.spelling = spelling
    return kept


def unspelled(value: Any) -> Any:
    """Return a value of a recipe as plain Python values."""
    if isinstance(value, Mapping):
        return {key: unspelled(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [unspelled(inside) for inside in value]
    if isinstance(value, SpelledBool):
        return value.value
    if isinstance(value, SpelledInt | SpelledFloat):
        return int(value) if isinstance(value, SpelledInt) else float(value)
    return value


def _resolved(text: str) -> Any:
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
    """Return a scalar as the recipe has it, or as it would write it: ``true``, ``0.5``, ``1.10``, ``digits``."""
    if isinstance(value, SpelledInt | SpelledFloat | SpelledBool):
        return value.spelling
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)

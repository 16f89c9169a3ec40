"""Turns names into such as MLflow can hold: those that it takes stay as they are, and no two become one."""

from __future__ import annotations

import re
from hashlib import blake2b

MAX_NAME_LENGTH = 250
"""MLflow's bound on the names of parameters, metrics and tags."""

_STEP = re.compile(r"([^/\[\]]+)\[([^\[\]]*)\]")
_REFUSED = re.compile(r"[^\w./ -]")
_LIKE_AN_ESCAPE = re.compile(r"_(?=x[0-9a-f])")
_EMPTY_PART = re.compile(r"^/|/(?=/)|/$")
_DOTS = re.compile(r"(?:(?<=/)|^)\.+(?=/|$)|^\.\.")
"""Parts of dots alone, and a name that begins with two: MLflow takes both for paths."""


def mlflow_name(name: str) -> str:
    """Return a name with ``_x40_`` in place of ``@``, and so on. Different names give different ones.

    The step that it begins with is written as a path: ``val[digits]/accuracy`` becomes ``val/digits/accuracy``.
    """
    escaped = _LIKE_AN_ESCAPE.sub("_x5f_", step_path(name))
    escaped = _REFUSED.sub(lambda match: _escape(match[0]), escaped)
    escaped = _EMPTY_PART.sub(lambda match: _escape("/"), escaped)
    escaped = _DOTS.sub(lambda match: "".join(map(_escape, match[0])), escaped) or _escape("")
    if len(escaped) <= MAX_NAME_LENGTH:
        return escaped
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{escaped[: MAX_NAME_LENGTH - 20].rstrip('/')}_x{digest}_"


def step_path(name: str) -> str:
    """Return ``val/digits...`` for ``val[digits]...``: the step as a path, with what comes after it."""
    step = _STEP.match(name)
    return f"{step[1]}/{step[2]}{name[step.end() :]}" if step else name


def _escape(letter: str) -> str:
    return f"_x{ord(letter):x}_" if letter else "_x_"


def means_first(name: str) -> tuple[int, str]:
    """Return a key to sort metrics by: of all tasks (``val/mean_accuracy``), of one, and times, which vary."""
    first, last = name.partition("/")[0], name.rpartition("/")[2]
    return 2 if first in ("pass", "run") else int(name.count("/") > 1 and not last.startswith("mean_")), name

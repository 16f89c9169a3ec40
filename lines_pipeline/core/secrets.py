"""Values that are shown by name only: what a recipe takes from the environment, and credentials in URLs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, urlsplit

Value = TypeVar("Value")

SHORTEST = 4
"""Shorter values, and numbers of fewer than ``SHORTEST_NUMBER`` characters, are hidden only where they stand alone in
quotes: elsewhere they would be found in every other word."""
SHORTEST_NUMBER = 8
_LONGEST_CUT = 120
"""Messages cut values off before this many characters."""

_PLAIN = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?|true|false|null|yes|no|on|off|auto|none", re.ASCII | re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
_USER = re.compile(r"(?<=://)(?<!zoo://)([^/?#\s'\"]+)@")  # zoo://glyphs@seed1 names no user
_QUERY = re.compile(
    r"([?&;#][^=\s&?#'\"]*(?:token|key|secret|passw|pwd|sig|credential|auth|code|session)[^=\s&'\"]*=)([^&#\s'\"]+)",
    re.IGNORECASE,
)
_IN_NAMES = re.compile(r"([/\[\]])")
NAMES = frozenset({"step", "node", "name"})
"""Fields of events that hold names of a recipe or a suite, not sentences."""


def without_credentials(text: str) -> str:
    """Replace users, passwords and tokens in the URLs of a text by ``***``; names of variables stay."""
    if "://" not in text:
        return text
    text = _USER.sub(lambda match: f"{_starred(match[1])}@", text)
    return _QUERY.sub(lambda match: match[1] + _starred(match[2]), text)


def _starred(credential: str) -> str:
    return "***" if _REFERENCE.sub("", credential).strip(":") else credential


@dataclass(frozen=True)
class Secrets:
    """Holds what one recipe took from the environment: ``values`` by variable; an empty one still hides credentials.

    ``labels`` maps items and tasks that come from the environment to their recorded form (``${env:NAME}``).
    """

    values: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def hide(self, text: str) -> str:
        """Replace every value in a text, whole or cut off, by ``${env:NAME}``, and credentials by ``***``."""
        if self._finder is not None:
            pattern, names = self._finder
            text = pattern.sub(lambda match: names[match[0]], text)
        return without_credentials(text)

    def by_name(self, text: str) -> str:
        """Replace values by ``${env:NAME}`` so that ``by_value`` gives the same text back."""
        for name, value in sorted(self.values.items(), key=lambda item: (-len(item[1]), item[0])):
            if _is_findable(value):
                text = text.replace(value, f"${{env:{name}}}")
        return text

    def label(self, name: str) -> str:
        """Return the recorded form of a name such as ``experts[digits]`` or ``accuracy/digits``."""
        if not self.labels:
            return name
        return self.labels.get(name) or "".join(self.labels.get(part, part) for part in _IN_NAMES.split(name))

    def labelled(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return a map with the recorded forms of its keys, also in the maps that it holds."""
        inside = {key: self.labelled(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        return {self.label(key): value for key, value in inside.items()}  # type: ignore[misc]

    def hidden(self, value: Value, name: str = "") -> Value:
        """Return a value with every text in it hidden, also inside maps, lists, tuples and dataclasses."""
        hidden: Any = value
        if isinstance(value, str):
            hidden = self.label(value) if name in NAMES else self.labels.get(value) or self.hide(value)
        elif isinstance(value, Path):
            hidden = Path(self.hide(str(value)))
        elif isinstance(value, Mapping):
            hidden = {self.label(k) if isinstance(k, str) else k: self.hidden(v) for k, v in value.items()}
        elif type(value) in (list, tuple):
            inside = [self.hidden(entry, name) for entry in hidden]
            hidden = inside if isinstance(value, list) else tuple(inside)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            hidden = dataclasses.replace(value, **{key: self.hidden(inside, key) for key, inside in values.items()})
        return hidden  # type: ignore[no-any-return]

    @contextmanager
    def hiding(self) -> Iterator[None]:
        """Hide values in the errors that are raised meanwhile, in their causes, and in the causes of these."""
        try:
            yield
        except Exception as error:
            clean = self._cleaned(error, set())
            if clean is error:
                raise
            raise clean from error.__cause__

    def _cleaned(self, error: BaseException, visited: set[int]) -> BaseException:
        """Return the error itself, changed in place; another one where its text cannot be changed."""
        visited.add(id(error))
        for way in ("__cause__", "__context__"):
            behind = getattr(error, way)
            if behind is not None and id(behind) not in visited:
                kept = error.__suppress_context__
                setattr(error, way, self._cleaned(behind, visited))
                error.__suppress_context__ = kept
        if not self._shows(error):
            return error
        with suppress(AttributeError, TypeError, ValueError):  # of errors that cannot be changed
            error.args = tuple(self.hidden(argument) for argument in error.args)
            for name, inside in list(vars(error).items()):
                setattr(error, name, self.hidden(inside))
            if isinstance(error, OSError):
                error.filename, error.filename2 = self.hidden(error.filename), self.hidden(error.filename2)
        if not self._shows(error):
            return error
        replacement = RuntimeError(self.hide(f"{type(error).__name__}: {_shown(error, str)}"))
        replacement.__cause__, replacement.__context__ = error.__cause__, error.__context__
        return replacement.with_traceback(error.__traceback__)

    def _shows(self, error: BaseException) -> bool:
        texts = [*traceback.format_exception_only(error), _shown(error, str), _shown(error, repr)]
        return any(self.hide(text) != text for text in texts)

    @cached_property
    def _finder(self) -> tuple[re.Pattern[str], Mapping[str, str]] | None:
        """Return a pattern for every form of every value, the longest first, and what replaces each match."""
        names: dict[str, str] = {}
        for name, value in sorted(self.values.items()):
            for form in filter(None, _forms(value)):
                names.setdefault(form, f"${{env:{name}}}")
        cut = {form[:length]: names[form] for form in names if _is_findable(form) for length in _cuts(form)}
        ways = {form: "{}" if _is_findable(form) else r"(?<=['\"]){}(?=['\"])" for form in names}
        ways |= {part: r"{}(?=\.\.\.|…)" for part in cut if part not in names}
        if not ways:
            return None
        patterns = (
            ways[form].replace("{}", re.escape(form)) for form in sorted(ways, key=lambda form: (-len(form), form))
        )
        return re.compile("|".join(patterns)), cut | names


NO_SECRETS = Secrets()
"""For what takes nothing from the environment; credentials in URLs are hidden all the same."""


def _shown(error: BaseException, way: Callable[[object], str]) -> str:
    """Return the text of an error; none where its class, which may be the user's, cannot give it."""
    try:
        return way(error)
    except Exception:
        return "(it has no message)"


def by_value(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Fill in ``${env:NAME}`` again; names that are not set stay."""
    return _REFERENCE.sub(lambda match: environ.get(match[1], match[0]), text)


def named_in(text: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that ``by_value`` fills in, with their values."""
    return {name: environ[name] for name in _REFERENCE.findall(text) if name in environ}


def _is_findable(value: str) -> bool:
    """Return whether a value can be told from other words."""
    return len(value) >= (SHORTEST_NUMBER if _PLAIN.fullmatch(value) else SHORTEST)


def _cuts(form: str) -> range:
    """Yield the lengths to which a message may have cut a value, with enough of it left to be told."""
    return range(max(SHORTEST_NUMBER, len(form) // 2), min(len(form), _LONGEST_CUT))


def _forms(value: str) -> Iterable[str]:
    """Return a value as messages show it: as it is, as a path, in a URL, in JSON, on one line; and parts of it."""
    yield value
    yield from (" ".join(value.split()), value.lower(), json.dumps(value)[1:-1], repr(value)[1:-1])
    yield from (quote(value), quote(value, safe=""), quote_plus(value))
    yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= 2 * SHORTEST_NUMBER)
    if "/" in value:
        yield from (
            form for form in (os.path.normpath(value), value.lstrip("~./").rstrip("/")) if len(form) >= SHORTEST
        )
    if "://" in value:
        try:
            parts = urlsplit(value)
            inside = (parts.netloc, parts.hostname, parts.username, parts.password, parts.path, parts.query)
        except ValueError:
            return
        yield from (part for part in inside if part and len(part) >= SHORTEST_NUMBER)

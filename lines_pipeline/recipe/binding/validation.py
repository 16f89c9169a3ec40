"""Checks values against pydantic models, and says in plain words what is wrong with which."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import scalar_text, unspelled
from lines_pipeline.recipe.syntax.source_map import holds, value_towards

Model = TypeVar("Model", bound=BaseModel)

MAX_DIAGNOSTICS = 50
"""The most diagnostics of one kind and place that are made; finding the nearest name takes long."""

_KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "finite_number": "a finite number",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "string_too_short": ("min_length", "text of at least {} character"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}


def validated(
    model: type[Model], data: Any, written: Any, extra_keys: Iterable[str] = ()
) -> tuple[Model | None, list[Diagnostic]]:
    """Return ``data`` as ``model``, or diagnostics by path.

    ``written`` is what to show of a value (secrets by name), ``extra_keys`` further keys that a user may write.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=unspelled)), []
    except ValidationError as error:
        errors = error.errors(include_url=False)[:MAX_DIAGNOSTICS]
        return None, _diagnostics(errors, model, data, written, tuple(extra_keys))


def _diagnostics(
    errors: Iterable[ErrorDetails], model: type[BaseModel], data: Any, written: Any, extra_keys: tuple[str, ...]
) -> list[Diagnostic]:
    mismatches: dict[FieldPath, list[ErrorDetails]] = {}
    diagnostics = []
    for error in errors:
        path = _inside(error["loc"], data)
        if error["type"] == "extra_forbidden":
            known = [*_fields_at(model, path[:-1]), *(extra_keys if len(path) == 1 else ())]
            diagnostics.append(Diagnostic(path, unknown_key(str(path[-1]), known), at_key=True))
        elif error["type"] == "missing":
            diagnostics.append(Diagnostic(path, _missing(model, path, str(error["loc"][-1])), at_key=True))
        else:
            mismatches.setdefault(path, []).append(error)
    return diagnostics + [_mismatch(path, group, data, written) for path, group in mismatches.items()]


def _missing(model: type[BaseModel], path: FieldPath, name: str) -> str:
    field = model.model_fields.get(name) if not path else None
    return f"'{name}' is missing" + (f": {field.description}" if field and field.description else "")


def _inside(location: tuple[int | str, ...], data: Any) -> FieldPath:
    """Return the part of pydantic's location that leads through ``data``: it also names the members of unions."""
    path: list[int | str] = []
    for part in location:
        if not holds(data, part):
            break
        data = data[part]
        path.append(part)
    return tuple(path)


def _fields_at(model: type[BaseModel], path: FieldPath) -> list[str]:
    """Return the names of the fields of the model at ``path``; of ``model`` itself where it cannot be told."""
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else current
        current = next((kind for kind in _models(annotation)), None)
    return [field.alias or name for name, field in getattr(current, "model_fields", {}).items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inside in getattr(annotation, "__args__", ()) for model in _models(inside)]


def _mismatch(path: FieldPath, errors: list[ErrorDetails], data: Any, written: Any) -> Diagnostic:
    value, shown = value_towards(data, path), value_towards(written, path)
    own_words = [str(error["ctx"]["error"]) for error in errors if error["type"] == "value_error"]
    if own_words:
        return Diagnostic(path, own_words[0])
    expected = list(dict.fromkeys(_expected(error) for error in errors))
    if "a number" in expected and "a whole number" in expected:
        expected.remove("a whole number")
    hint = did_you_mean(value, _literals(errors)) if isinstance(value, str) else ""
    return Diagnostic(path, f"expected {listed(expected)}, found {described(shown)}{hint}")


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _KINDS:
        return _KINDS[kind]
    context = error.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return words.format(_bound(context[key]))
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("too_short", "too_long"):
        return f"at least {context['min_length']} entry" if kind == "too_short" else "fewer entries"
    return re.sub(r"^Input should be ", "", error["msg"])


def _bound(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else scalar_text(number)


def _literals(errors: Iterable[ErrorDetails]) -> list[str]:
    texts = [str(error.get("ctx", {}).get("expected", "")) for error in errors if error["type"] == "literal_error"]
    return [name for text in texts for name in re.findall(r"'([^']*)'", text)]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key that nothing reads."""
    names = sorted(known)
    expected = f"; expected one of: {', '.join(names)}" if names else ""
    return f"unknown key '{shortened(key)}'{did_you_mean(key, names)}{expected}"


def listed(words: Iterable[str]) -> str:
    """Return words as ``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def described(value: Any) -> str:
    """Return a value as an error message shows it, in one line."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return f"a map of {', '.join(shortened(str(key), 20) for key in list(value)[:5])}" if value else "an empty map"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"'{shortened(value)}'" if isinstance(value, str) else scalar_text(value)

"""Reads numbers that vary by tensor, ``by_name: {glob: number}`` and ``by_block: [number, ...]``, out of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.printable import shortened
from lines_pipeline.recipe.binding.validation import described, validated
from lines_pipeline.recipe.syntax.source_map import replaced, value_towards

if TYPE_CHECKING:
    from lines_pipeline.ops.base import AnyOp, OpParams
    from lines_pipeline.ops.varying import Varying

BY_NAME, BY_BLOCK = "by_name", "by_block"


def is_varying(value: Any) -> bool:
    """Return whether a value stands for numbers that differ from tensor to tensor."""
    return isinstance(value, Mapping) and not value.keys().isdisjoint((BY_NAME, BY_BLOCK))


@dataclass(frozen=True)
class _Written:
    """A place where a number varies: its path among the parameters, and the numbers by the path below it."""

    path: FieldPath
    numbers: Mapping[FieldPath, Any]


def read_params(
    op: AnyOp, values: Mapping[str, Any], shown: Mapping[str, Any]
) -> tuple[OpParams | None, tuple[Varying, ...], list[Diagnostic]]:
    """Return the op's parameters, with the first of the numbers where they vary, what varies, and diagnostics.

    Each of the numbers has to be one that the op takes. ``shown`` has the values as they may be shown.
    """
    written, diagnostics = [], list[Diagnostic]()
    for path, value in _places(values):
        wrong = list(_form_diagnostics(op, path, value))
        diagnostics += wrong
        if not wrong:
            written.append(_Written(path, dict(_numbers(value))))
    if diagnostics:
        return None, (), diagnostics
    plain, plainly_shown = dict(values), dict(shown)
    for place in written:
        first = next(iter(place.numbers))
        plain = replaced(plain, place.path, place.numbers[first])
        plainly_shown = replaced(plainly_shown, place.path, _as_shown(shown, place, first))
    params, diagnostics = validated(op.Params, plain, plainly_shown)
    for place in written:
        diagnostics = [_moved(diagnostic, place, next(iter(place.numbers)), shown) for diagnostic in diagnostics]
        for below in list(place.numbers)[1:]:
            trial = replaced(plain, place.path, place.numbers[below])
            of_number = validated(
                op.Params, trial, replaced(plainly_shown, place.path, _as_shown(shown, place, below))
            )[1]
            of_place = [diagnostic for diagnostic in of_number if diagnostic.path[: len(place.path)] == place.path]
            diagnostics += [_moved(diagnostic, place, below, shown) for diagnostic in of_place]
    return (None if diagnostics else params), tuple(map(_varying, written)), diagnostics


def _places(values: Mapping[str, Any]) -> Iterator[tuple[FieldPath, Mapping[str, Any]]]:
    """Yield the parameters that vary, and the entries of lists of parameters that do."""
    for name, value in values.items():
        if is_varying(value):
            yield (name,), value
        elif isinstance(value, list):
            yield from (((name, index), entry) for index, entry in enumerate(value) if is_varying(entry))


def _form_diagnostics(op: AnyOp, path: FieldPath, value: Mapping[str, Any]) -> Iterator[Diagnostic]:
    if not varies(op):
        message = f"'{path[0]}' of '{op.name}' is one number: it takes neither '{BY_NAME}' nor '{BY_BLOCK}'"
        yield Diagnostic(path, message)
        return
    if len(value) > 1:
        yield Diagnostic(path, f"expected '{BY_NAME}' or '{BY_BLOCK}' alone, found {described(value)}")
        return
    (kind, numbers), *_ = value.items()
    if kind == BY_NAME and not (isinstance(numbers, Mapping) and numbers):
        yield Diagnostic((*path, kind), f"expected a map from globs to numbers, found {described(numbers)}")
    elif kind == BY_BLOCK and not (isinstance(numbers, list) and len(numbers) > 1):
        yield Diagnostic(
            (*path, kind), f"expected two numbers or more, first block to last, found {described(numbers)}"
        )
    else:
        hidden = list(numbers)[list(numbers).index("*") + 1 :] if kind == BY_NAME and "*" in numbers else []
        if hidden:
            message = f"'*' stands before '{shortened(hidden[0])}', which can match nothing then: put '*' last"
            yield Diagnostic((*path, kind, "*"), message, at_key=True)
        for below, number in _numbers(value):
            if isinstance(number, bool) or not isinstance(number, int | float):
                yield Diagnostic((*path, *below), f"'{path[0]}': expected a number, found {described(number)}")


def varies(op: AnyOp) -> bool:
    """Return whether numbers of an op may vary by tensor: it computes tensors from others."""
    from lines_pipeline.ops.base import Granularity

    return bool(op.inputs) and op.granularity is not Granularity.MODEL and not op.is_output and not op.is_source


def _numbers(value: Mapping[str, Any]) -> Iterator[tuple[FieldPath, Any]]:
    """Yield the numbers of a value that varies, by the path below it."""
    ((kind, numbers),) = value.items()
    entries = numbers.items() if isinstance(numbers, Mapping) else enumerate(numbers)
    yield from (((kind, key), number) for key, number in entries)


def _as_shown(shown: Mapping[str, Any], place: _Written, below: FieldPath) -> Any:
    """Return one of the numbers as it may be shown."""
    is_listed = isinstance(shown.get(str(place.path[0])), list)  # else it is one for all inputs
    return value_towards(shown, (*(place.path if is_listed else place.path[:1]), *below))


def _moved(diagnostic: Diagnostic, place: _Written, below: FieldPath, shown: Mapping[str, Any]) -> Diagnostic:
    """Return a diagnostic about a number at the place where it is written."""
    if diagnostic.path != place.path:
        return diagnostic
    is_listed = isinstance(shown.get(str(place.path[0])), list)
    return replace(diagnostic, path=(*(place.path if is_listed else place.path[:1]), *below))


def _varying(place: _Written) -> Varying:
    from lines_pipeline.ops.varying import ByBlock, ByName, Varying

    numbers: Sequence[Any] = [(below[1], number) for below, number in place.numbers.items()]
    by_name = next(iter(place.numbers))[0] == BY_NAME
    return Varying(place.path, ByName(tuple(numbers)) if by_name else ByBlock(tuple(number for _, number in numbers)))

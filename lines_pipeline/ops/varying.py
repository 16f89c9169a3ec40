"""Numbers that a parameter has by tensor: by its name, or by the depth of its block."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from lines_pipeline.ops.roles import OpParams
from lines_pipeline.ops.schemas.globs import matches

Number = int | float
Path = tuple[str | int, ...]
"""From the parameters to a number: a field, and an index where that is a list."""


@dataclass(frozen=True)
class ByName:
    """A number for each pattern; the first one that matches any of a tensor's names counts."""

    numbers: tuple[tuple[str, Number], ...]

    def of(self, names: Iterable[str]) -> tuple[str, Number] | None:
        """Return pattern and number of a tensor with these names; None where no pattern matches."""
        names = tuple(names)
        return next(((glob, number) for glob, number in self.numbers if matches((glob,), names)), None)


@dataclass(frozen=True)
class ByBlock:
    """Numbers from the first block to the last one, with straight lines between them."""

    numbers: tuple[Number, ...]

    def at(self, block: int, depth: int) -> Number:
        """Return the number of a block of so many; exactly one of ``numbers`` where there are as many."""
        index, remainder = divmod(block * (len(self.numbers) - 1), depth - 1)
        if remainder == 0:
            return self.numbers[index]
        low, high = self.numbers[index], self.numbers[index + 1]
        return low + (high - low) * (remainder / (depth - 1))


@dataclass(frozen=True)
class Varying:
    """A number of a step's parameters that differs from tensor to tensor."""

    path: Path
    by: ByName | ByBlock

    @property
    def label(self) -> str:
        """Return the parameter as it is written: ``weights[0]``."""
        return "".join(f"[{part}]" if isinstance(part, int) else part for part in self.path)


def with_numbers(params: OpParams, numbers: Iterable[tuple[Path, Number]]) -> OpParams:
    """Return parameters with numbers in place; ValueError, in plain words, for one that the op does not take."""
    data = json.loads(params.model_dump_json(by_alias=True))
    for path, number in numbers:
        inside = data
        for part in path[:-1]:
            inside = inside[part]
        inside[path[-1]] = number
    try:
        return type(params).model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")) from error

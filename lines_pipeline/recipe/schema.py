"""Declares the fields that a recipe may have beside its nodes: names, settings, tuning."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lines_pipeline.core.printable import shortened
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.core.types import CompileMode

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)
NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", re.ASCII)
MAX_GRID = 10_000
"""The most values that one parameter, and trials that a whole grid, may have."""

Number = Annotated[int | float, Field(allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Engine(_Section):
    """Says how a run is carried out; results do not depend on it."""

    scheduler: str = Field("threads", description="threads, serial, or the address of a Dask scheduler.")
    workers: int | None = Field(None, ge=1, description="Workers at a time; default: one a core.")
    memory: str | int | None = Field(None, description="Cap on memory: 4GB (10^9), 4GiB, or bytes.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    compile: CompileMode = Field(
        "auto", description="Compiled loops: where they pay (auto), always, or never; the result has the same bytes."
    )

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str) -> str:
        if value not in ("threads", "serial") and not re.fullmatch(r"[a-z]+://\S+", value):
            raise ValueError(f"expected 'threads', 'serial' or an address such as tcp://host:8786, found '{value}'")
        return value

    @field_validator("memory")
    @classmethod
    def _known_size(cls, value: str | int | None) -> str | int | None:
        if value is not None:
            parse_bytes(value)
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
            raise ValueError(f"expected 'auto', 'cpu', 'cuda' or 'cuda:N', found '{value}'")
        return value

    @property
    def memory_bytes(self) -> int | None:
        """Return ``memory`` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)


class Tracking(_Section):
    """Says where runs are recorded."""

    uri: str | None = Field(None, min_length=1, description="Store or server of MLflow.")
    experiment: str = Field("lines-pipeline", min_length=1, description="Experiment of MLflow.")
    tags: dict[str, str | bool | int | float] = Field({}, description="Tags of the run.")


class Space(_Section):
    """The values that ``tune`` may give a parameter: a range (``low`` and ``high`` included), or a list."""

    low: Number | None = Field(None, description="Smallest value.")
    high: Number | None = Field(None, description="Largest value.")
    step: Number | None = Field(None, gt=0, description="Distance of values; exact in decimal.")
    log: bool = Field(False, description="Search the range on a logarithmic scale.")
    values: tuple[Any, ...] | None = Field(None, min_length=1, description="The values to try.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.values is not None:
            self._check_list()
        elif self.low is None or self.high is None:
            raise ValueError("expected 'low' and 'high' (and 'step'), or 'values'")
        else:
            self._check_range(self.low, self.high)
        return self

    def _check_list(self) -> None:
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            raise ValueError("found 'values' together with a range, expected one of them")
        if len({repr(value) for value in self.values or ()}) < len(self.values or ()):
            raise ValueError("found the same value twice in 'values', expected each once")

    def _check_range(self, low: float, high: float) -> None:
        if low > high:
            raise ValueError(f"'low' ({low}) is above 'high' ({high})")
        if self.log and (low <= 0 or self.step is not None):
            raise ValueError("'log: true' needs 'low' above 0 and no 'step'")
        if self.step is None:
            return
        steps = (exact(high) - exact(low)) / exact(self.step)
        if steps >= MAX_GRID:
            raise ValueError(f"the range has more than {MAX_GRID:,} values; take a larger 'step'")
        if steps != int(steps):
            last = exact(low) + int(steps) * exact(self.step)
            raise ValueError(f"steps of {self.step} from {low} do not reach {high}; set 'high' to {last}")

    def choices(self) -> tuple[Any, ...] | None:
        """Return all values, in order; None for a range without steps. Whole numbers stay so where all are whole."""
        if self.values is not None or self.step is None or self.low is None or self.high is None:
            return self.values
        low, step = exact(self.low), exact(self.step)
        count = int((exact(self.high) - low) / step) + 1
        whole = all(isinstance(number, int) for number in (self.low, self.high, self.step))
        return tuple((int if whole else float)(low + index * step) for index in range(count))

    def samples(self) -> tuple[Any, ...]:
        """Return values that stand for all: the ends of a range, every entry of a list."""
        return self.values if self.values is not None else tuple(dict.fromkeys((self.low, self.high)))


def exact(number: float) -> Decimal:
    """Return the shortest decimal that reads back as the number: what was written."""
    return Decimal(repr(number))


class Pruning(_Section):
    """Judges each trial by a growing part of the samples first, and stops those that are not among the best."""

    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.125, 0.5), strict=False, description="Shares of the samples, growing; all of them come last."
    )
    keep: float = Field(0.5, gt=0, lt=1, description="How much of the trials goes on from each share.")

    @field_validator("shares")
    @classmethod
    def _growing(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("expected a share at least, found an empty list")
        if list(value) != sorted(set(value)):
            raise ValueError(f"expected shares that grow, found {', '.join(f'{share:g}' for share in value)}")
        return value


class Tune(_Section):
    """Says which parameters to choose, and by which metric."""

    parameters: dict[str, Space] = Field(min_length=1, description="node.parameter: {low, high, step} or {values}.")
    objective: str = Field(min_length=1, description="node.metric, or a linear expression of such.")
    direction: Literal["maximize", "minimize"] | None = Field(
        None, description="Default: what is better of the objective's metrics."
    )
    sampler: Literal["grid", "random", "tpe", "cmaes"] = "grid"
    trials: int | None = Field(None, ge=1, le=100_000, description="How many; the grid tries all.")
    pruning: Pruning | None = Field(None, description="Stops trials early; default: none is stopped.")


class Settings(_Section):
    """A recipe's top level, with ``extends`` merged in; nodes are checked against their ops later."""

    name: str = Field(description="Letters, digits, '-' and '_'; names the run and its folder.")
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**63)
    vars: dict[str, Any] = {}
    plugins: tuple[str, ...] = Field((), strict=False, description="Python files beside the recipe that add ops.")
    nodes: dict[str, dict[str, Any]] = Field(min_length=1)
    tune: Tune | None = None
    engine: Engine = Field(default_factory=lambda: Engine.model_validate({}))
    tracking: Tracking = Field(default_factory=lambda: Tracking.model_validate({}))

    @field_validator("name")
    @classmethod
    def _slug(cls, value: str) -> str:
        if not _SLUG.fullmatch(value):
            raise ValueError(f"expected letters, digits, '-' and '_' (at most 100), found '{shortened(value, 100)}'")
        return value

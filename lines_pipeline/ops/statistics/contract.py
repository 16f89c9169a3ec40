"""The contract of statistics: what is observed of a block, kept of it, and made of all blocks together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self

import numpy as np
from typing_extensions import TypeVar

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.kernels import Value

Partial = TypeVar("Partial")
"""What is kept of a block: something small and picklable."""
Result = TypeVar("Result", covariant=True)
"""What an op is given, and the cache remembers as JSON."""
State = TypeVar("State", default=None)
"""What a sweep is made with that was prepared from a sample."""

Reductions = tuple[Any, ...]
"""Reductions of ``ops.kernels``: numbers and arrays, or the traced values that stand for them."""
Needs = Sequence[Any]
"""Results of the statistics that one ``needs``, in its order. ``Any``: each has a type of its own, which no variable
of the class could tell; who named the statistics knows their results."""
Remembered = Any
"""A result as JSON gives it back: plain values, whose form only the statistic knows that had it written."""
Reduced = Any
"""A reduction of one block, once it is computed: a number or an array, by the operation that ``observe`` asked for."""
Sample = Mapping[str, list[np.ndarray[Any, Any]]]
"""Runs of neighbouring magnitudes, 1-D, by tensor name."""


@dataclass(frozen=True)
class Retry(Generic[State]):
    """A statistic's wish for another sweep, with another state."""

    state: State


@dataclass(frozen=True)
class Statistic(ABC, Generic[Partial, Result, State]):
    """A statistic of whole models, gathered block by block in one sweep, on which an op's result depends.

    Equal statistics are computed once, whichever steps ask for them. ``of`` names the steps whose values it observes.
    """

    version: ClassVar[int] = 1
    """Raise it when results change: cached results of earlier versions are then not used."""

    of: tuple[str, ...]
    needs: tuple[AnyStatistic, ...] = field(default=(), kw_only=True)
    """Earlier statistics whose results ``observe`` takes: they cost an earlier sweep."""
    optional: bool = field(default=False, kw_only=True)
    """Gathered only where a sweep is made anyhow; it never causes one."""
    bounds: tuple[tuple[str, ...], tuple[str, ...]] | None = field(default=None, kw_only=True)
    """``include`` and ``exclude`` of the step that needs it: it observes what they keep (set by the planner)."""

    @property
    def outcomes(self) -> tuple[Result, ...]:
        """Return all results that matter to dependants, where they are few: lets a dependant share this sweep."""
        return ()

    def outcome(self, result: object) -> int:
        """Return the index into ``outcomes`` of a ``result`` that ``combine`` gave."""
        raise NotImplementedError

    def affects(self, partial: Partial) -> bool:
        """Return whether ``outcomes`` can differ in their effect on a block of which ``partial`` is kept."""
        return True

    @abstractmethod
    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: State) -> Reductions:
        """Return reductions of one block (1-D, compute type, at most ``BLOCK_NUMEL`` values); ``needs`` are results."""

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: State, position: int
    ) -> Reductions:
        """Observe the block that begins at entry ``position``, for what depends on where entries are."""
        return self.observe(values, tensor, needs, state)

    @abstractmethod
    def partial(self, *reduced: Reduced) -> Partial:
        """Return what is kept of a block, from its reductions as numbers and arrays."""

    @abstractmethod
    def combine(
        self, partials: Mapping[str, list[Partial]], numels: Mapping[str, int], state: State
    ) -> Result | Retry[State]:
        """Return the result of the partials of all blocks, by tensor name in block order, or ask for another sweep."""

    def decode(self, result: Remembered) -> Result:
        """Return the result from its JSON form, as remembered by the cache."""
        decoded: Result = result
        return decoded

    @property
    def sampled(self) -> bool:
        """Return whether ``prepare`` wants a sample of the values before the sweep."""
        return False

    def sample_runs(self, numels: Mapping[str, int]) -> int:
        """Return how many runs of neighbouring values to draw; 0 where none are needed. ``numels`` by tensor."""
        return 0

    def kept_bytes(self, numels: Mapping[str, int], item_bytes: int) -> int:
        """Return the memory of the arrays that a sweep keeps at most, for values of this many entries and such a size.

        Numbers that are kept of every block are not among them.
        """
        return 0

    def narrowed(self, factor: float) -> Self:
        """Return an equal statistic whose ``kept_bytes`` are about ``1 / factor`` of these, perhaps over more sweeps.

        One whose arrays cannot be fewer returns itself.
        """
        return self

    def prepare(self, sample: Sample, numels: Mapping[str, int]) -> State:
        """Return the state for the sweep, from a sample of the first value of ``of``."""
        raise NotImplementedError


@dataclass(frozen=True)
class PositionedStatistic(Statistic[Partial, Result, State]):
    """A statistic that depends on where entries are: it defines ``observe_at`` in place of ``observe``."""

    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: State) -> Reductions:
        """Observe the first block."""
        return self.observe_at(values, tensor, needs, state, 0)

    @abstractmethod
    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Needs, state: State, position: int
    ) -> Reductions:
        """Return the reductions of the block that begins at entry ``position``."""


AnyStatistic = Statistic[Any, Any, Any]
"""A statistic of which it does not matter what it keeps and gives: those of a stage are of many kinds. ``Any``, since
a ``State`` is taken as well as given: no one type stands for all of them."""

StatisticOf = Statistic[Any, Result, Any]
"""A statistic with this result: what it keeps of blocks, and its sweeps' state, are its own affair."""

"""The op contract: what one merge method declares, and what it computes on one tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.kernels import Value

Values = Mapping[str, Sequence[Value]]
"""The values of a step's inputs on one block or whole tensor, by port, 1-D; a port that takes one has one."""


Partials = Mapping[str, list[Any]]
"""What ``observe`` gave for each block, by tensor name, in block order."""


class Place(NamedTuple):
    """Where a tensor is: in which block (from 0) of how many, and in which tower (from 0)."""

    block: int
    depth: int
    tower: int = 0


class Granularity(StrEnum):
    """How much of a model an op has to see at once."""

    ELEMENTWISE = "elementwise"
    """Any slice of a tensor will do."""
    TENSOR = "tensor"
    """Whole tensors, of those that ``Op.wants_whole`` names (an SVD of matrices, say): the op's value is made by passes
    of its own, and kept for what is computed from it."""
    MODEL = "model"
    """Whole models: the op is carried out by a driver (evaluation, greedy soup), not by the engine."""


class OpParams(BaseModel):
    """Base of every op's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Port:
    """An input field of a node: the edge type it takes, one value or many (``many`` consumes collections flattened)."""

    type: EdgeType | None
    """``None`` takes weights, delta or mask (``save``)."""
    many: bool = False
    optional: bool = False
    each: bool = False
    """Takes a list or a collection and maps over it, one step an entry (``tall-mask``)."""
    with_all: bool = False
    """With ``each``: every step gets its own entry, and then all of them (``emr``)."""
    is_path: bool = False
    """Names a file, not a node: a step that loads it is made for it (``uniforms`` of ``dare``)."""
    min_count: int = 1
    statistics_only: bool = False
    """Only measures read it, or only its names and shapes are asked for: the result is computed without its values
    (``lines-scale``, ``adapter``)."""
    from_sum: bool = False
    """Where another port holds exactly the steps that this one is the plain sum of (``Op.is_sum_of``), statistics take
    it to be known from them."""


@dataclass(frozen=True)
class Statistic(ABC):
    """A statistic of whole models, gathered block by block in one sweep, on which an op's result depends.

    Equal measures are computed once, whichever steps ask for them. ``of`` names the steps whose values it observes.
    """

    version: ClassVar[int] = 1
    """Raise it when results change: cached results of earlier versions are then not used."""

    of: tuple[str, ...]
    needs: tuple[Statistic, ...] = field(default=(), kw_only=True)
    """Earlier measures whose results ``observe`` takes: they cost an earlier sweep."""
    optional: bool = field(default=False, kw_only=True)
    """Gathered only where a sweep is made anyhow; it never causes one."""
    bounds: tuple[tuple[str, ...], tuple[str, ...]] | None = field(default=None, kw_only=True)
    """``include`` and ``exclude`` of the step that needs it: it observes what they keep (set by the planner)."""

    @property
    def outcomes(self) -> tuple[Any, ...]:
        """All results that matter to dependants, where they are few: lets a dependant share this measure's sweep."""
        return ()

    def outcome(self, result: Any) -> int:
        """Index into ``outcomes`` of what ``result`` turned out to be."""
        raise NotImplementedError

    def affects(self, partial: Any) -> bool:
        """Whether ``outcomes`` can differ in their effect on a block for which ``observe`` gave ``partial``."""
        return True

    @abstractmethod
    def observe(self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any) -> tuple[Any, ...]:
        """Reductions (``ops.blocks``) of one block: 1-D, compute type, at most ``BLOCK_NUMEL`` values."""

    def observe_at(
        self, values: Sequence[Value], tensor: TensorSpec, needs: Sequence[Any], state: Any, position: int
    ) -> tuple[Any, ...]:
        """``observe`` of the block that begins at entry ``position``, for what depends on where entries are."""
        return self.observe(values, tensor, needs, state)

    def partial(self, *reduced: Any) -> Any:
        """What is kept of a block, from its reductions as numbers and arrays: something small and picklable."""
        return reduced[0]

    @abstractmethod
    def combine(self, partials: Partials, numels: Mapping[str, int], state: Any) -> Any:
        """The result, from the partials of all blocks by tensor name; ``Retry`` asks for another sweep."""

    def decode(self, result: Any) -> Any:
        """The result from its JSON form, as remembered by the cache."""
        return result

    @property
    def sampled(self) -> bool:
        """Whether ``prepare`` wants a sample of the values before the sweep."""
        return False

    def sample_runs(self, numels: Mapping[str, int]) -> int:
        """Runs of neighbouring values to draw, of values of this many entries by tensor; 0 where none are needed."""
        return 0

    def prepare(self, sample: Mapping[str, list[Any]], numels: Mapping[str, int]) -> Any:
        """The state for the sweep, from 1-D samples of the first value of ``of`` by tensor name."""
        return None


@dataclass(frozen=True)
class Retry:
    """A measure's wish for another sweep, with another state."""

    state: Any


class Op(ABC):
    """One merge method. Subclasses are found in this package's modules: adding a method is adding a file."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it when results change: cached results of earlier versions are then not used."""
    formula: ClassVar[str]
    source: ClassVar[str]
    is_source: ClassVar[bool] = False
    """Whether the value is read from files that ``path`` names (``load``, ``adapter``)."""
    gives: ClassVar[EdgeType | None]
    """``None``: the same type as its input (``save``)."""
    inputs: ClassVar[Mapping[str, Port]] = {}
    per_item: ClassVar[Mapping[str, str]] = {}
    """Parameters that take a number, a list or a map by item of the named port; ``apply`` gets a tuple of floats."""
    needs_include: ClassVar[bool] = False
    """Whether a node has to say ``include``."""
    granularity: ClassVar[Granularity] = Granularity.ELEMENTWISE
    Params: ClassVar[type[OpParams]] = OpParams

    def gives_for(self, written: Mapping[str, Any]) -> EdgeType | None:
        """``gives`` of a node with these parameters, as written."""
        return self.gives

    def check(self, params: Any, counts: Mapping[str, int]) -> str | None:
        """What is wrong with this combination of parameters and numbers of inputs by port, or nothing."""
        return None

    def settled(self, params: Any, labels: Mapping[str, Sequence[str]], seed: int) -> Any:
        """Return the parameters of a step, completed from the recipe: the items or nodes at its ports, and its seed."""
        return params

    def statistics(self, params: Any, inputs: Mapping[str, tuple[str, ...]], step: str) -> Mapping[str, Statistic]:
        """The statistics ``apply`` needs (its ``stats``), by name; ``inputs`` and ``step`` are step ids."""
        return {}

    def layer_pattern(self, params: Any) -> str | tuple[str, ...] | None:
        """``auto``, or regexes (one a tower), where results depend on the block of a tensor; None where they do not."""
        return None

    def check_depths(self, params: Any, depths: Mapping[str, int]) -> str | None:
        """What is wrong with the parameters for towers of so many blocks, or nothing."""
        return None

    def places_outside(self, params: Any) -> bool:
        """Whether tensors outside the blocks count as in the first or the last one, whichever they are nearer to."""
        return False

    def is_sum_of(self, params: Any) -> str | None:
        """The port of which the result is the plain sum, if it is."""
        return None

    def bind_tensor(
        self, params: Any, stats: Mapping[str, Any], place: Place | None, counts: Mapping[str, int]
    ) -> Mapping[str, Any]:
        """The ``stats`` of one tensor, in the block at ``place``, or outside the blocks (None)."""
        return stats

    def breaks_pipeline(self, params: Any) -> bool:
        """Return whether the value is made by passes of its own, because of tensors that are taken whole."""
        return self.granularity is Granularity.TENSOR

    def wants_whole(self, params: Any, tensor: TensorSpec) -> bool:
        """Return whether ``apply`` takes this floating-point tensor whole; all others come in blocks.

        Of a whole tensor each value of a port is computed when it is taken from the port, and not kept.
        """
        return False

    def working_bytes(self, params: Any, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return the memory that ``apply`` takes for a whole tensor: its result included, one input apart."""
        return 0

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        """The result on one block: pure, without I/O, inputs untouched; same shape and dtype as the inputs.

        Written with the arithmetic that ``ops.blocks`` tells of, it also runs compiled; with more than that, it runs
        by itself.
        """
        raise NotImplementedError(f"{self.name} is carried out by a driver")

    def apply_at(
        self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any], position: int
    ) -> Value:
        """``apply`` on the block that begins at entry ``position``, for what depends on where entries are."""
        return self.apply(params, inputs, tensor, stats)

    def facts(
        self, params: Any, stats: Mapping[str, Any], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> dict[str, Any]:
        """Scalars worth telling the user: ``numels`` by tensor name of the result, ``counts`` of inputs by port."""
        return {}

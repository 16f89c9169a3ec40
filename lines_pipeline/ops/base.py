"""The op contract: what one merge method declares, and what it computes on one tensor.

An op owns all that the planner, the executor and the users ask about it. Outside this package nobody compares an op's
name, class or ports.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Never

from typing_extensions import TypeVar

from lines_pipeline.core.plugins import Origin
from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.depth import Place
from lines_pipeline.ops.drivers import Driver, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue, Summary
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.roles import Ids, OpParams, P, StepContext, StepRoles
from lines_pipeline.ops.schemas.difference import difference
from lines_pipeline.ops.schemas.like_base import like_base
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.schemas.union import require_all, union
from lines_pipeline.ops.statistics.contract import AnyStatistic, Retry, Statistic, StatisticOf

if TYPE_CHECKING:
    import torch

__all__ = [
    "AnyOp",
    "AnyStatistic",
    "Beside",
    "Granularity",
    "Ids",
    "Op",
    "OpParams",
    "Place",
    "Port",
    "Retry",
    "Statistic",
    "StepContext",
    "Summary",
    "Values",
    "op_of",
]

Values = Mapping[str, Sequence[Value]]
"""The values of a step's inputs on one block or whole tensor, by port, 1-D; a port that takes one has one."""

S = TypeVar("S", default=Never)
"""What an op's statistics come out as; ``Never`` for an op that has none."""


class Granularity(StrEnum):
    """Tells how much of a model an op has to see at once."""

    ELEMENTWISE = "elementwise"
    """Any slice of a tensor will do."""
    TENSOR = "tensor"
    """Whole tensors, of those that ``Op.wants_whole`` names (matrices of an SVD): made in its own stages, and kept."""
    MODEL = "model"
    """Whole models: the op is carried out by a driver (evaluation, greedy soup), not by the executor."""


@dataclass(frozen=True)
class Port:
    """An input field of a node: the edge type it takes, one value or many (``many`` consumes collections flattened)."""

    type: EdgeType | None
    """``None`` takes all that a file can hold (``save``)."""
    many: bool = False
    optional: bool = False
    each: bool = False
    """Takes a list or a collection and maps over it, one step an entry (``tall-mask``)."""
    with_all: bool = False
    """With ``each``: every step gets its own entry, and then all of them (``emr``)."""
    is_path: bool = False
    """Names a file, not a node: a step that loads it is made for it (``uniforms`` of ``dare``)."""
    min_count: int = 1
    followed: bool = False
    """The result has the tensors of this port's values, where it does not have those of all ports of its type: the
    base's, the merged vector's. A model folder takes its configuration from there."""
    statistics_only: bool = False
    """Only its statistics, or names and shapes, are asked for, not its values (``lines-scale``, ``adapter``)."""
    beside: bool = False
    """Holds what belongs to tensors of the result under names and in shapes of its own (Gram matrices), which the
    result's ``Schema.beside`` tells: ``apply`` gets a ``Beside`` a value for such a tensor, and none for others."""
    from_sum: bool = False
    """Statistics take it to be known where another port holds exactly the steps of its plain sum (``Op.is_sum_of``)."""


@dataclass(frozen=True)
class Beside:
    """Holds what an input has beside a whole tensor: its own name, and the value in its own shape and compute type."""

    name: str
    value: torch.Tensor


class Op(StepRoles[P], ABC, Generic[P, S]):
    """One merge method. Subclasses are found in this package's modules: adding a method is adding a file."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it when results change: cached results of earlier versions are then not used."""
    formula: ClassVar[str]
    source: ClassVar[str]
    gives: ClassVar[EdgeType | None]
    """``None``: the same type as its input (``save``)."""
    inputs: ClassVar[Mapping[str, Port]] = {}
    per_item: ClassVar[Mapping[str, str]] = {}
    """Parameters that take a number, a list or a map by item of the named port; ``apply`` gets a tuple of floats."""
    needs_include: ClassVar[bool] = False
    """Whether a node has to say ``include``."""
    granularity: ClassVar[Granularity] = Granularity.ELEMENTWISE
    laws: ClassVar[tuple[str, ...]] = ()
    """The laws of ``ops.testing`` that it keeps."""
    Params: ClassVar[type[OpParams]] = OpParams
    origin: Origin | None = None
    """The plug-in that it comes from; None for what comes with lines-pipeline."""

    def gives_for(self, written: Mapping[str, object]) -> EdgeType | None:
        """Return ``gives`` of a node with these parameters, as written."""
        return self.gives

    def schema(self, params: P, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        """Return the tensors of the result, from those of the inputs by port.

        Weights are like the followed port's, or else like the first model's. Deltas and masks are the union of the
        followed port's values, or else of all deltas; of two models alone, a delta is what differs between them.
        """
        ports = sorted(inputs, key=lambda port: not self.inputs[port].followed)
        files = [port for port in ports if self.inputs[port].is_path]
        read = [port for port in ports if not self.inputs[port].statistics_only and port not in files]
        of = {kind: [s for port in read if self.inputs[port].type is kind for s in inputs[port]] for kind in EdgeType}
        models, deltas = of[EdgeType.WEIGHTS], of[EdgeType.DELTA]
        if context.gives is EdgeType.WEIGHTS:
            return like_base(context, models[0], models=models[1:], deltas=deltas)
        if len(models) == 2 and not deltas:
            return difference(context, *models)
        merged = [port for port in read if self.inputs[port].followed]
        merged = merged or [port for port in read if self.inputs[port].type is EdgeType.DELTA] or read
        others = [port for port in ports if port not in merged and port not in files]
        result = union(
            context,
            [schema for port in merged for schema in inputs[port]],
            others=[schema for port in others for schema in inputs[port]],
        )
        for port in files:
            require_all(context, port, inputs[port][0], result.tensors)
        return result

    def completed(self, params: P, context: StepContext) -> P:
        """Return the parameters of a step, completed from the recipe: defaults may depend on what it says around it."""
        return params

    def statistics(self, params: P, inputs: Ids, step: str) -> Mapping[str, StatisticOf[S]]:
        """Return the statistics ``apply`` needs (its ``stats``), by name; ``inputs`` and ``step`` are step ids."""
        return {}

    def layer_pattern(self, params: P) -> str | tuple[str, ...] | None:
        """Return ``auto``, or regexes (one a tower), where results depend on the block of a tensor; None elsewhere."""
        return None

    def check_depths(self, params: P, depths: Mapping[str, int]) -> str | None:
        """Return what is wrong with the parameters for towers of so many blocks; None where nothing is."""
        return None

    def places_outside(self, params: P) -> bool:
        """Return whether tensors outside the blocks count as in the first or the last one, whichever is nearer."""
        return False

    def is_sum_of(self, params: P) -> str | None:
        """Return the port of which the result is the plain sum, if it is."""
        return None

    def bind_model(self, params: P, stats: Mapping[str, S], places: Mapping[str, Place]) -> Mapping[str, S]:
        """Return the ``stats`` of a model whose tensors are at ``places``, by name; ``bind_tensor`` gets these."""
        return stats

    def bind_tensor(
        self, params: P, stats: Mapping[str, S], place: Place | None, counts: Mapping[str, int]
    ) -> Mapping[str, S]:
        """Return the ``stats`` of one tensor, in the block at ``place``, or outside the blocks (None)."""
        return stats

    def is_measured(self, params: P) -> bool:
        """Return whether a driver measures the value: no pass computes it."""
        return self.granularity is Granularity.MODEL

    def breaks_pipeline(self, params: P) -> bool:
        """Return whether the value is made in stages of its own, because of tensors that are taken whole."""
        return self.granularity is Granularity.TENSOR

    def wants_whole(self, params: P, tensor: TensorSpec) -> bool:
        """Return whether ``apply`` takes this floating-point tensor whole; all others come in blocks.

        Of a whole tensor each value of a port is computed when it is taken from the port, and not kept.
        """
        return False

    def working_bytes(self, params: P, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return the memory that ``apply`` takes for a whole tensor: its result included, one input apart."""
        return 0

    def times_taken(self, params: P, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        """Return how often ``apply`` takes each value of its ports on a whole tensor: it is read anew every time."""
        return 1

    def driver_bytes(self, params: P, inputs: Mapping[str, Sequence[Schema]]) -> int:
        """Return the main memory that the driver takes at its peak beside the process, from its inputs by port.

        What depends on the suite, such as the activations of a batch, is not in it.
        """
        return 0

    def beside_bytes(self, params: P, tensor: TensorSpec, beside: TensorSpec) -> int:
        """Return the memory that ``apply`` takes for what lies beside a whole tensor, the largest of which is given."""
        return beside.numel * ITEM_BYTES[beside.compute_dtype]

    def apply(self, params: P, inputs: Values, tensor: TensorSpec, stats: Mapping[str, S]) -> Value:
        """Compute the result on one block: pure, without I/O, inputs untouched; same shape and dtype as the inputs.

        Written with the arithmetic that ``ops.kernels`` tells of, it also runs compiled; with more than that, it runs
        by itself. An op that depends on where entries are defines ``apply_at`` in its place.
        """
        raise NotImplementedError(f"{self.name} has no 'apply': a driver carries it out, or 'apply_at' does")

    def apply_at(self, params: P, inputs: Values, tensor: TensorSpec, stats: Mapping[str, S], position: int) -> Value:
        """Return the result on the block that begins at entry ``position``: what carries out ops asks for this."""
        return self.apply(params, inputs, tensor, stats)

    def summary(
        self, params: P, stats: Mapping[str, S], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        """Return figures worth telling; ``numels`` by tensor name of the result, ``counts`` of inputs by port."""
        return {}

    def shown_figures(self, params: P) -> tuple[str, ...]:
        """Name the figures of ``summary`` that replace parameters (``alpha: auto``): a run's result shows them."""
        return ()

    def explain(self, params: P, value: PlannedValue, stats: Mapping[str, S] | None) -> OpExplanation | None:
        """Return what ``plan`` says of a step, if anything; ``stats`` is None while one that is needed is not known."""
        return None

    def driver_of(self, params: P) -> Driver | None:
        """Return what finds a value or metrics in place of the step; None where the executor computes the step."""
        return None


AnyOp = Op[Any, Any]
"""An op of which it does not matter what it takes: those of a graph are of many kinds. ``Any``, since parameters are
taken: an op of some parameters is none of all."""


def op_of(variant: Variant) -> AnyOp:
    """Return the op that a driver puts in a step's place, as the class of this module."""
    assert isinstance(variant.op, Op), f"{variant.op!r} is no op"
    return variant.op

"""What a step may be besides a computation: read from files, written to one, judged by a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.adapter_updates import Base
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.ops.derivations import Derivation
from lines_pipeline.ops.metrics_table import MetricsBy
from lines_pipeline.ops.sample_parts import SamplePart

__all__ = [
    "FileOutput",
    "Ids",
    "OpParams",
    "P",
    "ReadContext",
    "Source",
    "StepContext",
    "StepRoles",
    "SuiteUse",
]


class OpParams(BaseModel):
    """Base of every op's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


P = TypeVar("P", bound=OpParams)

Combination = Literal["probabilities", "logits"]
"""How the answers of several classifiers become one: the mean of their class probabilities, or of their logits."""

Ids = Mapping[str, tuple[str, ...]]
"""Step ids by port, in order; ports without input are absent."""


@dataclass(frozen=True)
class StepContext:
    """Holds what a recipe says around a step: it may complete the step's parameters."""

    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By port: the items, or nodes, that it is given."""
    seed: int = 0
    """The recipe's."""
    mapped: int = 0
    """How many inputs the node maps over; 0 where it does not."""
    node: str = ""
    """The step's node."""
    item: str | None = None
    """The step's key in its collection; None where it is in none."""


@dataclass(frozen=True)
class ReadContext:
    """Holds what a source may use when it opens its file."""

    spool: Path
    """A folder of the cache, for values that have to be unpacked or computed first."""
    build: bool
    """Whether anything may be written there; if not, headers have to do."""
    base: Base | None = None
    """The model at the followed port, where there is one."""
    left_out: Callable[[Mapping[str, Sequence[str]]], frozenset[str]] = field(default=lambda names: frozenset())
    """Tensors, of those given with all their names, that the node leaves out."""


@dataclass(frozen=True)
class Source:
    """Tells where a step's value is read from."""

    path: str
    """A file, folder or URL, as the recipe writes it."""
    read: Callable[[Path, ReadContext], Checkpoint]
    """Opens what lies at a place on this machine: headers, not values."""
    digest: str = ""
    """The content digest that it has to have; empty where any will do."""


@dataclass(frozen=True)
class FileOutput:
    """A file or model folder (a path that ends in ``/``) that a step has written, inside the run's output folder."""

    path: str
    value: str | None
    """The step whose value it holds; None for the step that writes it."""
    dtype: str = "keep"
    """``keep`` stores each tensor as the base has it, a task vector in the compute type."""
    max_shard_size: str | None = None
    """Such as 5GB; None for one file."""
    packed: bool = False
    """Masks with 1 bit a parameter."""
    like: str | None = None
    """The step whose model folder it takes its configuration from; None for that which ``value`` follows."""
    adapter: bool = False
    """A LoRA adapter's folder: the value is its factors."""

    @property
    def is_folder(self) -> bool:
        """Return whether ``path`` is that of a model folder."""
        return self.path.endswith("/")


@dataclass(frozen=True)
class SuiteUse:
    """The part of a suite that models are judged by."""

    suite: str
    split: str
    tasks: tuple[str, ...] | None = None
    """Some of the suite's tasks; None for all."""
    target: str | None = None
    """The task a single model was tuned for."""
    models: tuple[str, ...] = ()
    """The step whose model is judged, or those that answer as one; none where the step judges models of its own."""
    combine: Combination = "probabilities"
    """How several models answer as one."""
    baselines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The steps whose metrics normalize, by role; what is not named the suite records."""
    objective: str | None = None
    """The metric by which the step chooses."""
    part: SamplePart | None = None
    """The samples that are judged; None for all."""

    @property
    def part_identity(self) -> list[Any]:
        """Return what keys of results hold of ``part``: nothing where all samples are judged."""
        return [] if self.part is None else [self.part.identity]


class StepRoles(Generic[P]):
    """The roles of an op, and its checks of a node; a method that only computes has no role."""

    is_source: ClassVar[bool] = False
    """Whether values are read from files: ``source_of`` says where."""
    is_output: ClassVar[bool] = False
    """Whether a run is for its steps: what nothing of them needs is not computed."""
    identified_by_content: ClassVar[frozenset[str]] = frozenset()
    """Parameters of a source of which the content digest tells all that matters."""
    measures_metrics: ClassVar[bool] = False
    """Whether its driver measures its metrics itself (``MeasuredMetrics``): what there is, no suite declares."""
    metrics_by: ClassVar[MetricsBy] = "task"
    """What the part after the slash of its metrics' names is: a column of ``plot``. ``text/3`` is tower and block."""
    untuned: ClassVar[frozenset[str]] = frozenset()
    """Parameters that ``tune`` may not change, because they say how results are judged."""
    former_fields: ClassVar[Mapping[str, str]] = {}
    """Fields that are gone, and what to say instead."""

    def source_of(self, params: P) -> Source | None:
        """Return where the value is read from; None for a step that reads none."""
        return None

    def file_of(self, params: P, inputs: Ids) -> FileOutput | None:
        """Return the file that is written; None for a step that writes none."""
        return None

    def suite_of(self, params: P, inputs: Ids) -> SuiteUse | None:
        """Return the part of a suite that judges models; None for a step that judges none."""
        return None

    def derivation_of(self, params: P) -> Derivation | None:
        """Return how the value is made of metrics, once the models behind them are judged; None where it is not."""
        return None

    def columns_of(self, params: P, inputs: Ids) -> tuple[str, ...]:
        """What the entries of each row of coefficients are of, in their order; empty where that is not known."""
        return ()

    def check(self, params: P, counts: Mapping[str, int]) -> str | None:
        """Return what is wrong with these parameters and numbers of inputs by port; None where nothing is."""
        return None

    def diagnostics(self, params: P, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        """Say what is wrong with a bound step; the paths lead from its node to the fields."""
        return ()

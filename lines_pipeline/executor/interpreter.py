"""Computes the values of a stage plan's steps on one block of one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.graph.graph import Step
from lines_pipeline.io.regions import inside
from lines_pipeline.ops.base import AnyStatistic, Place
from lines_pipeline.ops.kernels import Block, zeros_like
from lines_pipeline.planner.tasks import Readers, StagePlan, observes


@dataclass(frozen=True, eq=False)
class Assumption:
    """Assumed results of statistics that are still being gathered, and the steps whose values depend on them."""

    results: Mapping[AnyStatistic, Any]
    steps: frozenset[str]


ACTUAL = Assumption({}, frozenset())
"""Nothing is assumed."""


class PlanIndex:
    """Looks up what every block of a task needs, worked out once."""

    def __init__(self, stage_plan: StagePlan) -> None:
        self.stage_plan = stage_plan
        self.steps = {step.id: step for step in stage_plan.steps}
        self._by_speculation: dict[AnyStatistic, tuple[Assumption, ...]] = {}
        self.assumptions = [self._assumptions(observation.speculation) for observation in stage_plan.observations]
        """By observation: one assumption for every outcome of the statistic that it waits for."""
        self.written = [self._assumptions(write.speculation)[0] for write in stage_plan.writes]
        """By write: the assumption under which the written value is computed."""
        numbers = {observation.statistic: number for number, observation in enumerate(stage_plan.observations)}
        self.numbers = numbers
        """Observations by statistic."""
        self._stats: dict[tuple[str, str, Assumption], Mapping[str, Any]] = {}
        self._places: dict[str, Mapping[str, Place]] = {}
        self._readers = Readers(stage_plan)
        self._read: dict[str, tuple[tuple[str, ...], frozenset[str], tuple[str, ...]]] = {}
        self._observed: dict[tuple[str, int], list[int]] = {}

    def read(self, tensor: str) -> tuple[str, ...]:
        """Return the sources that have the tensor and are computed with or hashed."""
        return self._reading(tensor)[0]

    def hashed(self, tensor: str) -> frozenset[str]:
        """Return the sources that are hashed, of those that have the tensor."""
        return self._reading(tensor)[1]

    def sources(self, tensor: str) -> tuple[str, ...]:
        """Return the sources of the tensor that the stage computes with (others are only hashed)."""
        return self._reading(tensor)[2]

    def sources_behind(self, step_id: str, tensor: str) -> tuple[str, ...]:
        """Return the sources of a tensor that the value of a step is computed from."""
        return self._readers.behind(step_id, tensor)

    def is_view(self, step: str, tensor: str) -> bool:
        """Return whether a source has the tensor as a part of another, or by another name."""
        return tensor in self.stage_plan.schemas[step].exposed

    def name(self, tensor: str) -> str:
        """Return the name of a tensor, from its key."""
        return self.stage_plan.names.get(tensor, tensor)

    def _reading(self, tensor: str) -> tuple[tuple[str, ...], frozenset[str], tuple[str, ...]]:
        if tensor not in self._read:
            readers = self._readers
            self._read[tensor] = readers.read(tensor), frozenset(readers.hashed(tensor)), readers.computed(tensor)
        return self._read[tensor]

    def observed(self, tensor: str, assumption: int = 0) -> list[int]:
        """Return the observations that look at the tensor, of those that have so many assumptions."""
        if (tensor, assumption) not in self._observed:
            numbers = (number for number, assumptions in enumerate(self.assumptions) if assumption < len(assumptions))
            observed = [number for number in numbers if self.observed_spec(number, tensor) is not None]
            self._observed[tensor, assumption] = observed
        return self._observed[tensor, assumption]

    def observed_spec(self, number: int, tensor: str) -> TensorSpec | None:
        """Return the spec that an observation's values are computed as; None where it passes the tensor by."""
        observation = self.stage_plan.observations[number]
        if not observes(self.stage_plan, observation, tensor):
            return None
        schemas = (self.stage_plan.schemas[step] for step in observation.statistic.of)
        return next(schema.tensors[tensor] for schema in schemas if tensor in schema.tensors)

    def stats(self, step: Step, tensor: str, assumption: Assumption) -> Mapping[str, Any]:
        """Return the statistics that an op's ``apply`` gets for one tensor."""
        key = (step.id, tensor, assumption)
        if key not in self._stats:
            known = self.stage_plan.stats.get(step.id, {})
            speculated = self.stage_plan.speculated.get(step.id, {})
            assumed = {name: assumption.results[m] for name, m in speculated.items() if m in assumption.results}
            position = self.stage_plan.positions.get(step.id, {}).get(tensor)
            name = self.stage_plan.schemas[step.id].tensors[tensor].name
            own = step.stats_of(step.variant_of.get(name, 0), {**known, **assumed})
            own = step.op.bind_model(step.params_of(name), own, self._places_of(step.id))
            self._stats[key] = step.op.bind_tensor(step.params_of(name), own, position, step.counts)
        return self._stats[key]

    def _places_of(self, step: str) -> Mapping[str, Place]:
        """Return where a step's tensors are in the blocks, by name."""
        if step not in self._places:
            tensors, positions = self.stage_plan.schemas[step].tensors, self.stage_plan.positions.get(step, {})
            self._places[step] = {tensors[key].name: place for key, place in positions.items() if key in tensors}
        return self._places[step]

    def _assumptions(self, speculation: AnyStatistic | None) -> Sequence[Assumption]:
        if speculation is None:
            return (ACTUAL,)
        if speculation not in self._by_speculation:
            steps = frozenset(self._dependants(speculation))
            self._by_speculation[speculation] = tuple(
                Assumption({speculation: outcome}, steps) for outcome in speculation.outcomes
            )
        return self._by_speculation[speculation]

    def _dependants(self, speculation: AnyStatistic) -> set[str]:
        dependants: set[str] = set()
        for step in self.stage_plan.steps:
            own = speculation in self.stage_plan.speculated.get(step.id, {}).values()
            if own or any(i in dependants for ids in step.value_inputs.values() for i in ids):
                dependants.add(step.id)
        return dependants


class BlockEvaluator:
    """Computes values of steps on one block, each once under every assumption that it depends on.

    Sources are 1-D tensors, or traced values of a ``TraceBuilder``.
    """

    def __init__(self, index: PlanIndex, tensor: str, sources: Mapping[str, Block], start: int = 0) -> None:
        self._index, self._stage_plan, self._tensor, self._start = index, index.stage_plan, tensor, start
        self._values: dict[Any, Block] = dict(sources)
        self._like = next(iter(sources.values()), None)

    def observed(self, number: int, assumption: int) -> Any:
        """Return the partial of an observation under one of its assumptions."""
        return self._stage_plan.observations[number].statistic.partial(*self.reduced(number, assumption))

    def reduced(self, number: int, assumption: int) -> tuple[Any, ...]:
        """Return the reductions of an observation under one of its assumptions."""
        observation, spec = self._stage_plan.observations[number], self._index.observed_spec(number, self._tensor)
        assert spec is not None
        values = [
            self.input_value(step, spec, self._index.assumptions[number][assumption])
            for step in observation.statistic.of
        ]
        regions = [self._stage_plan.schemas[step].regions.get(self._tensor, ()) for step in observation.statistic.of]
        if all(regions):  # beyond the regions there is nothing to count
            counted = self._inside(values[0], spec, tuple(max(sizes) for sizes in zip(*regions, strict=True)))
            values = [value[counted] for value in values]
        return observation.statistic.observe_at(values, spec, observation.needs, observation.state, self._start)

    def written(self, number: int) -> Block:
        """Return the value of a write."""
        return self.value(self._stage_plan.writes[number].step, self._index.written[number])

    def value(self, step_id: str, assumption: Assumption = ACTUAL) -> Block:
        """Return the 1-D value, in the compute type (masks: bool), of a step whose schema has the tensor."""
        key = (step_id, assumption) if step_id in assumption.steps else step_id
        if key not in self._values:
            self._values[key] = self._compute(self._index.steps[step_id], assumption)
        return self._values[key]

    def _compute(self, step: Step, assumption: Assumption) -> Block:
        schema = self._stage_plan.schemas[step.id]
        if self._tensor in schema.copied:
            return self.value(schema.copied[self._tensor], assumption)
        spec = schema.tensors[self._tensor]
        taken = step.value_inputs
        inputs = {
            port: tuple(self.input_value(i, spec, assumption) for i in taken.get(port, ()) if not kind.beside)
            for port, kind in step.op.inputs.items()
        }
        stats = self._index.stats(step, self._tensor, assumption if step.id in assumption.steps else ACTUAL)
        value: Block = step.op.apply_at(step.params_of(spec.name), inputs, spec, stats, self._start)
        region = schema.regions.get(self._tensor)
        if region is None:
            return value
        return torch.where(self._inside(value, spec, region), value, torch.zeros_like(value))

    def _inside(self, value: torch.Tensor, spec: TensorSpec, region: tuple[int, ...]) -> torch.Tensor:
        """Return which entries of a block lie in the leading region of a tensor."""
        positions = np.arange(self._start, self._start + value.numel())
        return torch.from_numpy(inside(positions, spec.shape, region)).to(value.device)

    def input_value(self, step_id: str, spec: TensorSpec, assumption: Assumption = ACTUAL) -> Block:
        """Return the value of ``step_id`` as input to a step computed as ``spec``: zero where it has no such tensor."""
        compute = torch_dtype(spec.compute_dtype)
        if self._tensor in self._stage_plan.schemas[step_id].tensors:
            value = self.value(step_id, assumption)
            return value if value.dtype in (compute, torch.bool) else value.to(compute)
        assert self._like is not None
        return zeros_like(self._like, torch.bool if self._index.steps[step_id].gives is EdgeType.MASK else compute)


@cache
def torch_dtype(name: str) -> torch.dtype:
    """Return torch's data type of a ``TensorSpec.dtype``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def widen(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """Return a stored block in its compute type; masks and integers as they are."""
    return value.to(torch_dtype(spec.compute_dtype)) if spec.is_floating else value


def holds_nonfinite(value: torch.Tensor) -> bool:
    """Return whether a floating-point block has NaN or Inf; a finite sum proves that it has none."""
    return not math.isfinite(value.sum().item()) and not bool(torch.isfinite(value).all())


def resolve_nonfinite(stored: Mapping[str, torch.Tensor], tensor: str, origins: Mapping[str, str]) -> torch.Tensor:
    """Return the mask of the NaN and Inf of one block, where all sources hold the same ones.

    Raises ``CheckpointError`` naming the file and tensor where the sources differ there.
    """
    bad = {source: ~torch.isfinite(value.float()) for source, value in stored.items()}
    first = next(iter(stored))
    for source, value in stored.items():
        alike = torch.equal(bad[source], bad[first]) and torch.equal(
            value[bad[source]].view(torch.uint8), stored[first][bad[first]].view(torch.uint8)
        )
        if not alike:
            guilty = max((source, first), key=lambda name: int(bad[name].sum()))
            raise CheckpointError(
                f"{origins[guilty]}: tensor '{tensor}' holds {int(bad[guilty].sum())} NaN or Inf values "
                "that the other models do not have. Repair the checkpoint, or leave the tensor out with 'exclude' on "
                "the nodes that merge it: 'task-vector', 'interpolate' or 'soup'."
            )
    return bad[first]

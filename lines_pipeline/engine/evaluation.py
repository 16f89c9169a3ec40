"""Computes the values of a program's steps on one block of one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.regions import inside
from lines_pipeline.ops.base import Measure
from lines_pipeline.ops.blocks import Value, zeros_like
from lines_pipeline.planning.program import Program, Readers, observes
from lines_pipeline.recipe.graph import Step


@dataclass(frozen=True, eq=False)
class World:
    """Assumed results of measures that are still being gathered, and the steps whose values depend on them."""

    guesses: Mapping[Measure, Any]
    steps: frozenset[str]


ACTUAL = World({}, frozenset())
"""Nothing is assumed."""


def input_counts(step: Step) -> dict[str, int]:
    """Number of inputs by port; 0 for ports that are left open."""
    return {port: len(step.inputs.get(port, ())) for port in step.op.inputs}


class ProgramIndex:
    """What every block of a job looks up, worked out once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = {step.id: step for step in program.steps}
        self._hypothetical: dict[Measure, tuple[World, ...]] = {}
        self.worlds = [self._worlds(observation.guess) for observation in program.observations]
        """By observation: one world for every hypothesis about what it is guessed from."""
        self.written = [self._worlds(write.guess)[0] for write in program.writes]
        """By write: the world whose value is written."""
        numbers = {observation.measure: number for number, observation in enumerate(program.observations)}
        self.numbers = numbers
        """Observations by measure."""
        self._stats: dict[tuple[str, str, World], Mapping[str, Any]] = {}
        self._readers = Readers(program)
        self._read: dict[str, tuple[tuple[str, ...], frozenset[str], tuple[str, ...]]] = {}
        self._observed: dict[tuple[str, int], list[int]] = {}

    def read(self, tensor: str) -> tuple[str, ...]:
        """Sources that have the tensor and are computed with or hashed."""
        return self._reading(tensor)[0]

    def hashed(self, tensor: str) -> frozenset[str]:
        """Sources that are hashed, of those that have the tensor."""
        return self._reading(tensor)[1]

    def sources(self, tensor: str) -> tuple[str, ...]:
        """Sources of the tensor that the pass computes with (others are only hashed)."""
        return self._reading(tensor)[2]

    def sources_behind(self, step_id: str, tensor: str) -> tuple[str, ...]:
        """Return the sources of a tensor that the value of a step is computed from."""
        behind, waiting = set[str](), [step_id]
        while waiting:
            step = self.steps[waiting.pop()]
            behind.add(step.id)
            if step.id not in self.program.sources:
                waiting += (source for ids in step.ingredients.values() for source in ids if source not in behind)
        return tuple(source for source in self.sources(tensor) if source in behind)

    def is_view(self, step: str, tensor: str) -> bool:
        """Whether a source has the tensor as a part of another, or by another name."""
        return tensor in self.program.layouts[step].exposed

    def name(self, tensor: str) -> str:
        """The name of a tensor, from its key."""
        return self.program.names.get(tensor, tensor)

    def _reading(self, tensor: str) -> tuple[tuple[str, ...], frozenset[str], tuple[str, ...]]:
        if tensor not in self._read:
            readers = self._readers
            self._read[tensor] = readers.read(tensor), frozenset(readers.hashed(tensor)), readers.computed(tensor)
        return self._read[tensor]

    def observed(self, tensor: str, world: int = 0) -> list[int]:
        """Observations that look at the tensor, of those that have so many worlds."""
        if (tensor, world) not in self._observed:
            numbers = (number for number, worlds in enumerate(self.worlds) if world < len(worlds))
            found = [number for number in numbers if self.observed_spec(number, tensor) is not None]
            self._observed[tensor, world] = found
        return self._observed[tensor, world]

    def observed_spec(self, number: int, tensor: str) -> TensorSpec | None:
        """What the values are computed as that an observation takes; None where it passes the tensor by."""
        observation = self.program.observations[number]
        if not observes(self.program, observation, tensor):
            return None
        layouts = (self.program.layouts[step] for step in observation.measure.of)
        return next(layout.tensors[tensor] for layout in layouts if tensor in layout.tensors)

    def stats(self, step: Step, tensor: str, world: World) -> Mapping[str, Any]:
        """What an op's ``apply`` is told about one tensor."""
        key = (step.id, tensor, world)
        if key not in self._stats:
            known = dict(self.program.stats.get(step.id, {}))
            guessed = self.program.guessed.get(step.id, {})
            known |= {name: world.guesses[m] for name, m in guessed.items() if m in world.guesses}
            place = self.program.places.get(step.id, {}).get(tensor)
            self._stats[key] = step.op.localize(step.params, known, place, input_counts(step))
        return self._stats[key]

    def _worlds(self, guess: Measure | None) -> Sequence[World]:
        if guess is None:
            return (ACTUAL,)
        if guess not in self._hypothetical:
            steps = frozenset(self._dependants(guess))
            self._hypothetical[guess] = tuple(World({guess: found}, steps) for found in guess.hypotheses)
        return self._hypothetical[guess]

    def _dependants(self, guess: Measure) -> set[str]:
        found: set[str] = set()
        for step in self.program.steps:
            own = guess in self.program.guessed.get(step.id, {}).values()
            if own or any(i in found for ids in step.ingredients.values() for i in ids):
                found.add(step.id)
        return found


class Block:
    """Values of steps on one block; each is computed once in every world that it depends on.

    Sources are 1-D tensors, or the registers of a tape to record what is done with them.
    """

    def __init__(self, index: ProgramIndex, tensor: str, sources: Mapping[str, Value], start: int = 0) -> None:
        self._index, self._program, self._tensor, self._start = index, index.program, tensor, start
        self._values: dict[Any, Value] = dict(sources)
        self._like = next(iter(sources.values()), None)

    def observed(self, number: int, world: int) -> Any:
        """The partial of an observation in one of its worlds."""
        return self._program.observations[number].measure.partial(*self.reduced(number, world))

    def reduced(self, number: int, world: int) -> tuple[Any, ...]:
        """The reductions of an observation in one of its worlds."""
        observation, spec = self._program.observations[number], self._index.observed_spec(number, self._tensor)
        assert spec is not None
        values = [self.input_value(step, spec, self._index.worlds[number][world]) for step in observation.measure.of]
        regions = [self._program.layouts[step].regions.get(self._tensor, ()) for step in observation.measure.of]
        if all(regions):  # beyond the regions there is nothing to count
            counted = self._inside(values[0], spec, tuple(max(sizes) for sizes in zip(*regions, strict=True)))
            values = [value[counted] for value in values]
        return observation.measure.observe(values, spec, observation.needs, observation.state)

    def written(self, number: int) -> Value:
        """The value of a write."""
        return self.value(self._program.writes[number].step, self._index.written[number])

    def value(self, step_id: str, world: World = ACTUAL) -> Value:
        """1-D value in the compute type (masks: bool) of a step whose layout has the tensor."""
        key = (step_id, world) if step_id in world.steps else step_id
        if key not in self._values:
            self._values[key] = self._compute(self._index.steps[step_id], world)
        return self._values[key]

    def _compute(self, step: Step, world: World) -> Value:
        layout = self._program.layouts[step.id]
        if self._tensor in layout.copied:
            return self.value(layout.copied[self._tensor], world)
        spec = layout.tensors[self._tensor]
        taken = step.ingredients
        inputs = {port: tuple(self.input_value(i, spec, world) for i in taken.get(port, ())) for port in step.op.inputs}
        stats = self._index.stats(step, self._tensor, world if step.id in world.steps else ACTUAL)
        value = step.op.apply(step.params, inputs, spec, stats)
        region = layout.regions.get(self._tensor)
        if region is None:
            return value
        return torch.where(self._inside(value, spec, region), value, torch.zeros_like(value))

    def _inside(self, value: torch.Tensor, spec: TensorSpec, region: tuple[int, ...]) -> torch.Tensor:
        """Which entries of a block lie in the leading region of a tensor."""
        places = np.arange(self._start, self._start + value.numel())
        return torch.from_numpy(inside(places, spec.shape, region)).to(value.device)

    def input_value(self, step_id: str, spec: TensorSpec, world: World = ACTUAL) -> Value:
        """The value of ``step_id`` as input to a step computed as ``spec``: zero where it has no such tensor."""
        compute = torch_dtype(spec.compute_dtype)
        if self._tensor in self._program.layouts[step_id].tensors:
            value = self.value(step_id, world)
            return value if value.dtype in (compute, torch.bool) else value.to(compute)
        assert self._like is not None
        return zeros_like(self._like, torch.bool if self._index.steps[step_id].gives is EdgeType.MASK else compute)


@cache
def torch_dtype(name: str) -> torch.dtype:
    """torch's data type of a ``TensorSpec.dtype``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def widen(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """A stored block in its compute type; masks and integers as they are."""
    return value.to(torch_dtype(spec.compute_dtype)) if spec.is_floating else value


def holds_nonfinite(value: torch.Tensor) -> bool:
    """Whether a floating-point block has NaN or Inf; a finite sum proves that it has none."""
    return not math.isfinite(value.sum().item()) and not bool(torch.isfinite(value).all())


def settle_nonfinite(stored: Mapping[str, torch.Tensor], tensor: str, origins: Mapping[str, str]) -> torch.Tensor:
    """Where one block is not finite, alike in every source: the mask of such values.

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

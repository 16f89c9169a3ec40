"""Computes the values of a program's steps on one block of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Measure
from lines_pipeline.planning.program import Program
from lines_pipeline.recipe.graph import Step

Guesses = Mapping[Measure, Any]
"""Assumed results of measures that are still being gathered."""


def input_counts(step: Step) -> dict[str, int]:
    """Number of inputs by port; 0 for ports that are left open."""
    return {port: len(step.inputs.get(port, ())) for port in step.op.inputs}


class ProgramIndex:
    """What every block of a pass looks up, worked out once a process."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = {step.id: step for step in program.steps}
        self._depends: dict[str, frozenset[Measure]] = {}
        for step in program.steps:
            own = set(program.guessed.get(step.id, {}).values())
            inherited = (self._depends[i] for ids in step.inputs.values() for i in ids if i in self._depends)
            self._depends[step.id] = frozenset(own.union(*inherited))

    def relevant(self, step_id: str, guesses: Guesses) -> tuple[tuple[Measure, int], ...]:
        """The guesses a step's value depends on, as a key of its memory."""
        return tuple((m, m.hypothesis(guess)) for m, guess in guesses.items() if m in self._depends[step_id])


class Block:
    """Values of steps on one block; each is computed once, under each set of guesses that it depends on."""

    def __init__(self, index: ProgramIndex, tensor: str, sources: dict[str, torch.Tensor]) -> None:
        self._index, self._program, self._tensor = index, index.program, tensor
        self._sources = sources
        self._values: dict[Any, torch.Tensor] = {}

    def value(self, step_id: str, guesses: Guesses | None = None) -> torch.Tensor:
        """1-D value in the compute type (masks: bool) of a step whose layout has the tensor."""
        guesses = guesses or {}
        key = (step_id, self._index.relevant(step_id, guesses) if guesses else ())
        if key not in self._values:
            self._values[key] = self._compute(self._index.steps[step_id], guesses)
        return self._values[key]

    def _compute(self, step: Step, guesses: Guesses) -> torch.Tensor:
        if step.id in self._sources:
            return self._sources[step.id]
        layout = self._program.layouts[step.id]
        if self._tensor in layout.frozen:
            return self.value((step.inputs.get("base") or step.inputs["models"])[0], guesses)
        spec = layout.tensors[self._tensor]
        inputs = {
            port: tuple(self.input_value(i, spec, guesses) for i in step.inputs.get(port, ()))
            for port in step.op.inputs
        }
        return step.op.apply(step.params, inputs, spec, self._stats(step, guesses))

    def input_value(self, step_id: str, spec: TensorSpec, guesses: Guesses) -> torch.Tensor:
        """The value of ``step_id`` as input to a step computed as ``spec``: zero where it has no such tensor."""
        if self._tensor in self._program.layouts[step_id].tensors:
            value = self.value(step_id, guesses)
            compute = getattr(torch, spec.compute_dtype)
            return value if value.dtype in (compute, torch.bool) else value.to(compute)
        numel = next(iter(self._sources.values())).numel()
        mask = self._index.steps[step_id].gives is EdgeType.MASK
        dtype = torch.bool if mask else getattr(torch, spec.compute_dtype)
        return torch.zeros(numel, dtype=dtype, device=self._program.device)

    def _stats(self, step: Step, guesses: Guesses) -> Mapping[str, Any]:
        stats = dict(self._program.stats.get(step.id, {}))
        stats |= {name: guesses[m] for name, m in self._program.guessed.get(step.id, {}).items() if m in guesses}
        place = self._program.places.get(step.id, {}).get(self._tensor)
        return step.op.localize(step.params, stats, place, input_counts(step))


@cache
def torch_dtype(name: str) -> torch.dtype:
    """torch's data type of a ``TensorSpec.dtype``."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def widen(value: torch.Tensor, spec: TensorSpec, device: str) -> torch.Tensor:
    """A stored block in its compute type, on the device that computes."""
    return value.to(device=device, dtype=torch_dtype(spec.compute_dtype))


def holds_nonfinite(value: torch.Tensor) -> bool:
    """Whether a floating-point block has NaN or Inf; a finite sum proves that it has none."""
    return not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all())


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
                "that the other models do not have. Repair the checkpoint, or leave the tensor out with 'exclude'."
            )
    return bad[first]

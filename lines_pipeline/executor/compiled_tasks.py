"""Does blocks of tensors by compiled kernels in place of the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lines_pipeline.core.errors import EngineError
from lines_pipeline.executor.prefetch import BlockPosition
from lines_pipeline.executor.tracing import Trace, Tracer
from lines_pipeline.io.writing import write_block
from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.jit.launch import Launched, Reductions, Source, Target, launch, stored_bytes


class CompiledTasks:
    """Runs the kernels of one task; ``reading`` and ``writing`` return the descriptors of files by path."""

    def __init__(self, tracer: Tracer, reading: Callable[[str], int], writing: Callable[[str], int]) -> None:
        self.tracer, self._reading, self._writing = tracer, reading, writing

    def run(self, positions: Sequence[BlockPosition]) -> list[CompiledBlock]:
        """Run blocks of one tensor, from the first on as far as one launch goes; raises ``CompilerFailure``.

        Return none where the first is for the interpreter: it cannot be traced or read, or its values are not finite.
        """
        trace = self.tracer.trace(positions[0][0])
        if trace is None:
            return []
        if trace.converted:  # the next block would overwrite its values
            positions = positions[:1]
        launched = self._launch(trace, positions)
        if launched.unwritten:  # perhaps not for long; if it is, this raises the error
            self._write(trace, positions[len(launched.reductions) - 1])
        digests = [
            {step: digest for step, digest in zip(trace.sources, block, strict=True) if step in trace.hashed}
            for block in launched.digests
        ]
        blocks = zip(positions, launched.reductions, digests, strict=False)
        return [CompiledBlock(self, position, reductions, hashed) for position, reductions, hashed in blocks]

    def run_again(self, position: BlockPosition, assumption: int) -> Reductions:
        """Return a block's reductions under another assumption; raises ``Untraceable`` and ``CompilerFailure``."""
        trace = self.tracer.trace(position[0], assumption)
        if trace is None:
            raise Untraceable(position[0])
        read = {stored.path for stored in trace.sources.values()}
        assert read.isdisjoint(
            to.path for to, _ in trace.outputs
        )  # a stage that finishes partial outputs assumes nothing
        launched = self._launch(replace(trace, hashed=frozenset(), outputs=()), [position])
        if not launched.reductions:
            raise EngineError(
                f"tensor '{position[0]}' cannot be read a second time: a file was cut short during the run"
            )
        return launched.reductions[0]

    def _launch(self, trace: Trace, positions: Sequence[BlockPosition]) -> Launched:
        sources = [
            Source(self._reading(stored.path), stored.offset, step in trace.hashed)
            for step, stored in trace.sources.items()
        ]
        targets = [Target(self._writing(to.path), to.offset, row) for to, row in trace.outputs]
        blocks = [(start, stop - start) for _, start, stop in positions]
        return launch(trace.kernel, trace.compiled, sources=sources, targets=targets, blocks=blocks)

    def _write(self, trace: Trace, position: BlockPosition) -> None:
        """Write the values that the last launch stored of a block."""
        _, start, stop = position
        for to, row in trace.outputs:
            value = torch.from_numpy(stored_bytes(trace.kernel, row, stop - start))
            write_block(to.path, self._writing(to.path), to.offset + start * row.item_bytes, value)


@dataclass(frozen=True)
class CompiledBlock:
    """Holds what a kernel computed of one block."""

    tasks: CompiledTasks
    position: BlockPosition
    reductions: Reductions
    digests: Mapping[str, int]
    """By source, of those that are hashed."""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that the block is read from."""
        _, start, stop = self.position
        return (stop - start) * self._trace(0).width

    def observed(self, number: int, assumption: int) -> Any:
        """Return the partial of an observation under an assumption."""
        reductions = self.tasks.run_again(self.position, assumption) if assumption else self.reductions
        reduced = [reductions[output.code][output.slot] for output in self._trace(assumption).observed[number]]
        return self.tasks.tracer.statistic(number).partial(*reduced)

    def written(self, number: int) -> torch.Tensor | None:
        """Return the value of a write, in memory that the next launch overwrites; None where it is written."""
        trace = self._trace(0)
        if number not in trace.converted:
            return None
        _, start, stop = self.position
        values = stored_bytes(trace.kernel, trace.converted[number], stop - start)
        return torch.from_numpy(values.view(trace.kernel.scalars.dtype))

    def _trace(self, assumption: int) -> Trace:
        trace = self.tasks.tracer.trace(self.position[0], assumption)
        assert trace is not None
        return trace

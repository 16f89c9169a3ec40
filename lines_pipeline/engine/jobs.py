"""What a worker does: read the blocks of a job's tiles, evaluate, observe, write, and return small statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.tensors import BLOCK_NUMEL, TensorSpec
from lines_pipeline.engine.allocation import keep_freed_blocks
from lines_pipeline.engine.devices import resolve_device
from lines_pipeline.engine.evaluation import Block, ProgramIndex, holds_nonfinite, settle_nonfinite, torch_dtype, widen
from lines_pipeline.io.digests import block_digest
from lines_pipeline.io.reading import BlockReader
from lines_pipeline.io.writing import write_block
from lines_pipeline.ops.base import Measure
from lines_pipeline.ops.blocks import compiled
from lines_pipeline.planning.program import Job, Observation, Program, Tile, Write


@dataclass
class JobResult:
    """Partials by observation number and tensor, digests and non-finite tensors by source, each with its start."""

    partials: dict[tuple[int, str], list[tuple[int, Any]]] = field(default_factory=dict)
    digests: dict[tuple[str, str], list[tuple[int, bytes]]] = field(default_factory=dict)
    nonfinite: set[tuple[str, str]] = field(default_factory=set)
    bytes_read: int = 0
    bytes_written: int = 0


def run_job(program: Program, job: Job) -> JobResult:
    """Do one job, in one thread: results depend on neither the worker nor the order."""
    torch.set_num_threads(1)
    keep_freed_blocks()
    worker = _Worker(program)
    try:
        with torch.inference_mode(), compiled(program.compiled):
            for tile in job.tiles:
                for start, stop in _blocks(tile, program.whole_tensors):
                    worker.do(tile.tensor, start, stop)
    finally:
        worker.close()
    return worker.result


def _blocks(tile: Tile, whole: bool) -> Iterator[tuple[int, int]]:
    if whole:
        yield tile.start, tile.stop
        return
    for start in range(tile.start, tile.stop, BLOCK_NUMEL):
        yield start, min(start + BLOCK_NUMEL, tile.stop)


class _Worker:
    """The state of one job."""

    def __init__(self, program: Program) -> None:
        self.result = JobResult()
        program = replace(program, device=resolve_device(program.device))
        self._program, self._index, self._reader = program, ProgramIndex(program), BlockReader()
        self._outputs: dict[str, int] = {}
        self._latest: dict[int | None, Any] = {}
        """What the block in hand gave, by observation."""
        self._sources_by_tensor: dict[str, list[str]] = {}

    def close(self) -> None:
        self._reader.close()
        while self._outputs:
            os.close(self._outputs.popitem()[1])

    def do(self, tensor: str, start: int, stop: int) -> None:
        """One block: read and hash all sources, settle NaN and Inf, then observe and write."""
        stored = self._read(tensor, start, stop)
        sources = self._sources(tensor)
        floating = {s: v for s, v in stored.items() if v.dtype.is_floating_point}
        values = {s: self._widened(s, tensor, value) for s, value in stored.items()}
        suspects = [s for s in sources if s in floating and self._is_nonfinite(s, tensor, values[s])]
        kept: torch.Tensor | None = None
        if suspects:
            origins = {s: self._program.layouts[s].origin for s in sources if s in floating}
            kept = settle_nonfinite({s: floating[s] for s in sources if s in floating}, tensor, origins)
            values = {s: torch.where(kept, 0.0, v) if s in floating else v for s, v in values.items()}
        block = Block(self._index, tensor, {s: values[s] for s in sources if s in values})
        self._latest.clear()
        for number, observation in enumerate(self._program.observations):
            self._observe(number, observation, block, tensor, start)
        for write in self._program.writes:
            if tensor in write.places:
                original = next((floating[s] for s in sources if s in floating), None)
                self._write(write, block, stored, tensor, start, (kept, original))

    def _sources(self, tensor: str) -> list[str]:
        """Sources whose values the pass computes with (others are only hashed)."""
        if tensor not in self._sources_by_tensor:
            self._sources_by_tensor[tensor] = [
                step
                for step, tensors in self._program.sources.items()
                if tensor in tensors and step in self._index.steps and tensor in self._program.layouts[step].tensors
            ]
        return self._sources_by_tensor[tensor]

    def _read(self, tensor: str, start: int, stop: int) -> dict[str, torch.Tensor]:
        needed = set(self._sources(tensor))
        found: dict[str, torch.Tensor] = {}
        for step, tensors in self._program.sources.items():
            if tensor in tensors and (step in needed or step in self._program.hashed):
                value = self._reader.block(tensors[tensor], start, stop)
                self.result.bytes_read += value.nbytes
                if step in self._program.hashed:
                    self._hash(step, tensor, start, value)
                found[step] = value
        return found

    def _hash(self, step: str, tensor: str, start: int, value: torch.Tensor) -> None:
        digests = self.result.digests.setdefault((step, tensor), [])
        for offset in range(0, value.numel(), BLOCK_NUMEL):
            digests.append((start + offset, block_digest(value[offset : offset + BLOCK_NUMEL])))
        if value.dtype.is_floating_point and holds_nonfinite(widen(value, self._spec(step, tensor), "cpu")):
            self.result.nonfinite.add((step, tensor))

    def _spec(self, step: str, tensor: str) -> Any:
        return self._program.sources[step][tensor].spec

    def _is_nonfinite(self, step: str, tensor: str, value: torch.Tensor) -> bool:
        known = tensor in self._program.nonfinite.get(step, frozenset()) or (step, tensor) in self.result.nonfinite
        return known and holds_nonfinite(value)

    def _widened(self, step: str, tensor: str, value: torch.Tensor) -> torch.Tensor:
        return widen(value, self._spec(step, tensor), self._program.device) if value.dtype.is_floating_point else value

    def _observe(self, number: int, observation: Observation, block: Block, tensor: str, start: int) -> None:
        measure = observation.measure
        spec = self._observed_spec(measure, tensor)
        if spec is None:
            return
        results: list[Any] = []
        for world in self._index.worlds[number]:
            if results and not self._matters(number):
                results.append(results[0])
                continue
            values = [block.input_value(step, spec, world) for step in measure.of]
            results.append(measure.observe(values, spec, observation.needs, observation.state))
        self._latest[number] = results[0]
        self.result.partials.setdefault((number, tensor), []).append((start, tuple(results)))

    def _observed_spec(self, measure: Measure, tensor: str) -> TensorSpec | None:
        layouts = [self._program.layouts[step] for step in measure.of]
        spec = next((layout.tensors[tensor] for layout in layouts if tensor in layout.tensors), None)
        return spec if spec is not None and spec.is_floating else None

    def _matters(self, number: int) -> bool:
        """Whether what an observation is guessed from can make a difference on the block in hand."""
        guess, source = self._program.observations[number].guess, self._index.guess_numbers[number]
        return guess is None or source not in self._latest or guess.matters(self._latest[source])

    def _write(
        self,
        write: Write,
        block: Block,
        stored: Mapping[str, torch.Tensor],
        tensor: str,
        start: int,
        nonfinite: tuple[torch.Tensor | None, torch.Tensor | None],
    ) -> None:
        layout = self._program.layouts[write.step]
        if layout.tensors[tensor].is_floating:
            value = block.value(write.step)
            if nonfinite[0] is not None and nonfinite[1] is not None and value.dtype is not torch.bool:
                value = torch.where(nonfinite[0], nonfinite[1].to(value.dtype), value)
        else:
            value = stored[layout.passthrough]
        value = value.cpu()
        for place in write.places[tensor]:
            out = _packed(value) if write.packed else value.to(torch_dtype(place.dtype))
            offset = start // 8 if write.packed else start * out.element_size()
            write_block(self._output(place.path), place.offset + offset, out)
            self.result.bytes_written += out.nbytes

    def _output(self, path: str) -> int:
        if path not in self._outputs:
            self._outputs[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return self._outputs[path]


def _packed(mask: torch.Tensor) -> torch.Tensor:
    """8 entries a byte, the first in the lowest bit."""
    return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))

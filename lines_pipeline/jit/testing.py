"""Runs kernels by the runtime, and the torch operations that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.jit.instructions import LANES, Kernel, OpCode
from lines_pipeline.jit.signature import BELOW, COUNTED, COUNTS, NONFINITE, UNHELD
from lines_pipeline.jit.tracing import Reduced, TraceBuilder, TracedValue

Function = Callable[..., Any]


@dataclass(frozen=True)
class Ran:
    """Holds what a launch did with one block."""

    end: tuple[int, int]
    memory: Any
    results: Any
    bracketed: Any
    content: bytes
    """Of the file that it reads and writes."""


def run_kernel(
    kernel: Kernel,
    content: bytes,
    hashed: int,
    outputs: Sequence[int],
    size: int,
    *,
    blocks: Sequence[tuple[int, int]] | None = None,
    room: int | None = None,
    mode: str = "r+b",
) -> Ran:
    """Run a kernel over a file that begins with its sources, of ``size`` values each, as they are stored.

    ``outputs`` tells where in the file each result that is kept goes; ``blocks`` the first values and sizes of blocks
    (default: one of all values); ``room`` how many magnitudes each bracket has room for.
    """
    from lines_pipeline.jit import compiling, runtime

    places = [(0, size)] if blocks is None else blocks
    totals, brackets = (kernel.slots.get(code, 0) for code in (OpCode.TOTAL, OpCode.WITHIN))
    memory = np.full(kernel.memory_bytes, 0xFF, np.uint8)  # NaN
    hashing = np.ones((kernel.sources + 1) * runtime.STATE_BYTES, np.uint8)
    room = size if room is None else room
    loop = compiling.compile_kernel(kernel)
    addresses = loop.address, kernel.scalars.ctypes.data, memory.ctypes.data, (hashing.ctypes.data + 63) // 64 * 64
    scratch = runtime.Scratch(*addresses, np.ones((totals, LANES)))
    counts = np.ones((len(places), COUNTS, kernel.most_slots), np.int64)
    digests, filled = np.zeros((len(places), kernel.sources), np.uint64), np.ones(brackets, np.int64)
    magnitudes = np.empty((brackets, room), kernel.scalars.dtype)
    results = runtime.Results(np.ones((len(places), totals)), counts, digests, magnitudes.ctypes.data, room, filled)
    starts = [0, *accumulate(size * row.item_bytes for row in kernel.source_rows)]
    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        with open(file.name, mode) as stream:
            at = stream.fileno()
            rows = zip(starts, kernel.source_rows, strict=False), zip(outputs, kernel.stored_rows, strict=False)
            sources = [(at, start, row.item_bytes, row.offset, hashed) for start, row in rows[0]]
            written = [(at, start, row.item_bytes, row.offset) for start, row in rows[1]]
            arrays = (np.array(table, np.int64) for table in (sources, written, places))
            tables = (table.reshape(-1, columns) for table, columns in zip(arrays, (5, 4, 2), strict=True))
            end = runtime.run(runtime.Span(*tables), scratch, results)
        return Ran(end, memory, results, magnitudes, Path(file.name).read_bytes())


def compiled(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """Return tensors and results of reductions of a function of blocks, from a kernel."""
    from lines_pipeline.jit import runtime

    builder, size = TraceBuilder(values[0].dtype, len(values)), len(values[0])
    results = as_list(function(*(builder.source(number) for number in range(len(values)))))
    kept = [
        builder.store(result_traced) if isinstance(result_traced, TracedValue) else result_traced
        for result_traced in results
    ]
    kernel = builder.kernel(BLOCK_NUMEL)
    ran = run_kernel(kernel, b"".join(value.numpy().tobytes() for value in values), 0, [], size)
    overflowed = ran.results.counts[0, UNHELD].any()  # such blocks are left to torch
    assert ran.end == ((0, runtime.UNDONE) if overflowed else (1, runtime.FINISHED))

    def result(kept_result: Any) -> Any:
        if not isinstance(kept_result, Reduced):
            return torch.from_numpy(
                ran.memory[kernel.stored_rows[kept_result].offset :].view(kernel.scalars.dtype)[:size].copy()
            )
        if kept_result.code is OpCode.WITHIN:
            below, at_low, inside, at_high = ran.results.counts[0, BELOW:NONFINITE, kept_result.slot].tolist()
            return below, at_low, ran.bracketed[kept_result.slot, :inside].tolist(), at_high
        totals, counts = ran.results.totals[0], ran.results.counts[0, COUNTED]
        return float(totals[kept_result.slot]) if kept_result.code is OpCode.TOTAL else int(counts[kept_result.slot])

    return [result(kept_result) for kept_result in kept]


def interpreted(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """Return what ``compiled`` does, from torch."""
    results: list[Any] = []
    for result in as_list(function(*(value.clone() for value in values))):
        if isinstance(result, torch.Tensor):
            results.append(result.to(values[0].dtype))
        else:
            results.append(
                (result[0], result[1], result[2].tolist(), result[3]) if isinstance(result, tuple) else result
            )
    return results


def as_list(results: Any) -> list[Any]:
    return list(results) if isinstance(results, tuple | list) else [results]


def bits(results: list[Any]) -> list[Any]:
    return [value.numpy().tobytes() if isinstance(value, torch.Tensor) else value for value in results]

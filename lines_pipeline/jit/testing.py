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
    """What a launch did with one block."""

    end: tuple[int, int]
    memory: Any
    results: Any
    found: Any
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
    found = np.empty((brackets, room), kernel.scalars.dtype)
    results = runtime.Results(np.ones((len(places), totals)), counts, digests, found.ctypes.data, room, filled)
    starts = [0, *accumulate(size * row.item_bytes for row in kernel.source_rows)]
    with NamedTemporaryFile() as given:
        Path(given.name).write_bytes(content)
        with open(given.name, mode) as file:
            at = file.fileno()
            rows = zip(starts, kernel.source_rows, strict=False), zip(outputs, kernel.stored_rows, strict=False)
            sources = [(at, start, row.item_bytes, row.offset, hashed) for start, row in rows[0]]
            written = [(at, start, row.item_bytes, row.offset) for start, row in rows[1]]
            arrays = (np.array(table, np.int64) for table in (sources, written, places))
            tables = (table.reshape(-1, columns) for table, columns in zip(arrays, (5, 4, 2), strict=True))
            end = runtime.run(runtime.Span(*tables), scratch, results)
        return Ran(end, memory, results, found, Path(given.name).read_bytes())


def compiled(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """Tensors and results of reductions of a function of blocks, from a kernel."""
    from lines_pipeline.jit import runtime

    builder, size = TraceBuilder(values[0].dtype, len(values)), len(values[0])
    made = as_list(function(*(builder.source(number) for number in range(len(values)))))
    kept = [builder.store(one) if isinstance(one, TracedValue) else one for one in made]
    kernel = builder.kernel(BLOCK_NUMEL)
    ran = run_kernel(kernel, b"".join(value.numpy().tobytes() for value in values), 0, [], size)
    overflowed = ran.results.counts[0, UNHELD].any()  # such blocks are left to torch
    assert ran.end == ((0, runtime.UNDONE) if overflowed else (1, runtime.FINISHED))

    def result(one: Any) -> Any:
        if not isinstance(one, Reduced):
            return torch.from_numpy(
                ran.memory[kernel.stored_rows[one].offset :].view(kernel.scalars.dtype)[:size].copy()
            )
        if one.code is OpCode.WITHIN:
            below, at_low, inside, at_high = ran.results.counts[0, BELOW:NONFINITE, one.slot].tolist()
            return below, at_low, ran.found[one.slot, :inside].tolist(), at_high
        totals, counts = ran.results.totals[0], ran.results.counts[0, COUNTED]
        return float(totals[one.slot]) if one.code is OpCode.TOTAL else int(counts[one.slot])

    return [result(one) for one in kept]


def interpreted(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """The same, from torch."""
    found: list[Any] = []
    for one in as_list(function(*(value.clone() for value in values))):
        if isinstance(one, torch.Tensor):
            found.append(one.to(values[0].dtype))
        else:
            found.append((one[0], one[1], one[2].tolist(), one[3]) if isinstance(one, tuple) else one)
    return found


def as_list(results: Any) -> list[Any]:
    return list(results) if isinstance(results, tuple | list) else [results]


def bits(results: list[Any]) -> list[Any]:
    return [one.numpy().tobytes() if isinstance(one, torch.Tensor) else one for one in results]

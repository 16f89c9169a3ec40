"""Runs recordings by the machine, and the plain forms that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from lines_pipeline.core.tensors import BLOCK_NUMEL
from lines_pipeline.ops.blocks.form import BELOW, COUNTED, COUNTS, NONFINITE
from lines_pipeline.ops.blocks.tape import LANES, Code, Reduced, Register, Routine, Tape

Function = Callable[..., Any]


@dataclass(frozen=True)
class Ran:
    """What the machine did with one block."""

    end: tuple[int, int]
    memory: Any
    results: Any
    found: Any
    content: bytes
    """Of the file that it reads and writes."""


def run_machine(routine: Routine, content: bytes, hashed: int, outputs: Sequence[int], size: int) -> Ran:
    """Run a routine over one block of a file that begins with its sources, as they are stored; ``outputs`` tells where
    in the file each block that is kept goes."""
    from lines_pipeline.ops.blocks import fusion, machine

    totals, brackets = (routine.slots.get(code, 0) for code in (Code.TOTAL, Code.WITHIN))
    memory = np.full(routine.memory_bytes, 0xFF, np.uint8)  # NaN
    lanes, filled = np.ones((totals, LANES)), np.ones(brackets, np.int64)
    hashing = np.ones((routine.sources + 1) * machine.STATE_BYTES, np.uint8)
    found = np.empty((brackets, size + 1), routine.scalars.dtype)
    loop = fusion.fused(routine)
    addresses = loop.address, routine.scalars.ctypes.data, memory.ctypes.data, (hashing.ctypes.data + 63) // 64 * 64
    scratch = machine.Scratch(*addresses, lanes)
    counts = np.ones((1, COUNTS, routine.most_slots), np.int64)
    digests = np.zeros((1, routine.sources), np.uint64)
    results = machine.Results(np.ones((1, totals)), counts, digests, found.ctypes.data, size + 1, filled)
    starts = [0, *accumulate(size * row.item_bytes for row in routine.taken)]
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        at = file.fileno()
        sources = [
            (at, start, row.item_bytes, row.offset, hashed) for start, row in zip(starts, routine.taken, strict=False)
        ]
        written = [(at, start, row.item_bytes, row.offset) for start, row in zip(outputs, routine.kept, strict=False)]
        places = np.array(sources, np.int64).reshape(-1, 5), np.array(written, np.int64).reshape(-1, 4)
        span = machine.Span(*places, np.array([[0, size]], np.int64))
        end = machine.run(span, scratch, results)
        file.seek(0)
        return Ran(end, memory, results, found, file.read())


def recorded(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """What a function of blocks gives as a recording: tensors, and results of reductions."""
    from lines_pipeline.ops.blocks import machine

    tape, size = Tape(values[0].dtype, len(values)), len(values[0])
    made = as_list(function(*(tape.source(number) for number in range(len(values)))))
    kept = [tape.store(one) if isinstance(one, Register) else one for one in made]
    routine = tape.routine(BLOCK_NUMEL)
    ran = run_machine(routine, b"".join(value.numpy().tobytes() for value in values), 0, [], size)
    assert ran.end == (1, machine.FINISHED)

    def result(one: Any) -> Any:
        if not isinstance(one, Reduced):
            return torch.from_numpy(ran.memory[routine.kept[one].offset :].view(routine.scalars.dtype)[:size].copy())
        if one.code is Code.WITHIN:
            below, at_low, inside, at_high = ran.results.counts[0, BELOW:NONFINITE, one.slot].tolist()
            return below, at_low, ran.found[one.slot, :inside].tolist(), at_high
        totals, counts = ran.results.totals[0], ran.results.counts[0, COUNTED]
        return float(totals[one.slot]) if one.code is Code.TOTAL else int(counts[one.slot])

    return [result(one) for one in kept]


def plain(function: Function, values: Sequence[torch.Tensor]) -> list[Any]:
    """The same of tensors."""
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

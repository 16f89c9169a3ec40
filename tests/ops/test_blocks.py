"""Recordings give the bits of the plain forms, whatever the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lines_pipeline.core.tensors import BLOCK_NUMEL
from lines_pipeline.io.digests import block_digest
from lines_pipeline.ops import blocks as forms
from lines_pipeline.ops.blocks.form import BELOW, COUNTED, COUNTS, NONFINITE
from lines_pipeline.ops.blocks.tape import (
    GAP_BYTES,
    LANES,
    PIECE_NUMEL,
    STORED,
    Code,
    Reduced,
    Register,
    Routine,
    Tape,
    Unrecordable,
)

pytest.importorskip("numba")

SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-40, -1e-40, 3e37, 0.25)
Function = Callable[..., Any]


@st.composite
def same_size_blocks(draw: st.DrawFn) -> list[torch.Tensor]:
    """Three blocks with many equal magnitudes, both zeros, tiny and huge values."""
    size = draw(st.sampled_from([1, 31, 32, 33, 200, LANES - 1, LANES, LANES + 1, 3 * LANES + 17]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    found = []
    for _ in range(3):
        chosen = torch.randint(len(SPECIAL) + 4, (size,), generator=generator)
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        for index, special in enumerate(SPECIAL):
            values[chosen == index] = special
        found.append(values.to(dtype))
    return found


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


def elected(a: Any, b: Any, c: Any) -> Any:
    """TIES, as its op does it."""
    total = count = forms.zeros_like(a)
    for value in (a, b, c):
        total, count = forms.add_kept(total, count, value, 0.5, 0.3)
    direction = (total.sign() * 2.0 + 1.0).sign()
    agreeing = number = forms.zeros_like(a)
    for value in (a, b, c):
        agreeing, number = forms.add_agreeing(agreeing, number, value, 0.5, 0.3, direction=direction)
    return agreeing / number.clamp(min=1.0) * direction, total, count


FUNCTIONS: dict[str, Function] = {
    "arithmetic": lambda a, b, c: (a - b, a + b, a * c, a * 0.3, a / 3, b * -2.0),
    "masks": lambda a, b, c: ((a.abs() > b.abs() * 0.4) * c, (a >= 0.5) * b, forms.all_set(a) * c),
    "count of masks": lambda a, b, c: forms.zeros_like(a) + (a >= 0.5) + (b >= 0.5),
    "by zero": lambda a, b, c: (a / forms.zeros_like(a), forms.zeros_like(b) / b, c / 0.0),
    "larger": lambda a, b, c: (forms.larger(a, b), a * 0.0, a * -0.0),
    "sum": lambda a, b, c: forms.running_sum([a, b, c], [1.0, 0.3, -0.7]),
    "keep": lambda a, b, c: (forms.keep_from(a, 0.5), forms.keep_from(b, 0.0), forms.keep_from(c, 1e-40)),
    "kept": lambda a, b, c: forms.add_kept(a, forms.zeros_like(a), b, 0.5, -2.0),
    "agreeing": lambda a, b, c: forms.add_agreeing(a.abs(), b.abs(), c, 0.25, 0.3, direction=a.sign() * 2.0 + 0.5),
    "ties": elected,
    "total": lambda a, b, c: (forms.total((a * 1e-30).abs()), forms.total(b.sign())),
    "nonzero": lambda a, b, c: (forms.nonzero_count(a), forms.nonzero_count(a > b)),
    "within": lambda a, b, c: [forms.within(a, 0.25, 0.5)],
    "within one": lambda a, b, c: [forms.within(a, 0.5, 0.5)],
    "within all": lambda a, b, c: [forms.within(a - b, 0.0, float("inf"))],
    "within from zero": lambda a, b, c: [forms.within(c, 0.0, 1.0)],
    "source itself": lambda a, b, c: (a, a, b),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(deadline=None, max_examples=25)
@given(values=same_size_blocks())
def test_recordings_give_the_bits_of_the_plain_forms(name: str, values: list[torch.Tensor]) -> None:
    function = FUNCTIONS[name]
    assert bits(recorded(function, values)) == bits(plain(function, values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_read_and_written_as_torch_converts_them(dtype: torch.dtype) -> None:
    """Every finite value of 16 bits; and values between them, ties, those too large and subnormal ones."""
    kind = STORED[str(dtype).removeprefix("torch.")]
    narrow = torch.arange(2**16).to(torch.uint16).view(dtype)
    narrow = narrow[narrow.isfinite()]
    ulps = narrow.float().view(torch.int32)[:, None] + torch.tensor([-1, 1, 2**11, 2**12, 2**15, 3 * 2**12])
    wide = ulps.flatten().view(torch.float32)
    wide = wide[~wide.isnan()]
    size = max(len(narrow), len(wide))
    tape = Tape(torch.float32, 2)
    widened, rounded = tape.source(0, kind), tape.source(1)
    tape.store(widened)
    tape.store(rounded, kind)
    content = narrow.view(torch.uint8).numpy().tobytes().ljust(2 * size, b"\0")
    content += wide.view(torch.uint8).numpy().tobytes().ljust(4 * size, b"\0")
    ends = [6 * size, 10 * size]
    ran = run_machine(tape.routine(size), content, 1, ends, size)
    assert ran.end == (1, 0)
    widened_again = torch.frombuffer(bytearray(ran.content[ends[0] : ends[1]]), dtype=torch.float32)[: len(narrow)]
    assert torch.equal(widened_again.view(torch.int32), narrow.float().view(torch.int32))
    narrowed = torch.frombuffer(bytearray(ran.content[ends[1] :]), dtype=torch.int16)[: len(wide)]
    assert torch.equal(narrowed, wide.to(dtype).view(torch.int16))
    hashed = [block_digest(memoryview(content)[: 2 * size]), block_digest(memoryview(content)[2 * size :])]
    assert ran.results.digests[0].tolist() == hashed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nan_is_left_to_torch_where_it_is_rounded(dtype: torch.dtype) -> None:
    from lines_pipeline.ops.blocks import machine

    tape = Tape(torch.float32, 1)
    tape.store(tape.source(0), STORED[str(dtype).removeprefix("torch.")])
    values = torch.tensor([1.0, float("nan"), -float("inf")])
    ran = run_machine(tape.routine(3), values.numpy().tobytes(), 0, [12], 3)
    assert ran.end == (0, machine.PLAINLY)


def test_masks_are_read_as_numbers() -> None:
    tape = Tape(torch.float64, 2)
    tape.store(tape.source(0) * tape.source(1, STORED["bool"]))
    content = np.array([1.5, -2.0, 4.0]).tobytes() + bytes([1, 0, 1])
    ran = run_machine(tape.routine(3), content, 0, [27], 3)
    assert np.frombuffer(ran.content[27:]).tolist() == [1.5, -0.0, 4.0]


def test_a_bracket_is_counted_as_defined() -> None:
    value = torch.tensor([0.0, -0.1, 0.5, -0.5, 0.7, -0.9, 1.0, 2.0])
    below, at_low, inside, at_high = forms.within(value, 0.5, 1.0)
    assert (below, at_low, at_high) == (2, 2, 1)
    assert inside.tolist() == pytest.approx([0.7, 0.9])


def test_nothing_is_computed_twice_and_only_what_is_kept_takes_room() -> None:
    tape = Tape(torch.float32, 2)
    one, other = tape.source(0), tape.source(1)
    for _ in range(50):
        forms.total((one - other).abs())
    routine = tape.routine(BLOCK_NUMEL)
    assert [one.code for one in routine.instructions] == [Code.SUBTRACT, Code.ABS] + [Code.TOTAL] * 50
    assert routine.memory_bytes == 2 * (-(-PIECE_NUMEL * 4 // GAP_BYTES) + 1) * GAP_BYTES


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda a, b: a - b, {0, 1}),
        (lambda a, b: (a * b + 1.0) * -2.0, {0, 1}),
        (lambda a, b: a / b, {0}),
        (lambda a, b: forms.keep_from(a, 0.5) + b, {1}),
        (lambda a, b: a.sign() * b, {1}),
        (lambda a, b: forms.larger(a, b), set()),
        (lambda a, b: (a > b) * a, {0}),
    ],
)
def test_a_total_tells_that_what_it_sums_is_finite(made: Function, told: set[int]) -> None:
    tape = Tape(torch.float32, 2)
    forms.total(made(tape.source(0), tape.source(1)).abs())
    assert tape.told_finite() == told
    fine = [torch.tensor([0.0, -1.0, 2.0, 0.5]), torch.tensor([1.0, 3.0, -0.25, 4.0])]
    for number in told:
        for bad in (float("nan"), float("inf"), -float("inf")):
            for place in range(4):
                values = [value.clone() for value in fine]
                values[number][place] = bad
                assert not np.isfinite(forms.total(made(*values).abs()))


def test_what_has_no_instruction_says_so() -> None:
    source = Tape(torch.float32, 1).source(0)
    with pytest.raises(Unrecordable):
        source.fft()
    with pytest.raises(Unrecordable):
        forms.zeros_like(source, torch.float64)
    with pytest.raises(TypeError):
        torch.sin(source)

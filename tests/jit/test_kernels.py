"""Kernels give the bits of the interpreter, whatever the values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL
from lines_pipeline.io.digests import block_digest
from lines_pipeline.io.number_ranges import largest_held
from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.jit.instructions import GAP_BYTES, LANES, PIECE_NUMEL, STORED, OpCode
from lines_pipeline.jit.testing import Function, bits, compiled, interpreted, run_kernel
from lines_pipeline.jit.tracing import TraceBuilder, TracedValue
from lines_pipeline.ops import kernels as forms

pytest.importorskip("numba")

SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-40, -1e-40, 3e37, 0.25)


@st.composite
def same_size_blocks(draw: st.DrawFn) -> list[torch.Tensor]:
    """Three blocks with many equal magnitudes, both zeros, tiny and huge values."""
    size = draw(st.sampled_from([1, 31, 32, 33, 200, LANES - 1, LANES, LANES + 1, 3 * LANES + 17]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    entries = []
    for _ in range(3):
        chosen = torch.randint(len(SPECIAL) + 4, (size,), generator=generator)
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        for index, special in enumerate(SPECIAL):
            values[chosen == index] = special
        entries.append(values.to(dtype))
    return entries


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
def test_kernels_give_the_bits_of_the_interpreter(name: str, values: list[torch.Tensor]) -> None:
    function = FUNCTIONS[name]
    assert bits(compiled(function, values)) == bits(interpreted(function, values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_read_and_written_as_torch_converts_them(dtype: torch.dtype) -> None:
    """Every finite value of 16 bits; and values between them, ties, the largest and subnormal ones."""
    kind = STORED[str(dtype).removeprefix("torch.")]
    narrow = torch.arange(2**16).to(torch.uint16).view(dtype)
    narrow = narrow[narrow.isfinite()]
    ulps = narrow.float().view(torch.int32)[:, None] + torch.tensor([-1, 1, 2**11, 2**12, 2**15, 3 * 2**12])
    wide = ulps.flatten().view(torch.float32)
    wide = wide[wide.to(dtype).isfinite()]
    size = max(len(narrow), len(wide))
    builder = TraceBuilder(torch.float32, 2)
    widened, rounded = builder.source(0, kind), builder.source(1)
    builder.store(widened)
    builder.store(rounded, kind)
    content = narrow.view(torch.uint8).numpy().tobytes().ljust(2 * size, b"\0")
    content += wide.view(torch.uint8).numpy().tobytes().ljust(4 * size, b"\0")
    ends = [6 * size, 10 * size]
    ran = run_kernel(builder.kernel(size), content, 1, ends, size)
    assert ran.end == (1, 0)
    widened_again = torch.frombuffer(bytearray(ran.content[ends[0] : ends[1]]), dtype=torch.float32)[: len(narrow)]
    assert torch.equal(widened_again.view(torch.int32), narrow.float().view(torch.int32))
    narrowed = torch.frombuffer(bytearray(ran.content[ends[1] :]), dtype=torch.int16)[: len(wide)]
    assert torch.equal(narrowed, wide.to(dtype).view(torch.int16))
    hashed = [block_digest(memoryview(content)[: 2 * size]), block_digest(memoryview(content)[2 * size :])]
    assert ran.results.digests[0].tolist() == hashed


RANGES = [
    (torch.float32, torch.bfloat16, 3.3961775292304600e38),
    (torch.float32, torch.float16, 65520.0),
    (torch.float32, torch.float32, math.inf),
    (torch.float64, torch.float64, math.inf),
]
"""Types of what is computed and stored, and the least number that is Inf in the latter."""


@pytest.mark.parametrize(("computed", "stored", "least"), RANGES)
def test_what_a_type_cannot_hold_is_left_to_torch(computed: torch.dtype, stored: torch.dtype, least: float) -> None:
    from lines_pipeline.jit import runtime

    most = torch.nextafter(torch.tensor(least, dtype=computed), torch.tensor(0.0, dtype=computed)).item()
    assert math.isfinite(torch.tensor(most, dtype=computed).to(stored).item())
    for value, end in ((most, runtime.FINISHED), *((n, runtime.UNDONE) for n in (least, math.inf, math.nan))):
        for sign in (1.0, -1.0):
            builder = TraceBuilder(computed, 1)
            builder.store(builder.source(0), STORED[str(stored).removeprefix("torch.")])
            values = torch.tensor([1.0, sign * value, 0.0], dtype=computed)
            ran = run_kernel(builder.kernel(3), values.numpy().tobytes(), 0, [values.nbytes], 3)
            assert ran.end[1] == end, value


EIGHT_BITS = [(torch.float8_e4m3fn, 464.0, 465.0), (torch.float8_e5m2, 61439.0, 61440.0)]


@pytest.mark.parametrize(("dtype", "most", "least"), EIGHT_BITS)
def test_types_that_saturate_have_a_range_too(dtype: torch.dtype, most: float, least: float) -> None:
    assert most <= largest_held(torch.float32, dtype) < least


def test_masks_are_read_as_numbers() -> None:
    builder = TraceBuilder(torch.float64, 2)
    builder.store(builder.source(0) * builder.source(1, STORED["bool"]))
    content = np.array([1.5, -2.0, 4.0]).tobytes() + bytes([1, 0, 1])
    ran = run_kernel(builder.kernel(3), content, 0, [27], 3)
    assert np.frombuffer(ran.content[27:]).tolist() == [1.5, -0.0, 4.0]


def test_a_bracket_is_counted_as_defined() -> None:
    value = torch.tensor([0.0, -0.1, 0.5, -0.5, 0.7, -0.9, 1.0, 2.0])
    below, at_low, inside, at_high = forms.within(value, 0.5, 1.0)
    assert (below, at_low, at_high) == (2, 2, 1)
    assert inside.tolist() == pytest.approx([0.7, 0.9])


def test_nothing_is_computed_twice_and_only_what_is_kept_takes_room() -> None:
    builder = TraceBuilder(torch.float32, 2)
    first, second = builder.source(0), builder.source(1)
    for _ in range(50):
        forms.total((first - second).abs())
    kernel = builder.kernel(BLOCK_NUMEL)
    assert [instruction.code for instruction in kernel.instructions] == [OpCode.SUBTRACT, OpCode.ABS] + [
        OpCode.TOTAL
    ] * 50
    assert kernel.memory_bytes == 2 * (-(-PIECE_NUMEL * 4 // GAP_BYTES) + 1) * GAP_BYTES


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
    builder = TraceBuilder(torch.float32, 2)
    forms.total(made(builder.source(0), builder.source(1)).abs())
    assert builder.sources_in_totals() == told
    fine = [torch.tensor([0.0, -1.0, 2.0, 0.5]), torch.tensor([1.0, 3.0, -0.25, 4.0])]
    for number in told:
        for bad in (float("nan"), float("inf"), -float("inf")):
            for place in range(4):
                values = [value.clone() for value in fine]
                values[number][place] = bad
                assert not np.isfinite(forms.total(made(*values).abs()))


def test_what_has_no_instruction_says_so() -> None:
    source = TraceBuilder(torch.float32, 1).source(0)
    with pytest.raises(Untraceable):
        source.fft()
    with pytest.raises(Untraceable):
        forms.zeros_like(source, torch.float64)
    with pytest.raises(TypeError):
        torch.sin(source)  # type: ignore[arg-type]


def test_kernels_that_differ_in_scalars_alone_share_machine_code() -> None:
    from lines_pipeline.jit import compiling

    def loop(threshold: float, weight: float) -> Any:
        builder = TraceBuilder(torch.float32, 1)
        source = builder.source(0)
        kept, _ = forms.add_kept(source, forms.zeros_like(source), source, threshold, weight)
        assert isinstance(kept, TracedValue)
        builder.store(kept)
        return compiling.compile_kernel(builder.kernel(BLOCK_NUMEL))

    assert loop(0.5, 0.3) is loop(0.25, -2.0)
    assert loop(0.5, 1.0) is not loop(0.5, 0.3)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000])
def test_a_kernel_leaves_the_memory_between_its_rows_alone(size: int) -> None:
    builder = TraceBuilder(torch.float32, 2)
    builder.store(builder.source(0) - builder.source(1))
    builder.store(builder.source(0) + builder.source(1), STORED["bfloat16"])
    kernel = builder.kernel(size)
    content = np.arange(2 * size, dtype=np.float32).tobytes()
    memory = run_kernel(kernel, content, 0, [4 * 2 * size, 4 * 3 * size], size).memory
    for row in kernel.rows.values():
        whole = -(-size // 16) * 16 * row.item_bytes
        assert (memory[row.offset + whole : row.offset + whole + GAP_BYTES - 64] == 0xFF).all()


def test_bits_do_not_depend_on_how_wide_the_registers_of_a_processor_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from lines_pipeline.jit import compiling

    target = compiling._host()[0]
    if not target.triple.startswith("x86_64"):
        pytest.skip("needs a processor that runs the oldest form of its kind too")
    generator = torch.Generator().manual_seed(5)
    values = [torch.randn(3 * LANES + 17, generator=generator) for _ in range(3)]
    here = {of: bits(compiled(function, values)) for of, function in FUNCTIONS.items()}
    compiling._compiled.cache_clear()
    monkeypatch.setattr(compiling, "_host", lambda: (target, "x86-64", ""))
    assert {of: bits(compiled(function, values)) for of, function in FUNCTIONS.items()} == here
    compiling._compiled.cache_clear()

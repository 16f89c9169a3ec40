"""What the runtime does with several blocks, and where it stops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lines_pipeline.io.digests import block_digest
from lines_pipeline.jit.instructions import Kernel
from lines_pipeline.jit.testing import run_kernel
from lines_pipeline.jit.tracing import TraceBuilder
from lines_pipeline.ops import kernels as forms

pytest.importorskip("numba")

SIZE = 1000
VALUES = np.random.default_rng(3).standard_normal(SIZE).astype(np.float32)
APART = [(0, 100), (600, 17), (300, 256)]


def kernel() -> Kernel:
    """Doubles, adds up, and keeps all magnitudes."""
    builder = TraceBuilder(torch.float32, 1)
    source = builder.source(0)
    builder.store(source * 2.0)
    forms.total(source)
    forms.within(source, 0.0, float("inf"))
    return builder.kernel(SIZE)


def test_blocks_need_not_be_neighbours() -> None:
    from lines_pipeline.jit import runtime

    ran = run_kernel(kernel(), VALUES.tobytes().ljust(8 * SIZE, b"\0"), 1, [4 * SIZE], SIZE, blocks=APART)
    assert ran.end == (3, runtime.FINISHED)
    given = [VALUES[start : start + size] for start, size in APART]
    assert ran.results.totals[:, 0].tolist() == [forms.total(torch.from_numpy(block)) for block in given]
    assert ran.results.digests[:, 0].tolist() == [block_digest(memoryview(block.tobytes())) for block in given]
    assert ran.bracketed[0, : ran.results.filled[0]].tolist() == np.abs(np.concatenate(given)).tolist()
    written = np.frombuffer(ran.content[4 * SIZE :], np.float32)
    untouched = np.ones(SIZE, bool)
    for (start, size), block in zip(APART, given, strict=True):
        assert written[start : start + size].tolist() == (block * 2).tolist()
        untouched[start : start + size] = False
    assert not written[untouched].any()


def test_it_stops_before_a_block_whose_magnitudes_might_not_fit() -> None:
    from lines_pipeline.jit import runtime

    ran = run_kernel(kernel(), VALUES.tobytes(), 0, [4 * SIZE], SIZE, blocks=APART, room=117 + 255)
    assert ran.end == (2, runtime.FULL)
    assert ran.results.filled[0] == 117


def test_it_stops_after_a_block_that_cannot_be_written() -> None:
    from lines_pipeline.jit import runtime

    one_kernel = kernel()
    ran = run_kernel(one_kernel, VALUES.tobytes(), 0, [4 * SIZE], SIZE, blocks=APART[1:], mode="rb")
    assert ran.end == (0, runtime.UNWRITTEN)
    kept = ran.memory[one_kernel.stored_rows[0].offset :].view(np.float32)[:17]
    assert kept.tolist() == (VALUES[600:617] * 2).tolist()


def test_it_stops_at_a_block_that_is_cut_short() -> None:
    from lines_pipeline.jit import runtime

    ran = run_kernel(kernel(), VALUES[:650].tobytes(), 0, [], SIZE, blocks=[(0, 600), (600, 100)])
    assert ran.end == (1, runtime.UNDONE)

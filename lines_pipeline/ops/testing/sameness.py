"""An op gives the same in blocks of any size, compiled, on a GPU and in another process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import torch

from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.jit.instructions import STORED
from lines_pipeline.ops.base import AnyOp, Granularity
from lines_pipeline.ops.kernels import Block
from lines_pipeline.ops.testing.examples import Application, Inputs, apply_op, bind, example_inputs, find_op


def check_pure(op: AnyOp | str, inputs: Inputs | None = None, **params: Any) -> None:
    """Check that an op leaves its inputs as they are, and gives the same when it is asked twice."""
    given = example_inputs(op) if inputs is None else inputs
    copies = {port: [value.clone() for value in values] for port, values in given.items()}
    first = apply_op(op, copies, **params).clone()
    for port, values in given.items():
        for number, (value, after) in enumerate(zip(values, copies[port], strict=True)):
            assert torch.equal(value, after), f"'{find_op(op).name}' changes its input {port}[{number}]"
    assert torch.equal(first, apply_op(op, copies, **params)), f"'{find_op(op).name}' gives something else each time"


def check_blocks(
    op: AnyOp | str, inputs: Inputs | None = None, *, block_sizes: Sequence[int] = (1, 7, 32), **params: Any
) -> None:
    """Check that an elementwise op gives the same bits in blocks of any size. Ops of whole tensors have no blocks."""
    bound = bind(op, example_inputs(op) if inputs is None else inputs, **params)
    if bound.op.granularity is not Granularity.ELEMENTWISE:
        return
    whole = bound.result()
    for size in block_sizes:
        pieces: list[Block] = [
            bound.op.apply_at(bound.params, _part(bound.inputs, start, size), bound.tensor, bound.stats, start)
            for start in range(0, bound.tensor.numel, size)
        ]
        assert torch.equal(torch.cat(pieces), whole), (
            f"'{bound.op.name}' gives other values in blocks of {size}: it is not elementwise; "
            "say granularity='tensor' where it needs whole tensors"
        )


def _part(inputs: Inputs, start: int, size: int) -> Inputs:
    return {port: [value[start : start + size] for value in values] for port, values in inputs.items()}


def _has_compilers() -> bool:
    """Return whether Numba and llvmlite can be imported."""
    try:
        import llvmlite  # noqa: F401
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def check_compiled(op: AnyOp | str, inputs: Inputs | None = None, **params: Any) -> bool:
    """Check that an op and its statistics give the same bits compiled; return whether they can be compiled.

    What cannot be compiled runs as it is, which is no mistake. Without Numba nothing is checked.
    """
    bound = bind(op, example_inputs(op) if inputs is None else inputs, **params)
    if bound.op.granularity is not Granularity.ELEMENTWISE or not _has_compilers():
        return False
    values = [value for port in bound.inputs.values() for value in port]
    if any(str(value.dtype).removeprefix("torch.") not in STORED or value.dtype is torch.bool for value in values):
        return False
    from lines_pipeline.jit.testing import bits, compiled, interpreted

    def applied(*given: Any) -> Any:
        return bound.op.apply_at(bound.params, _regrouped(bound, given), bound.tensor, bound.stats, 0)

    try:
        result = compiled(applied, values)
    except (Untraceable, TypeError):
        return False
    assert bits(result) == bits(interpreted(applied, values)), f"'{bound.op.name}' gives other bits compiled"
    return True


def _regrouped(bound: Application, values: Sequence[Any]) -> dict[str, list[Any]]:
    flat = iter(values)
    return {port: [next(flat) for _ in given] for port, given in bound.inputs.items()}


def check_gpu(op: AnyOp | str, inputs: Inputs | None = None, **params: Any) -> bool:
    """Compare an op's value on a GPU with that of the processor; return False, unchecked, where there is no CUDA."""
    if not torch.cuda.is_available():
        return False
    given = example_inputs(op) if inputs is None else inputs
    bound = bind(op, given, **params)
    moved = {port: [value.cuda() for value in values] for port, values in bound.inputs.items()}
    result: Block = bound.op.apply_at(bound.params, moved, bound.tensor, bound.stats, 0)
    assert result.is_cuda, f"'{bound.op.name}' gives a tensor of the processor for tensors of the GPU"
    torch.testing.assert_close(result.cpu(), bound.result())
    return True


def check_pickles(op: AnyOp | str, inputs: Inputs | None = None, **params: Any) -> None:
    """Check that an op and its parameters come through a pickle, as they do on their way to a cluster's workers."""
    bound = bind(op, example_inputs(op) if inputs is None else inputs, **params)
    sent, given = pickle.loads(pickle.dumps((bound.op, bound.params)))
    assert type(sent) is type(bound.op) and given == bound.params, f"'{bound.op.name}' is another one after pickling"

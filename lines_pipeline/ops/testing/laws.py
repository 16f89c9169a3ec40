"""Laws that ops keep: each op declares those that are its own (``laws``), or a test names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import AnyOp
from lines_pipeline.ops.testing.examples import Inputs, apply_op, example_inputs, find_op

_FACTOR = 4.0
"""A power of two, by which multiplying is exact."""
_SCALED = (EdgeType.WEIGHTS, EdgeType.DELTA)


def check_laws(op: AnyOp | str, inputs: Inputs | None = None, laws: Sequence[str] | None = None, **params: Any) -> None:
    """Check the laws that an op declares, or ``laws``; raise ``AssertionError`` for one that is broken."""
    op = find_op(op)
    given = example_inputs(op) if inputs is None else inputs
    for law in op.laws if laws is None else laws:
        assert law in LAWS, f"there is no law '{law}', expected one of: {', '.join(LAWS)}"
        LAWS[law](op, given, params)


def _identity(op: AnyOp, inputs: Inputs, params: Mapping[str, Any]) -> None:
    """Check that an op gives its only input back."""
    port = _main_port(op)
    single = {name: values[:1] if op.inputs[name].many else values for name, values in inputs.items()}
    _same(op, "identity", apply_op(op, single, **params), single[port][0])


def _permutation(op: AnyOp, inputs: Inputs, params: Mapping[str, Any]) -> None:
    """Check that the order of inputs makes no difference but rounding."""
    expected = apply_op(op, inputs, **params)
    for port, values in inputs.items():
        if op.inputs[port].many:
            for order in (values[::-1], [*values[1:], values[0]]):
                _same(op, "permutation", apply_op(op, {**inputs, port: order}, **params), expected)


def _zeros(op: AnyOp, inputs: Inputs, params: Mapping[str, Any]) -> None:
    """Task vectors of zeros, and models that are all equal, give no update: zeros, or that model."""
    model = next((inputs[name][0] for name, port in op.inputs.items() if port.type is EdgeType.WEIGHTS), None)
    none = {
        port: [value * 0 if op.inputs[port].type is EdgeType.DELTA else value for value in values]
        for port, values in inputs.items()
    }
    if model is not None:
        none |= {name: [model] * len(none[name]) for name in none if op.inputs[name].type is EdgeType.WEIGHTS}
    result = apply_op(op, none, **params)
    expected = model if op.gives is EdgeType.WEIGHTS and model is not None else torch.zeros_like(result)
    _same(op, "zeros", result, expected)


def _scaling(op: AnyOp, inputs: Inputs, params: Mapping[str, Any]) -> None:
    """Check that inputs times c give the result times c; a mask stays as it is."""
    scaled = {
        port: [value * _FACTOR if value.is_floating_point() else value for value in values]
        for port, values in inputs.items()
    }
    expected = apply_op(op, inputs, **params)
    factor = _FACTOR if expected.is_floating_point() else 1
    _same(op, "scaling", apply_op(op, scaled, **params), expected * factor if factor != 1 else expected)


LAWS: Mapping[str, Callable[[AnyOp, Inputs, Mapping[str, Any]], None]] = {
    "identity": _identity,
    "permutation": _permutation,
    "scaling": _scaling,
    "zeros": _zeros,
}


def _main_port(op: AnyOp) -> str:
    """Return the port whose type the op gives."""
    return next(name for name, port in op.inputs.items() if port.type is op.gives or op.gives is EdgeType.MASK)


def _same(op: AnyOp, law: str, value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, msg=lambda message: f"'{op.name}' breaks the law of {law}: {message}")

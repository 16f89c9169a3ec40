"""Applies an op to tensors as a merge does: its statistics over the same tensors, its parameters checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp, AnyStatistic, Place, Retry, StepContext
from lines_pipeline.ops.kernels import Block

Inputs = Mapping[str, Sequence[torch.Tensor]]
"""Tensors by port, all of one shape."""

BLOCK = Place(1, 3)
"""The tensor lies in the second of three blocks."""
_MAX_SWEEPS = 12


@dataclass(frozen=True)
class Application:
    """An op bound to parameters, inputs and the statistics of these."""

    op: AnyOp
    params: Any
    inputs: Inputs
    """Flat, a sequence for every port."""
    tensor: TensorSpec
    stats: Mapping[str, Any]
    statistics: Mapping[AnyStatistic, Any]
    """The results of the statistics that ``stats`` are of."""

    def result(self) -> torch.Tensor:
        """Return the op's value, flat."""
        value: Block = self.op.apply_at(self.params, self.inputs, self.tensor, self.stats, 0)
        assert isinstance(value, torch.Tensor)
        return value


def find_op(op: AnyOp | str) -> AnyOp:
    """Return an op, or the installed one of that name."""
    return registry()[op] if isinstance(op, str) else op


def apply_op(op: AnyOp | str, inputs: Inputs, **params: Any) -> torch.Tensor:
    """Return an op's value on tensors, in their shape; its statistics are taken over the same tensors."""
    shape = next(value.shape for values in inputs.values() for value in values)
    return bind(op, inputs, **params).result().reshape(shape)


def check_example(op: AnyOp | str, inputs: Inputs, expected: torch.Tensor, **params: Any) -> None:
    """Compare an op's value with one computed by hand, bit for bit; raise ``AssertionError`` where they differ."""
    value = apply_op(op, inputs, **params)
    assert torch.equal(value, expected), f"'{find_op(op).name}' gives {value.tolist()}, expected {expected.tolist()}"


def example_inputs(op: AnyOp | str, *, shape: Sequence[int] = (6, 8), count: int = 3, seed: int = 0) -> Inputs:
    """Make tensors for all ports that an op needs, with equal magnitudes, zeros and both signs; ``count`` a list."""
    generator = torch.Generator().manual_seed(seed)

    def made(kind: EdgeType | None) -> torch.Tensor:
        values = torch.randint(-8, 9, tuple(shape), generator=generator) / 8
        return values > 0 if kind is EdgeType.MASK else values

    inputs: dict[str, list[torch.Tensor]] = {}
    for name, port in find_op(op).inputs.items():
        if not port.optional:
            values = [made(port.type) for _ in range(count if port.many or port.with_all else 1)]
            inputs[name] = [values[0], *values] if port.with_all else values
    return inputs


def bind(op: AnyOp | str, inputs: Inputs, **params: Any) -> Application:
    """Check parameters, gather statistics, and bind the op to them."""
    op = find_op(op)
    for name, port in op.per_item.items():
        params |= _spread(op, name, params, len(inputs.get(port, ())))
    labels = {port: [f"{port}{number}" for number in range(len(values))] for port, values in inputs.items()}
    checked = op.completed(op.Params(**params), StepContext(labels))
    full = {port: [value.reshape(-1) for value in inputs.get(port, ())] for port in op.inputs}
    tensor = _spec(inputs)
    statistics, stats = _gathered(op, checked, {port: values for port, values in full.items() if values}, tensor)
    counts = {port: len(values) for port, values in full.items()}
    bound = op.bind_tensor(checked, op.bind_model(checked, stats, {tensor.name: BLOCK}), BLOCK, counts)
    return Application(op, checked, full, tensor, bound, statistics)


def _spread(op: AnyOp, name: str, params: Mapping[str, Any], count: int) -> dict[str, tuple[float, ...]]:
    """Return a parameter with a number for each input, of one for all or of the default; nothing where it lacks."""
    if name in params:
        given = params[name]
        return {name: (given,) * count if isinstance(given, int | float) else tuple(given)}
    field = op.Params.model_fields[name]
    return {} if field.is_required() else {name: field.default * count}


def _spec(inputs: Inputs) -> TensorSpec:
    tensors = [value for values in inputs.values() for value in values]
    shown = next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0])
    dtype = str(shown.dtype).removeprefix("torch.") if shown.is_floating_point() else "float32"
    return TensorSpec("t", dtype, tuple(shown.shape))


def _gathered(
    op: AnyOp, params: Any, inputs: Inputs, tensor: TensorSpec
) -> tuple[dict[AnyStatistic, Any], dict[str, Any]]:
    ids = {port: _steps(port, values, op.inputs[port].with_all) for port, values in inputs.items()}
    values = {step: value for port, steps in ids.items() for step, value in zip(steps, inputs[port], strict=True)}
    results: dict[AnyStatistic, Any] = {}
    stats: dict[str, Any] = {}
    for name, statistic in op.statistics(params, ids, "self").items():
        if not statistic.optional:
            stats[name] = _known(statistic, values, tensor, results)
    return results, stats


def _steps(port: str, values: Sequence[torch.Tensor], with_all: bool) -> tuple[str, ...]:
    """Return names for the steps of tensors; the first one is also among the others of a port ``with_all``."""
    names = [f"{port}{number}" for number in range(len(values))]
    if with_all:
        names[0] = next(
            name for name, value in zip(names[1:], values[1:], strict=True) if torch.equal(value, values[0])
        )
    return tuple(names)


def _known(
    statistic: AnyStatistic, values: Mapping[str, torch.Tensor], tensor: TensorSpec, results: dict[AnyStatistic, Any]
) -> Any:
    """Return a statistic's result, with those that it needs in ``results``."""
    if statistic not in results:
        for need in statistic.needs:
            _known(need, values, tensor, results)
        results[statistic] = swept(statistic, [values[step] for step in statistic.of], tensor, results)
    return results[statistic]


def swept(
    statistic: AnyStatistic, values: Sequence[torch.Tensor], tensor: TensorSpec, results: Mapping[AnyStatistic, Any]
) -> Any:
    """Return a statistic's result over one tensor that is a single block; ``results`` has what it needs."""
    numels, needs = {tensor.name: tensor.numel}, [results[need] for need in statistic.needs]
    state = statistic.prepare({}, numels) if statistic.sampled else None
    for _ in range(_MAX_SWEEPS):
        partial = statistic.partial(*statistic.observe_at(values, tensor, needs, state, 0))
        result = statistic.combine({tensor.name: [partial]}, numels, state)
        if not isinstance(result, Retry):
            return result
        state = result.state
    raise AssertionError(f"{type(statistic).__name__} asks for another sweep after {_MAX_SWEEPS}")

"""Applies an op to small tensors, as one block each, with its statistics taken of the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import Place, Retry, Statistic


def tensor(*values: float) -> torch.Tensor:
    """A vector of float32."""
    return torch.tensor(values, dtype=torch.float32)


def gathered(
    statistic: Statistic, values: Mapping[str, torch.Tensor], spec: TensorSpec, found: dict[Statistic, Any]
) -> Any:
    """A statistic's result over one tensor that is a single block, with those that it needs."""
    if statistic in found:
        return found[statistic]
    needs = [gathered(need, values, spec, found) for need in statistic.needs]
    numels = {spec.name: spec.numel}
    state = statistic.prepare({}, numels) if statistic.sampled else None
    for _ in range(12):
        reduced = statistic.observe_at([values[step] for step in statistic.of], spec, needs, state, 0)
        result = statistic.combine({spec.name: [statistic.partial(*reduced)]}, numels, state)
        if not isinstance(result, Retry):
            found[statistic] = result
            return result
        state = result.state
    raise AssertionError("the statistic never ends")


def applied(op_name: str, inputs: Mapping[str, list[torch.Tensor]], **params: Any) -> torch.Tensor:
    """An op's result of tensors of one shape, in the middle one of three blocks; its inputs are untouched."""
    op = registry()[op_name]
    for name, port in op.per_item.items():
        default = op.Params.model_fields[name].default
        given = params.get(name, default)
        if isinstance(given, float | int) or (name not in params and isinstance(given, tuple) and len(given) == 1):
            given = [given[0] if isinstance(given, tuple) else given] * len(inputs.get(port, []))
        params |= {name: tuple(given)} if isinstance(given, list | tuple) else {}
    checked = op.settled(op.Params(**params), {port: ["x"] * len(values) for port, values in inputs.items()}, 0)
    shape = next(iter(inputs.values()))[0].shape
    spec = TensorSpec("t", str(next(iter(inputs.values()))[0].dtype).removeprefix("torch."), tuple(shape))
    ids = {port: tuple(f"{port}{id(value)}" for value in values) for port, values in inputs.items()}
    flat = {port: [value.reshape(-1).clone() for value in values] for port, values in inputs.items()}
    values = {step: value for port, steps in ids.items() for step, value in zip(steps, flat[port], strict=True)}
    found: dict[Statistic, Any] = {}
    wanted = op.statistics(checked, ids, "self").items()
    stats = {name: gathered(one, values, spec, found) for name, one in wanted if not one.optional}
    full = {port: tuple(flat.get(port, ())) for port in op.inputs}
    counts = {port: len(full[port]) for port in op.inputs}
    assert op.check(checked, counts) is None
    result: torch.Tensor = op.apply_at(checked, full, spec, op.bind_tensor(checked, stats, Place(1, 3), counts), 0)
    for port, originals in inputs.items():
        assert all(torch.equal(one.reshape(-1), other) for one, other in zip(originals, flat[port], strict=True))
    return result.reshape(shape)

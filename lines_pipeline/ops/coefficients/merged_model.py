"""A module whose weights are a base plus weighted task vectors, of which no more than one tensor is read at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.schemas.notes import quoted

DOT_NUMEL = 2**20
"""Products that are added up in float32; the sums of such parts are added in float64."""

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class MergedModel:
    """Merges into the module itself: its weights, and after a backward pass their gradient, are all that it holds."""

    module: nn.Module
    base: State
    deltas: Sequence[State]
    weights: Mapping[str, torch.Tensor]
    """The module's own tensors by the names that the task vectors have for them."""
    device: str

    @classmethod
    def of(cls, module: nn.Module, base: State, deltas: Sequence[State], device: str) -> MergedModel:
        """Let the module's parameters that the task vectors have take gradients; ``EvalError`` where it lacks any."""
        names = dict.fromkeys(name for delta in deltas for name in delta)
        weights = _tensors(module, names)
        missing = [name for name in names if name not in weights]
        if missing:
            raise EvalError(f"the suite's module lacks {quoted(missing)} of the task vectors")
        for value in weights.values():
            value.requires_grad_(isinstance(value, nn.Parameter))
        return cls(module, base, deltas, weights, device)

    @torch.no_grad()
    def merge(self, name: str, coefficients: Sequence[float]) -> None:
        """Give a tensor the value base + sum of coefficient * task vector, added up in order."""
        value = self.weights[name]
        value.copy_(self.base[name])
        for coefficient, delta in zip(coefficients, self.deltas, strict=True):
            if name in delta:
                value.add_(delta[name].to(self.device), alpha=coefficient)

    def slopes(self, name: str) -> list[float]:
        """Return the derivative of the loss by each coefficient of a tensor: <gradient, task vector>."""
        gradient = self.weights[name].grad
        if gradient is None:  # no task's loss depends on it
            return [0.0] * len(self.deltas)
        return [_product(gradient, delta[name].to(self.device)) if name in delta else 0.0 for delta in self.deltas]

    def forget_gradient(self) -> None:
        """Let the next backward pass begin at zero."""
        for value in self.weights.values():
            value.grad = None


def _tensors(module: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return tensors of a module by names of a state that it loads, parameters first and in its own order.

    The module may wrap the one that the names are of: its own names then have a prefix more.
    """
    own = dict[str, torch.Tensor](module.named_parameters(remove_duplicate=False))
    own |= dict(module.named_buffers(remove_duplicate=False))
    matches = {
        name: [name] if name in own else [own_name for own_name in own if own_name.endswith(f".{name}")]
        for name in names
    }
    state_names = {own_names[0]: name for name, own_names in matches.items() if len(own_names) == 1}
    return {state_names[own_name]: value for own_name, value in own.items() if own_name in state_names}


def _product(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the inner product, the same however large the memory is."""
    flat = first.reshape(-1), second.reshape(-1)
    starts = range(0, max(first.numel(), 1), DOT_NUMEL)
    parts = [torch.dot(*(value[start : start + DOT_NUMEL] for value in flat)) for start in starts]
    return float(torch.stack(parts).double().sum())

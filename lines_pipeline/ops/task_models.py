"""A model as a function of its parameters on the inputs of one task: what data-driven ops differentiate and observe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.drivers import FrozenHead, TaskData


@dataclass(frozen=True)
class TaskModel:
    """A module with a model's weights in evaluation mode, on a device, and the head of a task."""

    module: nn.Module
    head: FrozenHead | None
    task: str
    device: str
    parameters: Mapping[str, torch.Tensor]
    """The parameters, tied ones once, by their names in the module."""
    names: Mapping[str, str]
    """By name of a tensor of the model that is a parameter: its name in ``parameters``."""

    @classmethod
    def of(cls, data: TaskData, task: str, state: Mapping[str, torch.Tensor], device: str) -> TaskModel:
        """Load a state; ``EvalError`` where it does not fit the suite's module."""
        module = data.model()
        try:
            module.load_state_dict(dict(state))
        except RuntimeError as error:
            raise EvalError(f"the model does not fit the suite's: {error}") from error
        module.requires_grad_(False).eval().to(device)
        head = data.heads().get(task)
        parameters, names = _named(module, state)
        return cls(module, None if head is None else head.to(device), task, device, parameters, names)

    def logits(self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of inputs [n, whatever the model takes], with these parameters."""
        features = functional_call(self.module, dict(parameters), (inputs,))
        return features if self.head is None else self.head.logits(features)

    def inputs(self, data: TaskData, split: str, rows: int) -> Iterator[torch.Tensor]:
        """Yield the first ``rows`` inputs of a split, batch by batch; ``EvalError`` where there are none."""
        rows_left = rows
        for batch, _ in data.batches(self.task, split):
            if rows_left == 0:
                return
            if not isinstance(batch, torch.Tensor):
                raise EvalError(f"task '{self.task}': inputs are a {type(batch).__name__}, expected a tensor")
            taken = batch[:rows_left].to(self.device)
            rows_left -= len(taken)
            yield taken
        if rows_left == rows:
            raise EvalError(f"task '{self.task}' has no inputs to measure on")


def _named(module: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a module's parameters by name, tied ones once, and their names by those of a state that it has loaded.

    A module may wrap the one that the state's names are of: its parameters then have a prefix more.
    """
    parameters = dict(module.named_parameters())
    first = {id(value): name for name, value in parameters.items()}
    every = {name: first[id(value)] for name, value in module.named_parameters(remove_duplicate=False)}
    names = {}
    for name in state:
        matches = [own_name for own_name in every if own_name == name] or [
            own_name for own_name in every if own_name.endswith(f".{name}")
        ]
        if len(matches) == 1:
            names[name] = every[matches[0]]
    return {name: parameters[name].detach() for name in dict.fromkeys(names.values())}, names

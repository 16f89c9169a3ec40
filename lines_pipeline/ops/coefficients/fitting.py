"""Fits coefficients: batches, backward passes, the steps of an optimiser, and merged weights that follow them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils import clip_grad_norm_

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.coefficients.inputs import Order, TaskInputs
from lines_pipeline.ops.coefficients.merged_model import MergedModel
from lines_pipeline.ops.coefficients.units import Unit
from lines_pipeline.ops.drivers import FrozenHead

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss of a batch, from logits [n, classes] and labels [n]: a mean over its rows."""
Optimiser = Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer]
"""Makes the optimiser of some parameters."""


@dataclass(frozen=True)
class Tasks:
    """Holds what is learned from: each task's inputs, its head outside the module, and the order of rows."""

    inputs: Sequence[TaskInputs]
    heads: Mapping[str, FrozenHead]
    order: Order


@dataclass(frozen=True)
class FitSettings:
    """Says by which loss, optimiser and batches coefficients are fitted, and in how many steps."""

    objective: Objective
    optimiser: Optimiser
    steps: int
    batches_per_step: int
    clamp: Sequence[float] | None = None
    """Least and most: what the merged model's coefficients are held within; beyond it they take no gradient."""
    clip_norm: float | None = None
    """The largest norm of a step's gradient, over all coefficients."""


@dataclass
class Fit:
    """Coefficients that are being fitted: a row a unit, one entry a task vector."""

    model: MergedModel
    units: Sequence[Unit]
    tasks: Tasks
    settings: FitSettings
    rows: list[torch.Tensor]
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """The gradient's norm in each step, before it is clipped."""

    def __post_init__(self) -> None:
        together = self.settings.clip_norm is not None  # a norm over all has to be known before any may change
        every = range(len(self.units))
        groups = [list(every)] if together else [[number] for number in every]
        self._groups = [(group, self.settings.optimiser([self.rows[n] for n in group])) for group in groups]
        for number in every:
            self._merge(number)

    def step(self) -> None:
        """Take one step. Where nothing is clipped, one unit after the other: its task vectors are read at one time."""
        self.losses.append(self._backward(len(self.losses)))
        for group, optimiser in self._groups:
            for number in group:
                self.rows[number].grad = self._gradient(number)
            if self.settings.clip_norm is not None:
                rows = [self.rows[number] for number in group]
                self.norms.append(float(clip_grad_norm_(rows, self.settings.clip_norm, foreach=False)))
            optimiser.step()
            for number in group:
                self._merge(number)
        self.model.forget_gradient()

    def coefficients(self) -> list[torch.Tensor]:
        """Return the coefficients that the merged model has now, by unit."""
        return [self._held(row) for row in self.rows]

    @torch.no_grad()
    def accuracies(self) -> dict[str, float]:
        """Return the accuracy of the merged model on all inputs of each task."""
        accuracies = {}
        for inputs in self.tasks.inputs:
            order = Order(self.tasks.order.batch, None)
            right = 0
            for number in range(order.batches(len(inputs))):
                logits, labels = self._logits(inputs, order, number)
                right += int((logits.argmax(1) == labels).sum())
            accuracies[inputs.task] = right / len(inputs)
        return accuracies

    def _backward(self, step: int) -> float:
        """Add the gradients of a step's batches up, one batch at a time; return the sum of their losses."""
        total = 0.0
        for inputs in self.tasks.inputs:
            for number in range(self.settings.batches_per_step):
                batch = step * self.settings.batches_per_step + number
                loss = self.settings.objective(*self._logits(inputs, self.tasks.order, batch))
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        if not math.isfinite(total):
            raise EvalError(f"the loss is not finite in step {step + 1}: a smaller 'lr' may help")
        return total

    def _logits(self, inputs: TaskInputs, order: Order, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, labels = inputs.rows(order.rows(inputs, number), self.model.device)
        head = self.tasks.heads.get(inputs.task)
        try:
            features = self.model.module(values)
            logits: torch.Tensor = features if head is None else head.logits(features)
        except (RuntimeError, TypeError, ValueError) as error:
            described = f"inputs of shape {list(values.shape)}, {values.dtype}"
            raise EvalError(f"task '{inputs.task}': the model does not take {described}: {error}") from error
        if logits.dim() != 2 or bool(((labels < 0) | (labels >= logits.shape[1])).any()):
            mismatch = (
                f"logits of shape {list(logits.shape)} for labels from {int(labels.min())} to {int(labels.max())}"
            )
            raise EvalError(
                f"task '{inputs.task}': {mismatch}; expected logits [n, classes] and labels of these classes"
            )
        return logits, labels.long()

    def _gradient(self, number: int) -> torch.Tensor:
        slopes = [self.model.slopes(name) for name in self.units[number].tensors]
        row, clamp = self.rows[number], self.settings.clamp
        gradient = torch.tensor([math.fsum(column) for column in zip(*slopes, strict=True)], dtype=row.dtype)
        if clamp is not None:
            gradient = gradient * ((row >= clamp[0]) & (row <= clamp[1]))
        return gradient

    def _merge(self, number: int) -> None:
        coefficients = self._held(self.rows[number]).tolist()
        for name in self.units[number].tensors:
            self.model.merge(name, coefficients)

    def _held(self, row: torch.Tensor) -> torch.Tensor:
        values = row.detach().clone()
        return values if self.settings.clamp is None else values.clamp(*self.settings.clamp)

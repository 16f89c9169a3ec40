"""An op that learns coefficients of task vectors, and the driver that carries it out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal

import torch
from pydantic import Field
from typing_extensions import TypeVar

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.events import Event, LearningProgress, Note, TableComputed
from lines_pipeline.core.threads import one_thread
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port, StepContext, Summary
from lines_pipeline.ops.coefficients.fitting import Fit, FitSettings, Tasks
from lines_pipeline.ops.coefficients.inputs import Order, TaskInputs
from lines_pipeline.ops.coefficients.merged_model import MergedModel, State
from lines_pipeline.ops.coefficients.units import Per, Unit, line, units_of
from lines_pipeline.ops.depth import LAYER_MAP, LayerPatterns, pattern_diagnostics
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, TaskData, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.coefficients import table_of
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.task_models import TaskModel

OPTIMISER_BYTES = 100_000_000
"""Anonymous memory of what torch loads for an optimiser (rounded up)."""

Clamp = Annotated[tuple[float, ...], Field(strict=False, min_length=2, max_length=2)]


class LearningParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    tasks: tuple[str, ...] | None = Field(None, description="Some of the suite's tasks; default all.", strict=False)
    split: Literal["train", "val", "test"] = Field(
        "val", description="Which data; what is learned on test is marked as transductive."
    )
    per: Per = Field("tensor", description="What has a coefficient a task vector: each tensor, each block, or all.")
    start: float | Literal["lines"] = Field(
        description="Coefficients before the first step; lines: 1/N, and 'beta' more by depth."
    )
    beta: float = Field(0.5, description="start: lines: what the last block has on top of 1/N.")
    blocks: LayerPatterns = Field("auto", description=LAYER_MAP)
    lr: float = Field(description="Learning rate.", gt=0)
    batch: int = Field(16, description="Rows of each task in a batch.", gt=0)
    batches_per_step: int = Field(description="Batches of each task in a step.", gt=0)
    clamp: Clamp | None = Field(
        None, description="[least, most]: what coefficients are held within; beyond it they take no gradient."
    )
    shuffle: bool = Field(True, description="Draw a new order for each round; else the split's order.")
    seed: int | None = Field(None, description="Seed of the draw; default the recipe's.", ge=0, lt=2**63)


Learned = TypeVar("Learned", bound=LearningParams)


class LearningOp(Op[Learned], Generic[Learned]):
    """An op that fits coefficients by gradient: that of c_(t,k) is <dL/dtheta_k, tau_(t,k)>."""

    gives = EdgeType.COEFFICIENTS
    inputs = {"base": Port(EdgeType.WEIGHTS), "deltas": Port(EdgeType.DELTA, many=True, followed=True)}
    granularity = Granularity.MODEL
    untuned = frozenset({"split"})

    @abstractmethod
    def settings(self, params: Learned, batches: int) -> FitSettings:
        """Return how coefficients are fitted to tasks of which the largest has so many batches."""

    def fitted(self, params: Learned, fit: Fit, context: DriverContext, data: TaskData) -> list[torch.Tensor]:
        """Take all steps; return the coefficients by unit."""
        for _ in progress(fit, context):
            pass
        return fit.coefficients()

    def table_rows(self, coefficients: list[list[float]]) -> list[list[float]]:
        """Return the coefficients, a row a unit, as the source writes them."""
        return coefficients

    def check(self, params: Learned, counts: Mapping[str, int]) -> str | None:
        if params.start == "lines" and params.per == "task":
            return "'start: lines' differs by depth: it needs 'per: tensor' or 'per: block'"
        if params.clamp is not None and params.clamp[0] >= params.clamp[1]:
            return f"'clamp' is {list(params.clamp)}, expected the least and the most, in this order"
        return None

    def diagnostics(self, params: Learned, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        return pattern_diagnostics(params.blocks, "blocks")

    def completed(self, params: Learned, context: StepContext) -> Learned:
        return params.model_copy(update={"seed": context.seed} if params.seed is None else {})

    def suite_of(self, params: Learned, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, params.tasks)

    def schema(self, params: Learned, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return table_of(context, inputs["deltas"])

    def layer_pattern(self, params: Learned) -> str | tuple[str, ...] | None:
        return params.blocks if params.per == "block" or params.start == "lines" else None

    def columns_of(self, params: Learned, inputs: Ids) -> tuple[str, ...]:
        vectors = tuple(_label(step) for step in inputs["deltas"])
        return vectors if len(set(vectors)) == len(vectors) else inputs["deltas"]

    def driver_bytes(self, params: Learned, inputs: Mapping[str, Sequence[Schema]]) -> int:
        """Return the memory of merged weights and one gradient, a tensor, and the optimiser's code; whatever N is."""
        (base,) = inputs["base"]
        numels = base.numels.values()
        return 4 * (2 * sum(numels) + max(numels, default=0)) + OPTIMISER_BYTES

    def driver_of(self, params: Learned) -> Driver:
        def find(inputs: Ids, context: DriverContext) -> Variant:
            content = context.suite(params.suite).digest(params.split)
            learning = Learning(self, params, inputs, context)
            return Variant(self, params, inputs, Measured(content, learning.table, learning.summary, learning.tell))

        return find

    def explain(self, params: Learned, value: PlannedValue, stats: Mapping[str, Any] | None) -> OpExplanation:
        tasks = f"{len(params.tasks)} tasks" if params.tasks else "all tasks"
        per = {"task": "one a task vector", "tensor": "one a tensor and task vector", "block": "one a block and vector"}
        line = f"learned on {params.split} of {tasks}, before the first pass; {per[params.per]}"
        transductive = params.split == "test"
        warning = ("transductive: it sees the inputs of the test split",) if transductive else ()
        return OpExplanation((line, *warning), {"split": params.split, "per": params.per, "transductive": transductive})


@dataclass
class Learning:
    """Learns the coefficients of one step: its value, and what is told of it."""

    op: LearningOp[Any]
    params: LearningParams
    inputs: Ids
    context: DriverContext
    _summary: Summary = field(default_factory=dict)

    def table(self) -> dict[str, torch.Tensor]:
        """Learn; return a row of coefficients for each tensor of the task vectors."""
        steps = (*self.inputs["base"], *self.inputs["deltas"])
        with one_thread(), self.context.mapped(steps) as states, self.context.scratch() as folder:
            data = self.context.suite(self.params.suite)
            tasks = self._tasks(data, folder)
            model = self._model(data, tasks, states[0], states[1:])
            units = units_of(self.params.per, model.weights, self.context.layers())
            rows = [self._start(unit) for unit in units]
            batches = max(tasks.order.batches(len(inputs)) for inputs in tasks.inputs)
            fit = Fit(model, units, tasks, self.op.settings(self.params, batches), rows)
            learned = self.op.fitted(self.params, fit, self.context, data)
        self._summary = self._summarised(fit, learned)
        return {name: row.clone() for unit, row in zip(units, learned, strict=True) for name in unit.tensors}

    def summary(self) -> Summary:
        """Return the losses by step, and the coefficients by unit."""
        return self._summary

    def tell(self, summary: Summary) -> Iterable[Event]:
        """Yield the coefficients as a table, a row a unit and a column a task vector; warn where transductive."""
        if self.params.split == "test":
            message = "coefficients are learned from inputs of the test split: what is measured there is transductive"
            yield Note(f"node '{self.context.node}': {message}", warning=True)
        units, vectors, columns = summary.get("units"), summary.get("vectors"), summary.get("coefficients")
        if isinstance(units, list) and isinstance(vectors, list) and isinstance(columns, list):
            rows = zip(units, self.op.table_rows(columns), strict=True)
            table = ({self.params.per: unit, **dict(zip(vectors, row, strict=True))} for unit, row in rows)
            yield TableComputed(f"coefficients/{self.context.step}", tuple(table))

    def _tasks(self, data: TaskData, folder: Path) -> Tasks:
        names = tuple(dict.fromkeys(self.params.tasks or data.tasks))
        inputs = [
            TaskInputs.spooled(data, name, self.params.split, folder / str(number)) for number, name in enumerate(names)
        ]
        heads = {task: head.to(self.context.device) for task, head in data.heads().items() if task in names}
        return Tasks(inputs, heads, Order(self.params.batch, self.params.seed if self.params.shuffle else None))

    def _model(self, data: TaskData, tasks: Tasks, base: State, deltas: Sequence[State]) -> MergedModel:
        module = TaskModel.of(data, tasks.inputs[0].task, base, self.context.device).module
        return MergedModel.of(module, base, deltas, self.context.device)

    def _start(self, unit: Unit) -> torch.Tensor:
        vectors = len(self.inputs["deltas"])
        start = line(unit.place, vectors, self.params.beta) if self.params.start == "lines" else self.params.start
        return torch.full((vectors,), start, requires_grad=True)

    def _summarised(self, fit: Fit, coefficients: list[torch.Tensor]) -> Summary:
        norms = {"grad_norms": fit.norms} if fit.norms else {}
        return {
            "transductive": self.params.split == "test",
            "losses": fit.losses,
            **norms,
            "units": [unit.name for unit in fit.units],
            "vectors": list(self.op.columns_of(self.params, self.inputs)),
            "coefficients": self.op.table_rows([row.tolist() for row in coefficients]),
        }


def progress(fit: Fit, context: DriverContext) -> Iterable[int]:
    """Take all steps of a fit and tell sinks of each; yield how many are taken."""
    for step in range(1, fit.settings.steps + 1):
        fit.step()
        context.emit(LearningProgress(context.step, step, fit.settings.steps, fit.losses[-1]))
        yield step


def _label(step: str) -> str:
    """Return the item of a collection's step, or the step itself."""
    return step.partition("[")[2].removesuffix("]") or step

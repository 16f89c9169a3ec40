"""``regmean-plus-plus``: RegMean layer after layer, each on what the merged layers before it give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Never

import torch
from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import CheckpointError, EvalError, PlanError
from lines_pipeline.core.events import Note
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.layers import find_layers
from lines_pipeline.ops.base import Beside, Granularity, Ids, Op, Port, StepContext
from lines_pipeline.ops.depth import LayerPatterns, pattern_diagnostics
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, TaskData, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.gram import Gram
from lines_pipeline.ops.kernels import running_sum
from lines_pipeline.ops.layer_names import TRANSPOSED, module_of
from lines_pipeline.ops.layer_statistics import observer_of, weights_of
from lines_pipeline.ops.regmean import RegmeanParams
from lines_pipeline.ops.regression import Regression
from lines_pipeline.ops.remarks import remarks
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.like_base import like_base
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext
from lines_pipeline.ops.shares import wrong_shares
from lines_pipeline.ops.task_models import TaskModel

State = Mapping[str, torch.Tensor]
Blocks = str | tuple[str, ...]


class RegmeanPlusPlusParams(RegmeanParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    tasks: tuple[str, ...] | None = Field(
        None, description="The task of each model, in the order of 'models'; default the items' names.", strict=False
    )
    split: Literal["train", "val"] = Field("val", description="Which data; labels are not used.")
    rows: int = Field(256, description="Samples a task: the first ones, in the split's order.", gt=0)
    blocks: LayerPatterns = Field(
        "auto",
        description="Which layers are merged together: auto, or a regex with a group for the block's index, "
        "or a list, one a tower.",
    )


class RegmeanPlusPlus(Op[RegmeanPlusPlusParams]):
    """Takes the Gram matrices of a block from each model's own block, run on what the blocks before it give once they
    are merged. Layers outside the blocks are merged one by one, where the model runs them.

    Differs from the source in merging all linear layers, those outside of blocks too, and as ``regmean`` does in what
    no inputs tell. All else takes the mean of the models.
    """

    name = "regmean-plus-plus"
    version = 2
    formula = (
        "(sum_t w_t W_t G_t) (sum_t w_t G_t)^-1,  G_t = X_t^T X_t / rows, X_t the inputs of a layer in block l of "
        "model t behind the merged blocks 0..l-1, on data of task t   (others: mean)"
    )
    source = (
        "Nguyen et al., arXiv 2508.03121; nthehai01/RegMean-plusplus, fusion_bench/method/regmean_plusplus/regmean.py"
    )
    gives = EdgeType.WEIGHTS
    inputs = {"models": Port(EdgeType.WEIGHTS, many=True, followed=True)}
    per_item = {"weights": "models"}
    granularity = Granularity.MODEL
    untuned = frozenset({"split"})
    Params = RegmeanPlusPlusParams

    def check(self, params: RegmeanPlusPlusParams, counts: Mapping[str, int]) -> str | None:
        if params.tasks is not None and len(params.tasks) != counts["models"]:
            return f"'tasks' has {len(params.tasks)} names, expected one a model: {counts['models']}"
        return wrong_shares(params.weights)

    def completed(self, params: RegmeanPlusPlusParams, context: StepContext) -> RegmeanPlusPlusParams:
        if params.tasks is not None:
            return params
        labels = next(iter(context.labels.values()), ())
        return params.model_copy(update={"tasks": tuple(labels)})

    def diagnostics(self, params: RegmeanPlusPlusParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        return pattern_diagnostics(params.blocks, "blocks")

    def suite_of(self, params: RegmeanPlusPlusParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, tuple(dict.fromkeys(params.tasks or ())))

    def schema(
        self, params: RegmeanPlusPlusParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext
    ) -> Schema:
        first, *later = inputs["models"]
        if context.is_bounded:
            raise CheckpointError(
                f"node '{context.node}': 'include' and 'exclude' are not for '{self.name}', whose layers depend on "
                "each other; 'graft' puts tensors of another model into the result"
            )
        return like_base(context, first, models=later)

    def driver_bytes(self, params: RegmeanPlusPlusParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        """Return the memory of the merged state and the module, and of the sums and Gram matrices of a block."""
        model = inputs["models"][0]
        matrices = {name: spec for name, spec in model.tensors.items() if spec.is_floating and len(spec.shape) == 2}
        sizes = {name: spec.numel for name, spec in model.tensors.items() if spec.is_floating}
        blocks = _blocks(sizes, params.blocks)
        taken: dict[str, int] = {}
        for name, spec in matrices.items():
            own = 8 * (2 * spec.numel + spec.shape[1] ** 2) + (8 + 4) * spec.shape[1] ** 2
            taken[blocks.get(name, name)] = taken.get(blocks.get(name, name), 0) + own
        return 2 * model.state_bytes + max(taken.values(), default=0)

    def driver_of(self, params: RegmeanPlusPlusParams) -> Driver:
        def find(inputs: Ids, context: DriverContext) -> Variant:
            (models,) = inputs.values()
            digest = context.suite(params.suite).digest(params.split)
            return Variant(self, params, inputs, Measured(digest, lambda: _merged(params, models, context)))

        return find

    def explain(
        self, params: RegmeanPlusPlusParams, value: PlannedValue, stats: Mapping[str, Never] | None
    ) -> OpExplanation:
        line = f"measured on {params.rows} samples a task ({params.split}), block after block, before the first pass"
        return OpExplanation((line,), {"split": params.split, "rows": params.rows, "tasks": list(params.tasks or ())})


def _blocks(sizes: Mapping[str, int], blocks: Blocks) -> dict[str, str]:
    """Return the block of each tensor that is in one; none where a model has no blocks that were not asked for."""
    try:
        layers = find_layers(sizes, blocks)
    except PlanError:
        if blocks == "auto":
            return {}
        raise
    return {name: f"{tower} {index}" for name, (tower, index) in layers.blocks.items()}


def _merged(params: RegmeanPlusPlusParams, models: Sequence[str], context: DriverContext) -> dict[str, torch.Tensor]:
    """Return the merged state: the mean of the models first, then block after block what is solved for."""
    suite = context.suite(params.suite)
    tasks = params.tasks or ()
    with context.mapped(models) as states:
        merged = {name: _mean([state[name] for state in states], params.weights) for name in states[0]}
        sizes = {name: value.numel() for name, value in merged.items() if value.is_floating_point()}
        task = TaskModel.of(suite, tasks[0], merged, context.device)
        layers = _Layers(params, [replace(task, task=name) for name in tasks], suite, states, merged, weights_of(task))
        with remarks() as texts:
            for block in layers.in_order(_blocks(sizes, params.blocks)):
                layers.merge(block)
        for text in dict.fromkeys(texts):
            context.emit(Note(f"node '{context.node}': {text}"))
    return merged


def _mean(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return the weighted mean; of integers the first."""
    if not values[0].is_floating_point():
        return values[0].clone()
    total: Any = running_sum(values, weights)
    mean: torch.Tensor = total / sum(weights)
    return mean


@dataclass(frozen=True)
class _Block:
    """Names the weights of linear layers that are merged together, and all tensors that lie there with them."""

    weights: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class _Layers:
    """Merges one block after the other into a module, which all task models share, and into a state."""

    params: RegmeanPlusPlusParams
    tasks: Sequence[TaskModel]
    suite: TaskData
    states: Sequence[State]
    merged: dict[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    """The module's parameters by their names in the states."""

    def in_order(self, blocks: Mapping[str, str]) -> Iterator[_Block]:
        """Yield the blocks with linear layers as the model runs them; a layer that is in none is one of its own."""
        batch = next(self._inputs(self.tasks[0]))
        by_block: dict[str, list[str]] = {}
        for weight in self._run(batch[:1]):
            own = by_block.setdefault(blocks.get(weight, weight), [])
            own += [] if weight in own or self.merged[weight].dim() != 2 else [weight]
        if not any(by_block.values()):
            raise EvalError("the suite's model has no linear layer whose weight is a tensor of its own")
        for block, weights in by_block.items():
            tensors = [name for name in self.weights if blocks.get(name, name) == block]
            yield _Block(tuple(weights), tuple(tensors))

    def _run(self, batch: torch.Tensor) -> list[str]:
        """Return the weights of linear layers in the order in which a model runs them."""
        names: list[str] = []
        observer_of(self.tasks[0].module, self.weights, [batch])(lambda name, _: names.append(name))
        return [name.removesuffix(TRANSPOSED) for name in names]

    def merge(self, block: _Block) -> None:
        """Solve for the weights of a block."""
        regressions = {name: self._regression(name) for name in block.weights}
        for number, task in enumerate(self.tasks):
            self._put(self.states[number], block.tensors)
            grams = self._grams(task, block)
            for name in block.weights:
                if name not in grams:
                    raise EvalError(f"task '{task.task}': the model does not run the layer of '{name}'")
                model = self.states[number][name].to(task.device)
                regressions[name].add(model, grams.pop(name), self.params.weights[number])
        for name, regression in regressions.items():
            solution = regression.solution().cpu()
            tied = [other for other, weight in self.weights.items() if weight is self.weights[name]]
            self.merged.update({other: solution.clone() for other in tied})
        self._put(self.merged, block.tensors)

    def _grams(self, task: TaskModel, block: _Block) -> dict[str, Beside]:
        """Return the Gram matrices of a block's layers on a task's inputs, by weight."""
        weights = {name: self.weights[name] for name in block.weights}
        measured = Gram().measured(observer_of(task.module, weights, self._inputs(task)))
        names = {module_of(told): name for name in block.weights for told in (name, name + TRANSPOSED)}
        return {names[told]: Beside(told, gram) for told, gram in measured.items()}

    def _inputs(self, task: TaskModel) -> Iterator[torch.Tensor]:
        return task.inputs(self.suite, self.params.split, self.params.rows)

    def _regression(self, name: str) -> Regression:
        spec = TensorSpec(name, "float32", tuple(self.merged[name].shape))
        return Regression(spec, self.params.reduce_non_diagonal, self.params.ridge)

    @torch.no_grad()
    def _put(self, state: State, names: Iterable[str]) -> None:
        """Give tensors of the module the values of a state."""
        for name in names:
            self.weights[name].copy_(state[name])

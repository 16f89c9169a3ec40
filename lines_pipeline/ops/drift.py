"""``drift``: how far the features of each block have gone from the base's, on the inputs of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.threads import one_thread
from lines_pipeline.core.types import EdgeType, Split
from lines_pipeline.io.layers import LayerMap, find_layers
from lines_pipeline.ops.base import Granularity, Ids, Op, OpParams, Port
from lines_pipeline.ops.block_outputs import BlockOutputs, Rows, block_modules
from lines_pipeline.ops.depth import LAYER_MAP, LayerPatterns, pattern_diagnostics
from lines_pipeline.ops.drivers import Driver, DriverContext, MeasuredMetrics, TaskData
from lines_pipeline.ops.roles import SuiteUse
from lines_pipeline.ops.schemas.schema import Schema
from lines_pipeline.ops.similarity import LinearCka, RelativeDistance, Similarity
from lines_pipeline.ops.task_models import TaskModel

_MEASURES: Mapping[str, Callable[[], Similarity]] = {"cka": LinearCka, "l2": RelativeDistance}
_FLOAT64 = 8


class DriftParams(OpParams):
    suite: str = Field(description="zoo://glyphs, or a suite file.", min_length=1)
    tasks: tuple[str, ...] | None = Field(None, description="Whose inputs; default all of the suite.", strict=False)
    split: Split = Field("val", description="Which data; labels are not used.")
    rows: int = Field(256, description="Samples a task: the first ones, in the split's order.", gt=0)
    measure: Literal["cka", "l2"] = Field(
        "cka", description="Linear CKA (1: the same but for rotation and scale), or the relative distance of features."
    )
    blocks: LayerPatterns = Field("auto", description=LAYER_MAP)


class Drift(Op[DriftParams]):
    """Gives ``cka/<block>`` (or ``l2/<block>``) and their mean, over the samples of all tasks together.

    A sample's features are the mean over its tokens (not padding), or pixels, of what the block gives. Towers that the
    suite does not run are left out. LiNeS means to keep these features of the shallow blocks.
    """

    name = "drift"
    version = 2
    formula = "cka(l) = norm_F(Y^T X)^2 / (norm_F(X^T X) norm_F(Y^T Y)),  X, Y centred features of block l: base, model"
    source = "Kornblith et al., arXiv 1905.00414 (linear CKA)"
    gives = EdgeType.METRICS
    is_output = True
    measures_metrics = True
    metrics_by = "block"
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True), "base": Port(EdgeType.WEIGHTS)}
    granularity = Granularity.MODEL
    Params = DriftParams

    def suite_of(self, params: DriftParams, inputs: Ids) -> SuiteUse:
        return SuiteUse(params.suite, params.split, params.tasks)

    def diagnostics(self, params: DriftParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        return pattern_diagnostics(params.blocks, "blocks")

    def driver_bytes(self, params: DriftParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        """Return the memory of both modules, one state beside them, and of the sums of every block."""
        (model,), (base,) = inputs["model"], inputs["base"]
        sizes = {name: spec.numel for name, spec in base.tensors.items() if spec.is_floating}
        widths = _widths(base, find_layers(sizes, params.blocks)) if params.measure == "cka" else []
        sums = sum(4 * width * width for width in widths) + 4 * max(widths, default=0) ** 2
        return 3 * max(model.state_bytes, base.state_bytes) + _FLOAT64 * sums

    def driver_of(self, params: DriftParams) -> Driver:
        def find(inputs: Ids, context: DriverContext) -> MeasuredMetrics:
            suite = context.suite(params.suite)
            return MeasuredMetrics(
                content=suite.digest(params.split),
                measure=lambda: _drift(params, inputs, context, suite),
                direction="higher" if params.measure == "cka" else "lower",
            )

        return find


def _widths(model: Schema, layers: LayerMap) -> list[int]:
    """Return the presumed width of each block's features: the size that most of its matrices have an axis of."""
    sizes: dict[tuple[str, int], Counter[int]] = {}
    for name, block in layers.blocks.items():
        if name in model.tensors:
            sizes.setdefault(block, Counter()).update(model.tensors[name].shape[:2])
    return [counts.most_common(1)[0][0] for counts in sizes.values() if counts]


def _drift(params: DriftParams, inputs: Ids, context: DriverContext, suite: TaskData) -> dict[str, float]:
    tasks = tuple(dict.fromkeys(params.tasks or suite.tasks))
    with one_thread():
        base, task = _opened(params, inputs["base"][0], context, suite, tasks[0])
        model, _ = _opened(params, inputs["model"][0], context, suite, tasks[0])
        similarities: dict[str, Similarity] = {}
        for name in tasks:
            for batch in replace(task, task=name).inputs(suite, params.split, params.rows):
                _add(similarities, base.rows(batch), model.rows(batch), params)
    values = {block: similarity.value() for block, similarity in similarities.items()}
    return {f"mean_{params.measure}": fmean(values.values())} | {
        f"{params.measure}/{block}": value for block, value in values.items()
    }


def _opened(
    params: DriftParams, step: str, context: DriverContext, suite: TaskData, task: str
) -> tuple[BlockOutputs, TaskModel]:
    """Return a model whose blocks are observed; what is in memory of its state goes once it is loaded."""
    state = context.materialise(step)
    layers = find_layers({name: v.numel() for name, v in state.items() if v.is_floating_point()}, params.blocks)
    model = TaskModel.of(suite, task, state, context.device)
    return BlockOutputs(model.module, block_modules(model.module, layers), context.device), model


def _add(similarities: dict[str, Similarity], base: Rows, model: Rows, params: DriftParams) -> None:
    for block, rows in model.items():
        if block not in base or (params.measure == "l2" and base[block].shape != rows.shape):
            raise EvalError(f"block {block}: the models give features of different widths, or one does not run it")
        if not torch.isfinite(rows).all():
            raise EvalError(f"block {block}: the model gives features that are not finite")
        similarities.setdefault(block, _MEASURES[params.measure]()).add(base[block], rows)

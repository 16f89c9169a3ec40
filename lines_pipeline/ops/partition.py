"""``partition``: one of several parts that the entries of a task vector are divided into at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Never

import numpy as np
import torch
from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, StepContext, Values
from lines_pipeline.ops.draws import drawn
from lines_pipeline.ops.kernels import Block, Value

NAME = "partition"
"""Stands for the expert in the draw: all task vectors are divided alike."""


class PartitionParams(OpParams):
    parts: int = Field(description="How many parts there are.", ge=1, le=1000)
    part: int = Field(description="Which one is kept, from 0.", ge=0)
    seed: int | None = Field(None, description="Seed of the draw; default the recipe's.", ge=0, lt=2**63)


class Partition(Op[PartitionParams]):
    """Keeps the entries of one part, and zeros the others; vectors and scalars are whole in part 0.

    All parts add up to the task vector. Given to ``atlas``, each part has coefficients of its own. Differs from the
    source, where tensors of one shape are divided alike, and all but matrices stay the base's: here each tensor has a
    draw of its own, by seed and name.
    """

    name = "partition"
    formula = "tau * [part = floor(parts * u)],  u uniform in [0, 1), the same for all task vectors"
    source = "Zhang et al., arXiv 2407.02880 (random partitions); fredzzhang/atlas, src/composition.py"
    gives = EdgeType.DELTA
    inputs = {"delta": Port(EdgeType.DELTA, followed=True)}
    Params = PartitionParams

    def check(self, params: PartitionParams, counts: Mapping[str, int]) -> str | None:
        if params.part >= params.parts:
            return f"'part' is {params.part}, expected one of 0 to {params.parts - 1}: there are {params.parts} 'parts'"
        return None

    def completed(self, params: PartitionParams, context: StepContext) -> PartitionParams:
        return params.model_copy(update={"seed": context.seed}) if params.seed is None else params

    def apply_at(
        self, params: PartitionParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never], position: int
    ) -> Value:
        delta: Block = inputs["delta"][0]
        if params.parts == 1 or len(tensor.shape) < 2:
            whole: Value = delta if params.part == 0 else delta * 0.0
            return whole
        numbers = drawn(params.seed or 0, NAME, tensor.name, position, delta.numel())
        kept = torch.from_numpy(np.floor(numbers.astype(np.float64) * params.parts) == params.part)
        part: Value = delta.where(kept.to(delta.device), 0.0)
        return part

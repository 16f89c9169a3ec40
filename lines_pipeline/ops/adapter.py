"""``adapter``: the update that a LoRA adapter stands for."""

from __future__ import annotations

from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port


class AdapterParams(OpParams):
    path: str = Field(description="The folder of a PEFT adapter, or its hf:// URL.", min_length=1)
    scale: float = Field(1.0, description="Factor of the update.")


class Adapter(Op):
    """What merging an adapter into its base would add: zero at tensors that it leaves alone; without ``base`` these are
    not in the delta at all."""

    name = "adapter"
    formula = (
        "scale * alpha / r * B @ A; rsLoRA: alpha / sqrt(r); DoRA: m * (theta_0 + that) / its rows' norms - theta_0"
    )
    source = (
        "Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732; Liu et al., arXiv 2402.09353; huggingface/peft"
    )
    gives = EdgeType.DELTA
    is_source = True
    inputs = {"base": Port(EdgeType.WEIGHTS, optional=True, statistics_only=True)}
    Params = AdapterParams

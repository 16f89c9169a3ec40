"""``save``: write a checkpoint, a task vector or a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value


class SaveParams(OpParams):
    path: str = Field(description="File in the output folder, or a model folder (merged/).", min_length=1)
    dtype: Literal["keep", "float32", "float16", "bfloat16", "float64"] = Field(
        "keep", description="keep stores each tensor as the base has it (a task vector: in the compute type)."
    )
    max_shard_size: str | None = Field(None, description="Split into shards of at most this size (5GB), with an index.")
    packed: bool = Field(False, description="Masks: 1 bit a parameter instead of boolean tensors.")

    @property
    def is_folder(self) -> bool:
        """Whether ``path`` is that of a model folder."""
        return self.path.endswith("/")


class Save(Op):
    """Safetensors, with the recipe, its hash and the inputs' digests in the header; whole or absent.

    A model folder gets its configuration and tokenizer from the folder of ``like``, or of the base behind the model.
    """

    name = "save"
    formula = "the same"
    source = "safetensors format"
    gives = None
    inputs = {"model": Port(None), "like": Port(EdgeType.WEIGHTS, optional=True)}
    Params = SaveParams

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        return inputs["model"][0]

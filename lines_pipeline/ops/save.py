"""``save``: write a checkpoint, a task vector, a mask, statistics or coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Never

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.roles import FileOutput
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class SaveParams(OpParams):
    path: str = Field(description="File in the output folder, or a model folder (merged/).", min_length=1)
    dtype: Literal["keep", "float32", "float16", "bfloat16", "float64"] = Field(
        "keep", description="keep stores each tensor as the base has it (a task vector: in the compute type)."
    )
    max_shard_size: str | None = Field(None, description="Split into shards of at most this size (5GB), with an index.")
    packed: bool = Field(False, description="Masks: 1 bit a parameter instead of boolean tensors.")


class Save(Op[SaveParams]):
    """Safetensors, with the recipe, its hash and the inputs' digests in the header; whole or absent.

    A model folder gets its configuration and tokenizer from the folder of ``like``, or of the base behind the model.
    """

    name = "save"
    formula = "the same"
    source = "safetensors format"
    gives = None
    is_output = True
    inputs = {"model": Port(None, followed=True), "like": Port(EdgeType.WEIGHTS, optional=True)}
    Params = SaveParams

    def schema(self, params: SaveParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return replace(inputs["model"][0], copied={}, regions={}, views={}, notes=(), globs={})

    def file_of(self, params: SaveParams, inputs: Ids) -> FileOutput:
        like = inputs["like"][0] if "like" in inputs else None
        return FileOutput(params.path, inputs["model"][0], params.dtype, params.max_shard_size, params.packed, like)

    def diagnostics(self, params: SaveParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        source, is_folder = inputs["model"][0], params.path.endswith("/")
        if is_folder and gives is not EdgeType.WEIGHTS:
            message = f"a model folder holds weights, but '{source}' gives {gives}; name a file ('x.safetensors')"
            yield Diagnostic(("path",), message)
        if "like" in inputs and not is_folder:
            message = "'like' is for model folders: let 'path' end in / ('merged/'), or leave it out"
            yield Diagnostic(("like",), message)
        if params.packed and gives is not EdgeType.MASK:
            yield Diagnostic(("packed",), f"'packed' is for masks, but '{source}' gives {gives}")
        if params.max_shard_size is not None:
            try:
                parse_bytes(params.max_shard_size)
            except ValueError as error:
                yield Diagnostic(("max_shard_size",), str(error))

    def apply(self, params: SaveParams, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        return inputs["model"][0]

"""``save``: write a checkpoint, a task vector, a mask, statistics or coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Never

import torch
from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import Event, Note
from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.threads import one_thread
from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.adapter_folders import conv1d_kind, conv1d_modules
from lines_pipeline.ops.base import Ids, Op, OpParams, Port, Summary, Values
from lines_pipeline.ops.drivers import Driver, DriverContext, Measured, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.lora_factors import LoraFactors, factoring_bytes, presumed_factors
from lines_pipeline.ops.roles import FileOutput
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class SaveParams(OpParams):
    path: str = Field(description="File in the output folder, or a model folder (merged/).", min_length=1)
    dtype: Literal["keep", "float32", "float16", "bfloat16", "float64"] = Field(
        "keep", description="keep stores each tensor as the base has it (a task vector: in the compute type)."
    )
    max_shard_size: str | None = Field(None, description="Split into shards of at most this size (5GB), with an index.")
    packed: bool = Field(False, description="Masks: 1 bit a parameter instead of boolean tensors.")
    format: Literal["safetensors", "peft"] = Field(
        "safetensors", description="Deltas: peft writes the folder of a LoRA adapter (lora/) with 'rank'."
    )
    rank: int | None = Field(None, description="The adapter's rank: singular triplets kept of each matrix.", gt=0)

    @property
    def is_adapter(self) -> bool:
        """Return whether a LoRA adapter is written."""
        return self.format == "peft"


class Save(Op[SaveParams]):
    """Safetensors, with the recipe, its hash and the inputs' digests in the header; whole or absent.

    A model folder gets its configuration and tokenizer from the folder of ``like``, or of the base behind the model.
    As a LoRA adapter a task vector is held by the nearest matrices of the rank, which a driver finds.
    """

    name = "save"
    formula = "the same"
    source = "safetensors format"
    gives = None
    is_output = True
    inputs = {"model": Port(None, followed=True), "like": Port(EdgeType.WEIGHTS, optional=True)}
    identified_by_content = frozenset({"path", "dtype"})
    Params = SaveParams

    def schema(self, params: SaveParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        (model,) = inputs["model"]
        if not params.is_adapter:
            return replace(model, copied={}, regions={}, views={}, notes=(), globs={})
        factors = presumed_factors(model.tensors.values(), params.rank or 1)
        tensors = factors if context.measured is None else context.measured
        return Schema(tensors, tuple(tensors), origin=model.origin, partial=True)

    def file_of(self, params: SaveParams, inputs: Ids) -> FileOutput:
        like, adapter = inputs["like"][0] if "like" in inputs else None, params.is_adapter
        value = None if adapter else inputs["model"][0]
        return FileOutput(params.path, value, params.dtype, params.max_shard_size, params.packed, like, adapter)

    def is_measured(self, params: SaveParams) -> bool:
        return params.is_adapter

    def driver_of(self, params: SaveParams) -> Driver | None:
        if not params.is_adapter:
            return None

        def find(inputs: Ids, context: DriverContext) -> Variant:
            return Variant(self, params, inputs, _measured(params, inputs, context))

        return find

    def driver_bytes(self, params: SaveParams, inputs: Mapping[str, Sequence[Schema]]) -> int:
        if not params.is_adapter:
            return 0
        (model,) = inputs["model"]
        return factoring_bytes(model.tensors.values(), params.rank or 1)

    def explain(
        self, params: SaveParams, value: PlannedValue, stats: Mapping[str, Never] | None
    ) -> OpExplanation | None:
        if not params.is_adapter:
            return None
        count = len(value.schema.tensors) // 2
        line = f"a LoRA adapter of rank {params.rank}, for those of {count} matrices that change, before the first pass"
        return OpExplanation((line,), {"rank": params.rank, "matrices": count})

    def diagnostics(self, params: SaveParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        source, is_folder = inputs["model"][0], params.path.endswith("/")
        yield from _adapter_diagnostics(params, source, gives)
        if is_folder and gives is not EdgeType.WEIGHTS and not params.is_adapter:
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


def _adapter_diagnostics(params: SaveParams, source: str, gives: EdgeType) -> Iterable[Diagnostic]:
    """Say what is wrong with the fields of an adapter."""
    if not params.is_adapter:
        if params.rank is not None:
            yield Diagnostic(("rank",), "'rank' is that of an adapter: say 'format: peft' too, or leave it out")
        return
    if gives is not EdgeType.DELTA:
        message = f"an adapter holds an update, but '{source}' gives {gives}"
        remedy = "; take its task vector first ('op: task-vector')" if gives is EdgeType.WEIGHTS else ""
        yield Diagnostic(("format",), message + remedy)
    if params.rank is None:
        yield Diagnostic(("format",), "an adapter needs a 'rank', such as 16")
    if not params.path.endswith("/"):
        yield Diagnostic(("path",), "an adapter is a folder: let 'path' end in / ('lora/')")
    if params.max_shard_size is not None:
        yield Diagnostic(("max_shard_size",), "peft reads adapters from one file; leave 'max_shard_size' out")


def _measured(params: SaveParams, inputs: Ids, context: DriverContext) -> Measured:
    """Return the factors of an update, which are made once they are asked for."""
    (step,), (followed,) = inputs["model"], inputs.get("like", inputs["model"])
    config, summary = context.config(followed), dict[str, object]()

    def measure() -> Mapping[str, torch.Tensor]:
        with context.mapped([step]) as (delta,), one_thread():
            factors = LoraFactors(params.rank or 1, conv1d_modules(delta, config))
            try:
                factors.add(delta)
            except CheckpointError as error:
                raise CheckpointError(f"node '{context.node}': {error}") from error
        summary.update(factors.summary())
        return factors.factors

    def tell(told: Summary) -> Iterable[Event]:
        if told:
            yield Note(
                f"node '{context.node}': at rank {params.rank} the adapter differs from the update by "
                f"{told['relative_error']:.3g} of its norm; by {told['largest_relative_error']:.3g} in "
                f"'{told['largest_relative_error_tensor']}'"
            )

    content = canonical_json(["transposed", conv1d_kind(config)])
    return Measured(content, measure, lambda: summary, tell, tells_tensors=True)

"""``adapter``: the update that a LoRA adapter stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.adapter_updates import update_checkpoint
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.formats.adapters import read_adapter
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.ops.base import Op, OpParams, Port
from lines_pipeline.ops.roles import ReadContext, Source
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class AdapterParams(OpParams):
    path: str = Field(description="The folder of a PEFT adapter, or its hf:// URL.", min_length=1)
    scale: float = Field(1.0, description="Factor of the update.")


class Adapter(Op[AdapterParams]):
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
    identified_by_content = frozenset({"path"})
    inputs = {"base": Port(EdgeType.WEIGHTS, optional=True, followed=True, statistics_only=True)}
    Params = AdapterParams

    def source_of(self, params: AdapterParams) -> Source:
        def read(path: Path, context: ReadContext) -> Checkpoint:
            open_file = partial(open_checkpoint, spool=context.spool if context.build else None)
            return update_checkpoint(
                read_adapter(path, params.path, open_file),
                context.base,
                scale=params.scale,
                left_out=context.left_out,
                spool=context.spool,
                build=context.build,
            )

        return Source(params.path, read)

    def schema(self, params: AdapterParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        assert context.checkpoint is not None
        return _update(context, context.checkpoint, inputs["base"][0] if inputs.get("base") else None)


def _update(context: SchemaContext, checkpoint: Checkpoint, base: Schema | None) -> Schema:
    """Return the update that an adapter stands for: a task vector of ``base``, or of any model that has its tensors."""
    tensors = {name: stored.spec for name, stored in checkpoint.tensors.items()}
    if base is None:
        sizes = {name: spec.numel for name, spec in tensors.items()}
        names = (*tensors, *checkpoint.left_out)
        return Schema(
            tensors,
            names,
            origin=checkpoint.uri,
            partial=True,
            sizes=sizes,
            globs=context.globs_among(names),
            extra_remedy="Give 'base' to its adapter node: its names are then matched with that model's",
        )
    return Schema(
        tensors,
        base.names,
        aliases=base.aliases,
        origin=checkpoint.uri,
        sizes=base.sizes,
        globs=context.globs(base),
    )

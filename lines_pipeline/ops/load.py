"""``load``: a checkpoint file, folder or URL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.patterns import Pattern, PatternError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import FILED, EdgeType
from lines_pipeline.io.checkpoint import Checkpoint, require_readable
from lines_pipeline.io.dropping import keep_ties
from lines_pipeline.io.formats.adapter_names import refuse_adapter
from lines_pipeline.io.formats.quantized import refuse_quantized
from lines_pipeline.io.masks import VALUE_TYPE, unpacked
from lines_pipeline.io.model_folders import declared_quantization
from lines_pipeline.io.opening import open_leniently
from lines_pipeline.io.renaming import rename
from lines_pipeline.ops.base import Ids, Op, OpParams
from lines_pipeline.ops.roles import ReadContext, Source
from lines_pipeline.ops.schemas.globs import match_each, matches
from lines_pipeline.ops.schemas.notes import TensorNote
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class Prefix(BaseModel):
    """Prefix of tensor names to take off, and one to put on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    strip: str = ""
    add: str = ""


class Rename(BaseModel):
    """Regular expression (searched anywhere in a name) and its replacement, as in ``re.sub``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
    from_: Annotated[str, Field(alias="from")]
    to: str


class LoadParams(OpParams):
    path: str = Field(description="A file, a folder, or a zoo://, hf://, s3://, gs:// or https:// URL.", min_length=1)
    prefix: Prefix = Field(Prefix(), description="Prefix normalisation: {strip: model., add: ''}.")
    rename: tuple[Rename, ...] = Field((), description="Renaming rules, applied in order.", strict=False)
    drop: tuple[str, ...] = Field((), description="Globs of tensors to leave out of everything.", strict=False)
    key: str = Field("", description="Which state dict of a torch file that nests several: state_dict, model.ema.")
    digest: str = Field(
        "",
        description="Content digest, as inspect prints it; other contents are refused.",
        pattern="^([0-9a-f]{64})?$",
    )
    on_extra: Literal["error", "drop"] = Field("error", description="What to do with tensors that the base lacks.")
    type: Literal["weights", "delta", "mask", "statistics", "coefficients"] = Field(
        "weights", description="What the file holds: a model, or a task vector, mask, statistics or coefficients."
    )


class Load(Op[LoadParams]):
    """A checkpoint as it is stored; the executor reads its bytes block by block."""

    name = "load"
    formula = "theta"
    source = "safetensors format; torch.save zip format, read with weights_only=True"
    gives = EdgeType.WEIGHTS
    is_source = True
    identified_by_content = frozenset({"path", "key", "digest"})
    former_fields = {
        "exclude": "'exclude' on 'load' is gone: 'exclude' on 'task-vector' (or on the node that merges) keeps the "
        "base's values, 'drop' on 'load' leaves tensors out of everything, the output too",
        "include": "'include' on 'load' is gone: 'include' on 'task-vector' (or on the node that merges) keeps the "
        "base's values of all else, 'drop' on 'load' names tensors to leave out of everything, the output too",
    }
    Params = LoadParams

    def gives_for(self, written: Mapping[str, object]) -> EdgeType:
        kinds = {str(kind): kind for kind in FILED}
        return kinds.get(str(written.get("type", "weights")), EdgeType.WEIGHTS)

    def source_of(self, params: LoadParams) -> Source:
        def read(path: Path, context: ReadContext) -> Checkpoint:
            return _read(params, path, context.spool if context.build else None)

        return Source(params.path, read, params.digest)

    def schema(self, params: LoadParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        assert context.checkpoint is not None
        return _loaded(context, params, context.checkpoint)

    def diagnostics(self, params: LoadParams, inputs: Ids, gives: EdgeType) -> Iterable[Diagnostic]:
        for index, rule in enumerate(params.rename):
            try:
                pattern = Pattern(rule.from_)
            except PatternError as error:
                yield Diagnostic(("rename", index, "from"), str(error))
                continue
            try:
                pattern.check_replacement(rule.to)
            except PatternError as error:
                yield Diagnostic(("rename", index, "to"), str(error))


def _read(params: LoadParams, path: Path, spool: Path | None) -> Checkpoint:
    """Return the header of what lies at ``path``, under the names that the recipe gives its tensors."""

    def is_dropped(name: str) -> bool:
        return matches(params.drop, (name,))

    checkpoint = _of_type(params, open_leniently(path, uri=params.path, spool=spool, key=params.key))
    rules = [(rule.from_, rule.to) for rule in params.rename]
    renamed = rename(checkpoint, strip=params.prefix.strip, add=params.prefix.add, rules=rules)
    kept = keep_ties(renamed, is_dropped)
    names = {name: kept.stored_names.get(name, name) for name in kept.tensors if not is_dropped(name)}
    specs = {names[name]: kept.tensors[name].spec for name in names}  # new names might hide what it is
    refuse_adapter(params.path, specs)
    refuse_quantized(params.path, specs, declared_quantization(path))
    return require_readable(kept, is_dropped)


_KINDS = {
    "delta": "a task vector",
    "mask": "a mask",
    "statistics": "statistics of a model",
    "coefficients": "coefficients of task vectors",
}
"""What else than a model a header may say that its file holds."""


def _of_type(params: LoadParams, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as what the node says it is; ``CheckpointError`` where its header says otherwise."""
    said = checkpoint.metadata.get(VALUE_TYPE, EdgeType.WEIGHTS.value)
    if said != params.type and (said in _KINDS or params.type == "mask"):
        kind = _KINDS.get(said, "a model")
        raise CheckpointError(f"{params.path} holds {kind}: give the node that loads it 'type: {said}'")
    return unpacked(checkpoint) if said == "mask" else checkpoint


def _loaded(context: SchemaContext, params: LoadParams, checkpoint: Checkpoint) -> Schema:
    known = (*checkpoint.tensors, *checkpoint.aliases, *checkpoint.unreadable)
    gone = frozenset(name for name in known if matches(params.drop, (name,))) if params.drop else frozenset()
    specs = {name: stored.spec for name, stored in checkpoint.tensors.items() if name not in gone}
    tensors = {name: spec for name, spec in specs.items() if context.gives is EdgeType.WEIGHTS or spec.is_floating}
    if context.gives is EdgeType.MASK:
        tensors = {name: _masked(context, spec) for name, spec in specs.items()}
    integers = [name for name in specs if name not in tensors]
    notes = [
        TensorNote(
            context.node,
            tuple(integers),
            f"not floating-point, no part of {_KINDS.get(context.gives, 'a model')}",
            checkpoint.uri,
        )
    ]
    return Schema(
        tensors,
        tuple(checkpoint.tensors),
        aliases={alias: name for alias, name in checkpoint.aliases.items() if alias not in gone and name in tensors},
        left_out=gone,
        passthrough={name: context.step for name, spec in tensors.items() if not spec.is_floating},
        origin=checkpoint.uri,
        drops_extra=params.on_extra == "drop",
        extra_remedy=_DROP_EXTRA,
        sizes={name: spec.numel for name, spec in tensors.items() if spec.is_floating},
        partial=context.gives is not EdgeType.WEIGHTS,
        notes=(*_dropped(context, checkpoint, gone), *(notes if integers else ())),
        globs=match_each(params.drop, known),
    )


_DROP_EXTRA = "'on_extra: drop' in its load node leaves such tensors out of the result; 'graft' can add them to it"


def _masked(context: SchemaContext, spec: TensorSpec) -> TensorSpec:
    """Return a mask's tensor, as of the task vector that it is for."""
    if spec.dtype != "bool":
        raise CheckpointError(
            f"node '{context.node}': tensor '{spec.name}' is {spec.dtype}, expected bool: a mask is what 'save' writes "
            "of one, as boolean tensors or packed"
        )
    return replace(spec, dtype="float32")


def _dropped(context: SchemaContext, checkpoint: Checkpoint, gone: frozenset[str]) -> list[TensorNote]:
    """Tell which tensors a step drops, and which only lose a name of several."""
    kept: dict[str, list[str]] = {}
    for alias, name in checkpoint.aliases.items():
        if alias in gone and name not in gone:
            kept.setdefault(name, []).append(alias)
    notes = [
        TensorNote(
            context.node, tuple(sorted(aliases)), f"dropped; its other name '{printable(name)}' stays", checkpoint.uri
        )
        for name, aliases in kept.items()
    ]
    if whole := gone.difference(*kept.values()):
        numels = {name: stored.spec.numel for name, stored in checkpoint.tensors.items()}
        share = sum(numel for name, numel in numels.items() if name in whole) / max(sum(numels.values()), 1)
        reason = f"dropped, {len(whole)} in all with {share:.2%} of the parameters; they are in no output"
        notes.insert(0, TensorNote(context.node, tuple(sorted(whole)), reason, checkpoint.uri))
    return notes

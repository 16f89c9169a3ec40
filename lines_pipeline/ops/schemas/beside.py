"""What statistics of layers have beside the weights of a model: Gram matrices and inputs, by module or by tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops.layer_names import names_beside
from lines_pipeline.ops.schemas.notes import quoted
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


def find_beside(
    context: SchemaContext, model: Schema, kept: Collection[str], statistics: Sequence[Schema], *, square: bool
) -> Mapping[str, Mapping[str, str]]:
    """Return what each of the statistics has beside tensors of a model that a step merges, for ``Schema.beside``.

    Raises ``CheckpointError`` for what belongs to no tensor or has another shape than [in, in] (``square``) or
    [rows, in], and for a tensor that only some of the statistics have something of.
    """
    names = {source.step: _beside(context, model, kept, source, square=square) for source in statistics}
    everywhere = {tensor for named in names.values() for tensor in named}
    for source in statistics:
        if lacking := sorted(everywhere - names[source.step].keys()):
            raise CheckpointError(
                f"node '{context.node}': {source.origin} has nothing of {quoted(lacking)}, which other 'statistics' "
                "have: measure the same layers of all models, or leave the tensors out with 'exclude' on this node"
            )
    return names


def _beside(
    context: SchemaContext, model: Schema, kept: Collection[str], source: Schema, *, square: bool
) -> dict[str, str]:
    names, unmatched = {}, dict(source.tensors)
    for tensor, spec in model.tensors.items():
        candidates = [name for own in model.all_names(tensor) for name in names_beside(own) if name in unmatched]
        for name in candidates:
            beside = unmatched.pop(name)
            if tensor not in kept:
                continue
            if tensor in names or not _fits(spec, beside, square=square):
                raise CheckpointError(_misfit(context, source, spec, beside, square=square))
            names[tensor] = name
    dropped = {name for gone in model.left_out for name in names_beside(gone)}
    unmatched = {name: spec for name, spec in unmatched.items() if name not in dropped}
    if unmatched:
        raise CheckpointError(
            f"node '{context.node}': {source.origin} has {quoted(sorted(unmatched))}, which belong to no tensor of "
            f"{model.origin}: names are those of modules (MODULE for MODULE.weight) or of tensors; 'rename' in the "
            "node that loads it gives others"
        )
    return names


def _fits(weight: TensorSpec, beside: TensorSpec, *, square: bool) -> bool:
    if len(weight.shape) != 2 or len(beside.shape) != 2 or beside.shape[1] not in weight.shape:
        return False
    return not square or beside.shape[0] == beside.shape[1]


def _misfit(context: SchemaContext, source: Schema, weight: TensorSpec, beside: TensorSpec, *, square: bool) -> str:
    expected, op = ("[in, in]", "gram") if square else ("[rows, in]", "layer-inputs")
    return (
        f"node '{context.node}': {source.origin}: '{beside.name}' has shape {list(beside.shape)}, expected {expected} "
        f"for the tensor '{weight.name}' of shape {list(weight.shape)}, as the op '{op}' measures"
    )

"""``graft``: put tensors of one model into another, such as a task's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Op, OpParams, Port
from lines_pipeline.ops.schemas.notes import TensorNote
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext


class Graft(Op[OpParams]):
    """The tensors of ``donor`` that ``include`` names, in place of the model's or beside them, as the donor has them.

    Names that a file ties to one tensor stay tied, unless the donor has several tensors for them.
    """

    name = "graft"
    formula = "theta_donor where included, else theta"
    source = "multi-task models with a head a task, as in wang-kee/LiNeS, src/models/modeling.py"
    gives = EdgeType.WEIGHTS
    inputs = {"model": Port(EdgeType.WEIGHTS, followed=True), "donor": Port(EdgeType.WEIGHTS)}
    needs_include = True

    def schema(self, params: OpParams, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return _grafted(context, inputs["model"][0], inputs["donor"][0])


@dataclass
class _Names:
    """Names of a graft's tensors, each with the name in the model or the donor that its value comes from."""

    model: dict[str, str] = field(default_factory=dict)
    donor: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def _grafted(context: SchemaContext, model: Schema, donor: Schema) -> Schema:
    """Return the schema of ``model`` with the tensors of ``donor`` that the step chooses, also new ones."""
    known = (*donor.tensors, *donor.aliases)
    chosen = [name for name in known if context.chooses((name,))]
    names = _named(model, donor, chosen)
    sources = {"model": (model, names.model), "donor": (donor, names.donor)}
    origins = {name: (port, theirs) for port, (_, taken) in sources.items() for name, theirs in taken.items()}
    tensors = {n: replace(sources[port][0].tensors[theirs], name=n) for n, (port, theirs) in sorted(origins.items())}
    views: dict[str, dict[str, str]] = {}
    for name, (port, theirs) in origins.items():
        if name != theirs:
            views.setdefault(sources[port][0].step, {})[name] = theirs
    integers = {name for name, spec in tensors.items() if not spec.is_floating}
    return Schema(
        tensors,
        tuple(sorted({*model.names, *names.donor})),
        aliases=names.aliases,
        copied={name: sources[port][0].step for name, (port, _) in origins.items()},
        views=views,
        left_out=model.left_out - tensors.keys(),
        passthrough={n: sources[origins[n][0]][0].passthrough[origins[n][1]] for n in sorted(integers)},
        origin=model.origin,
        notes=_notes(context, model, donor, names),
        globs=context.globs_among(known),
    )


def _named(model: Schema, donor: Schema, chosen: list[str]) -> _Names:
    names = _Names(aliases=dict(model.aliases))
    replaced: dict[str, list[str]] = {}
    for name in chosen:
        if (tensor := model.tensor(name)) is not None:
            replaced.setdefault(tensor, []).append(name)
    names.model = {name: name for name in model.tensors if name not in replaced}
    for tensor, taken in replaced.items():
        _replace(names, model, donor, tensor, taken)
    _add(names, donor, [name for name in chosen if model.tensor(name) is None])
    return names


def _replace(names: _Names, model: Schema, donor: Schema, tensor: str, taken: list[str]) -> None:
    """Take the donor's tensor under all names that the model ties, or untie them where the donor has several."""
    tied = model.all_names(tensor)
    donor_tensors = {donor_tensor for name in tied if (donor_tensor := donor.tensor(name)) is not None}
    if len(donor_tensors) == 1:
        names.donor[tensor] = donor_tensors.pop()
        return
    for name in tied:
        names.aliases.pop(name, None)
    for name in taken:
        names.donor[name] = str(donor.tensor(name))
    untaken = [name for name in tied if name not in taken]
    names.model |= dict.fromkeys(untaken[:1], tensor)
    names.aliases |= dict.fromkeys(untaken[1:], untaken[0])


def _add(names: _Names, donor: Schema, added: list[str]) -> None:
    """Add tensors that the model lacks, tied as the donor ties them."""
    first: dict[str, str] = {}
    for name in added:
        tensor = str(donor.tensor(name))
        if tensor in first:
            names.aliases[name] = first[tensor]
        else:
            first[tensor] = name
            names.donor[name] = tensor


def _notes(context: SchemaContext, model: Schema, donor: Schema, names: _Names) -> tuple[TensorNote, ...]:
    added = [name for name in names.donor if name not in model.names]
    put = [name for name in names.donor if name in model.names]
    cases = {f"added to {model.origin}": added, f"in place of {model.origin}'s": put}
    return context.notes({reason: sorted(tensors) for reason, tensors in cases.items()}, donor.origin)

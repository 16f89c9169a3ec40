"""Which sweep can leave a draft of an output, so that the last one needs not read all inputs again.

A draft is the value of a step on the way to the output, written where the output will be, by an earlier sweep. The last
sweep reads it back with the few inputs it still needs, and finishes it in place; where the draft is the output itself,
made under a guess, there is no last sweep. Where a guess turns out wrong and that makes a difference, blocks are
drafted again. Of inputs with NaN or Inf no draft is used: the last sweep then computes everything anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.types import EdgeType
from lines_pipeline.io.checkpoints import Checkpoint, StoredTensor
from lines_pipeline.planning.layouts import Layout
from lines_pipeline.planning.passes import Draft, Levels, Pass, Results, value_cone
from lines_pipeline.planning.program import Write
from lines_pipeline.recipe.graph import Graph, Step

MIN_SAVED = 2
"""Models that need not be read, from which a draft pays: it is itself written and read once more."""


def with_drafts(
    passes: Sequence[Pass], graph: Graph, known: Results, available: Iterable[str], in_place: Iterable[str]
) -> list[Pass]:
    """The passes, the last of them finishing drafts where that pays; ``in_place`` are outputs that can be read back."""
    available, levels = frozenset(available), Levels(graph, known, available)
    last = passes[-1] if passes else None
    if last is None or last.number == 1 or not last.sinks:
        return list(passes)
    in_place = frozenset(in_place)
    found = {sink: _best(graph, levels, sink, last.number, available, sink in in_place) for sink in last.sinks}
    drafts = {sink: draft for sink, draft in found.items() if draft is not None}
    stop = available | {draft.step for _, draft in drafts.values()}
    steps = value_cone(graph, [sink for sink in drafts if drafts[sink][1].step != sink], stop)
    if len(drafts) < len(last.sinks) or any(not set(measure.of) <= set(steps) for measure in last.measures):
        return list(passes)
    finishing = replace(
        last,
        sinks=tuple(sink for sink in last.sinks if drafts[sink][1].step != sink),
        steps=steps,
        finishes={sink: draft for sink, (_, draft) in drafts.items()},
        otherwise=last,
    )
    return [*(_drafting(one, graph, drafts, available) for one in passes[:-1]), finishing]


def holds_drafts(step: Step, dtype: str, layouts: Mapping[str, Layout]) -> bool:
    """Whether a step's file, of values of ``dtype`` (``keep``: as they are), can hold values as they are computed."""
    if step.gives not in (EdgeType.WEIGHTS, EdgeType.DELTA) or not dtype:
        return False
    for name, spec in layouts[step.id].tensors.items():
        stored = dtype if dtype != "keep" else spec.dtype if step.gives is EdgeType.WEIGHTS else spec.compute_dtype
        computed = {layout.tensors[name].compute_dtype for layout in layouts.values() if name in layout.tensors}
        if spec.is_floating and computed != {stored}:
            return False
    return True


def draft_of(layout: Layout, outputs: Sequence[Write]) -> Checkpoint:
    """A step's draft, to be read back from where any of ``outputs`` has a tensor (nowhere yet, while planning)."""
    tensors = {}
    for name, spec in layout.tensors.items():
        stored = replace(spec, dtype=spec.compute_dtype)
        places = [place for write in outputs for place in write.places.get(name, ())[:1]]
        if spec.is_floating and places:
            tensors[name] = StoredTensor(stored, places[0].path, places[0].offset)
        elif spec.is_floating and not outputs:
            tensors[name] = StoredTensor(stored, "", 0)
    return Checkpoint("draft", (), tensors)


def _drafting(one: Pass, graph: Graph, drafts: Mapping[str, tuple[int, Draft]], available: frozenset[str]) -> Pass:
    own = {sink: draft for sink, (number, draft) in drafts.items() if number == one.number}
    wanted = [*one.sinks, *(draft.step for draft in own.values()), *(s for m in one.measures for s in m.of)]
    return replace(one, drafts=own, steps=value_cone(graph, wanted, available)) if own else one


def _best(
    graph: Graph, levels: Levels, sink: str, number: int, available: frozenset[str], in_place: bool
) -> tuple[int, Draft] | None:
    """The pass that can write the draft after which the least is left to read, and that draft."""
    whole = _reads(graph, sink, available)
    best: tuple[int, int, Draft] | None = None
    for step_id in value_cone(graph, [sink], available) if in_place else (sink,):
        step = graph.steps[step_id]
        if step_id in available or step.op.is_source or (step.gives is EdgeType.MASK and step_id != sink):
            continue
        early, guess = levels.earliest(step_id)
        left = 0 if step_id == sink else _reads(graph, sink, available | {step_id})
        if early < number and whole - left >= MIN_SAVED and (best is None or left < best[0]):
            best = left, early, Draft(step_id, guess)
    return None if best is None else (best[1], best[2])


def _reads(graph: Graph, sink: str, available: frozenset[str]) -> int:
    """How many models' values have to be read for ``sink``."""
    steps = value_cone(graph, [sink], available)
    return sum(step in available or graph.steps[step].op.is_source for step in steps)

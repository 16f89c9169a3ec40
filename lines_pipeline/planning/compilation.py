"""Compiles one pass into the program that its jobs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lines_pipeline.io.checkpoints import Checkpoint
from lines_pipeline.ops.base import Measure
from lines_pipeline.planning.layer_maps import layers_of
from lines_pipeline.planning.layouts import Layout
from lines_pipeline.planning.passes import Draft, Pass, measures_of
from lines_pipeline.planning.program import Observation, Program, Write, source_files
from lines_pipeline.recipe.graph import Graph, Step

Outputs = Mapping[str, tuple[Write, ...]]
"""What to write, by step."""


def compile_pass(
    one: Pass,
    graph: Graph,
    layouts: Mapping[str, Layout],
    sources: Mapping[str, Checkpoint],
    known: Mapping[Measure, Any],
    outputs: Outputs,
) -> Program:
    """The program of a pass; which sources to hash, the device and measures' states are filled in by the engine."""
    steps = tuple(graph.steps[step_id] for step_id in one.steps)
    measures = {step.id: measures_of(graph, step.id) for step in steps if step.id not in sources}
    guessed = {*one.guesses.values(), *(draft.guess for draft in one.drafts.values() if draft.guess)}
    return Program(
        steps=steps,
        layouts={step_id: layouts[step_id] for step_id in (*one.steps, *sources)},
        stats={step: {n: known[m] for n, m in found.items() if m in known} for step, found in measures.items()},
        guessed={step: {n: m for n, m in found.items() if m in guessed} for step, found in measures.items()},
        places={step.id: places_of(step, layouts[step.id]) for step in steps if step.id not in sources},
        sources={step_id: checkpoint.tensors for step_id, checkpoint in sources.items()},
        files=source_files(list(sources.values())),
        hashed=frozenset(),
        nonfinite={},
        observations=tuple(
            Observation(m, tuple(known[need] for need in m.needs), None, one.guesses.get(m))
            for m in sorted(one.measures, key=lambda measure: measure in one.guesses)  # what is guessed comes first
        ),
        writes=(
            *(write for sink in one.sinks for write in outputs.get(sink, ())),
            *(write for sink, draft in one.drafts.items() for write in _drafted(sink, draft, layouts, outputs)),
        ),
    )


def _drafted(sink: str, draft: Draft, layouts: Mapping[str, Layout], outputs: Outputs) -> list[Write]:
    """The output itself, or another step's value at the first place of every floating-point tensor that it has."""
    if sink == draft.step:
        return [replace(write, guess=draft.guess) for write in outputs.get(sink, ())]
    first = outputs[sink][0].places if outputs else {}
    places = {name: first[name][:1] for name in layouts[draft.step].numels if name in first}
    return [Write(draft.step, places, guess=draft.guess, is_draft=True)]


def places_of(step: Step, layout: Layout) -> dict[str, tuple[int, int]]:
    """Block and depth by tensor, for a step whose op depends on depth; nothing for others."""
    layers = layers_of(step, layout)
    if layers is None:
        return {}
    found = {name: layers.place(name) for name in layout.tensors}
    return {name: place for name, place in found.items() if place is not None}

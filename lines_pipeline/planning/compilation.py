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
from lines_pipeline.planning.population import population
from lines_pipeline.planning.program import Observation, Program, Write, source_files
from lines_pipeline.planning.shapes import Shapes, Views, keyed_layout, keyed_sources, tell_apart, views_of, with_views
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
    *,
    hashed: frozenset[str] = frozenset(),
    nonfinite: Mapping[str, frozenset[str]] | None = None,
) -> Program:
    """The program of a pass, of which sources in ``hashed`` are hashed; ``nonfinite`` names tensors by source.

    The device and the states of measures are filled in by the engine.
    """
    steps = tuple(graph.steps[step_id] for step_id in one.steps)
    shapes = tell_apart(layouts, sources)
    named = {step_id: layouts[step_id] for step_id in (*one.steps, *sources)}
    views = views_of(steps, named, shapes)
    seen = {step_id: views.get(step_id, {}) for step_id in named}
    measures = {step.id: measures_of(graph, step.id) for step in steps if step.id not in sources}
    guessed = {*one.guesses.values(), *(draft.guess for draft in one.drafts.values() if draft.guess)}
    writes = (
        *(write for sink in one.sinks for write in outputs.get(sink, ())),
        *(write for sink, draft in one.drafts.items() for write in _drafted(sink, draft, layouts, outputs)),
    )
    return Program(
        steps=steps,
        layouts={step_id: keyed_layout(layout, seen[step_id], shapes) for step_id, layout in named.items()},
        stats={step: {n: known[m] for n, m in found.items() if m in known} for step, found in measures.items()},
        guessed={step: {n: m for n, m in found.items() if m in guessed} for step, found in measures.items()},
        places={
            step.id: with_views(
                shapes.keyed(places_of(step, layouts[step.id]), layouts[step.id].tensors), seen[step.id]
            )
            for step in steps
            if step.id not in sources
        },
        sources={step_id: keyed_sources(one.tensors, seen[step_id], shapes) for step_id, one in sources.items()},
        files=source_files(list(sources.values())),
        hashed=hashed,
        nonfinite=_keyed_nonfinite(nonfinite or {}, sources, seen, shapes),
        observations=tuple(
            Observation(
                m, tuple(known[need] for need in m.needs), None, one.guesses.get(m), _observed(m, layouts, shapes)
            )
            for m in sorted(one.measures, key=lambda measure: measure in one.guesses)  # what is guessed comes first
        ),
        writes=tuple(replace(w, places=shapes.keyed(w.places, layouts[w.step].tensors)) for w in writes),
        names=shapes.names,
    )


def _observed(measure: Measure, layouts: Mapping[str, Layout], shapes: Shapes) -> frozenset[str] | None:
    """Keys of the tensors that a bounded measure looks at."""
    if not measure.bounds:
        return None
    specs = {name: spec for step in measure.of for name, spec in layouts[step].tensors.items()}
    return frozenset(shapes.key(name, specs[name].shape) for name in population(measure, layouts))


def _keyed_nonfinite(
    nonfinite: Mapping[str, frozenset[str]],
    sources: Mapping[str, Checkpoint],
    views: Mapping[str, Views],
    shapes: Shapes,
) -> dict[str, frozenset[str]]:
    """Keys of tensors and views that are known to hold NaN or Inf, by source."""
    found = {}
    for step, checkpoint in sources.items():
        own = {shapes.key(name, checkpoint.tensors[name].spec.shape) for name in nonfinite.get(step, ())}
        found[step] = frozenset(own | {key for key, seen in views[step].items() if seen.key in own})
    return found


def _drafted(sink: str, draft: Draft, layouts: Mapping[str, Layout], outputs: Outputs) -> list[Write]:
    """The output itself, or another step's value at the first place of every floating-point tensor that it has."""
    if sink == draft.step:
        return [replace(write, guess=draft.guess) for write in outputs.get(sink, ())]
    first = outputs[sink][0].places if outputs else {}
    drafted, final = layouts[draft.step], layouts[sink].tensors
    same = (name for name in drafted.numels if name in first and final[name].shape == drafted.tensors[name].shape)
    places = {name: first[name][:1] for name in same}
    return [Write(draft.step, places, guess=draft.guess, is_draft=True)]


def places_of(step: Step, layout: Layout) -> dict[str, tuple[int, int]]:
    """Block and depth by tensor, for a step whose op depends on depth; nothing for others."""
    layers = layers_of(step, layout)
    if layers is None:
        return {}
    found = {name: layers.place(name) for name in layout.tensors}
    return {name: place for name, place in found.items() if place is not None}

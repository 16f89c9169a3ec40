"""Forecasts a run from headers and the cache, with the very planning that the run itself uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lines_pipeline.core.events import BlockScales
from lines_pipeline.engine.session import Prepared, Session
from lines_pipeline.engine.storing import Request, existing, sizes, stored_types
from lines_pipeline.io.writing import Shortage, space_shortages
from lines_pipeline.ops.lines_scale import LinesScale, LinesScaleParams
from lines_pipeline.planning.compilation import compile_pass
from lines_pipeline.planning.layer_maps import layers_of
from lines_pipeline.planning.layouts import lay_out
from lines_pipeline.planning.memory import projected_peak, require_memory
from lines_pipeline.planning.notes import render
from lines_pipeline.planning.passes import Pass, cone, measures_of, stats_of
from lines_pipeline.planning.program import Write, read_bytes
from lines_pipeline.planning.report import PlanReport, describe_pass, scale_steps, scales_of
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.recipe import Recipe


def forecast(
    recipe: Recipe, graph: Graph, session: Session, requests: Sequence[Request], models: Iterable[str], trials: int = 0
) -> PlanReport:
    """The plan of the requested files and of the ``models`` to evaluate. Checks keys, shapes, memory and disks."""
    return _planned(recipe, graph, session, requests, models, trials)[0]


def forecast_with_room(
    recipe: Recipe, graph: Graph, session: Session, requests: Sequence[Request], models: Iterable[str], trials: int = 0
) -> PlanReport:
    """As ``forecast``; where the cache's disk is too small for what comes there, what is old in the cache goes first.

    Where all of the cache would not be enough, it stays.
    """
    models = list(models)
    report, shortages = _planned(recipe, graph, session, requests, models, trials)
    inside = [one for one in shortages if any(path.is_relative_to(session.cache.folder) for path in one.paths)]
    missing = sum(shortage.missing_bytes for shortage in inside)
    if not 0 < missing <= session.cache.nbytes:
        return report
    session.cache.make_room(missing)
    return forecast(recipe, graph, session, requests, models, trials)


def _planned(
    recipe: Recipe, graph: Graph, session: Session, requests: Sequence[Request], models: Iterable[str], trials: int
) -> tuple[PlanReport, list[Shortage]]:
    wanted = [*requests, *(Request(model) for model in models)]
    absent = [request for request in wanted if existing(session, graph, request) is None]
    missing = [request.step for request in absent]
    parts = session.prepare_all(graph, stored_types(absent), [request.step for request in wanted])
    prepared = parts[-1]
    peak = max(projected_peak(graph, part.passes, part.layouts, session.settings) for part in parts)
    require_memory(peak, session.settings)
    steps = cone(graph, [request.step for request in wanted])
    same = prepared.layouts.keys() >= set(steps)
    layouts = prepared.layouts if same else lay_out(graph, steps, session.checkpoints)
    known = session.known(graph, steps)
    passes = [
        describe_pass(one, part.layouts, _bytes_read(part, one, session))
        for part in parts
        for one in part.passes
        if not one.is_empty
    ]
    passes = [{**one, "number": number} for number, one in enumerate(passes, 1)]
    scales = tuple(
        scales_of(step, layouts[step.id], stats_of(graph, step.id, known)) for step in scale_steps(graph, steps)
    )
    specs = [spec for request in wanted for spec in layouts[request.step].tensors.values()]
    settings, pending = session.settings, _pending(session, steps)
    pending_files = {session.cache.spool / str(number): n for number, n in enumerate(pending.values())}
    shortages = space_shortages({**sizes(session, absent, prepared), **pending_files})
    report = PlanReport(
        name=recipe.name,
        passes=tuple(passes),
        bytes_read=sum(one["bytes_read"] for one in passes),
        bytes_written=sum(one["bytes_written"] for one in passes),
        peak_bytes=peak,
        compute_dtypes=tuple(sorted({spec.compute_dtype for spec in specs if spec.is_floating})),
        stored_dtypes=tuple(sorted({spec.dtype for spec in specs})),
        cached=tuple(dict.fromkeys([*parts[0].cached, *(r.step for r in wanted if r.step not in missing)])),
        measured=tuple(step for step in steps if not known.keys().isdisjoint(measures_of(graph, step).values())),
        scales=scales,
        trials=trials,
        settings={"scheduler": settings.scheduler, "workers": settings.workers, "memory": settings.memory},
        warnings=tuple(dict.fromkeys(warning for scale in scales for warning in scale.warnings)),
        shortages=tuple(map(str, shortages)),
        notes=(*render(told for step in steps for told in layouts[step].told), *_pending_notes(graph, pending)),
    )
    return report, shortages


def _pending(session: Session, steps: Iterable[str]) -> dict[str, int]:
    """Bytes that a run writes into the cache before it can read the values of steps, by step."""
    found = {step: session.checkpoints[step].pending_bytes for step in steps if step in session.checkpoints}
    return {step: nbytes for step, nbytes in found.items() if nbytes}


def _pending_notes(graph: Graph, pending: Mapping[str, int]) -> list[str]:
    return [
        f"node '{graph.steps[step].node}': {nbytes / 1e6:,.1f} MB of its update are written into the cache"
        for step, nbytes in pending.items()
    ]


def _bytes_read(prepared: Prepared, one: Pass, session: Session) -> int:
    sources = session.sources(prepared, one, {})
    unknown = {m: None for p in prepared.passes for m in p.measures}
    written = {s: (Write(s, dict.fromkeys(prepared.layouts[s].tensors, ())),) for s in (*one.sinks, *one.drafts)}
    known = {**unknown, **prepared.known}
    return read_bytes(compile_pass(one, prepared.graph, prepared.layouts, sources, known, written))


def block_scales(graph: Graph, session: Session, facts: Mapping[str, Mapping[str, Any]]) -> list[BlockScales]:
    """The factor of every block, by ``lines-scale`` step whose alpha is known."""
    found: list[BlockScales] = []
    steps = tuple(step for step in graph.steps if step in facts)
    layouts = lay_out(graph, cone(graph, steps), session.checkpoints)
    for step in scale_steps(graph, steps):
        assert isinstance(step.params, LinesScaleParams) and isinstance(step.op, LinesScale)
        layers = layers_of(step, layouts[step.id])
        assert layers is not None
        fixed = step.params.model_copy(
            update={"alpha": facts[step.id]["alpha"], "gamma": None, "beta": step.params.slope}
        )
        scales = {
            tower: tuple(step.op.localize(fixed, {}, (i, depth), {"deltas": 1})["scale"] for i in range(depth))
            for tower, depth in layers.depths.items()
        }
        found.append(BlockScales(step.id, scales))
    return found

"""Forecasts a run from headers and the cache, with the very planning that the run itself uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from lines_pipeline.core.events import BlockScales
from lines_pipeline.executor.materialising import OutputRequest, existing, sizes, stored_types
from lines_pipeline.executor.session import Prepared, Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.writing import Shortage, space_shortages
from lines_pipeline.ops.schemas.notes import render
from lines_pipeline.planner.explain import ExplainedStep, Explanation, describe_stage, explained_step
from lines_pipeline.planner.lowering import compile_stage
from lines_pipeline.planner.memory import projected_peak, require_memory
from lines_pipeline.planner.schemas import Schema, infer_schemas
from lines_pipeline.planner.stages import Results, Stage, ancestors, is_measured, statistics_of, stats_of
from lines_pipeline.planner.tasks import Write, read_bytes
from lines_pipeline.recipe.recipe import Recipe


def explain(
    recipe: Recipe,
    graph: Graph,
    session: Session,
    requests: Sequence[OutputRequest],
    models: Iterable[str],
    trials: int = 0,
) -> Explanation:
    """The plan of the requested files and of the ``models`` to evaluate. Checks keys, shapes, memory and disks."""
    return _planned(recipe, graph, session, requests, models, trials)[0]


def explain_with_room(
    recipe: Recipe,
    graph: Graph,
    session: Session,
    requests: Sequence[OutputRequest],
    models: Iterable[str],
    trials: int = 0,
) -> Explanation:
    """As ``explain``; where the cache's disk is too small for what comes there, what is old in the cache goes first.

    Where all of the cache would not be enough, it stays.
    """
    models = list(models)
    report, shortages = _planned(recipe, graph, session, requests, models, trials)
    inside = [one for one in shortages if any(path.is_relative_to(session.cache.folder) for path in one.paths)]
    missing = sum(shortage.missing_bytes for shortage in inside)
    if not 0 < missing <= session.cache.nbytes:
        return report
    session.cache.make_room(missing)
    return explain(recipe, graph, session, requests, models, trials)


def _planned(
    recipe: Recipe,
    graph: Graph,
    session: Session,
    requests: Sequence[OutputRequest],
    models: Iterable[str],
    trials: int,
) -> tuple[Explanation, list[Shortage]]:
    wanted = [*requests, *(OutputRequest(model) for model in models)]
    absent = [request for request in wanted if existing(session, graph, request) is None]
    missing = [request.step for request in absent]
    parts = session.prepare_all(graph, stored_types(absent), [request.step for request in wanted])
    prepared = parts[-1]
    peak = max(projected_peak(graph, part.stages, part.schemas, session.settings) for part in parts)
    require_memory(peak, session.settings)
    steps = ancestors(graph, [request.step for request in wanted])
    same = prepared.schemas.keys() >= set(steps)
    schemas = prepared.schemas if same else infer_schemas(graph, steps, session.checkpoints)
    known = session.known(graph, steps)
    stages = [
        describe_stage(one, part.schemas, _bytes_read(part, one, session))
        for part in parts
        for one in part.stages
        if not one.is_empty
    ]
    stages = [{**one, "number": number} for number, one in enumerate(stages, 1)]
    explained = [one for step in steps if (one := _explained(graph, step, schemas, known))]
    specs = [spec for request in wanted for spec in schemas[request.step].tensors.values()]
    settings, pending = session.settings, _pending(session, steps)
    pending_files = {session.cache.spool / str(number): n for number, n in enumerate(pending.values())}
    shortages = space_shortages({**sizes(session, absent, prepared), **pending_files})
    there = [step for step in parts[0].cached if not is_measured(graph.steps[step])]  # the run finds out about those
    report = Explanation(
        name=recipe.name,
        passes=tuple(stages),
        bytes_read=sum(one["bytes_read"] for one in stages),
        bytes_written=sum(one["bytes_written"] for one in stages),
        peak_bytes=peak,
        compute_dtypes=tuple(sorted({spec.compute_dtype for spec in specs if spec.is_floating})),
        stored_dtypes=tuple(sorted({spec.dtype for spec in specs})),
        cached=tuple(dict.fromkeys([*there, *(r.step for r in wanted if r.step not in missing)])),
        measured=tuple(step for step in steps if not known.keys().isdisjoint(statistics_of(graph, step).values())),
        explained=tuple(explained),
        trials=trials,
        settings={"scheduler": settings.scheduler, "workers": settings.workers, "memory": settings.memory},
        warnings=tuple(dict.fromkeys(warning for one in explained for warning in one.warnings)),
        shortages=tuple(map(str, shortages)),
        notes=(*render(told for step in steps for told in schemas[step].told), *_pending_notes(graph, pending)),
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


def _bytes_read(prepared: Prepared, one: Stage, session: Session) -> int:
    sources = session.sources(prepared, one, {})
    unknown = {m: None for p in prepared.stages for m in p.statistics}
    written = {
        s: (Write(s, dict.fromkeys(prepared.schemas[s].tensors, ())),) for s in (*one.sinks, *one.partial_outputs)
    }
    known = {**unknown, **prepared.known}
    return read_bytes(compile_stage(one, prepared.graph, prepared.schemas, sources, known, written))


def block_scales(graph: Graph, session: Session, steps: Collection[str]) -> list[BlockScales]:
    """The factor of every block, of those ``steps`` whose ops scale by depth and whose statistics are known."""
    behind = ancestors(graph, tuple(step for step in graph.steps if step in steps))
    schemas, known = infer_schemas(graph, behind, session.checkpoints), session.known(graph, behind)
    found = {step: _explained(graph, step, schemas, known) for step in behind if step in steps}
    return [BlockScales(step, one.said.block_scales) for step, one in found.items() if one and one.said.block_scales]


def _explained(graph: Graph, step: str, schemas: Mapping[str, Schema], known: Results) -> ExplainedStep | None:
    return explained_step(graph.steps[step], schemas[step], stats_of(graph, step, known))

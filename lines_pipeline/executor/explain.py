"""Forecasts a run from headers and the cache, with the very planning that the run itself uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from lines_pipeline.core.events import BlockScales
from lines_pipeline.executor.materialising import OutputRequest, existing, sizes, wanted_of
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.writing import Shortage, space_shortages
from lines_pipeline.planner.explain import Explanation, explain_plan, explained_step
from lines_pipeline.planner.schemas import infer_schemas
from lines_pipeline.planner.stages import ancestors, stats_of
from lines_pipeline.recipe.recipe import Recipe


def explain(
    recipe: Recipe,
    graph: Graph,
    session: Session,
    requests: Sequence[OutputRequest],
    models: Iterable[str],
    trials: int = 0,
) -> Explanation:
    """Return the plan of the requested files and of ``models`` to evaluate. Checks keys, shapes, memory and disks."""
    return _planned(recipe, graph, session, requests, models, trials)[0]


def explain_with_room(
    recipe: Recipe,
    graph: Graph,
    session: Session,
    requests: Sequence[OutputRequest],
    models: Iterable[str],
    trials: int = 0,
) -> Explanation:
    """Explain; where the cache's disk is too small for what comes there, old entries of the cache go first.

    Where all of the cache would not be enough, it stays.
    """
    models = list(models)
    report, shortages = _planned(recipe, graph, session, requests, models, trials)
    inside = [
        shortage for shortage in shortages if any(path.is_relative_to(session.cache.folder) for path in shortage.paths)
    ]
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
    all_requests = [*requests, *(OutputRequest(model) for model in models)]
    absent = [request for request in all_requests if existing(session, graph, request) is None]
    planned = session.plan(graph, wanted_of(absent, [request.step for request in all_requests]))
    pending = _pending(session, planned.schemas)
    pending_files = {session.cache.spool / str(number): n for number, n in enumerate(pending.values())}
    shortages = space_shortages({**sizes(session, absent, planned), **pending_files})
    report = explain_plan(recipe.name, planned, trials)
    report = replace(
        report,
        shortages=tuple(map(str, shortages)),
        notes=(*report.notes, *_pending_notes(graph, pending), *_subset_notes(graph)),
    )
    return report, shortages


def _pending(session: Session, steps: Iterable[str]) -> dict[str, int]:
    """Return the bytes that a run writes into the cache before it can read the values of steps, by step."""
    pending = {step: session.checkpoints[step].pending_bytes for step in steps if step in session.checkpoints}
    return {step: nbytes for step, nbytes in pending.items() if nbytes}


def _pending_notes(graph: Graph, pending: Mapping[str, int]) -> list[str]:
    return [
        f"node '{graph.steps[step].node}': {nbytes / 1e6:,.1f} MB of its update are written into the cache"
        for step, nbytes in pending.items()
    ]


def _subset_notes(graph: Graph) -> list[str]:
    """Return how many samples judge the models of nodes that do not take all."""
    steps = (graph.steps[step] for step in graph.evaluations)
    parts = {step.node: use.part for step in steps if (use := step.op.suite_of(step.params, step.inputs))}
    return [
        f"node '{node}': models are judged by the first {part.first} samples of each task"
        for node, part in parts.items()
        if part is not None and part.first is not None
    ]


def block_scales(graph: Graph, session: Session, steps: Collection[str]) -> list[BlockScales]:
    """Return the scale of every block for each of ``steps`` whose op scales by depth.

    Steps that still lack statistics, such as an automatic alpha, are left out.
    """
    behind = ancestors(graph, tuple(step for step in graph.steps if step in steps))
    schemas, known = infer_schemas(graph, behind, session.checkpoints), session.known(graph, behind)
    explained = {s: explained_step(graph.steps[s], schemas[s], stats_of(graph, s, known)) for s in behind if s in steps}
    return [
        BlockScales(step, step_explained.said.block_scales)
        for step, step_explained in explained.items()
        if step_explained and step_explained.said.block_scales
    ]

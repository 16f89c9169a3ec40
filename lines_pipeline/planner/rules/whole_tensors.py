"""Ops that see whole tensors break the pipeline: each of their values is made by stages of its own, and read then."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.planner.plan import Plan, Wanted
from lines_pipeline.planner.rules.partial_outputs import partial_output_of
from lines_pipeline.planner.stages import ancestors, whole_tensor_steps


def make_whole_tensors_first(planned: Plan) -> Plan:
    """Put plans before this one, for values that are not there: one that is all that is wanted needs none.

    What is wanted in the cache alone is then made.
    """
    graph, wanted = planned.graph, planned.wanted
    steps = whole_tensor_steps(
        graph, (*wanted.files, *wanted.summarised), {**planned.cached, **planned.catalogue.values}
    )
    before: list[Plan] = []
    cached = dict(planned.cached)
    for step in steps:
        if wanted.in_cache != {step} or len(wanted.files) > 1:
            schemas = {ancestor: planned.schemas[ancestor] for ancestor in ancestors(graph, [step])}
            only = Wanted({step: "keep"}, in_cache=frozenset([step]))
            before.append(replace(planned, wanted=only, schemas=schemas, cached=dict(cached)))
            cached[step] = partial_output_of(planned.schemas[step], ())
    made_before = {step for part in before for step in part.wanted.files} & wanted.in_cache
    files = {step: dtype for step, dtype in wanted.files.items() if step not in made_before}
    wanted = replace(wanted, files=files, in_cache=wanted.in_cache - made_before)
    return replace(planned, wanted=wanted, before=tuple(before), cached=cached)

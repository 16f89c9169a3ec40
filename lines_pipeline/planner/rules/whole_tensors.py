"""Ops that see whole tensors break the pipeline: each of their values is made by stages of its own, and read then."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.planner.plan import Plan, Wanted
from lines_pipeline.planner.rules.partial_outputs import partial_output_of
from lines_pipeline.planner.stages import ancestors, whole_tensor_steps


def make_whole_tensors_first(planned: Plan) -> Plan:
    """Put plans before this one, for values that are not there and do not come into the cache with the rest."""
    graph, wanted = planned.graph, planned.wanted
    steps = whole_tensor_steps(graph, (*wanted.files, *wanted.told), {**planned.cached, **planned.catalogue.values})
    before: list[Plan] = []
    made = dict(planned.cached)
    for step in steps:
        if step not in wanted.in_cache:
            schemas = {one: planned.schemas[one] for one in ancestors(graph, [step])}
            only = Wanted({step: "keep"}, in_cache=frozenset([step]))
            before.append(replace(planned, wanted=only, schemas=schemas, cached=dict(made)))
            made[step] = partial_output_of(planned.schemas[step], ())
    return replace(planned, before=tuple(before), cached=made)

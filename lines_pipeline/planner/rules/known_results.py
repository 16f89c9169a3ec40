"""What is known is not made again: values are read from the cache, statistics are folded into the plan."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.schemas import holds_exactly
from lines_pipeline.planner.stages import ancestors, statistics_of


def fold_known_results(planned: Plan) -> Plan:
    """Note which values are read in place of being computed, and the statistics that are known of what is left.

    A value that its file rounds is written anew from its inputs, and nothing is computed from it.
    """
    graph, files, values = planned.graph, planned.wanted.files, planned.catalogue.values
    behind = (step for step in ancestors(graph, files) if step in values)
    exact = {step: values[step] for step in behind if holds_exactly(values[step], planned.schemas[step])}
    cached = {**planned.cached, **exact}
    steps = (*ancestors(graph, files, cached), *ancestors(graph, planned.wanted.summarised))
    remembered = planned.catalogue.statistics
    known = {
        statistic: remembered[statistic]
        for step in steps
        for statistic in statistics_of(graph, step).values()
        if statistic in remembered
    }
    return replace(planned, cached=cached, known=known)

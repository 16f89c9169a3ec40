"""As few sweeps as the order of statistics allows; those that can be gathered under an assumption share a sweep."""

from __future__ import annotations

from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.stages import lacking_statistics, plan_stages


def share_sweeps(planned: Plan) -> Plan:
    """Assign statistics and outputs to stages, and what is only told to stages that are there anyway."""
    graph, files, known, cached = planned.graph, planned.wanted.files, planned.known, planned.cached
    stages = plan_stages(graph, files, known, cached)
    if lacking := lacking_statistics(graph, planned.wanted.summarised, known, stages):
        stages = plan_stages(graph, files, known, cached, lacking)
    return planned.in_place_of_stages(stages)

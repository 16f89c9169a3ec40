"""``--memory`` steers: where all workers' blocks and tensors do not fit, fewer tasks are done side by side."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.core.errors import PlanError
from lines_pipeline.planner.memory import driver_memory, stage_memory
from lines_pipeline.planner.plan import Plan


def fit_memory(planned: Plan) -> Plan:
    """Say of every stage how many tasks are done side by side, and what memory that takes."""
    memory = (stage_memory(planned.graph, stage, planned.schemas, planned.settings) for stage in planned.stages)
    return replace(planned, memory=tuple(memory))


def count_drivers(planned: Plan) -> Plan:
    """Say what memory the steps take that drivers carry out, before the stages or after them."""
    return replace(planned, drivers=driver_memory(planned.graph, planned.schemas))


def require_memory(planned: Plan) -> None:
    """Refuse a plan that does not fit even one task at a time, and say the least that it needs."""
    allowed, peak = planned.settings.memory, planned.peak_bytes
    if allowed is not None and peak > allowed:
        raise PlanError(
            f"the plan needs {peak / 1e6:,.0f} MB, --memory allows {allowed / 1e6:,.0f} MB: "
            f"allow at least {-(-peak // 10**6)}MB{_remedy(planned)}"
        )


def _remedy(planned: Plan) -> str:
    driven = [step for step, taken in planned.drivers.items() if taken == planned.peak_bytes]
    if driven:
        return f", which is what '{driven[0]}' takes"
    if planned.settings.on_cluster:
        return ", or use fewer --workers"
    return ", which is what one task at a time takes"

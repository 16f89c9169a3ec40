"""``--memory`` steers: where not all fits, fewer tasks are done side by side, then statistics keep less."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.core.errors import PlanError
from lines_pipeline.planner.memory import StageMemory, driver_memory, stage_memory
from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.stages import Stage

NARROWINGS = (1.0, 4.0, 16.0)
"""By what factors statistics may keep less of a sweep; the narrower, the more often it is made again."""


def fit_memory(planned: Plan) -> Plan:
    """Say of every stage how many tasks are done side by side, and what memory that takes."""
    fitted = [_fitted(planned, stage) for stage in planned.stages]
    return replace(planned, stages=tuple(stage for stage, _ in fitted), memory=tuple(memory for _, memory in fitted))


def _fitted(planned: Plan, stage: Stage) -> tuple[Stage, StageMemory]:
    """Return a stage whose statistics keep as much as memory allows, the least where it allows too little."""
    allowed = planned.settings.memory
    tried: list[tuple[Stage, StageMemory]] = []
    for factor in NARROWINGS:
        narrowed = stage.narrowed(factor)
        memory = stage_memory(planned.graph, narrowed, planned.schemas, planned.settings)
        tried.append((narrowed, replace(memory, narrowing=factor)))
        if allowed is None or memory.peak_bytes <= allowed:
            return tried[-1]
    return min(tried, key=lambda fitted: fitted[1].peak_bytes)


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

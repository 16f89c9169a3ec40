"""Values that drivers measure (Fisher information) are there before the first stage: a plan reads them."""

from __future__ import annotations

from dataclasses import replace

from lines_pipeline.planner.plan import Plan
from lines_pipeline.planner.rules.partial_outputs import partial_output_of
from lines_pipeline.planner.stages import is_measured


def read_measured_values(planned: Plan) -> Plan:
    """Read the values that drivers measure, as they will be, in place of computing them."""
    measured = [step for step in planned.schemas if is_measured(planned.graph.steps[step])]
    values = {step: partial_output_of(planned.schemas[step], ()) for step in measured}
    return replace(planned, cached={**planned.cached, **values})

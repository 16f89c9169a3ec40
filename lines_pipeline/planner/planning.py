"""Plans a merge from headers and what is known: a pure function, which reads no file and no tensor."""

from __future__ import annotations

from lines_pipeline.graph.graph import Graph
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.plan import Catalogue, Plan, Wanted
from lines_pipeline.planner.rules.known_results import fold_known_results
from lines_pipeline.planner.rules.measured_values import read_measured_values
from lines_pipeline.planner.rules.memory import count_drivers, fit_memory, require_memory
from lines_pipeline.planner.rules.partial_outputs import leave_partial_outputs
from lines_pipeline.planner.rules.sweeps import share_sweeps
from lines_pipeline.planner.rules.whole_tensors import make_whole_tensors_first
from lines_pipeline.planner.schemas import infer_schemas
from lines_pipeline.planner.stages import ancestors

RULES = (fold_known_results, share_sweeps, leave_partial_outputs, fit_memory)
"""What makes a plan better, one after the other; each also changes the plans that come before."""


def plan(graph: Graph, wanted: Wanted, catalogue: Catalogue, settings: EngineSettings) -> Plan:
    """Plan what it takes to write and tell what is wanted.

    Raises ``CheckpointError`` for tensors that do not fit together, ``PlanError`` for a plan that memory cannot hold.
    """
    schemas = infer_schemas(graph, ancestors(graph, (*wanted.files, *wanted.summarised)), catalogue.checkpoints)
    planned = make_whole_tensors_first(read_measured_values(Plan(graph, wanted, catalogue, settings, schemas)))
    for rule in RULES:
        planned = planned.everywhere(rule)
    planned = count_drivers(planned)
    require_memory(planned)
    return planned

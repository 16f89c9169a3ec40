"""How much memory a run may and will take, known before it begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.statistics.thresholds import TrimThreshold
from lines_pipeline.planner.population import population
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import Stage
from lines_pipeline.planner.tasks import SAMPLE_RUN_NUMEL

BASE_BYTES = 420_000_000
"""Anonymous memory of the interpreter with torch, Dask and MLflow loaded, as measured (rounded up)."""


LOCAL_SCHEDULERS = ("serial", "threads")


@dataclass(frozen=True)
class EngineSettings:
    """How a run is carried out; ``memory`` in bytes, None for no bound."""

    scheduler: str = "threads"
    workers: int = os.cpu_count() or 1
    memory: int | None = None
    device: str = "cpu"
    """Where blocks are computed; ``auto`` is settled by each worker of a cluster for itself."""

    @property
    def on_cluster(self) -> bool:
        """Whether jobs run in processes of a Dask cluster, perhaps on other machines."""
        return self.scheduler not in LOCAL_SCHEDULERS


def projected_peak(
    graph: Graph, stages: Sequence[Stage], schemas: Mapping[str, Schema], settings: EngineSettings
) -> int:
    """Bytes of anonymous memory at the peak: interpreter, blocks in flight, magnitudes kept by brackets, whole tensors.

    Of whole tensors as many are counted as ``whole_tensors_at_once`` lets run side by side.
    """
    return BASE_BYTES + max((_pass_peak(graph, one, schemas, settings) for one in stages), default=0)


def whole_tensors_at_once(graph: Graph, one: Stage, schemas: Mapping[str, Schema], settings: EngineSettings) -> int:
    """Return how many whole tensors may be worked on side by side: all workers' unless ``--memory`` allows fewer."""
    sizes = _whole_bytes(graph, one, schemas)
    room = None if settings.memory is None else settings.memory - BASE_BYTES - _pass_bytes(one, schemas, settings)
    most = min(_workers(settings), max(len(sizes), 1))
    fitting = [count for count in range(1, most + 1) if room is None or sum(sizes[:count]) <= room]
    return max(fitting, default=1)


def _pass_peak(graph: Graph, one: Stage, schemas: Mapping[str, Schema], settings: EngineSettings) -> int:
    at_once = whole_tensors_at_once(graph, one, schemas, settings)
    return _pass_bytes(one, schemas, settings) + sum(_whole_bytes(graph, one, schemas)[:at_once])


def _whole_bytes(graph: Graph, one: Stage, schemas: Mapping[str, Schema]) -> list[int]:
    """Return the memory that each whole tensor of a pass takes, largest first: one input, and what the op needs."""
    found: dict[str, int] = {}
    for step in (graph.steps[sink] for sink in one.sinks):
        counts = {port: len(step.inputs.get(port, ())) for port in step.op.inputs}
        for name, spec in schemas[step.id].tensors.items():
            if spec.is_floating and step.op.wants_whole(step.params, spec):
                own = spec.numel * ITEM_BYTES[spec.compute_dtype] + step.op.working_bytes(step.params, spec, counts)
                found[name] = max(found.get(name, 0), own)
    return sorted(found.values(), reverse=True)


def _workers(settings: EngineSettings) -> int:
    return 1 if settings.scheduler == "serial" else settings.workers


def _pass_bytes(one: Stage, schemas: Mapping[str, Schema], settings: EngineSettings) -> int:
    thresholds = [statistic for statistic in one.statistics if isinstance(statistic, TrimThreshold)]
    kept = [statistic.kept_numel(population(statistic, schemas)) for statistic in thresholds]
    workers = _workers(settings)
    types = {spec.compute_dtype for step in one.steps for spec in schemas[step].tensors.values()}
    item = max((ITEM_BYTES[dtype] for dtype in types), default=0)
    blocks = workers * (len(one.steps) + 2 * len(thresholds) + 4) * BLOCK_NUMEL
    runs = max((statistic.sample_runs(population(statistic, schemas)) for statistic in thresholds), default=0)
    samples = SAMPLE_RUN_NUMEL * runs * (len(thresholds) + 2)
    return item * (max(sum(kept) + 2 * max(kept, default=0), samples) + blocks)


def require_memory(peak: int, settings: EngineSettings) -> None:
    """Refuse a plan that would not fit."""
    if settings.memory is not None and peak > settings.memory:
        raise PlanError(
            f"the plan needs {peak / 1e6:,.0f} MB, --memory allows {settings.memory / 1e6:,.0f} MB: "
            f"allow at least {-(-peak // 10**6)}MB, or use fewer --workers"
        )

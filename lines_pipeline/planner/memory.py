"""How much memory a run may and will take, known before it begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES, block_count
from lines_pipeline.core.types import CompileMode, EdgeType
from lines_pipeline.graph.graph import Graph
from lines_pipeline.planner.population import population
from lines_pipeline.planner.schemas import Schema
from lines_pipeline.planner.stages import Stage
from lines_pipeline.planner.tasks import SAMPLE_RUN_NUMEL, takes_whole

BASE_BYTES = 420_000_000
"""Anonymous memory of the interpreter with torch, Dask and MLflow loaded, as measured (rounded up)."""

PARTIAL_BYTES = 450
"""Memory of what a statistic keeps of one block beside arrays, as measured (rounded up)."""

LOCAL_SCHEDULERS = ("serial", "threads")


@dataclass(frozen=True)
class EngineSettings:
    """Says how a run is carried out; ``memory`` in bytes, None for no bound."""

    scheduler: str = "threads"
    workers: int = os.cpu_count() or 1
    memory: int | None = None
    device: str = "cpu"
    """Where blocks are computed; ``auto`` is resolved by each worker of a cluster for itself."""
    compile: CompileMode = "auto"

    @property
    def on_cluster(self) -> bool:
        """Return whether tasks run in processes of a Dask cluster, perhaps on other machines."""
        return self.scheduler not in LOCAL_SCHEDULERS


@dataclass(frozen=True)
class StageMemory:
    """Tells what a stage takes: ``peak_bytes`` of anonymous memory, with ``at_once`` tasks side by side."""

    at_once: int
    peak_bytes: int
    is_waiting: bool
    """Whether workers wait, because more of them would not fit."""
    narrowing: float = 1.0
    """By what factor statistics keep less than they would without a bound."""


def stage_memory(graph: Graph, stage: Stage, schemas: Mapping[str, Schema], settings: EngineSettings) -> StageMemory:
    """Return the memory of a stage: interpreter, blocks in flight, magnitudes kept by brackets, whole tensors.

    As many tasks as there are workers are done side by side, or as many of them as ``--memory`` allows, but one.
    Only the workers of this process can be told to wait.
    """
    workers = 1 if settings.scheduler == "serial" else settings.workers
    fixed, blocks = BASE_BYTES + _kept_bytes(stage, schemas), _block_bytes(stage, schemas)
    whole = _whole_bytes(graph, stage, schemas)

    def peak(at_once: int) -> int:
        return fixed + at_once * blocks + sum(whole[:at_once])

    least = workers if settings.on_cluster else 1
    fitting = (n for n in range(workers, least, -1) if settings.memory is None or peak(n) <= settings.memory)
    at_once = next(fitting, least)
    return StageMemory(at_once, peak(at_once), is_waiting=at_once < workers)


def driver_memory(graph: Graph, schemas: Mapping[str, Schema]) -> dict[str, int]:
    """Return the peak of the process while a driver carries out a step, by step whose inputs have schemas."""
    peaks: dict[str, int] = {}
    for step in (graph.steps[step] for step in graph.ancestors(graph.sinks)):
        models = {
            port: [i for i in ids if graph.steps[i].gives is not EdgeType.METRICS] for port, ids in step.inputs.items()
        }
        if all(i in schemas for ids in models.values() for i in ids):
            inputs = {port: [schemas[i] for i in ids] for port, ids in models.items()}
            try:
                nbytes = step.op.driver_bytes(step.params, inputs)
            except PlanError as error:
                raise error.in_node(step.node) from error
            if nbytes:
                peaks[step.id] = BASE_BYTES + nbytes
    return peaks


def _whole_bytes(graph: Graph, stage: Stage, schemas: Mapping[str, Schema]) -> list[int]:
    """Return the memory that each whole tensor of a stage takes, largest first: one input, and what the op needs."""
    nbytes: dict[str, int] = {}
    for step in (graph.steps[sink] for sink in stage.sinks):
        schema = schemas[step.id]
        for name, spec in schema.tensors.items():
            if takes_whole(step, schema, name):
                own = spec.numel * ITEM_BYTES[spec.compute_dtype] + step.op.working_bytes(
                    step.params_of(name), spec, step.counts
                )
                beside = [
                    schemas[source].tensors[named[name]] for source, named in schema.beside.items() if name in named
                ]
                if beside:
                    largest = max(beside, key=lambda spec_beside: spec_beside.numel)
                    own += step.op.beside_bytes(step.params_of(name), spec, largest)
                nbytes[name] = max(nbytes.get(name, 0), own)
    return sorted(nbytes.values(), reverse=True)


def _kept_bytes(stage: Stage, schemas: Mapping[str, Schema]) -> int:
    """Return the bytes of what statistics keep of a sweep or of its sample, however many tasks are done at once."""
    counted = [(statistic, population(statistic, schemas)) for statistic in stage.statistics]
    item_bytes = _item_bytes(stage, schemas)
    kept = [statistic.kept_bytes(numels, item_bytes) for statistic, numels in counted if numels]
    runs = max((statistic.sample_runs(numels) for statistic, numels in counted if statistic.sampled), default=0)
    samples = item_bytes * SAMPLE_RUN_NUMEL * runs * (len(stage.sampled) + 2)
    partials = PARTIAL_BYTES * sum(block_count(numels.values()) for _, numels in counted)
    return partials + max(sum(kept) + 2 * max(kept, default=0), samples)


def _block_bytes(stage: Stage, schemas: Mapping[str, Schema]) -> int:
    """Return the bytes of the blocks that one task holds."""
    return _item_bytes(stage, schemas) * (len(stage.steps) + 2 * len(stage.sampled) + 4) * BLOCK_NUMEL


def _item_bytes(stage: Stage, schemas: Mapping[str, Schema]) -> int:
    types = {spec.compute_dtype for step in stage.steps for spec in schemas[step].tensors.values()}
    return max((ITEM_BYTES[dtype] for dtype in types), default=0)

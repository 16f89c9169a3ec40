"""One run's engine: makes the values of steps into files, in as few sweeps as it can, and remembers what it learnt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import PassFinished, PassProgress, PassStarted, Sink
from lines_pipeline.engine.cache import NodeCache
from lines_pipeline.engine.jobs import JobResult
from lines_pipeline.engine.schedulers import DRIVER, Scheduler
from lines_pipeline.engine.statistics import Sample, finalize_all
from lines_pipeline.io.checkpoints import Checkpoint, open_checkpoint
from lines_pipeline.io.digests import Known, checkpoint_digest
from lines_pipeline.io.reading import check_unchanged
from lines_pipeline.ops.base import Again, Measure
from lines_pipeline.planning.compilation import Outputs, compile_pass
from lines_pipeline.planning.keys import Keys
from lines_pipeline.planning.layouts import Layout, lay_out
from lines_pipeline.planning.memory import EngineSettings
from lines_pipeline.planning.passes import Pass, cone, measures_of, plan_passes
from lines_pipeline.planning.program import (
    COMPILED_BYTES,
    SAMPLE_RUNS,
    Job,
    Observation,
    Program,
    cut_jobs,
    sample_jobs,
)
from lines_pipeline.recipe.graph import Graph

MAX_SWEEPS = 12
"""Sweeps after which a bracket that keeps missing is a defect of ours."""


@dataclass(frozen=True)
class Prepared:
    """What a graph needs for some steps to be written: known statistics, cached values, layouts, passes."""

    graph: Graph
    keys: Keys
    known: Mapping[Measure, Any]
    cached: Mapping[str, Checkpoint]
    layouts: Mapping[str, Layout]
    passes: Sequence[Pass]


@dataclass
class Session:
    """State of a run's engine; ``checkpoints`` by load step."""

    checkpoints: Mapping[str, Checkpoint]
    cache: NodeCache
    settings: EngineSettings
    emit: Sink
    scheduler: Scheduler = DRIVER
    digests: dict[str, str] = field(default_factory=dict)
    nonfinite: dict[str, frozenset[str]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    """Statistics of this run by content key."""

    def __post_init__(self) -> None:
        for step, checkpoint in self.checkpoints.items():
            remembered = self.cache.digests.get(checkpoint)
            if remembered:
                self.digests[step] = remembered.digest
                self.nonfinite[step] = frozenset(remembered.nonfinite)

    def keys(self, graph: Graph) -> Keys:
        """Content keys as far as the inputs' contents are known."""
        return Keys(graph, self.digests)

    def prepare(self, graph: Graph, steps: Iterable[str]) -> Prepared:
        """Plan what it takes to write ``steps``; reads headers only."""
        steps, keys = tuple(steps), self.keys(graph)
        cached = {
            step_id: open_checkpoint(self.cache.value_path(str(keys.step(step_id))))
            for step_id in cone(graph, steps)
            if graph.steps[step_id].op.name != "load" and self.cache.has_value(keys.step(step_id))
        }
        needed = cone(graph, steps, cached)
        known = self.known(graph, needed)
        layouts = lay_out(graph, cone(graph, steps), self.checkpoints)
        return Prepared(graph, keys, known, cached, layouts, plan_passes(graph, steps, known, cached))

    def known(self, graph: Graph, steps: Iterable[str]) -> dict[Measure, Any]:
        """Statistics of ``steps`` that this run or an earlier one computed."""
        keys = self.keys(graph)
        known: dict[Measure, Any] = {}
        for step_id in steps:
            for measure in measures_of(graph.steps[step_id]).values():
                key = keys.measure(measure)
                if key in self.results:
                    known[measure] = self.results[key]
                elif key is not None and (found := self.cache.get("stats", key)) is not None:
                    known[measure] = self.results[key] = measure.decode(found)
        return known

    def run(self, prepared: Prepared, outputs: Outputs) -> dict[Measure, Any]:
        """Carry out all passes; the written files are left under their temporary names. Returns all statistics."""
        known = dict(prepared.known)
        for one in prepared.passes:
            known |= self._run_pass(prepared, one, known, outputs)
        return known

    def remember(self, graph: Graph, known: Mapping[Measure, Any]) -> None:
        """Keep statistics under their keys, which are all known after the first sweep."""
        keys = self.keys(graph)
        for measure, result in known.items():
            key = keys.measure(measure)
            if key is not None and key not in self.results:
                self.results[key] = result
                self.cache.put("stats", key, result)

    def _run_pass(
        self, prepared: Prepared, one: Pass, known: Mapping[Measure, Any], outputs: Outputs
    ) -> dict[Measure, Any]:
        sources = self.sources(prepared, one)
        unhashed = frozenset(step for step in one.steps if step in self.checkpoints and step not in self.digests)
        compiled = compile_pass(one, prepared.graph, prepared.layouts, sources, known, outputs)
        program = replace(compiled, hashed=unhashed, nonfinite=self.nonfinite, device=self.settings.device)
        states = self._states(prepared, program, one)
        observations = tuple(replace(o, state=states.get(o.measure)) for o in program.observations)
        program = replace(program, observations=observations)
        name = f"{one.number}/{len(prepared.passes)}"
        jobs = cut_jobs(program, self.scheduler.jobs_at_once)
        program = replace(program, compiled=sum(job.nbytes for job in jobs) >= COMPILED_BYTES)
        results = self._sweep(name, program, jobs)
        self._learn_digests(program, results)
        numels = {o.measure: prepared.layouts[o.measure.of[0]].numels for o in observations}
        return self._settle(name, program, finalize_all(observations, results, numels), numels)

    def sources(self, prepared: Prepared, one: Pass) -> dict[str, Checkpoint]:
        """What a pass reads, by step."""
        found = {step: self.checkpoints[step] for step in one.steps if step in self.checkpoints}
        found |= {step: prepared.cached[step] for step in one.steps if step in prepared.cached}
        passthrough = {prepared.layouts[sink].passthrough for sink in one.sinks} - {""}
        return found | {step: self.checkpoints[step] for step in sorted(passthrough)}

    def _states(self, prepared: Prepared, program: Program, one: Pass) -> dict[Measure, Any]:
        """What sampled measures learn from a sample before the sweep."""
        if not one.sampled:
            return {}
        numels = {m: prepared.layouts[m.of[0]].numels for m in one.sampled}
        names = {name: numel for found in numels.values() for name, numel in found.items()}
        taps = tuple(Observation(Sample(m.of[:1]), (), None) for m in one.sampled)
        samples: Mapping[Any, Any] = {}
        if any(m.wants_sample(numels[m]) for m in one.sampled):
            sampler = replace(program, observations=taps, writes=(), hashed=frozenset())
            results = self._sweep(f"{one.number} sample", sampler, sample_jobs(sampler, names, SAMPLE_RUNS))
            samples = finalize_all(taps, results, {tap.measure: {} for tap in taps})
        return {m: m.prepare(samples.get(Sample(m.of[:1]), {}), numels[m]) for m in one.sampled}

    def _settle(
        self, name: str, program: Program, found: dict[Measure, Any], numels: Mapping[Measure, Mapping[str, int]]
    ) -> dict[Measure, Any]:
        """Sweep again for measures whose bracket missed, until none does."""
        for _ in range(MAX_SWEEPS):
            missed = {m: result.state for m, result in found.items() if isinstance(result, Again)}
            if not missed:
                return found
            again = tuple(replace(o, state=missed[o.measure]) for o in program.observations if o.measure in missed)
            narrowed = replace(program, observations=again, writes=(), hashed=frozenset())
            results = self._sweep(f"{name} again", narrowed, cut_jobs(narrowed, self.scheduler.jobs_at_once))
            found |= finalize_all(again, results, numels)
        raise PlanError("a trim threshold was not found; please report this")

    def _sweep(self, name: str, program: Program, jobs: Sequence[Job]) -> list[JobResult]:
        check_unchanged(program.files)
        self.emit(PassStarted(name, sum(job.nbytes for job in jobs)))
        started, done = time.perf_counter(), 0

        def progress(result: JobResult) -> None:
            nonlocal done
            done += result.bytes_read
            self.emit(PassProgress(done))

        results = self.scheduler.run_jobs(program, jobs, progress)
        check_unchanged(program.files)
        written = sum(result.bytes_written for result in results)
        self.emit(PassFinished(name, time.perf_counter() - started, done, written))
        return results

    def _learn_digests(self, program: Program, results: Sequence[JobResult]) -> None:
        for step in sorted(program.hashed):
            blocks: dict[str, list[tuple[int, bytes]]] = {}
            for result in results:
                for (source, tensor), found in result.digests.items():
                    if source == step:
                        blocks.setdefault(tensor, []).extend(found)
            checkpoint = self.checkpoints[step]
            ordered = {tensor: [digest for _, digest in sorted(found)] for tensor, found in blocks.items()}
            digest = checkpoint_digest([t.spec for t in checkpoint.tensors.values()], ordered, checkpoint.aliases)
            bad = tuple(sorted({t for result in results for source, t in result.nonfinite if source == step}))
            self.digests[step], self.nonfinite[step] = digest, frozenset(bad)
            self.cache.digests.put(checkpoint, Known(digest, bad))

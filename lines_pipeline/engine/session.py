"""One run's engine: makes the values of steps into files, in as few sweeps as it can, and remembers what it learnt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import PassFinished, PassProgress, PassStarted, Sink
from lines_pipeline.core.logs import LOG
from lines_pipeline.engine.cache import NodeCache
from lines_pipeline.engine.holding import Place, Unheld
from lines_pipeline.engine.jobs import JobResult
from lines_pipeline.engine.replaying import load_machine, recordings_pay
from lines_pipeline.engine.schedulers import DRIVER, Scheduler
from lines_pipeline.engine.statistics import Sample, finalize_all
from lines_pipeline.io.checkpoints import Checkpoint
from lines_pipeline.io.digests import Known, identify
from lines_pipeline.io.reading import check_unchanged
from lines_pipeline.ops.base import Again, Measure
from lines_pipeline.planning.compilation import Outputs, compile_pass
from lines_pipeline.planning.drafts import draft_of, holds_drafts, with_drafts
from lines_pipeline.planning.keys import Keys
from lines_pipeline.planning.layouts import Layout, holds_exactly, lay_out
from lines_pipeline.planning.memory import EngineSettings, whole_tensors_at_once
from lines_pipeline.planning.passes import (
    Pass,
    Results,
    cone,
    lacking_measures,
    measures_of,
    plan_passes,
    whole_tensor_steps,
)
from lines_pipeline.planning.population import population
from lines_pipeline.planning.program import (
    Job,
    Observation,
    Program,
    Tile,
    Write,
    cut_jobs,
    group_tiles,
    observed_tensors,
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
class Outcome:
    """What passes gave besides files: statistics, and values of results that their types cannot hold."""

    known: dict[Measure, Any]
    unheld: dict[Place, dict[int, Unheld]] = field(default_factory=dict)
    """By where in the tensor their block starts."""

    def take(self, results: Iterable[JobResult]) -> list[Tile]:
        """Note what a sweep could not store; gives the blocks of drafts that depend on what was guessed."""
        doubtful: list[Tile] = []
        for result in results:
            doubtful += result.doubtful
            for place, found in result.unheld.items():
                self.unheld.setdefault(place, {}).update(found)
        return doubtful

    def forget(self, steps: Iterable[str], tiles: Iterable[Tile]) -> None:
        """Blocks of ``steps`` that are made again."""
        for (step, tensor, _), found in self.unheld.items():
            for tile in tiles:
                if step in steps and tensor == tile.tensor:
                    found.pop(tile.start, None)


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
            for path in map(Path, {stored.path for stored in checkpoint.tensors.values()}):
                if path.parent == self.cache.spool:
                    self.cache.hold(path)
            remembered = self.cache.digest(checkpoint)
            if remembered:
                self.digests[step] = remembered.digest
                self.nonfinite[step] = frozenset(remembered.nonfinite)

    def keys(self, graph: Graph) -> Keys:
        """Content keys as far as the inputs' contents are known."""
        return Keys(graph, self.digests)

    def whole_tensor_steps(self, graph: Graph, steps: Iterable[str]) -> tuple[str, ...]:
        """Return the steps behind ``steps`` that break the pipeline and whose values are not there yet, in order."""
        keys, wanted = self.keys(graph), tuple(steps)
        there = [step for step in cone(graph, wanted) if self.cache.has_value(keys.step(step))]
        return whole_tensor_steps(graph, wanted, there)

    def prepare_all(self, graph: Graph, outputs: Mapping[str, str], told: Iterable[str] = ()) -> list[Prepared]:
        """Plan as ``prepare`` does: first what breaks the pipeline, then the rest as if that were there."""
        made: dict[str, Checkpoint] = {}
        prepared = []
        for step in self.whole_tensor_steps(graph, (*outputs, *told)):
            if step not in outputs:
                prepared.append(self.prepare(graph, {step: "keep"}, made=made))
                made[step] = draft_of(prepared[-1].layouts[step], ())
        return [*prepared, self.prepare(graph, outputs, told, made)]

    def prepare(
        self,
        graph: Graph,
        outputs: Mapping[str, str],
        told: Iterable[str] = (),
        made: Mapping[str, Checkpoint] = MappingProxyType({}),
    ) -> Prepared:
        """Plan what it takes to write steps, by the type they are stored in (``keep``: as it is; ``""``: packed).

        All statistics behind the steps ``told`` are gathered that are not known; ``made`` are values that are to come.
        Reads headers only.
        """
        steps, keys = tuple(outputs), self.keys(graph)
        computed = [step_id for step_id in cone(graph, steps) if not graph.steps[step_id].op.is_source]
        layouts = lay_out(graph, cone(graph, (*steps, *told)), self.checkpoints)
        values = {s: self.cache.open_value(str(keys.step(s))) for s in computed if self.cache.has_value(keys.step(s))}
        exact = {s: value for s, value in values.items() if value is not None and holds_exactly(value, layouts[s])}
        cached = {**made, **exact}
        known = self.known(graph, (*cone(graph, steps, cached), *cone(graph, told)))
        passes = plan_passes(graph, steps, known, cached)
        if lacking := lacking_measures(graph, told, known, passes):
            passes = plan_passes(graph, steps, known, cached, lacking)
        if self._may_draft(graph, layouts) and not whole_tensor_steps(graph, steps, cached):
            in_place = [step for step, dtype in outputs.items() if holds_drafts(graph.steps[step], dtype, layouts)]
            passes = with_drafts(passes, graph, known, cached, in_place)
        return Prepared(graph, keys, known, cached, layouts, passes)

    def _may_draft(self, graph: Graph, layouts: Mapping[str, Layout]) -> bool:
        """Return whether a pass may leave drafts where results go, for a later one to finish in place.

        Not on a cluster: it does the jobs of a worker that died once more, and they would take finished blocks for
        drafts. Nor where a step takes a computed value's tensors by other names than a draft holds them under.
        """
        computed = (step for layout in layouts.values() for step in layout.views if not graph.steps[step].op.is_source)
        return not self.settings.on_cluster and not any(computed)

    def prepare_sound(self, graph: Graph, outputs: Mapping[str, str], told: Iterable[str] = ()) -> Prepared:
        """As ``prepare``; reads the cached values that it relies on, and plans without those that are damaged."""
        prepared = self.prepare(graph, outputs, told)
        used = {step for one in prepared.passes for step in one.steps} & prepared.cached.keys()
        paths = [self.cache.value_path(str(prepared.keys.step(step))) for step in sorted(used)]
        sound = [self.cache.is_sound(path) for path in paths]
        return prepared if all(sound) else self.prepare_sound(graph, outputs, told)

    def known(self, graph: Graph, steps: Iterable[str]) -> dict[Measure, Any]:
        """Statistics of ``steps`` that this run or an earlier one computed."""
        keys = self.keys(graph)
        known: dict[Measure, Any] = {}
        for step_id in steps:
            for measure in measures_of(graph, step_id).values():
                key = keys.measure(measure)
                if key in self.results:
                    known[measure] = self.results[key]
                elif key is not None and (found := self.cache.get("stats", key)) is not None:
                    known[measure] = self.results[key] = measure.decode(found)
        return known

    def run(self, prepared: Prepared, outputs: Outputs) -> Outcome:
        """Carry out all passes; the written files are left under their temporary names."""
        outcome = Outcome(dict(prepared.known))
        for planned in prepared.passes:
            one = planned if planned.otherwise is None or self._finite(prepared) else planned.otherwise
            if not one.is_empty:
                doubtful = self._run_pass(prepared, one, outcome, outputs)
                self._correct(prepared, one, outcome, outputs, doubtful)
        return outcome

    def _correct(
        self, prepared: Prepared, one: Pass, outcome: Outcome, outputs: Outputs, doubtful: Sequence[Tile]
    ) -> None:
        """Make drafts anew that were made under a wrong guess, where that makes a difference."""
        wrong = {
            sink: replace(draft, guess=None)
            for sink, draft in one.drafts.items()
            if draft.guess is not None and draft.guess.hypothesis(outcome.known[draft.guess])
        }
        if not wrong or not doubtful or not self._finite(prepared):
            return
        again = replace(one, measures=(), guesses={}, sinks=(), drafts=wrong)
        program = self._compiled(prepared, again, outcome.known, outputs)
        outcome.forget(wrong, doubtful)
        jobs = group_tiles(program, doubtful, self.scheduler.jobs_at_once)
        outcome.take(self._sweep(f"{one.number} corrected", program, jobs))

    def _compiled(self, prepared: Prepared, one: Pass, known: Results, outputs: Outputs) -> Program:
        """A pass's program, but for the states of its measures."""
        sources = self.sources(prepared, one, outputs)
        unhashed = frozenset(step for step in one.steps if step in self.checkpoints and step not in self.digests)
        nonfinite = {**self.nonfinite, **self._inherited(prepared)}
        compiled = compile_pass(
            one, prepared.graph, prepared.layouts, sources, known, outputs, hashed=unhashed, nonfinite=nonfinite
        )
        at_once = whole_tensors_at_once(prepared.graph, one, prepared.layouts, self.settings)
        return replace(compiled, device=self.settings.device, most_at_once=at_once if compiled.whole else None)

    def _inherited(self, prepared: Prepared) -> dict[str, frozenset[str]]:
        """By step that is read from the cache: tensors in which something that it was made of has NaN or Inf."""
        return {
            step: frozenset().union(*(self.nonfinite.get(one, ()) for one in prepared.graph.needed([step])))
            for step in prepared.cached
        }

    def _finite(self, prepared: Prepared) -> bool:
        """Whether no input has NaN or Inf: a draft cannot tell where they were."""
        return not any(self.nonfinite.get(step) for step in prepared.layouts)

    def remember(self, graph: Graph, known: Mapping[Measure, Any]) -> None:
        """Keep statistics under their keys, which are all known after the first sweep."""
        keys = self.keys(graph)
        for measure, result in known.items():
            key = keys.measure(measure)
            if key is not None and key not in self.results:
                self.results[key] = result
                self.cache.put("stats", key, result)

    def _run_pass(self, prepared: Prepared, one: Pass, outcome: Outcome, outputs: Outputs) -> list[Tile]:
        """Add to the outcome; gives the blocks of drafts that depend on what was guessed."""
        program = self._compiled(prepared, one, outcome.known, outputs)
        jobs = cut_jobs(program, self.scheduler.jobs_at_once)
        program = replace(program, recorded=recordings_pay(sum(job.nbytes for job in jobs)))
        if program.recorded and not self.settings.on_cluster:
            load_machine()
        states = self._states(prepared, program, one)
        observations = tuple(replace(o, state=states.get(o.measure)) for o in program.observations)
        program = replace(program, observations=observations)
        name = f"{one.number}/{len(prepared.passes)}"
        results = self._sweep(name, program, jobs)
        self._learn_digests(program, results)
        numels = {o.measure: population(o.measure, prepared.layouts) for o in observations}
        doubtful = outcome.take(results)
        found = finalize_all(observations, results, numels)
        results.clear()  # a sweep again needs the room of the magnitudes in them
        outcome.known |= self._settle(name, program, found, numels)
        return doubtful

    def sources(self, prepared: Prepared, one: Pass, outputs: Outputs) -> dict[str, Checkpoint]:
        """What a pass reads, by step; drafts lie where ``outputs`` will be."""
        found = {step: self.checkpoints[step] for step in one.steps if step in self.checkpoints}
        found |= {step: prepared.cached[step] for step in one.steps if step in prepared.cached}
        written = [*one.sinks, *(sink for sink, draft in one.drafts.items() if draft.step == sink)]
        passthrough = {step for sink in written for step in prepared.layouts[sink].passthrough.values()}
        found |= {step: self.checkpoints[step] for step in sorted(passthrough)}
        drafts: dict[str, list[Write]] = {}
        for sink, draft in one.finishes.items():
            if draft.step in one.steps:
                drafts.setdefault(draft.step, []).extend(outputs.get(sink, ())[:1])
        return found | {step: draft_of(prepared.layouts[step], writes) for step, writes in drafts.items()}

    def _states(self, prepared: Prepared, program: Program, one: Pass) -> dict[Measure, Any]:
        """What sampled measures learn from a sample before the sweep."""
        if not one.sampled:
            return {}
        numels = {m: population(m, prepared.layouts) for m in one.sampled}
        looked_at = {o.measure: o.tensors for o in program.observations}
        taps = tuple(Observation(_sample(m), (), None, tensors=looked_at[m]) for m in one.sampled)
        tensors = {key: spec.numel for tap in taps for key, spec in observed_tensors(program, tap).items()}
        samples: Mapping[Any, Any] = {}
        runs = max(m.sample_runs(numels[m]) for m in one.sampled)
        if runs:
            sampler = replace(program, observations=taps, writes=(), hashed=frozenset())
            results = self._sweep(f"{one.number} sample", sampler, sample_jobs(tensors, runs))
            samples = finalize_all(taps, results, {tap.measure: {} for tap in taps})
        return {m: m.prepare(samples.get(_sample(m), {}), numels[m]) for m in one.sampled}

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
        nbytes = sum(job.nbytes for job in jobs)
        LOG.info("pass %s begins: %d jobs, %.1f MB%s", name, len(jobs), nbytes / 1e6, _way(program))
        self.emit(PassStarted(name, nbytes))
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
        blocks: dict[str, dict[str, list[tuple[int, int]]]] = {step: {} for step in program.hashed}
        bad: dict[str, set[str]] = {step: set() for step in program.hashed}
        for result in results:
            for (source, tensor), found in result.digests.items():
                blocks[source].setdefault(tensor, []).extend(found)
            for source, tensor in result.nonfinite:
                bad[source].add(tensor)
        for step in sorted(program.hashed):
            checkpoint = self.checkpoints[step]
            ordered = {tensor: [digest for _, digest in sorted(found)] for tensor, found in blocks[step].items()}
            self._learn(step, identify(checkpoint, ordered, bad[step]))

    def identify(self, step: str) -> str:
        """The content digest of a load step's checkpoint; reads all of it where that is not known yet."""
        if step not in self.digests:
            self._learn(step, identify(self.checkpoints[step]))
        return self.digests[step]

    def _learn(self, step: str, known: Known) -> None:
        self.digests[step], self.nonfinite[step] = known.digest, frozenset(known.nonfinite)
        self.cache.put_digest(self.checkpoints[step], known)


def _way(program: Program) -> str:
    return ", in a compiled loop" if program.recorded else ""


def _sample(measure: Measure) -> Sample:
    """What is sampled for a measure: magnitudes of the first value that it observes."""
    return Sample(measure.of[:1], bounds=measure.bounds)

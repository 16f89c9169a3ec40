"""What workers are told: a plan for each stage, and tasks (names and ranges); neither holds a tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lines_pipeline.core.tensor_specs import BLOCK_NUMEL, ITEM_BYTES, TensorSpec
from lines_pipeline.core.types import CompileMode
from lines_pipeline.graph.graph import Step
from lines_pipeline.io.checkpoint import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.ops.base import AnyStatistic, Place
from lines_pipeline.planner.schemas import Schema

SAMPLE_RUN_NUMEL = 1024
"""Neighbouring values in a run of a sample."""
MIN_TASK_BYTES = 4 * 2**20
MAX_TASK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class WriteTarget:
    """Tells where a tensor of a written step goes: bytes at an offset, in the stored data type."""

    path: str
    offset: int
    dtype: str


@dataclass(frozen=True)
class Write:
    """A step whose value a stage writes; ``packed`` masks take 1 bit a value."""

    step: str
    positions: Mapping[str, tuple[WriteTarget, ...]]
    packed: bool = False
    speculation: AnyStatistic | None = None
    """A partial output's: the statistic whose first outcome the value assumes."""
    is_partial: bool = False
    """Whether another step's value comes to stand there."""


@dataclass(frozen=True)
class Observation:
    """A statistic that a stage gathers: with earlier results, its state, and the one whose outcomes it assumes."""

    statistic: AnyStatistic
    needs: tuple[Any, ...]
    state: Any
    speculation: AnyStatistic | None = None
    tensors: frozenset[str] | None = None
    """The tensors that it looks at; None for all that its values have."""


@dataclass(frozen=True, eq=False)
class StagePlan:
    """Holds what a task needs besides its slices. Tensors go by key: a name, or name and shape (``planner.shapes``)."""

    steps: tuple[Step, ...]
    schemas: Mapping[str, Schema]
    stats: Mapping[str, Mapping[str, Any]]
    """Known statistics by step, under the names its op gave them."""
    speculated: Mapping[str, Mapping[str, AnyStatistic]]
    """Statistics by step that are assumed in this stage: name to statistic."""
    positions: Mapping[str, Mapping[str, Place]]
    """By step whose op depends on depth: where each tensor is."""
    sources: Mapping[str, Mapping[str, StoredTensor]]
    """Stored tensors by step that is read from files."""
    files: tuple[SourceFile, ...]
    """The files read, as they were when planned."""
    hashed: frozenset[str]
    """Sources whose content digest is not known yet: this stage takes it."""
    nonfinite: Mapping[str, frozenset[str]]
    """Tensors that are known to hold NaN or Inf, by source."""
    observations: tuple[Observation, ...]
    writes: tuple[Write, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors by key, where these differ."""
    device: str = "cpu"
    compile: CompileMode = "never"
    """Whether compiled kernels do blocks; where a compiler fails, ``auto`` takes the interpreter, ``always`` raises."""
    most_at_once: int | None = None
    """How many tasks may run side by side in the memory allowed; None for as many as there are workers."""

    @cached_property
    def whole(self) -> frozenset[str]:
        """Return the tensors that an op has to see whole: each is a task of its own."""
        return frozenset(
            key
            for step in self.steps
            if any(map(step.op.breaks_pipeline, step.all_params)) and step.id not in self.sources
            for key in self.schemas[step.id].tensors
            if takes_whole(step, self.schemas[step.id], key)
        )


def takes_whole(step: Step, schema: Schema, tensor: str) -> bool:
    """Return whether a step's op sees a tensor of its result whole."""
    spec = schema.tensors[tensor]
    return spec.is_floating and tensor not in schema.streamed and step.op.wants_whole(step.params_of(spec.name), spec)


@dataclass(frozen=True)
class TensorSlice:
    """A range of values of one tensor, by key, in all sources of the stage plan that have it and are visited."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class Task:
    """Slices that one worker does one after the other."""

    slices: tuple[TensorSlice, ...]
    nbytes: int = field(default=0)
    """Bytes that its slices read."""


class Readers:
    """Tells the sources that a plan needs of each tensor: those that it computes with, and those that it hashes."""

    def __init__(self, stage_plan: StagePlan) -> None:
        self._stage_plan = stage_plan
        self._steps = {step.id: step for step in stage_plan.steps}
        self._copying = [schema.copied for schema in stage_plan.schemas.values() if schema.copied]
        self._choices: list[Collection[str]] = [schema.tensors for schema in stage_plan.schemas.values()]
        self._choices += [schema.exposed for schema in stage_plan.schemas.values() if schema.exposed]
        self._choices += [
            observation.tensors for observation in stage_plan.observations if observation.tensors is not None
        ]
        self._choices += [write.positions for write in stage_plan.writes]
        self._computed: dict[tuple[Any, ...], tuple[str, ...]] = {}

    def computed(self, tensor: str) -> tuple[str, ...]:
        """Return the sources that values to be observed or written are computed from."""
        alike = self._alike(tensor)
        if alike not in self._computed:
            reached = self._reached(tensor, self._targets(tensor))
            sources = self._stage_plan.sources.items()
            self._computed[alike] = tuple(step for step, tensors in sources if step in reached and tensor in tensors)
        return self._computed[alike]

    def _alike(self, tensor: str) -> tuple[Any, ...]:
        """Return what the sources of a tensor depend on: most tensors of a stage plan are alike."""
        having = tuple([tensor in choice for choice in self._choices])
        copied = tuple([copied.get(tensor) for copied in self._copying])
        writes = (
            self._stage_plan.schemas[write.step] for write in self._stage_plan.writes if tensor in write.positions
        )
        return having, copied, tuple([schema.passthrough.get(tensor) for schema in writes])

    def hashed(self, tensor: str) -> tuple[str, ...]:
        """Return the sources that are hashed, of those that have the tensor: views are parts of other tensors."""
        schemas = self._stage_plan.schemas
        if not self._stage_plan.hashed:
            return ()
        return tuple(
            step
            for step, tensors in self._stage_plan.sources.items()
            if step in self._stage_plan.hashed and tensor in tensors and tensor not in schemas[step].exposed
        )

    def read(self, tensor: str) -> tuple[str, ...]:
        """Return all sources that are read."""
        if not self._stage_plan.hashed:
            return self.computed(tensor)
        read = {*self.computed(tensor), *self.hashed(tensor)}
        return tuple(step for step in self._stage_plan.sources if step in read)

    def behind(self, step_id: str, tensor: str) -> tuple[str, ...]:
        """Return the sources of a tensor that the value of a step is computed from."""
        behind, waiting = set[str](), [step_id]
        while waiting:
            step = self._steps[waiting.pop()]
            behind.add(step.id)
            if step.id not in self._stage_plan.sources:
                waiting += (source for ids in step.value_inputs.values() for source in ids if source not in behind)
        return tuple(source for source in self.computed(tensor) if source in behind)

    def width(self, tensor: str) -> int:
        """Return the bytes read of one value of a tensor: of a whole one all inputs, each time that they are taken."""
        read = self._taken_whole(tensor) if tensor in self._stage_plan.whole else self.read(tensor)
        return sum(ITEM_BYTES[self._stage_plan.sources[step][tensor].spec.dtype] for step in read)

    def _taken_whole(self, tensor: str) -> list[str]:
        step = next(self._steps[write.step] for write in self._stage_plan.writes if tensor in write.positions)
        spec = self._stage_plan.schemas[step.id].tensors[tensor]
        taken = (ids for port, ids in step.value_inputs.items() if not step.op.inputs[port].beside)
        once = [source for ids in taken for step_id in ids for source in self.behind(step_id, tensor)]
        return once * step.op.times_taken(step.params_of(spec.name), spec, step.counts)

    def _targets(self, tensor: str) -> list[str]:
        """Return the steps whose values are observed or written; integer tensors come as they are from one source."""
        schemas = self._stage_plan.schemas
        targets = [
            step
            for observation in self._stage_plan.observations
            for step in observation.statistic.of
            if observes(self._stage_plan, observation, tensor)
        ]
        for write in self._stage_plan.writes:
            if tensor in write.positions:
                schema = schemas[write.step]
                targets.append(write.step if schema.tensors[tensor].is_floating else schema.passthrough[tensor])
        return targets

    def _reached(self, tensor: str, targets: list[str]) -> set[str]:
        schemas, sources, reached = self._stage_plan.schemas, self._stage_plan.sources, set[str]()
        while targets:
            step_id = targets.pop()
            if step_id in reached or tensor not in schemas[step_id].tensors:
                continue
            reached.add(step_id)
            if step_id not in sources:
                copied = schemas[step_id].copied.get(tensor)
                step = self._steps[step_id]
                taken = (ids for port, ids in step.value_inputs.items() if not step.op.inputs[port].beside)
                targets += [copied] if copied else (i for ids in taken for i in ids)
        return reached


def observes(stage_plan: StagePlan, observation: Observation, tensor: str) -> bool:
    """Return whether an observation looks at a tensor."""
    if observation.tensors is not None and tensor not in observation.tensors:
        return False
    schemas = (stage_plan.schemas[step] for step in observation.statistic.of)
    return any(
        tensor in schema.tensors and schema.tensors[tensor].is_floating and tensor not in schema.exposed
        for schema in schemas
    )


def observed_tensors(stage_plan: StagePlan, observation: Observation) -> dict[str, TensorSpec]:
    """Return the tensors that an observation looks at."""
    specs: dict[str, TensorSpec] = {}
    for step_id in observation.statistic.of:
        schema = stage_plan.schemas[step_id]
        specs |= {n: s for n, s in schema.tensors.items() if s.is_floating and n not in schema.exposed}
    return specs if observation.tensors is None else {n: s for n, s in specs.items() if n in observation.tensors}


def visited_tensors(stage_plan: StagePlan) -> dict[str, TensorSpec]:
    """Return the tensors that the stage has to visit, by key."""
    specs: dict[str, TensorSpec] = {}
    for source in sorted(stage_plan.hashed):
        exposed = stage_plan.schemas[source].exposed
        specs |= {key: stored.spec for key, stored in stage_plan.sources[source].items() if key not in exposed}
    for observation in stage_plan.observations:
        specs |= observed_tensors(stage_plan, observation)
    for write in stage_plan.writes:
        specs |= {key: stage_plan.schemas[write.step].tensors[key] for key in write.positions}
    return dict(sorted(specs.items()))


def read_bytes(stage_plan: StagePlan) -> int:
    """Return the bytes of tensor data that a sweep over the whole stage plan reads."""
    readers = Readers(stage_plan)
    visited = visited_tensors(stage_plan)
    streamed = sum(spec.numel * readers.width(key) for key, spec in visited.items())
    return streamed + sum(_beside_bytes(stage_plan, key) for key in visited if key in stage_plan.whole)


def _beside_bytes(stage_plan: StagePlan, key: str) -> int:
    """Return the bytes that are read of what lies beside a whole tensor."""
    nbytes = 0
    for step in stage_plan.steps if key in stage_plan.whole else ():
        beside = stage_plan.schemas[step.id].beside.items()
        nbytes += sum(stage_plan.sources[source][named[key]].spec.nbytes for source, named in beside if key in named)
    return nbytes


def cut_tasks(stage_plan: StagePlan, workers: int) -> list[Task]:
    """Return a task for each whole tensor, largest first, then tasks of neighbouring slices.

    Slices begin at fixed blocks; their tasks have 4 to 128 MB of input, several a worker.
    """
    readers = Readers(stage_plan)
    sizes = {key: (spec.numel, readers.width(key)) for key, spec in visited_tensors(stage_plan).items()}
    whole = sorted((key for key in sizes if key in stage_plan.whole), key=lambda key: -sizes[key][0])
    tasks = [Task((TensorSlice(key, 0, sizes[key][0]),), sizes[key][0] * sizes[key][1]) for key in whole]
    tensors = {key: size for key, size in sizes.items() if key not in stage_plan.whole}
    goal = _goal(sum(numel * width for numel, width in tensors.values()), workers)
    slices: list[tuple[TensorSlice, int]] = []
    for key, (numel, width) in tensors.items():
        step = max(_slice_numel(goal, width), 1)
        slices += ((TensorSlice(key, start, min(start + step, numel)), width) for start in range(0, numel, step))
    return tasks + _grouped(slices, goal)


def group_slices(stage_plan: StagePlan, slices: Sequence[TensorSlice], workers: int) -> list[Task]:
    """Return tasks of given slices."""
    readers = Readers(stage_plan)
    wide = [(tensor_slice, readers.width(tensor_slice.tensor)) for tensor_slice in slices]
    return _grouped(
        wide, _goal(sum((tensor_slice.stop - tensor_slice.start) * width for tensor_slice, width in wide), workers)
    )


def _goal(total: int, workers: int) -> int:
    return min(max(total // (workers * 8), MIN_TASK_BYTES), MAX_TASK_BYTES)


def _grouped(slices: Iterable[tuple[TensorSlice, int]], goal: int) -> list[Task]:
    """Yield tasks of at least ``goal`` bytes of input, but for the last; slices come with the bytes of one value."""
    tasks: list[Task] = []
    group: list[TensorSlice] = []
    nbytes = 0
    for tensor_slice, width in slices:
        group.append(tensor_slice)
        nbytes += (tensor_slice.stop - tensor_slice.start) * width
        if nbytes >= goal:
            tasks.append(Task(tuple(group), nbytes))
            group, nbytes = [], 0
    return [*tasks, Task(tuple(group), nbytes)] if group else tasks


def _slice_numel(goal: int, width: int) -> int:
    """Return how many values in whole blocks make up about ``goal`` bytes of input."""
    return max(goal // max(width, 1) // BLOCK_NUMEL, 1) * BLOCK_NUMEL


def sample_tasks(names: Mapping[str, int], runs: int) -> list[Task]:
    """Return evenly spread short runs over ``names`` (name to number of values), one task for 64 of them."""
    total = sum(names.values())
    stride = max(total // runs, SAMPLE_RUN_NUMEL)
    slices: list[TensorSlice] = []
    position, base = stride // 2, 0
    for name, numel in names.items():
        while position < base + numel:
            start = min(position - base, max(numel - SAMPLE_RUN_NUMEL, 0))
            slices.append(TensorSlice(name, start, min(start + SAMPLE_RUN_NUMEL, numel)))
            position += stride
        base += numel
    return [Task(tuple(slices[i : i + 64])) for i in range(0, len(slices), 64)]


def source_files(checkpoints: Sequence[Checkpoint]) -> tuple[SourceFile, ...]:
    """Return all files of the checkpoints, each once."""
    return tuple(dict.fromkeys(file for checkpoint in checkpoints for file in checkpoint.files))

"""What workers are told: a program (once a pass) and jobs (names and ranges); neither holds a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lines_pipeline.core.tensors import BLOCK_NUMEL, TensorSpec
from lines_pipeline.io.checkpoints import Checkpoint, SourceFile, StoredTensor
from lines_pipeline.ops.base import Granularity, Measure
from lines_pipeline.planning.layouts import Layout
from lines_pipeline.recipe.graph import Step

SAMPLE_RUN_NUMEL = 1024
"""Neighbouring values in a run of a sample."""
MIN_JOB_BYTES = 4 * 2**20
MAX_JOB_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Destination:
    """Where a tensor of a written step goes: bytes at an offset, in the stored data type."""

    path: str
    offset: int
    dtype: str


@dataclass(frozen=True)
class Write:
    """A step whose value a pass writes; ``packed`` masks take 1 bit a value."""

    step: str
    places: Mapping[str, tuple[Destination, ...]]
    packed: bool = False
    guess: Measure | None = None
    """A draft's: the measure whose first hypothesis the value assumes."""
    is_draft: bool = False
    """Whether another step's value comes to stand there."""


@dataclass(frozen=True)
class Observation:
    """A measure that a pass gathers, with what it needs: earlier results, its state, and the guess it is made under."""

    measure: Measure
    needs: tuple[Any, ...]
    state: Any
    guess: Measure | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """Everything a job needs besides its tiles."""

    steps: tuple[Step, ...]
    layouts: Mapping[str, Layout]
    stats: Mapping[str, Mapping[str, Any]]
    """Known statistics by step, under the names its op gave them."""
    guessed: Mapping[str, Mapping[str, Measure]]
    """Statistics by step that are guessed in this pass: name to measure."""
    places: Mapping[str, Mapping[str, tuple[int, int]]]
    """By step whose op depends on depth: tensor name to block and depth."""
    sources: Mapping[str, Mapping[str, StoredTensor]]
    """Stored tensors by step that is read from files."""
    files: tuple[SourceFile, ...]
    """The files read, as they were when planned."""
    hashed: frozenset[str]
    """Sources whose content digest is not known yet: this pass takes it."""
    nonfinite: Mapping[str, frozenset[str]]
    """Tensors that are known to hold NaN or Inf, by source."""
    observations: tuple[Observation, ...]
    writes: tuple[Write, ...]
    device: str = "cpu"
    recorded: bool = False
    """Whether blocks run as recordings; loading the compiled part of these pays for large passes only."""

    @property
    def whole_tensors(self) -> bool:
        """Whether some op has to see whole tensors."""
        return any(step.op.granularity is Granularity.TENSOR for step in self.steps)


@dataclass(frozen=True)
class Tile:
    """A range of values of one tensor, in all sources of the program that have it."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """Tiles that one worker does one after the other."""

    tiles: tuple[Tile, ...]
    nbytes: int = field(default=0)
    """Bytes read."""


def needed_names(program: Program) -> dict[str, TensorSpec]:
    """Tensors that the pass has to visit."""
    found: dict[str, TensorSpec] = {}
    for source in sorted(program.hashed):
        found |= {name: stored.spec for name, stored in program.sources[source].items()}
    for observation in program.observations:
        for step_id in observation.measure.of:
            found |= {n: s for n, s in program.layouts[step_id].tensors.items() if s.is_floating}
    for write in program.writes:
        found |= {name: program.layouts[write.step].tensors[name] for name in write.places}
    return dict(sorted(found.items()))


def cut_jobs(program: Program, workers: int) -> list[Job]:
    """Jobs of neighbouring tiles, of 4 to 128 MB of input, several a worker; tiles begin at fixed blocks."""
    names = needed_names(program)
    goal = _goal(sum(spec.numel * _width(program, name) for name, spec in names.items()), workers)
    tiles: list[Tile] = []
    for name, spec in names.items():
        step = spec.numel if program.whole_tensors else _tile_numel(goal, _width(program, name))
        tiles += (Tile(name, start, min(start + step, spec.numel)) for start in range(0, spec.numel, max(step, 1)))
    return _grouped(program, tiles, goal)


def group_tiles(program: Program, tiles: Sequence[Tile], workers: int) -> list[Job]:
    """Jobs of given tiles."""
    return _grouped(program, tiles, _goal(sum(_nbytes(program, tile) for tile in tiles), workers))


def _goal(total: int, workers: int) -> int:
    return min(max(total // (workers * 8), MIN_JOB_BYTES), MAX_JOB_BYTES)


def _grouped(program: Program, tiles: Sequence[Tile], goal: int) -> list[Job]:
    """Jobs of at least ``goal`` bytes of input, but for the last."""
    jobs: list[Job] = []
    group: list[Tile] = []
    nbytes = 0
    for tile in tiles:
        group.append(tile)
        nbytes += _nbytes(program, tile)
        if nbytes >= goal:
            jobs.append(Job(tuple(group), nbytes))
            group, nbytes = [], 0
    return [*jobs, Job(tuple(group), nbytes)] if group else jobs


def _nbytes(program: Program, tile: Tile) -> int:
    return (tile.stop - tile.start) * _width(program, tile.tensor)


def _width(program: Program, name: str) -> int:
    """Bytes of one value of a tensor in all sources that have it."""
    return sum(stored.spec.nbytes // max(stored.spec.numel, 1) for stored in _stored(program, name))


def _stored(program: Program, name: str) -> list[StoredTensor]:
    return [tensors[name] for tensors in program.sources.values() if name in tensors]


def _tile_numel(goal: int, width: int) -> int:
    """Whole blocks of values that make up about ``goal`` bytes of input."""
    return max(goal // max(width, 1) // BLOCK_NUMEL, 1) * BLOCK_NUMEL


def sample_jobs(names: Mapping[str, int], runs: int) -> list[Job]:
    """Evenly spread short runs over the tensors ``names`` (name to number of values), one job a 64 of them."""
    total = sum(names.values())
    stride = max(total // runs, SAMPLE_RUN_NUMEL)
    tiles: list[Tile] = []
    position, base = stride // 2, 0
    for name, numel in names.items():
        while position < base + numel:
            start = min(position - base, max(numel - SAMPLE_RUN_NUMEL, 0))
            tiles.append(Tile(name, start, min(start + SAMPLE_RUN_NUMEL, numel)))
            position += stride
        base += numel
    return [Job(tuple(tiles[i : i + 64])) for i in range(0, len(tiles), 64)]


def source_files(checkpoints: Sequence[Checkpoint]) -> tuple[SourceFile, ...]:
    """All files of the checkpoints, each once."""
    return tuple(dict.fromkeys(file for checkpoint in checkpoints for file in checkpoint.files))

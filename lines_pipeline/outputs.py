"""What a recipe's ``save`` nodes want written, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import PlanError
from lines_pipeline.engine.storing import Request
from lines_pipeline.io.folders import removed_if_empty, require_cache, require_output
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.io.object_stores import ObjectStore, is_url, open_store
from lines_pipeline.io.temporaries import sweep_temporaries, temporary_folder
from lines_pipeline.ops.save import SaveParams
from lines_pipeline.recipe.graph import Graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.schema import parse_bytes
from lines_pipeline.zoo.catalogue import cache_folder


@dataclass(frozen=True)
class Destination:
    """Where a run writes: a folder, from which files may go on to an object store."""

    folder: Path
    store: ObjectStore | None = None

    @property
    def out(self) -> Path | str:
        """The place that was asked for."""
        return self.store.url if self.store else self.folder

    def deliver(self, files: Sequence[Path]) -> tuple[Path | str, ...]:
        """Send complete files on; tells where they are then."""
        if self.store is None:
            return tuple(files)
        self.store.upload(self.folder)
        return tuple(self.store.location(file, self.folder) for file in files)


@contextmanager
def open_destination(out: str | Path) -> Iterator[Destination]:
    """A folder, or by way of a folder in the cache the object store at a URL, which workers need not reach.

    Raises ``PlanError`` for a file, an unknown store, or a cache that cannot be written. Folders that are made
    meanwhile go again where nothing came to lie in them.
    """
    if not is_url(out):
        place = Path(str(out).removeprefix("file://"))
        existing = next(one for one in (place, *place.absolute().parents) if os.path.exists(one))
        if not existing.is_dir():
            raise PlanError(f"{existing}: is a file, and results go to a folder; choose another --out")
        with removed_if_empty(place):
            yield Destination(place)
        return
    store, waiting = open_store(str(out)), cache_folder() / "uploads"
    require_cache(waiting)
    sweep_temporaries(waiting)
    with temporary_folder(waiting.resolve() / "run") as folder:
        yield Destination(folder, store)


def check_outputs(graph: Graph, folder: Path) -> tuple[Path, ...]:
    """The files to write; ``PlanError`` where two are one, or one would not be a safetensors file in the folder."""
    taken: dict[Path, str] = {}
    for step in graph.steps.values():
        if isinstance(step.params, SaveParams):
            path = resolve_output(folder, step.params.path)
            if path.suffix != ".safetensors":
                raise PlanError(f"node '{step.node}': path '{step.params.path}' should end in .safetensors")
            if path in taken:
                raise PlanError(f"nodes '{taken[path]}' and '{step.id}' both write '{step.params.path}'")
            taken[path] = step.id
    return tuple(taken)


def require_writable(files: Iterable[Path], folder: Path) -> None:
    """Raise ``PlanError`` where one of ``files`` is not there, in any version, and the folder cannot be written."""
    if not all(os.path.exists(file) or os.path.exists(f"{file}.index.json") for file in files):
        require_output(folder)


def requests(recipe: Recipe, graph: Graph, destination: Destination) -> dict[str, Request]:
    """What the ``save`` steps want, by step."""
    found: dict[str, Request] = {}
    metadata, lasting = {"recipe": recipe.canonical(), "recipe_hash": recipe.hash}, destination.store is None
    for step in graph.steps.values():
        if isinstance(step.params, SaveParams):
            limit = parse_bytes(step.params.max_shard_size) if step.params.max_shard_size else None
            path = resolve_output(destination.folder, step.params.path)
            source = step.inputs["model"][0]
            found[step.id] = Request(source, path, step.params.dtype, limit, step.params.packed, metadata, lasting)
    return found

"""What a recipe's ``save`` nodes want written, and where."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.core.types import EdgeType
from lines_pipeline.core.versions import package_versions
from lines_pipeline.executor.materialising import ModelFolder, OutputRequest, Stored, announce
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.adapter_folders import AdapterSettings, conv1d_kind
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.committing import earlier_files, index_path, shard_pattern
from lines_pipeline.io.companions import (
    CARD,
    MANIFEST,
    Companions,
    config_beside,
    config_of,
    find_companions,
    model_root,
)
from lines_pipeline.io.entries import write_atomically
from lines_pipeline.io.folders import removed_if_empty, require_cache, require_output
from lines_pipeline.io.formats.adapters import ADAPTER_WEIGHTS
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.io.model_cards import Card, CardInput, stated_license
from lines_pipeline.io.model_configs import resolved_config
from lines_pipeline.io.object_stores import ObjectStore, is_url, open_store
from lines_pipeline.io.temporaries import sweep_temporaries, temporary_folder
from lines_pipeline.ops.roles import FileOutput
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.zoo.entries import cache_folder


@dataclass(frozen=True)
class OutputFolder:
    """Names the folder that a run writes to, from which files may go on to an object store."""

    folder: Path
    store: ObjectStore | None = None

    @property
    def out(self) -> Path | str:
        """Return the place that was asked for."""
        return self.store.url if self.store else self.folder

    def deliver(self) -> None:
        """Send complete files on."""
        if self.store is not None:
            self.store.upload(self.folder)

    def renew(self, files: Iterable[Path]) -> None:
        """Send files once more that have changed since."""
        if self.store is not None:
            self.store.renew(self.folder, files)

    def location(self, path: Path) -> Path | str:
        """Return where a file or folder is in the end."""
        return path if self.store is None else self.store.location(path, self.folder)


def place(recipe: Recipe, out: str | Path | None) -> str | Path:
    """Return where results go: a folder, or the URL of an object store."""
    return Path("runs") / recipe.name if out is None else out


def planned_destination(out: str | Path) -> OutputFolder:
    """Return where a run would write; nothing is made. Raises ``PlanError`` for a file, or an unknown store."""
    if is_url(out):
        return OutputFolder(cache_folder() / "uploads" / "run", open_store(str(out)))
    folder = Path(str(out).removeprefix("file://"))
    existing = next((above for above in _ways_up(folder) if os.path.exists(above)), None)
    if existing is None:
        raise PlanError(f"{folder}: the working directory is gone; change to another, or give a whole path as --out")
    if not existing.is_dir():
        raise PlanError(f"{existing}: is a file, and results go to a folder; choose another --out")
    return OutputFolder(folder)


def _ways_up(folder: Path) -> list[Path]:
    """List a folder and those that it lies in; of a relative one only itself where the working directory is gone."""
    try:
        return [folder, *folder.absolute().parents]
    except FileNotFoundError:
        return [folder]


@contextmanager
def open_destination(out: str | Path) -> Iterator[OutputFolder]:
    """Return a folder, or the object store at a URL, by way of a folder in the cache: workers need not reach the store.

    Raises ``PlanError`` for a file, an unknown store, or a cache that cannot be written. Folders that are made
    meanwhile go again where nothing came to lie in them.
    """
    planned = planned_destination(out)
    if planned.store is None:
        with removed_if_empty(planned.folder):
            yield planned
        return
    waiting = planned.folder.parent
    require_cache(waiting)
    sweep_temporaries(waiting)
    with temporary_folder(waiting.resolve() / "run") as folder:
        yield OutputFolder(folder, planned.store)


def check_outputs(graph: Graph, folder: Path) -> tuple[Path, ...]:
    """Return the files to write, of a model folder the list of its files; ``PlanError`` where one cannot lie there."""
    files: list[Path] = []
    for step, output in _file_outputs(graph):
        target = resolve_output(folder, output.path)
        _require_place(step, output.path, target)
        files.append(target / MANIFEST if output.is_folder else target)
    for step_id, derivation in graph.derivations.items():
        for path in derivation.files:
            files.append(resolve_output(folder, path))
            _require_place(graph.steps[step_id], path, files[-1])
    return tuple(files)


def _file_outputs(graph: Graph) -> list[tuple[Step, FileOutput]]:
    """Yield the steps that write a file, and which."""
    steps = graph.steps.values()
    outputs = [(step, output) for step in steps if (output := step.op.file_of(step.params, step.inputs))]
    return [(step, output if output.value else replace(output, value=step.id)) for step, output in outputs]


def _require_place(step: Step, path: str, target: Path) -> None:
    """Raise ``PlanError`` where a folder lies in the place of a file, or a file in that of a folder."""
    is_folder = path.endswith("/")
    blocking = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
    if is_folder and target.exists() and not target.is_dir():
        blocking = target
    if blocking is not None:
        raise PlanError(f"node '{step.node}': {blocking} is a file, '{path}' needs a folder there")
    if target.is_dir() and not is_folder:
        hint = f"to write a model folder there, say '{path}/'"
        raise PlanError(f"node '{step.node}': {target} is a folder, not a file; {hint}")


def require_writable(files: Iterable[Path], folder: Path) -> None:
    """Raise ``PlanError`` where one of ``files`` is not there, in any version, and the folder cannot be written."""
    if not all(os.path.exists(file) or os.path.exists(index_path(file)) for file in files):
        require_output(folder)


def requests(
    recipe: Recipe, graph: Graph, destination: OutputFolder, checkpoints: Mapping[str, Checkpoint]
) -> dict[str, OutputRequest]:
    """Return what the ``save`` steps ask for, by step. Raises ``PlanError`` where it would replace an input."""
    by_step: dict[str, OutputRequest] = {}
    metadata, lasting = {"recipe": recipe.canonical(), "recipe_hash": recipe.hash}, destination.store is None
    for step, output in _file_outputs(graph):
        assert output.value is not None
        limit = parse_bytes(output.max_shard_size) if output.max_shard_size else None
        path, folder = resolve_output(destination.folder, output.path), None
        if output.is_folder:
            folder = _model_folder(recipe, graph, step, output, path=path, checkpoints=checkpoints)
            path = path / folder.companions.weights
        request = OutputRequest(output.value, path, output.dtype, limit, output.packed, metadata, lasting, folder)
        _require_inputs_stay(step, request, checkpoints)
        by_step[step.id] = request
    return by_step


def _model_folder(
    recipe: Recipe,
    graph: Graph,
    step: Step,
    output: FileOutput,
    *,
    path: Path,
    checkpoints: Mapping[str, Checkpoint],
) -> ModelFolder:
    assert output.value is not None
    followed_step = graph.followed(output.like or output.value)
    followed = checkpoints.get(followed_step)
    if output.adapter:
        companions = Companions(ADAPTER_WEIGHTS)
    elif followed is None:
        companions = Companions("model.safetensors")
    else:
        companions = find_companions(_file(followed))
    for file in companions.files:
        resolve_output(path, file.name)
        if file.name == companions.config:
            where = f"node '{step.node}': {file.name} of the folder that '{followed_step}' loads"
            resolved_config(file.source.read_bytes(), (), where)
    sources = [graph.steps[step_id] for step_id in graph.ancestors([output.value])]
    inputs = tuple(
        CardInput(recipe.secrets.label(source.id), recipe.recorded_path(source), _license(checkpoints.get(source.id)))
        for source in sources
        if source.op.is_source
    )
    version = package_versions(["lines-pipeline"]).get("lines-pipeline", "")
    name = str(recipe.recorded.get("name", recipe.name))
    library = "peft" if output.adapter else companions.library
    card = Card(name, version, recipe.published(), recipe.hash, inputs, library)
    if output.adapter:
        adapter = _adapter_settings(recipe, graph.steps[followed_step], followed)
        return ModelFolder(path, companions, card, followed_step, output.like is not None, adapter=adapter)
    configs = _configs(sources, checkpoints)
    return ModelFolder(path, companions, card, followed_step, output.like is not None, configs)


def _adapter_settings(recipe: Recipe, followed: Step, checkpoint: Checkpoint | None) -> AdapterSettings:
    """Return what the configuration of an adapter tells of its base; nothing where the recipe names none."""
    if checkpoint is None or followed.gives is not EdgeType.WEIGHTS:
        return AdapterSettings()
    transposes = conv1d_kind(config_of(_file(checkpoint))) is not None
    return AdapterSettings(recipe.recorded_path(followed), transposes=transposes)


def _configs(sources: Iterable[Step], checkpoints: Mapping[str, Checkpoint]) -> dict[str, Path]:
    """Find the configurations beside what steps load, by step."""
    configs = {load.id: config_beside(_file(checkpoints[load.id])) for load in sources if load.id in checkpoints}
    return {step: config for step, config in configs.items() if config is not None}


def _file(checkpoint: Checkpoint) -> Path:
    return Path(checkpoint.files[0].path)


def _license(checkpoint: Checkpoint | None) -> str:
    return "" if checkpoint is None else stated_license(model_root(_file(checkpoint)))


def _require_inputs_stay(step: Step, request: OutputRequest, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise ``PlanError`` where the request would replace or remove a file that this run reads, or a link to it."""
    assert request.path is not None
    read = {
        place: f"which '{load}' loads"
        for load, checkpoint in checkpoints.items()
        for file in checkpoint.files
        for place in (Path(file.path).resolve(), Path(file.path).parent.resolve() / Path(file.path).name)
    }
    written = {request.path, index_path(request.path)}
    if request.folder is not None:
        read |= {companion.source.resolve(): "which it is to follow" for companion in request.folder.companions.files}
        written |= {*request.folder.targets, request.folder.path / CARD, *earlier_files(request.folder.path)}
    pattern = shard_pattern(request.path)
    lost = [
        file
        for file in sorted(read)
        if file in written or (file.parent == request.path.parent and pattern.fullmatch(file.name))
    ]
    if lost:
        raise PlanError(
            f"node '{step.node}': would replace {lost[0].name}, {read[lost[0]]}; choose another --out, or another path"
        )


def notes(requests: Mapping[str, OutputRequest]) -> list[str]:
    """Return the notes on model folders that are to be written (files copied, left out), each note once."""
    steps = {
        note: step for step, request in requests.items() if request.folder for note in request.folder.companions.notes
    }
    return [f"node '{step}': {note}" for note, step in steps.items()]


def deliver(
    session: Session, destination: OutputFolder, stored: Mapping[str, Stored], reused: Collection[str]
) -> list[Path | str]:
    """Send what was saved to where it belongs, and tell sinks of it; returns all files."""
    destination.deliver()
    locations: list[Path | str] = []
    for step, value in stored.items():
        files = [destination.location(path) for path in value.files]
        announce(session, step, value, destination.location(value.path), files, reused=step in reused)
        locations += files
    return locations


def write_cards(
    graph: Graph,
    requests: Mapping[str, OutputRequest],
    digests: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float]],
    *,
    secrets: Secrets,
) -> list[Path]:
    """Complete the model cards with what is known of each model now; returns those that changed.

    What steps and metrics take from the environment is in them by name.
    """
    changed = []
    for request in requests.values():
        if request.folder is not None:
            alone = (request.step,)
            judged = {step: figures for step, figures in metrics.items() if graph.models_of([step]) == alone}
            card = request.folder.card.render(secrets.labelled(digests), secrets.labelled(judged))
            path, content = request.folder.path / CARD, card.encode()
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
                changed.append(path)
    return changed

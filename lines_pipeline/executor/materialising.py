"""From requests to files: lays out outputs, runs the stages, and commits headers, cache entries and summaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lines_pipeline.cache.values import cache_full
from lines_pipeline.core.errors import CheckpointError, EngineError
from lines_pipeline.core.events import FileWritten, Note
from lines_pipeline.core.fingerprints import canonical_json, content_key
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.executor.non_finite import require_held
from lines_pipeline.executor.plan_run import Outcome
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph, Step
from lines_pipeline.io.adapter_folders import AdapterSettings
from lines_pipeline.io.checkpoint import SourceFile
from lines_pipeline.io.committing import commit_files, commit_folder
from lines_pipeline.io.companions import CARD, MANIFEST, Companions
from lines_pipeline.io.entries import file_digest
from lines_pipeline.io.folders import removed_if_empty
from lines_pipeline.io.formats.adapters import ADAPTER_CONFIG
from lines_pipeline.io.masks import SHAPES, VALUE_TYPE, packed_shapes
from lines_pipeline.io.model_cards import Card
from lines_pipeline.io.model_configs import find_classifier, resolved_config, with_labels
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.io.writing import OutputLayout, complete_files, create_files, discard_files, lay_out_files
from lines_pipeline.planner.origins import tensor_origin
from lines_pipeline.planner.plan import Plan, Wanted
from lines_pipeline.planner.schemas import Schema, infer_schemas
from lines_pipeline.planner.stages import ancestors, stats_of
from lines_pipeline.planner.tasks import Write, WriteTarget
from lines_pipeline.planner.varying_numbers import summary_of

DIGEST_LENGTH = 64


@dataclass(frozen=True)
class ModelFolder:
    """A folder that is wanted around weights: what lies beside them, and what its model card tells."""

    path: Path
    companions: Companions
    card: Card
    followed: str = ""
    """The step that loads what the companions are of."""
    like: bool = False
    """Whether the recipe names that step, with ``like``."""
    configs: Mapping[str, Path] = field(default_factory=dict)
    """By step that loads what may be grafted: the configuration beside it."""
    adapter: AdapterSettings | None = None
    """Of an adapter's folder: what its configuration tells."""

    @property
    def targets(self) -> tuple[Path, ...]:
        """Return the files beside the weights, but for the model card, which changes with what is measured."""
        beside = [file.name for file in self.companions.files] + ([ADAPTER_CONFIG] if self.adapter else [])
        return (*(self.path / name for name in beside), self.path / MANIFEST)


@dataclass(frozen=True)
class OutputRequest:
    """A step whose value is wanted as a file: at ``path``, or in the node cache where that is None."""

    step: str
    path: Path | None = None
    dtype: str = "keep"
    max_shard_bytes: int | None = None
    packed: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    lasting: bool = True
    """Whether a file stays at ``path``, where later runs can find it."""
    folder: ModelFolder | None = None
    """The model folder that ``path`` lies in, if one is wanted."""


@dataclass(frozen=True)
class Stored:
    """A value that lies on the disk: what opens it (a file, a model folder, the index of shards), and all its files."""

    path: Path
    files: tuple[Path, ...]
    weights: tuple[Path, ...]
    """Those of the files that hold the value itself, and the index of shards."""


def materialise(
    session: Session, graph: Graph, requests: Sequence[OutputRequest], summarised: Sequence[str] = ()
) -> tuple[list[Stored], dict[str, dict[str, Any]]]:
    """Write what is requested and not there yet; return all of it, and the summaries behind the steps ``summarised``.

    Values that break the pipeline come first, each into the cache. Nothing keeps its final name unless it is complete;
    after an error no temporary file and no empty folder is left.
    """
    return _write(session, graph, requests, summarised), _summaries(session, graph, summarised)


def _write(
    session: Session, graph: Graph, requests: Sequence[OutputRequest], summarised: Sequence[str] = ()
) -> list[Stored]:
    """Write what is requested and not there yet; gather the statistics behind the steps ``summarised``."""
    existing_values = {n: value for n, r in enumerate(requests) if (value := existing(session, graph, r)) is not None}
    stored = {
        n: value
        for n, value in existing_values.items()
        if requests[n].path or session.cache.values.is_sound(value.path)
    }
    missing = {number: request for number, request in enumerate(requests) if number not in stored}
    planned = session.sound_plan(graph, wanted_of(missing.values(), summarised))
    if planned.before:  # one by one: what the first finds of its inputs may spare the others
        _write(session, graph, [OutputRequest(step) for step in planned.before[0].wanted.files])
        return _write(session, graph, requests, summarised)
    layouts = {n: _output_layout(session, r, graph.steps[r.step], planned) for n, r in missing.items()}
    _log(requests, stored, planned)
    with ExitStack() as cleanup:
        for folder in dict.fromkeys(folder for request in missing.values() for folder in folders_of(request)):
            cleanup.enter_context(removed_if_empty(folder))
        for number, layout in layouts.items():
            cleanup.callback(discard_files, layout)
            _create(session, requests[number], layout)
        outcome = session.run(planned, _writes(missing, layouts, planned, graph))
        session.remember(graph, outcome.known)
        _require_held(outcome, planned, missing.values())
        for number, request in missing.items():
            metadata = _metadata(session, graph, request, planned.schemas[request.step])
            stored[number] = _commit(session, graph, request, layouts[number], metadata, planned.schemas)
    return [stored[number] for number in range(len(requests))]


def _log(requests: Sequence[OutputRequest], stored: Mapping[int, Stored], planned: Plan) -> None:
    """Log which values are there, and what is done for the others."""
    for number, request in enumerate(requests):
        if number in stored:
            LOG.info("'%s': there already: '%s'", request.step, stored[number].path)
        else:
            LOG.info("'%s': to be made, %s", request.step, f"at '{request.path}'" if request.path else "in the cache")
    for stage in planned.stages:
        if not stage.is_empty:
            LOG.info("pass %s: over %s", stage.number, ", ".join(f"'{step}'" for step in stage.steps))
    for step, value in planned.cached.items():
        LOG.info("'%s': from the cache: '%s'", step, value.uri)


def _create(session: Session, request: OutputRequest, layout: OutputLayout) -> None:
    """Make the files at full size; where the cache has no place for a value, what is old in it goes first."""
    try:
        create_files(layout)
    except EngineError as error:
        if request.path is not None or not isinstance(error.__cause__, OSError):
            raise
        session.cache.make_room(layout.nbytes)
        try:
            create_files(layout)
        except EngineError:
            raise EngineError(cache_full(session.cache.folder, error.__cause__)) from error


def _require_held(outcome: Outcome, planned: Plan, requests: Iterable[OutputRequest]) -> None:
    numels = {step: schema.numels for step, schema in planned.schemas.items()}
    saved = [request.step for request in requests if request.path is not None]
    require_held(
        {position: list(blocks.values()) for position, blocks in outcome.unheld.items() if blocks}, numels, saved
    )


def wanted_of(requests: Iterable[OutputRequest], summarised: Iterable[str]) -> Wanted:
    """Return what a plan has to give for requests, each step in the type that its first request says."""
    dtypes: dict[str, str] = {}
    in_cache = set[str]()
    for request in requests:
        dtypes.setdefault(request.step, "" if request.packed else request.dtype)
        if request.path is None:
            in_cache.add(request.step)
    return Wanted(dtypes, tuple(summarised), frozenset(in_cache))


def folders_of(request: OutputRequest) -> tuple[Path, ...]:
    """Return the folders that a request writes to."""
    if request.path is None:
        return ()
    beside = request.folder.targets if request.folder else ()
    return tuple(dict.fromkeys(path.parent for path in (request.path, *beside)))


def existing(session: Session, graph: Graph, request: OutputRequest) -> Stored | None:
    """Return the requested value where it is there already, with the content that it should have."""
    key = session.keys(graph).step(request.step)
    if key is None:
        return None
    if request.path is None:
        path = session.cache.values.path(key)
        return Stored(path, (path,), (path,)) if session.cache.values.has(key) else None
    recorded = session.cache.get("files", content_key([key, _options(request)]))
    if not recorded or recorded.get("path") != str(request.path.resolve()):
        return None
    try:
        same = all(asdict(SourceFile.of(Path(file["path"]))) == file for file in recorded["files"])
        files = [Path(file["path"]) for file in recorded["files"]]
    except (CheckpointError, KeyError, TypeError):
        return None
    return _stored(request, files) if same else None


def _stored(request: OutputRequest, files: Sequence[Path]) -> Stored:
    """Return the files of a value: weights first, an index after its shards, a folder's other files last."""
    if request.folder is not None:
        weights = files[: len(files) - len(request.folder.targets)]
        return Stored(request.folder.path, (*files, request.folder.path / CARD), tuple(weights))
    return Stored(files[-1], tuple(files), tuple(files))


def _options(request: OutputRequest) -> list[Any]:
    path = None if request.path is None else str(request.path.resolve())
    options = [path, request.dtype, request.max_shard_bytes, request.packed, dict(request.metadata)]
    if request.folder is None:
        return options
    options.append({file.name: file_digest(file.source) for file in request.folder.companions.files})
    if request.folder.adapter is not None:
        options.append(asdict(request.folder.adapter))
    configs = {step: file_digest(path) for step, path in request.folder.configs.items()}
    return [*options, configs] if configs else options


def sizes(session: Session, requests: Iterable[OutputRequest], planned: Plan) -> dict[Path, int]:
    """Return the bytes that each of the requested values takes, by its path; nothing is written."""
    nbytes: dict[Path, int] = {}
    for request in requests:
        path = request.path or session.cache.values.path(request.step)
        beside = request.folder.companions.files if request.folder else ()
        layout = _output_layout(session, request, planned.graph.steps[request.step], planned)
        nbytes[path] = layout.nbytes + sum(companion.source.stat().st_size for companion in beside)
    return nbytes


def _output_layout(session: Session, request: OutputRequest, step: Step, planned: Plan) -> OutputLayout:
    schema = planned.schemas[request.step]
    path = request.path or temporary_path(session.cache.values.path("pending"))
    specs = [_stored_spec(name, spec, step, request) for name, spec in _all_names(schema, step).items()]
    room = len(canonical_json(_metadata(session, planned.graph, request, schema))) + 256
    return lay_out_files(path, specs, metadata_bytes=room, max_shard_bytes=request.max_shard_bytes)


def _all_names(schema: Schema, step: Step) -> dict[str, TensorSpec]:
    """Return the tensors to write: those of the schema and, for weights, second names of tied ones."""
    tensors = dict(schema.tensors)
    tied = schema.aliases if step.gives is EdgeType.WEIGHTS else {}
    return tensors | {alias: tensors[name] for alias, name in tied.items() if name in tensors}


def _stored_spec(name: str, spec: TensorSpec, step: Step, request: OutputRequest) -> TensorSpec:
    if step.gives is EdgeType.MASK:
        packed = (-(-spec.numel // 8),)
        return TensorSpec(name, "uint8", packed) if request.packed else TensorSpec(name, "bool", spec.shape)
    if not spec.is_floating:
        return TensorSpec(name, spec.dtype, spec.shape)
    kept = spec.dtype if step.gives is EdgeType.WEIGHTS else spec.compute_dtype
    return TensorSpec(name, kept if request.dtype == "keep" else request.dtype, spec.shape)


def _writes(
    requests: Mapping[int, OutputRequest], layouts: Mapping[int, OutputLayout], planned: Plan, graph: Graph
) -> dict[str, tuple[Write, ...]]:
    writes: dict[str, tuple[Write, ...]] = {}
    for number, request in requests.items():
        positions = {
            spec.name: WriteTarget(str(file.temporary), offset, spec.dtype)
            for file in layouts[number].files
            for spec, offset in zip(file.specs, file.offsets().values(), strict=True)
        }
        schema, step = planned.schemas[request.step], graph.steps[request.step]
        grouped: dict[str, tuple[WriteTarget, ...]] = {}
        for name in _all_names(schema, step):
            original = name if name in schema.tensors else schema.aliases[name]
            grouped[original] = (*grouped.get(original, ()), positions[name])
        writes[request.step] = (*writes.get(request.step, ()), Write(request.step, grouped, request.packed))
    return writes


def _metadata(session: Session, graph: Graph, request: OutputRequest, schema: Schema) -> dict[str, str]:
    loads = [step for step in graph.ancestors([request.step]) if graph.steps[step].op.is_source]
    label = session.cache.secrets.label  # what a recipe takes from the environment is in no file but by name
    digests = {label(step): session.digests.get(step, "0" * DIGEST_LENGTH) for step in loads}
    kind = graph.steps[request.step].gives
    value_type = {} if kind is EdgeType.WEIGHTS else {VALUE_TYPE: kind.value}
    value_type |= {SHAPES: packed_shapes(list(schema.tensors.values()))} if request.packed else {}
    return {"format": "pt", **request.metadata, **value_type, "inputs": canonical_json(digests)}


def _commit(
    session: Session,
    graph: Graph,
    request: OutputRequest,
    layout: OutputLayout,
    metadata: Mapping[str, str],
    schemas: Mapping[str, Schema],
) -> Stored:
    key = session.keys(graph).step(request.step)
    if request.path is None:
        assert key is not None
        complete_files(layout, metadata)
        path = session.cache.values.adopt(layout.files[0].temporary, key)
        return Stored(path, (path,), (path,))
    files = list(layout.written)
    if request.folder is None:
        commit_files(layout, metadata)
    else:
        head = None if request.folder.adapter else find_classifier(layout.specs)
        origin = request.folder.followed if head is None else tensor_origin(graph, schemas, request.step, head.name)
        contents = _contents(session, request, layout, origin)
        commit_folder(layout, metadata, request.folder.path, contents)
        files += request.folder.targets
    if key is not None and request.lasting:
        recorded = {"path": str(request.path.resolve()), "files": [asdict(SourceFile.of(name)) for name in files]}
        session.cache.put("files", content_key([key, _options(request)]), recorded)
    return _stored(request, files)


def _contents(session: Session, request: OutputRequest, layout: OutputLayout, origin: str) -> dict[str, Path | bytes]:
    """Gather what lies beside the weights: files to copy, the configuration made to agree with them, the model card.

    ``origin`` is the step whose checkpoint the classification head comes from.
    """
    folder = request.folder
    assert folder is not None
    contents: dict[str, Path | bytes] = {companion.name: companion.source for companion in folder.companions.files}
    if folder.adapter is not None:
        contents[ADAPTER_CONFIG] = folder.adapter.config(layout.specs)
    config = contents.get(folder.companions.config)
    if isinstance(config, Path):
        resolved = resolved_config(config.read_bytes(), layout.specs, str(config))
        if origin != folder.followed:
            resolved = _labelled(session, request, resolved, layout, origin)
        contents[folder.companions.config] = resolved
    return {**contents, CARD: folder.card.render(session.cache.secrets.labelled(session.digests)).encode()}


def _labelled(session: Session, request: OutputRequest, config: bytes, layout: OutputLayout, origin: str) -> bytes:
    """Give a configuration the labels of the head's own checkpoint; emit a note where they cannot be told."""
    folder, head = request.folder, find_classifier(layout.specs)
    assert folder is not None and head is not None
    rows, beside = head.shape[0], folder.configs.get(origin)
    if folder.like and with_labels(config, None, rows) is not None:
        return config
    resolved = with_labels(config, beside.read_bytes() if beside else None, rows)
    if resolved is None:
        text = (
            f"node '{request.step}': tensor '{printable(head.name)}' comes from '{origin}' and has {rows} labels, and "
            f"config.json names another number, so that from_pretrained refuses the folder; say 'like: {origin}' on "
            "the node that saves it, or mend config.json"
        )
        session.emit(Note(text, warning=True))
    return config if resolved is None else resolved


def _summaries(session: Session, graph: Graph, summarised: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the summaries of the steps ``summarised`` and all behind them, whether computed now or remembered."""
    steps = ancestors(graph, summarised)
    schemas, known = infer_schemas(graph, steps, session.checkpoints), session.known(graph, steps)
    summaries: dict[str, dict[str, Any]] = {}
    for step_id in schemas:
        step, stats = graph.steps[step_id], stats_of(graph, step_id, known)
        if stats is not None:
            summary = summary_of(step, stats, schemas[step_id].numels)
            summary = {**session.summaries.get(step_id, {}), **summary}
            if summary:
                summaries[step_id] = dict(summary)
    return summaries


def announce(
    session: Session, node: str, stored: Stored, location: Path | str, files: Sequence[Path | str], *, reused: bool
) -> None:
    """Tell sinks about complete files, which can be found at ``location``, one by one at ``files``."""
    nbytes = sum(path.stat().st_size for path in stored.files if path.exists())
    session.emit(FileWritten(node, location, nbytes, reused, tuple(files)))

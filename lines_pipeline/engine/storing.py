"""From requests to files: lays out outputs, runs the passes, and commits headers, cache entries and facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import FileWritten
from lines_pipeline.core.keys import canonical_json, content_key
from lines_pipeline.core.tensors import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.engine.evaluation import input_counts
from lines_pipeline.engine.session import Prepared, Session
from lines_pipeline.io.checkpoints import SourceFile
from lines_pipeline.io.folders import removed_if_empty
from lines_pipeline.io.masks import SHAPES, VALUE_TYPE, packed_shapes
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.io.writing import OutputLayout, commit_files, create_files, discard_files, lay_out_files
from lines_pipeline.planning.layouts import Layout, lay_out
from lines_pipeline.planning.memory import projected_peak, require_memory
from lines_pipeline.planning.passes import cone, stats_of
from lines_pipeline.planning.program import Destination, Write
from lines_pipeline.recipe.graph import Graph, Step

DIGEST_LENGTH = 64


@dataclass(frozen=True)
class Request:
    """A step whose value is wanted as a file: at ``path``, or in the node cache where that is None."""

    step: str
    path: Path | None = None
    dtype: str = "keep"
    max_shard_bytes: int | None = None
    packed: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    lasting: bool = True
    """Whether a file stays at ``path``, where later runs can find it."""


def store(session: Session, graph: Graph, requests: Sequence[Request]) -> tuple[list[Path], dict[str, dict[str, Any]]]:
    """Write what is requested and not there yet; returns the paths and the facts by step.

    Nothing keeps its final name unless it is complete; after an error no temporary file and no empty folder is left.
    """
    there = {n: path for n, r in enumerate(requests) if (path := existing_file(session, graph, r)) is not None}
    found = {n: path for n, path in there.items() if requests[n].path is not None or session.cache.is_sound(path)}
    wanted = {number: request for number, request in enumerate(requests) if number not in found}
    prepared = session.prepare_sound(graph, stored_types(wanted.values()))
    require_memory(projected_peak(prepared.passes, prepared.layouts, session.settings), session.settings)
    layouts = {n: _output_layout(session, r, graph.steps[r.step], prepared) for n, r in wanted.items()}
    with ExitStack() as cleanup:
        for folder in {request.path.parent: None for request in wanted.values() if request.path is not None}:
            cleanup.enter_context(removed_if_empty(folder))
        for layout in layouts.values():
            cleanup.callback(discard_files, layout)
            create_files(layout)
        known = session.run(prepared, _writes(wanted, layouts, prepared, graph))
        session.remember(graph, known)
        for number, request in wanted.items():
            metadata = _metadata(session, graph, request, prepared.layouts[request.step])
            found[number] = _commit(session, graph, request, layouts[number], metadata)
    return [found[number] for number in range(len(requests))], _facts(session, graph, requests)


def stored_types(requests: Iterable[Request]) -> dict[str, str]:
    """By requested step: the type that it is stored in, as its first request says."""
    found: dict[str, str] = {}
    for request in requests:
        found.setdefault(request.step, "" if request.packed else request.dtype)
    return found


def existing_file(session: Session, graph: Graph, request: Request) -> Path | None:
    """The requested file where it is there already, with the content that it should have."""
    key = session.keys(graph).step(request.step)
    if key is None:
        return None
    if request.path is None:
        return session.cache.value_path(key) if session.cache.has_value(key) else None
    recorded = session.cache.get("files", content_key([key, _options(request)]))
    path = recorded and recorded.get("path")
    if path != str(request.path.resolve()):
        return None
    try:
        same = all(SourceFile.of(Path(file["path"])) == SourceFile(**file) for file in recorded["files"])
    except (CheckpointError, KeyError, TypeError):
        return None
    return request.path if same else None


def _options(request: Request) -> list[Any]:
    path = None if request.path is None else str(request.path.resolve())
    return [path, request.dtype, request.max_shard_bytes, request.packed, dict(request.metadata)]


def _output_layout(session: Session, request: Request, step: Step, prepared: Prepared) -> OutputLayout:
    layout = prepared.layouts[request.step]
    path = request.path or temporary_path(session.cache.value_path("pending"))
    specs = [_stored_spec(name, spec, step, request) for name, spec in _all_names(layout, step).items()]
    room = len(canonical_json(_metadata(session, prepared.graph, request, layout))) + 256
    return lay_out_files(path, specs, metadata_bytes=room, max_shard_bytes=request.max_shard_bytes)


def _all_names(layout: Layout, step: Step) -> dict[str, TensorSpec]:
    """Tensors to write: those of the layout and, for weights, second names of tied ones."""
    tensors = dict(layout.tensors)
    tied = layout.aliases if step.gives is EdgeType.WEIGHTS else {}
    return tensors | {alias: tensors[name] for alias, name in tied.items() if name in tensors}


def _stored_spec(name: str, spec: TensorSpec, step: Step, request: Request) -> TensorSpec:
    if step.gives is EdgeType.MASK:
        packed = (-(-spec.numel // 8),)
        return TensorSpec(name, "uint8", packed) if request.packed else TensorSpec(name, "bool", spec.shape)
    if not spec.is_floating:
        return TensorSpec(name, spec.dtype, spec.shape)
    kept = spec.dtype if step.gives is EdgeType.WEIGHTS else spec.compute_dtype
    return TensorSpec(name, kept if request.dtype == "keep" else request.dtype, spec.shape)


def _writes(
    wanted: Mapping[int, Request], layouts: Mapping[int, OutputLayout], prepared: Prepared, graph: Graph
) -> dict[str, tuple[Write, ...]]:
    found: dict[str, tuple[Write, ...]] = {}
    for number, request in wanted.items():
        places = {
            spec.name: Destination(str(file.temporary), offset, spec.dtype)
            for file in layouts[number].files
            for spec, offset in zip(file.specs, file.offsets().values(), strict=True)
        }
        layout, step = prepared.layouts[request.step], graph.steps[request.step]
        grouped: dict[str, tuple[Destination, ...]] = {}
        for name in _all_names(layout, step):
            original = name if name in layout.tensors else layout.aliases[name]
            grouped[original] = (*grouped.get(original, ()), places[name])
        found[request.step] = (*found.get(request.step, ()), Write(request.step, grouped, request.packed))
    return found


def _metadata(session: Session, graph: Graph, request: Request, layout: Layout) -> dict[str, str]:
    loads = [step for step in graph.needed([request.step]) if graph.steps[step].op.name == "load"]
    digests = {step: session.digests.get(step, "0" * DIGEST_LENGTH) for step in loads}
    kind = graph.steps[request.step].gives
    told = {} if kind is EdgeType.WEIGHTS else {VALUE_TYPE: kind.value}
    told |= {SHAPES: packed_shapes(list(layout.tensors.values()))} if request.packed else {}
    return {"format": "pt", **request.metadata, **told, "inputs": canonical_json(digests)}


def _commit(
    session: Session, graph: Graph, request: Request, layout: OutputLayout, metadata: Mapping[str, str]
) -> Path:
    commit_files(layout, metadata)
    key = session.keys(graph).step(request.step)
    if request.path is None:
        assert key is not None
        return session.cache.adopt(layout.path, key)
    if key is not None and request.lasting:
        names = [file.path for file in layout.files] + ([layout.index] if layout.index else [])
        recorded = {"path": str(request.path.resolve()), "files": [asdict(SourceFile.of(name)) for name in names]}
        session.cache.put("files", content_key([key, _options(request)]), recorded)
    return request.path


def _facts(session: Session, graph: Graph, requests: Sequence[Request]) -> dict[str, dict[str, Any]]:
    """Facts of all steps behind the requests, whether computed now or remembered."""
    steps = cone(graph, [request.step for request in requests])
    layouts, known = lay_out(graph, steps, session.checkpoints), session.known(graph, steps)
    found: dict[str, dict[str, Any]] = {}
    for step_id in layouts:
        step, stats = graph.steps[step_id], stats_of(graph, step_id, known)
        if stats is not None:
            facts = step.op.facts(step.params, stats, layouts[step_id].numels, input_counts(step))
            if facts:
                found[step_id] = facts
    return found


def announce(session: Session, node: str, path: Path, location: Path | str, *, reused: bool) -> None:
    """Tell sinks about a finished file, which can be found at ``location``."""
    session.emit(FileWritten(node, location, SourceFile.of(path).size if path.exists() else 0, reused))

"""Keeps the value of a step that was measured, not computed from its inputs: in the cache, by its content key."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lines_pipeline.cache.values import cache_full
from lines_pipeline.core.errors import EngineError
from lines_pipeline.core.logs import LOG
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.executor.interpreter import torch_dtype
from lines_pipeline.executor.session import Session
from lines_pipeline.graph.graph import Graph
from lines_pipeline.io.masks import VALUE_TYPE
from lines_pipeline.io.temporaries import temporary_path
from lines_pipeline.ops.drivers import Measured
from lines_pipeline.planner.schemas import Schema, schema_of

SUMMARIES = "summaries"
"""The kind of the cache's entries that hold what is told of measured values."""


def keep_value(session: Session, graph: Graph, step: str, measured: Measured) -> tuple[Path, Mapping[str, Any]]:
    """Put a step's value where the executor reads it like a computed one, unless a sound one is there.

    Return its file, and what is worth telling of it, which is remembered too.

    Raises ``EngineError`` where the cache cannot be written.
    """
    for source in graph.ancestors([step]):
        if graph.steps[source].op.is_source:
            session.contents.identify(source)
    key = session.keys(graph).step(step)
    assert key is not None
    path = session.cache.values.path(key)
    if session.cache.values.has(key) and session.cache.values.is_sound(path):
        LOG.info("'%s': measured before: '%s'", step, path)
        return path, session.summaries.setdefault(step, session.cache.get(SUMMARIES, key) or {})
    LOG.info("'%s': to be measured", step)
    schema = schema_of(graph, step, session.checkpoints)
    tensors = _stored(measured.measure(), None if measured.tells_tensors else schema)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"format": "pt", VALUE_TYPE: graph.steps[step].gives.value})
        session.cache.values.adopt(temporary, key)
    except OSError as error:
        raise EngineError(cache_full(session.cache.folder, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    session.summaries[step] = summary = dict(measured.summary())
    session.cache.put(SUMMARIES, key, summary)
    return path, summary


def _stored(measured: Mapping[str, torch.Tensor], schema: Schema | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a schema, or all, on the CPU: floating-point ones in the compute type."""
    if schema is None:
        return {name: value.float().cpu().contiguous() for name, value in measured.items()}
    return {
        name: measured[name].to("cpu", _type_of(spec)).reshape(spec.shape).contiguous()
        for name, spec in schema.tensors.items()
    }


def _type_of(spec: TensorSpec) -> torch.dtype:
    return torch_dtype(spec.compute_dtype if spec.is_floating else spec.dtype)

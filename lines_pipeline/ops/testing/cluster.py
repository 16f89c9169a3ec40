"""Merges made-up checkpoints with an op on threads and on a cluster of this machine, and compares the files."""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp, Port
from lines_pipeline.ops.function import FunctionOp
from lines_pipeline.ops.testing.examples import find_op

_EXPERTS = ("a", "b", "c")
_SHARED = {
    "base": {"op": "load", "path": "base.safetensors"},
    "models": {"op": "load", "path": "{expert}.safetensors", "for_each": {"expert": list(_EXPERTS)}},
    "deltas": {"op": "task-vector", "model": "models", "base": "base"},
    "masks": {"op": "magnitude-mask", "delta": "deltas", "density": 0.5},
}


def check_cluster(op: AnyOp | str, *, address: str = "", **params: Any) -> None:
    """Check that a merge with an op writes the same bytes on threads and on a cluster.

    The cluster has two workers, processes of this machine, unless ``address`` names one (of processes that see this
    machine's files). An op that no package offers is taken from its file, as a recipe's plug-in: without what else
    lies beside it.
    """
    op = find_op(op)
    with tempfile.TemporaryDirectory() as folder:
        recipe = _write(Path(folder), op, params)
        on_threads = _merged(recipe, "threads")
        if address:
            on_cluster = _merged(recipe, address)
        else:
            with local_cluster() as cluster:
                on_cluster = _merged(recipe, cluster.scheduler_address)
        assert on_threads == on_cluster, f"'{op.name}' gives other bytes on a cluster"


def local_cluster(**options: Any) -> Any:
    """Return a cluster of two workers, processes of this machine, to be closed; ``options`` are those of Dask.

    Without a dashboard Dask's scheduler still serves HTTP, on port 8787, and warns where another one does: any free
    port will do.
    """
    from distributed import LocalCluster

    ports = {"dashboard_address": ":0"}
    return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, scheduler_kwargs=ports, **options)


def _merged(recipe: Path, scheduler: str) -> bytes:
    out = recipe.parent / scheduler.partition(":")[0]
    run = import_module("lines_pipeline").run  # as an author's own test does; no layer below the API imports it
    result = run(recipe, out=out, scheduler=scheduler, cache=False, trust=True, tracking=False)
    return bytes(result.files[0].read_bytes())


def _write(folder: Path, op: AnyOp, params: dict[str, Any]) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name in ("base", *_EXPERTS):
        shapes = {"blocks.0.weight": (64, 32), "blocks.1.weight": (64, 32), "bias": (7,)}
        save_file({k: torch.randn(s, generator=generator) for k, s in shapes.items()}, folder / f"{name}.safetensors")
    taken = {name: _taken(port) for name, port in op.inputs.items() if not port.optional}
    nodes: dict[str, Any] = {**_SHARED, "made": {"op": op.name, **taken, **params}}
    if op.gives is EdgeType.DELTA:
        nodes["result"] = {"op": "apply", "base": "base", "delta": "made"}
    nodes["saved"] = {"op": "save", "model": "result" if "result" in nodes else "made", "path": "merged.safetensors"}
    recipe = folder / "recipe.yaml"  # JSON is YAML
    recipe.write_text(json.dumps({"name": "checked", "plugins": _plugins(op, folder), "nodes": nodes}))
    return recipe


def _taken(port: Port) -> str:
    kind = {EdgeType.WEIGHTS: "models", EdgeType.DELTA: "deltas", EdgeType.MASK: "masks"}[port.type or EdgeType.WEIGHTS]
    return kind if port.many else f"{kind}[{_EXPERTS[0]}]"


def _plugins(op: AnyOp, folder: Path) -> list[str]:
    if op.name in registry():
        return []
    defined = type(op).function if isinstance(op, FunctionOp) else type(op)
    file = Path(inspect.getsourcefile(defined) or "")
    shutil.copyfile(file, folder / "plugin.py")
    return ["plugin.py"]

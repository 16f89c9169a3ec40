"""Measure the spectral methods: memory against what a plan asks for, and time against FusionBench on the same files.

``python benchmarks/spectral.py [--models tower|clip|llama] [--experts 20] [--ops iso-c,tsv-m] [--peer plain|none]``

Every op runs with exactly the least ``--memory`` that its plan allows; its anonymous memory is sampled from outside,
and goes into docs/performance.md. Models are bfloat16: a ViT-B/32's image tower, all of it (113 M), or a LLaMA (1.3 B).
Where there is a peer, the op runs within 2 GB as well, and the peer without a bound: FusionBench in a virtual
environment of its own, made at its first use, or a plain script that takes torch's singular value decomposition of
every matrix, as the papers write it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import report
import torch
from checkpoints import Shapes, parameter_count, vit_shapes
from environments import pinned
from language_models import SIZES, llama_tensors
from safetensors.torch import save_file
from watching import Command, Limits, Watched, watch

FOLDER = Path(__file__).parent
OPS = ("iso-c", "tsv-m", "iso-cts", "cart", "wudi-closed", "svc", "tsv-c", "wudi")
PEER_OPS = {"fusion-bench": ("iso-c", "tsv-m", "iso-cts"), "plain": ("iso-c", "tsv-m"), "none": ()}
PARAMETERS = 113e6
LIMITS = Limits(20e9, 4 * 3600)
HEADINGS = ("method", "experts", "parameters", "largest matrix", "least `--memory`", "anonymous peak", "share")
TIME_HEADINGS = (
    "method",
    "experts",
    "time",
    "processor time",
    "anonymous",
    "peer",
    "peer: time",
    "processor time",
    "anonymous",
    "times our time",
)
MEMORY, TIME = "spectral-memory", "spectral-time"
"""The parts of ``docs/performance.md``."""
RESULTS = FOLDER / "spectral.json"
"""Rows of both by models and op, of all measured so far."""
COMPARED_MEMORY = "2GB"


def main() -> None:
    """Generate, run, print one line an op, and report memory and time."""
    arguments = _arguments()
    shapes = _shapes(arguments.models)
    folder = arguments.checkpoints or FOLDER / ".checkpoints" / f"{arguments.models}_bfloat16"
    models = _generate(folder, shapes, arguments.experts)
    for op in arguments.ops.split(","):
        print(" | ".join(_measured(op, models, shapes, arguments)), flush=True)


def _shapes(models: str) -> Shapes:
    if models == "llama":
        return {tensor.name: tensor.shape for tensor in llama_tensors(*SIZES[1.3e9])}
    shapes = vit_shapes(PARAMETERS)
    return shapes if models == "clip" else {n: shape for n, shape in shapes.items() if n.startswith("visual.")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=("tower", "clip", "llama"), default="tower", help="whose shapes they have")
    parser.add_argument("--experts", type=int, default=20, help="models to merge (default 20)")
    parser.add_argument("--ops", default=",".join(OPS), help="which to run (default all)")
    parser.add_argument("--peer", choices=sorted(PEER_OPS), default="fusion-bench", help="compared with, in time")
    parser.add_argument("--peer-python", help="an interpreter that has FusionBench (default: one of its own)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at a time (default: all cores)")
    parser.add_argument("--iterations", type=int, default=20, help="steps of wudi (default 20; its own default is 300)")
    parser.add_argument("--checkpoints", type=Path, help="a folder for the generated models")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave docs/performance.md as it is")
    return parser.parse_args()


def _generate(folder: Path, shapes: Shapes, count: int) -> Sequence[Path]:
    """Write a pretrained model and experts near it as bfloat16, but for what is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "base.safetensors", *(folder / f"expert{i:02}.safetensors" for i in range(count))]
    for number, path in enumerate(paths):
        if not path.exists():
            save_file(_model(shapes, number), path)
    return paths


def _model(shapes: Shapes, number: int) -> dict[str, torch.Tensor]:
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(number)
    tensors = {}
    for name, shape in shapes.items():
        tensor = 0.02 * torch.randn(shape, generator=base)
        tensors[name] = (tensor + 0.002 * torch.randn(shape, generator=own) if number else tensor).bfloat16()
    return tensors


def _measured(op: str, models: Sequence[Path], shapes: Shapes, arguments: argparse.Namespace) -> Iterator[str]:
    folder = FOLDER / ".spectral" / f"{arguments.models}-{op}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(_recipe(op, models, arguments.iterations)))
    own = ("--workers", str(arguments.workers))
    least = _least_memory(recipe, own)
    bounded = _run([*_program(), "run", str(recipe), "--no-cache", "--memory", f"{least}MB", *own], folder)
    name, experts = f"{arguments.models} {op}", len(models) - 1
    _report(MEMORY, name, _memory_row(op, experts, shapes, least, bounded), arguments.page)
    yield f"{op}, {experts} experts"
    yield f"least memory {least} MB, of which {bounded.anonymous_peak_bytes / 1e6 / least:.2f} taken, {_shown(bounded)}"
    if op in PEER_OPS[arguments.peer]:
        ours = _run([*_program(), "run", str(recipe), "--no-cache", "--memory", COMPARED_MEMORY, *own], folder)
        yield f"within {COMPARED_MEMORY} {_shown(ours)}"
        peer = _run(_peer(op, models, folder, arguments), folder)
        yield f"{arguments.peer} {_shown(peer)}"
        yield f"{peer.seconds / ours.seconds:.1f} times our time"
        yield f"{peer.processor_seconds / ours.processor_seconds:.1f} times our time of processors"
        _report(
            TIME,
            name,
            [op, str(experts), *_costs(ours), arguments.peer, *_costs(peer), _times(ours, peer)],
            arguments.page,
        )
    shutil.rmtree(folder)


def _memory_row(op: str, experts: int, shapes: Shapes, least: int, run: Watched) -> list[str]:
    peak = run.anonymous_peak_bytes / 1e6
    largest = max((shape for shape in shapes.values() if len(shape) == 2), key=math.prod)
    parameters = f"{parameter_count(shapes) / 1e6:,.0f} M"
    sizes = [f"{least} MB", f"{peak:.0f} MB", f"{peak / least:.2f}"]
    return [op, str(experts), parameters, f"{largest[0]} x {largest[1]}", *sizes]


def _report(part: str, name: str, row: Sequence[str], page: bool) -> None:
    """Keep a row with those measured before; write all of them into a part of the page."""
    parts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = parts.setdefault(part, {})
    rows[name] = row
    RESULTS.write_text(json.dumps(parts, indent=1))
    if page:
        report.put(part, report.table(HEADINGS if part == MEMORY else TIME_HEADINGS, rows.values()))


def _costs(run: Watched) -> list[str]:
    """Return time, processor time and memory."""
    return [f"{run.seconds:.1f} s", f"{run.processor_seconds:.1f} s", f"{run.anonymous_peak_bytes / 1e6:.0f} MB"]


def _times(ours: Watched, peer: Watched) -> str:
    return f"{peer.seconds / ours.seconds:.1f}"


def _shown(run: Watched) -> str:
    return f"{run.seconds:.1f} s ({run.processor_seconds:.1f} of processors), {run.anonymous_peak_bytes / 1e6:.0f} MB"


def _recipe(op: str, models: Sequence[Path], iterations: int) -> dict[str, object]:
    merged = {"op": op, "deltas": "updates"} | ({"iterations": iterations} if op == "wudi" else {})
    nodes: dict[str, object] = {
        "base": {"op": "load", "path": str(models[0])},
        "experts": {
            "op": "load",
            "path": f"{models[0].parent}/{{expert}}.safetensors",
            "for_each": {"expert": [path.stem for path in models[1:]]},
        },
        "updates": {"op": "task-vector", "base": "base", "model": "experts"},
        "merged": merged,
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    if op == "svc":
        nodes |= {"sum": {"op": "task-arithmetic", "deltas": "updates"}, "merged": merged | {"delta": "sum"}}
    if op == "tsv-c":
        nodes["model"] = {"op": "apply", "base": "base", "delta": f"merged[{models[1].stem}]"}
    return {"name": op, "nodes": nodes}


def _program() -> list[str]:
    return [sys.executable, "-m", "lines_pipeline"]


def _least_memory(recipe: Path, options: Sequence[str]) -> int:
    """Return the megabytes that a plan asks for where it is allowed too few."""
    command = [*_program(), "plan", str(recipe), "--no-cache", "--memory", "1MB", *options]
    said = subprocess.run(command, capture_output=True, text=True, cwd=recipe.parent).stderr
    match = re.search(r"at least (\d+)\s?MB", said)
    if not match:
        raise RuntimeError(f"the plan names no least memory: {said}")
    return int(match[1])


def _peer(op: str, models: Sequence[Path], folder: Path, arguments: argparse.Namespace) -> list[str]:
    settings = folder / "settings.json"
    files = {"base": str(models[0]), "experts": [str(path) for path in models[1:]]}
    settings.write_text(json.dumps({"method": op, **files, "output": str(folder / "peer.safetensors")}))
    if arguments.peer == "plain":
        return [sys.executable, str(FOLDER / "scripts" / "plain_spectral.py"), str(settings)]
    python = arguments.peer_python
    if not python:
        pinned("fusion_bench").ensure()
        python = str(pinned("fusion_bench").programs / "python")
    return [python, str(FOLDER / "scripts" / "fusion_bench_spectral.py"), str(settings)]


def _run(arguments: Sequence[str], folder: Path) -> Watched:
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    watched = watch(Command(arguments, folder, folder / "log.txt", os.environ | quiet), LIMITS)
    if watched.failure:
        raise RuntimeError(f"{' '.join(arguments)}: {watched.failure}; see {folder / 'log.txt'}")
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return watched


if __name__ == "__main__":
    main()

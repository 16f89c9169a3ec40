"""Measure the spectral methods: memory against what a plan asks for, and time against FusionBench on the same files.

``python benchmarks/spectral.py [--experts 20] [--ops iso-c,tsv-m] [--peer fusion-bench|plain|none]``

Every op runs with exactly the least ``--memory`` that its plan allows; its anonymous memory is sampled from outside.
Where there is a peer, the op runs without a bound as well, and so does the peer: FusionBench in a virtual environment
of its own, made at its first use, or a plain script that takes torch's singular value decomposition of every matrix, as
the papers write it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from checkpoints import vit_shapes
from environments import pinned
from safetensors.torch import save_file
from watching import Command, Limits, Watched, watch

FOLDER = Path(__file__).parent
OPS = ("iso-c", "tsv-m", "iso-cts", "cart", "wudi-closed", "svc", "tsv-c", "wudi")
PEER_OPS = {"fusion-bench": ("iso-c", "tsv-m", "iso-cts"), "plain": ("iso-c", "tsv-m"), "none": ()}
PARAMETERS = 113e6
LIMITS = Limits(20e9, 3600)


def main() -> None:
    """Generate, run, print one line an op."""
    arguments = _arguments()
    experts = _generate(arguments.checkpoints, arguments.experts)
    for op in arguments.ops.split(","):
        print(" | ".join(_measured(op, experts, arguments)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=20, help="models to merge (default 20)")
    parser.add_argument("--ops", default=",".join(OPS), help="which to run (default all)")
    parser.add_argument("--peer", choices=sorted(PEER_OPS), default="fusion-bench", help="compared with, in time")
    parser.add_argument("--peer-python", help="an interpreter that has FusionBench (default: one of its own)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="jobs at a time (default: all cores)")
    parser.add_argument("--iterations", type=int, default=20, help="steps of wudi (default 20; its own default is 300)")
    parser.add_argument("--checkpoints", type=Path, default=FOLDER / ".checkpoints" / "vit_b32_bfloat16")
    return parser.parse_args()


def _generate(folder: Path, count: int) -> Sequence[Path]:
    """Write the image tower of a ViT-B/32 and experts near it as bfloat16, but for what is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {name: shape for name, shape in vit_shapes(PARAMETERS).items() if name.startswith("visual.")}
    paths = [folder / "base.safetensors", *(folder / f"expert{i:02}.safetensors" for i in range(count))]
    for number, path in enumerate(paths):
        if not path.exists():
            save_file(_tower(shapes, number), path)
    return paths


def _tower(shapes: dict[str, tuple[int, ...]], number: int) -> dict[str, torch.Tensor]:
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(number)
    found = {}
    for name, shape in shapes.items():
        tensor = 0.02 * torch.randn(shape, generator=base)
        found[name] = (tensor + 0.002 * torch.randn(shape, generator=own) if number else tensor).bfloat16()
    return found


def _measured(op: str, models: Sequence[Path], arguments: argparse.Namespace) -> Iterator[str]:
    folder = FOLDER / ".spectral" / op
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(_recipe(op, models, arguments.iterations)))
    own = ("--workers", str(arguments.workers))
    least = _least_memory(recipe, own)
    bounded = _run([*_program(), "run", str(recipe), "--no-cache", "--memory", f"{least}MB", *own], folder)
    yield f"{op}, {len(models) - 1} experts"
    yield f"least memory {least} MB, of which {bounded.anonymous_peak_bytes / 1e6 / least:.2f} taken, {_shown(bounded)}"
    if op in PEER_OPS[arguments.peer]:
        free = _run([*_program(), "run", str(recipe), "--no-cache", *own], folder)
        yield f"without a bound {_shown(free)}"
        peer = _run(_peer(op, models, folder, arguments), folder)
        yield f"{arguments.peer} {_shown(peer)}"
        yield f"{peer.seconds / free.seconds:.1f} times our time"
        yield f"{peer.processor_seconds / free.processor_seconds:.1f} times our time of processors"
    shutil.rmtree(folder)


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
    found = re.search(r"at least (\d+)\s?MB", said)
    if not found:
        raise RuntimeError(f"the plan names no least memory: {said}")
    return int(found[1])


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
    done = watch(Command(arguments, folder, folder / "log.txt", os.environ | quiet), LIMITS)
    if done.failure:
        raise RuntimeError(f"{' '.join(arguments)}: {done.failure}; see {folder / 'log.txt'}")
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return done


if __name__ == "__main__":
    main()

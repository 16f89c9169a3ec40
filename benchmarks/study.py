"""Measure a study beside one merge: twenty gammas of LiNeS on the same inputs, with their time and the bytes they read.

``python benchmarks/study.py [--experts 4] [--parameters 30e6] [--methods sum,ties,iso-c]``

Times are those of all sweeps, from the first read to the last write, as the run records them. Both write their models:
one and twenty.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import report
from checkpoints import Checkpoints, generate
from passes import Sweeps, latest_sweeps
from watching import Command, Limits, Watched, watch

FOLDER = Path(__file__).parent
METHODS: Mapping[str, Mapping[str, Any]] = {
    "sum": {"op": "task-arithmetic"},
    "ties": {"op": "ties", "density": 0.2},
    "iso-c": {"op": "iso-c"},
}
"""By method, the node that merges."""
BEFORE, AFTER = "before", "after"
ORDERS = (AFTER, BEFORE)
ONE = [0.5]
TWENTY = [round(0.05 * number, 2) for number in range(1, 21)]
LIMITS = Limits(20e9, 3600)
HEADINGS = (
    "method",
    "LiNeS",
    "read by one merge",
    "read by 20 gammas",
    "ratio",
    "one merge",
    "20 gammas",
    "ratio",
    "peak",
)


def main() -> None:
    """Generate, run, print the table, and write it into ``docs/performance.md``."""
    arguments = _arguments()
    checkpoints = generate(FOLDER / ".checkpoints", arguments.experts, arguments.parameters)
    rows = [
        row
        for method in arguments.methods.split(",")
        for order in arguments.orders.split(",")
        for row in _measured(method, order, checkpoints)
    ]
    text = f"{_summary(checkpoints)}\n\n{report.table(HEADINGS, rows)}"
    print(text)
    if arguments.page:
        report.put("study", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=4, help="models to merge (default 4)")
    parser.add_argument("--parameters", type=float, default=30e6, help="of one model, about (default 30e6)")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)} (default all)")
    parser.add_argument("--orders", default=",".join(ORDERS), help="LiNeS after the merge, before it (default both)")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave docs/performance.md as it is")
    return parser.parse_args()


def _summary(checkpoints: Checkpoints) -> str:
    return (
        f"{len(checkpoints.experts)} experts of {checkpoints.parameters / 1e6:.1f} million float32 parameters, "
        f"{report.gigabytes(checkpoints.bytes_total)} with the pretrained model; {report.machine()}."
    )


def _measured(method: str, order: str, checkpoints: Checkpoints) -> Iterator[list[str]]:
    _, one = _run(_recipe(method, order, checkpoints, ONE))
    watched, study = _run(_recipe(method, order, checkpoints, TWENTY))
    print(f"{method}, LiNeS {order}: {one}, {study}", file=sys.stderr, flush=True)
    yield [
        method,
        order,
        report.gigabytes(one.read_bytes),
        report.gigabytes(study.read_bytes),
        f"{study.read_bytes / one.read_bytes:.3f}",
        f"{one.seconds:.1f} s",
        f"{study.seconds:.1f} s",
        f"{study.seconds / one.seconds:.1f}",
        report.gigabytes(watched.anonymous_peak_bytes),
    ]


def _recipe(method: str, order: str, checkpoints: Checkpoints, gammas: list[float]) -> Mapping[str, Any]:
    each = {"for_each": {"gamma": gammas}}
    scale = {"op": "lines-scale", "gamma": "{gamma}"}
    experts = [path.stem for path in checkpoints.experts]
    folder = checkpoints.base.parent
    if order == AFTER:
        merge = {
            "merged": {**METHODS[method], "deltas": "updates"},
            "scaled": {**scale, "delta": "merged", **each},
        }
    else:
        parts = {f"scaled_{expert}": {**scale, "delta": f"updates[{expert}]", **each} for expert in experts}
        deltas = [f"{name}[{{gamma}}]" for name in parts]
        merge = {**parts, "scaled": {**METHODS[method], "deltas": deltas, **each}}
    nodes = {
        "pretrained": {"op": "load", "path": str(checkpoints.base)},
        "experts": {"op": "load", "path": f"{folder}/{{expert}}.safetensors", "for_each": {"expert": experts}},
        "updates": {"op": "task-vector", "base": "pretrained", "model": "experts"},
        **merge,
        "model": {"op": "apply", "base": "pretrained", "delta": "scaled"},
        "saved": {"op": "save", "model": "model", "path": "{gamma}.safetensors"},
    }
    return {"name": f"{method}-{order}", "nodes": nodes}


def _run(recipe: Mapping[str, Any]) -> tuple[Watched, Sweeps]:
    """Return what a run took, and its sweeps."""
    folder = FOLDER / ".runs" / "study"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "XDG_CACHE_HOME": str(folder / "cache")}
    arguments = [sys.executable, "-m", "lines_pipeline", "run", "recipe.yaml", "--no-cache", "--out", "out"]
    watched = watch(Command(arguments, folder, folder / "log.txt", os.environ | quiet), LIMITS)
    if watched.failure:
        raise RuntimeError(f"{recipe['name']}: {watched.failure}; see {folder / 'log.txt'}")
    sweeps = latest_sweeps(folder / "mlflow.db")
    shutil.rmtree(folder)
    return watched, sweeps


if __name__ == "__main__":
    main()

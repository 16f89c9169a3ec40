"""Time this project, mergekit, FusionBench and a plain script side by side, and write docs/performance.md's tables.

``python benchmarks/merge.py [--experts 8] [--parameters 113e6] [--methods ties,task-arithmetic] [--tools ...]``

Every tool runs in a virtual environment of its own, made at its first use (several GB), on the same generated files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import report
from agreement import difference
from checkpoints import Checkpoints, generate
from floor import seconds_to_sum
from measuring import Measurement, measure
from tools import METHODS, TOOLS, Job, Tool
from watching import Limits

FOLDER = Path(__file__).parent
FLOOR_RUNS = 5


def main() -> None:
    """Generate, measure, report."""
    arguments = _arguments()
    load = os.getloadavg()[0]
    checkpoints = generate(FOLDER / ".checkpoints", arguments.experts, arguments.parameters)
    floors = _floors(checkpoints)
    measurements = list(_measurements(arguments, checkpoints))
    floor_seconds = median(floors + _floors(checkpoints))
    text = _summary(checkpoints, floor_seconds, load) + "\n\n" + report.comparison(measurements, floor_seconds)
    print(text)
    summary = {"floor_seconds": floor_seconds, "measurements": [asdict(measurement) for measurement in measurements]}
    arguments.results.write_text(json.dumps(summary, indent=1))
    if arguments.page:
        report.put(arguments.part, text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8, help="models to merge (default 8)")
    parser.add_argument("--parameters", type=float, default=113e6, help="of one model, about (default 113e6: ViT-B/32)")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)} (default all)")
    parser.add_argument("--tools", default=",".join(tool.name for tool in TOOLS), help="which to run (default all)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each tool, if the first is short (default 3)")
    parser.add_argument("--limit", default="20GB", help="anonymous memory at which a tool is killed (default 20GB)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which it is killed (default 1800)")
    parser.add_argument("--results", type=Path, default=FOLDER / "merge.json", help="where the raw figures go")
    parser.add_argument("--part", default="comparison", help="the part of docs/performance.md that takes the tables")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave docs/performance.md as it is")
    return parser.parse_args()


def _measurements(arguments: argparse.Namespace, checkpoints: Checkpoints) -> Iterator[Measurement]:
    limits = Limits(float(arguments.limit.upper().removesuffix("GB")) * 1e9, arguments.timeout)
    for method in arguments.methods.split(","):
        reference: Path | None = None
        for tool in _chosen(arguments.tools.split(","), method):
            job = Job(method, checkpoints, FOLDER / ".runs" / f"{tool.name}-{method}")
            print(f"{method}: {tool.title}", file=sys.stderr, flush=True)
            measurement = measure(tool, job, limits, arguments.repeat)
            print(f"    {measurement.median}", file=sys.stderr, flush=True)
            if reference and not measurement.median.failure:
                measurement = replace(measurement, difference=difference(job.output, reference, checkpoints.base))
            reference = reference or (job.output if measurement.sweeps else None)
            yield measurement
        shutil.rmtree(FOLDER / ".runs", ignore_errors=True)


def _chosen(names: Sequence[str], method: str) -> list[Tool]:
    unknown = set(names) - {tool.name for tool in TOOLS}
    if unknown or method not in METHODS:
        raise SystemExit(f"no such tool or method: {', '.join(sorted(unknown)) or method}")
    return [tool for tool in TOOLS if tool.name in names and method in tool.methods]


def _floors(checkpoints: Checkpoints) -> list[float]:
    """Several measurements of the floor; a first one, not counted, brings the files into memory."""
    seconds_to_sum(checkpoints.files)
    return [seconds_to_sum(checkpoints.files) for _ in range(FLOOR_RUNS)]


def _summary(checkpoints: Checkpoints, floor_seconds: float, load: float) -> str:
    size = checkpoints.bytes_total
    return (
        f"{len(checkpoints.experts)} experts of {checkpoints.parameters / 1e6:.1f} million float32 parameters, "
        f"{report.gigabytes(size)} with the pretrained model; {report.machine()}. The floor, summing these bytes once: "
        f"{floor_seconds:.3f} s, {size / floor_seconds / 1e9:.1f} GB/s. Load of the machine when it began: {load:.1f}."
    )


if __name__ == "__main__":
    main()

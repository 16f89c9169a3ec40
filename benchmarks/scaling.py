"""How this project's merges scale: with experts, parameters and workers; writes plot and tables of docs/performance.md.

``python benchmarks/scaling.py [--methods ties-lines,task-arithmetic-lines] [--experts 2,4,...] [--parameters ...]``
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import report
from checkpoints import generate
from fitting import CostModel, fit
from floor import seconds_to_sum
from measuring import measure
from plotting import plot
from points import Measured, Point
from tools import TOOLS, Job
from watching import Limits

FOLDER = Path(__file__).parent
PICTURE = report.PAGE.with_name("performance-scaling.svg")
CORES = os.cpu_count() or 1
TYPICAL_PARAMETERS = 113e6
AHEAD = ((2, 7e9), (8, 7e9), (8, 70e9), (20, 70e9), (100, 70e9))
"""Experts and parameters to tell the cost of."""


def main() -> None:
    """Measure every point, fit, draw, report."""
    arguments = _arguments()
    measured = [_measure(point, arguments.repeat) for point in _points(arguments)]
    methods = arguments.methods.split(",")
    models = {method: _fit([entry for entry in measured if entry.point.method == method]) for method in methods}
    text = "\n\n".join(_section(method, measured, models[method]) for method in methods)
    print(text)
    arguments.results.write_text(json.dumps([asdict(entry) for entry in measured], indent=1))
    if arguments.page:
        plot(measured, models, PICTURE)
        report.put("scaling", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="ties-lines,task-arithmetic-lines")
    parser.add_argument("--experts", default="2,5,10,20", help="numbers of experts of 113 M parameters")
    parser.add_argument("--parameters", default="10e6,100e6,300e6,1e9", help="sizes of each of two experts")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers on eight experts of 113 M parameters")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each point (default 3)")
    parser.add_argument("--results", type=Path, default=FOLDER / "scaling.json", help="where the raw figures go")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave docs/ as it is")
    return parser.parse_args()


def _points(arguments: argparse.Namespace) -> Iterator[Point]:
    for method in arguments.methods.split(","):
        for experts in arguments.experts.split(","):
            yield Point("experts", method, int(experts), TYPICAL_PARAMETERS, CORES)
        for parameters in arguments.parameters.split(","):
            yield Point("parameters", method, 2, float(parameters), CORES)
        for workers in arguments.workers.split(","):
            yield Point("workers", method, 8, TYPICAL_PARAMETERS, int(workers))


def _measure(point: Point, repeats: int) -> Measured:
    checkpoints = generate(FOLDER / ".checkpoints", point.experts, point.parameters)
    seconds_to_sum(checkpoints.files)
    floor_seconds = min(seconds_to_sum(checkpoints.files) for _ in range(3))
    job = Job(point.method, checkpoints, FOLDER / ".scaling", ("--workers", str(point.workers)))
    measurement = measure(TOOLS[0], job, Limits(20e9, 3600), repeats)
    shutil.rmtree(job.folder)
    if measurement.sweeps is None:
        raise SystemExit(f"{point} failed: {measurement.median.failure}")
    sweeps, peak = measurement.sweeps, measurement.median.anonymous_peak_bytes
    figures = (measurement.median.seconds, sweeps.seconds, floor_seconds)
    measured = Measured(point, checkpoints.bytes_total, sweeps.count, sweeps.read_bytes, *figures, peak)
    print(measured, file=sys.stderr, flush=True)
    return measured


def _fit(measured: Sequence[Measured]) -> CostModel:
    """Over every point with a worker a core."""
    used = [entry for entry in measured if entry.point.setting != "workers"]
    return fit([entry.swept_bytes for entry in used], [entry.seconds for entry in used])


def _section(method: str, measured: Sequence[Measured], model: CostModel) -> str:
    rows = [_row(entry) for entry in measured if entry.point.method == method]
    headings = (
        "experts",
        "parameters",
        "workers",
        "inputs",
        "sweeps",
        "seconds",
        "in sweeps",
        "floor",
        "to the floor",
    )
    law = (
        f"Fitted: seconds = {model.startup_seconds:.2f} + bytes × sweeps / {model.bytes_per_second / 1e9:.2f} GB/s, "
        f"at most {100 * model.largest_error:.0f} % off at any point with {CORES} workers."
    )
    return "\n\n".join(
        [f"**{method}**", report.table([*headings, "anonymous peak"], rows), law, _ahead(measured, method, model)]
    )


def _row(entry: Measured) -> list[str]:
    point = entry.point
    times = [f"{entry.seconds:.2f}", f"{entry.sweep_seconds:.2f}", f"{entry.floor_seconds:.3f}"]
    sizes = [f"{point.parameters / 1e6:.0f} M", str(point.workers), report.gigabytes(entry.input_bytes)]
    ratio = f"{entry.sweep_seconds / entry.floor_seconds:.1f}"
    return [str(point.experts), *sizes, str(entry.sweeps), *times, ratio, report.gigabytes(entry.anonymous_peak_bytes)]


def _ahead(measured: Sequence[Measured], method: str, model: CostModel) -> str:
    """What the model says of larger merges, if storage gives the bytes as fast as they are used."""
    largest = max((entry for entry in measured if entry.point.method == method), key=lambda entry: entry.input_bytes)
    sweeps = largest.swept_bytes / largest.input_bytes
    rows = []
    for experts, parameters in AHEAD:
        inputs = 4 * parameters * (experts + 1)
        seconds = model.seconds(inputs * sweeps)
        hours = f"{seconds / 3600:.2f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"
        rows.append([str(experts), f"{parameters / 1e9:.0f} B", f"{inputs / 1e12:.2f} TB", hours])
    return report.table(("experts", "parameters", "inputs, float32", "time by the model"), rows)


if __name__ == "__main__":
    main()

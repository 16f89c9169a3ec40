"""Measure the methods on the embedded zoos, and write ``docs/results.md``: ``python benchmarks/results.py``.

Every cell is a method on so many tasks of a zoo: its merge scaled as it is, by LiNeS along beta, and by one number of
the same total update (the control). Each is chosen on validation data among equally many values, and measured on
the test split, on tasks that were merged and on others. Cells that ``--results`` holds are not run again, so
that a run which was stopped goes on. A chosen value at the end of its grid fails the cell.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from results_page import LINES, PLAIN, UNIFORM, VARIANTS, write_page

import lines_pipeline
from lines_pipeline.core.events import Event, SamplesJudged
from lines_pipeline.zoo.glyphs.families import FAMILIES

Nodes = Mapping[str, Mapping[str, Any]]

METHODS: Mapping[str, Nodes] = {
    "sum": {"merged": {"op": "task-arithmetic", "deltas": "updates"}},
    "TIES": {"merged": {"op": "ties", "deltas": "updates", "density": 0.2}},
    "Consensus": {
        "total": {"op": "task-arithmetic", "deltas": "updates"},
        "merged": {"op": "consensus", "deltas": "updates", "merged": "total", "threshold": 0.4, "min_tasks": 2},
    },
    "TSV-M": {"merged": {"op": "tsv-m", "deltas": "updates"}},
    "Iso-C": {"merged": {"op": "iso-c", "deltas": "updates"}},
    "wudi-closed": {"merged": {"op": "wudi-closed", "deltas": "updates"}},
}
"""By method, what makes ``merged`` of ``updates``; other parameters are the papers'."""

SCALES: Mapping[str, Sequence[float]] = {
    "sum": (0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1),
    "TIES": (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3),
    "Consensus": (0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1),
    "TSV-M": (0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3, 5.0),
    "Iso-C": (0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3, 5.0),
    "wudi-closed": (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3),
}
"""By method, the values of ``scale`` (plain), and of ``beta`` (LiNeS and its control) but for the first, which is 0."""

GAMMA = 0.5
FORGETTING_EXPERTS = 8
FORGETTING = {"expert": "updates", "shallow_down": "shallow", "deep_down": "deep", "uniform_scale": "uniform"}
"""By way to scale an expert's update, the node that does."""


@dataclass(frozen=True)
class Cell:
    """A method on the first ``count`` tasks of a zoo."""

    zoo: str
    count: int
    method: str

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return f"{self.zoo}/{self.count}/{self.method}"


class Judged:
    """Keeps the per-sample results of a run, by step; a sink of events."""

    def __init__(self) -> None:
        self.samples: dict[str, Mapping[str, Any]] = {}

    def emit(self, event: Event) -> None:
        """Keep what was found of every sample."""
        if isinstance(event, SamplesJudged):
            self.samples[event.step] = event.samples


def main() -> None:
    """Run the cells that are missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoos", nargs="+", default=["zoo://glyphs", "zoo://glyphs-domains"])
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 14, 20])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--results", type=Path, default=Path("results.json"))
    parser.add_argument("--page", type=Path, help="write the tables there (default: print them)")
    arguments = parser.parse_args()
    cells = [Cell(*one) for one in _product(arguments.zoos, arguments.counts, arguments.methods)]
    measured: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for key, measure in _missing(cells, measured):
        measured[key] = measure()
        arguments.results.write_text(json.dumps(measured))
        print(key, measured[key]["seconds"], flush=True)
    write_page(measured, arguments.page)


def _product(zoos: Iterable[str], counts: Iterable[int], methods: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    return ((zoo, count, method) for zoo in zoos for count in counts for method in methods)


def tasks_of(zoo: str) -> list[str]:
    """Return the tasks of a zoo, in order."""
    return list(FAMILIES[zoo.removeprefix("zoo://").split("@")[0]].tasks)


def _missing(cells: Sequence[Cell], measured: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield what is not measured yet, the references of each zoo first."""
    for zoo in dict.fromkeys(cell.zoo for cell in cells):
        yield from ((key, partial(measure, zoo)) for key, measure in _of_zoo(zoo) if key not in measured)
    yield from ((cell.key, partial(merge, cell)) for cell in cells if cell.key not in measured)


def _of_zoo(zoo: str) -> Iterator[tuple[str, Callable[[str], dict[str, Any]]]]:
    yield f"{zoo}/references", references
    yield f"{zoo}/forgetting", forgetting


def references(zoo: str) -> dict[str, Any]:
    """Return accuracies by task on the test split: of the pretrained model, and of each task's expert on its own."""
    nodes = {**_inputs(zoo, tasks_of(zoo)), "test": {"op": "evaluate", "model": "pretrained", **_suite(zoo, "test")}}
    ran, _ = _run(nodes)
    return {"seconds": ran.seconds, "metrics": dict(ran.metrics["test"])}


def forgetting(zoo: str) -> dict[str, Any]:
    """Return the metrics of experts on their own and on all other tasks, and with half of the update taken away.

    It is taken away from the shallow blocks, from the deep ones, or alike from all by one number of the same total.
    """
    lines = {"op": "lines-scale", "delta": "updates", "gamma": GAMMA}
    nodes = {
        **_inputs(zoo, tasks_of(zoo)[:FORGETTING_EXPERTS]),
        "shallow": lines,
        "deep": {**lines, "schedule": "deep-down"},
        "uniform": {**lines, "schedule": "uniform"},
    }
    models: Nodes = {
        f"model_{name}": {"op": "apply", "base": "pretrained", "delta": delta} for name, delta in FORGETTING.items()
    }
    tests: Nodes = {
        name: {"op": "evaluate", "model": f"model_{name}", "target": "{task}", **_suite(zoo, "test")}
        for name in FORGETTING
    }
    ran, _ = _run({**nodes, **models, **tests})
    return {"seconds": ran.seconds, "metrics": {step: dict(metrics) for step, metrics in ran.metrics.items()}}


def merge(cell: Cell) -> dict[str, Any]:
    """Return what was chosen on validation data for each variant, and its per-sample results on the test split."""
    tasks, scales = tasks_of(cell.zoo)[: cell.count], SCALES[cell.method]
    grids = {PLAIN: scales, **dict.fromkeys((LINES, UNIFORM), (0.0, *scales[1:]))}
    shared = {**_inputs(cell.zoo, tasks), **METHODS[cell.method]}
    val = _suite(cell.zoo, "val", tasks)
    ran, _ = _run({**shared, **_variants(grids, val)})
    by_value = {
        variant: [metrics["mean_normalized_accuracy"] for metrics in _members(ran.metrics, variant)]
        for variant in VARIANTS
    }
    chosen = {
        variant: grid[max(range(len(grid)), key=by_value[variant].__getitem__)] for variant, grid in grids.items()
    }
    ends = {variant: value for variant, value in chosen.items() if value and value in (scales[0], scales[-1])}
    if ends:
        raise SystemExit(f"{cell.key}: chosen at an end of the grid {list(scales)}: {ends}; widen SCALES")
    picked = {variant: (value,) for variant, value in chosen.items()}
    tested, judged = _run({**shared, **_variants(picked, _suite(cell.zoo, "test"))})
    return {
        "seconds": ran.seconds + tested.seconds,
        "tasks": tasks,
        "chosen": chosen,
        "validation": by_value,
        "samples": {variant: _members(judged.samples, variant)[0] for variant in VARIANTS},
    }


def _members(by_step: Mapping[str, Mapping[str, Any]], node: str) -> list[Mapping[str, Any]]:
    """Return what the members of a node have, by their value, the smallest first."""
    values = {float(step[len(node) + 1 : -1]): step for step in by_step if step.startswith(f"{node}[")}
    return [by_step[values[value]] for value in sorted(values)]


def _variants(values: Mapping[str, Sequence[float]], judged_by: Mapping[str, Any]) -> Nodes:
    """Return the nodes that scale ``merged`` in every way, and judge the models: one evaluation a variant."""
    scales, betas, levels = ({"for_each": {"value": list(values[variant])}} for variant in VARIANTS)
    lines = {"op": "lines-scale", "delta": "merged", "deltas": "updates", "alpha": "auto", "beta": "{value}"}
    apply = {"op": "apply", "base": "pretrained"}
    return {
        "plain_model": {**apply, "delta": "merged", "scale": "{value}", **scales},
        "lines": {**lines, **betas},
        "LiNeS_model": {**apply, "delta": "lines"},
        "lines_of_control": {**lines, **levels},
        "levelled": {"op": "scale", "delta": "merged", "by": "auto", "like": "lines_of_control"},
        "uniform_model": {**apply, "delta": "levelled"},
        **{variant: {"op": "evaluate", "model": f"{variant}_model", **judged_by} for variant in VARIANTS},
    }


def _inputs(zoo: str, tasks: Sequence[str]) -> Nodes:
    return {
        "pretrained": {"op": "load", "path": f"{zoo}/pretrained"},
        "experts": {"op": "load", "path": f"{zoo}/{{task}}", "for_each": {"task": list(tasks)}},
        "updates": {"op": "task-vector", "base": "pretrained", "model": "experts"},
    }


def _suite(zoo: str, split: str, tasks: Sequence[str] = ()) -> dict[str, Any]:
    return {"suite": zoo, "split": split} | ({"tasks": list(tasks)} if tasks else {})


def _run(nodes: Nodes) -> tuple[lines_pipeline.RunResult, Judged]:
    judged = Judged()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "results", "nodes": dict(nodes)}, sort_keys=False))
        ran = lines_pipeline.run(path, out=Path(folder) / "out", tracking=False, sinks=[judged.emit])
    return ran, judged


if __name__ == "__main__":
    main()

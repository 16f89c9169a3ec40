"""Measure the methods on the embedded zoos, and write ``docs/results.md``: ``python benchmarks/results.py``.

Every cell is a method on so many tasks of a zoo: its merge scaled as it is, by LiNeS along beta, and by one number of
the same total update (the control). Each is chosen on validation data among equally many values, and measured on
the test split, on tasks that were merged and on others; the merge alone is timed in a process of its own. Soups are of
fine-tunes of one task. Cells that ``--results`` holds are not run again, so that a run which was stopped goes on. A
chosen value at the end of its grid fails the cell, and the script once all cells are done. ``zoo://glyphs@base1`` is
the zoo of another pretrained model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from results_page import LINES, PLAIN, UNIFORM, VARIANTS, write_page
from watching import Command, Limits, watch

import lines_pipeline
from lines_pipeline.core.events import Event, SamplesJudged
from lines_pipeline.zoo.glyphs.families import FAMILIES, Family

Nodes = Mapping[str, Mapping[str, Any]]

ADAMERGING = {"lr": 0.01, "steps": 100, "batches_per_step": 1}
"""A tenth of the images that the published 500 steps see, at ten times their rate: it is learned three times a cell."""

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
    "AdaMerging": {
        "learned": {
            "op": "adamerging",
            "base": "pretrained",
            "deltas": "updates",
            "suite": "${suite}",
            "tasks": "${tasks}",
            "per": "tensor",
            **ADAMERGING,
        },
        "merged": {"op": "task-arithmetic", "deltas": "updates", "coefficients": "learned"},
    },
}
"""By method, what makes ``merged`` of ``updates``; other parameters are the papers'."""

SOUPS: Mapping[str, Nodes] = {
    "uniform soup": {"soup": {"op": "soup", "models": "experts"}},
    "greedy soup": {"soup": {"op": "soup", "models": "experts", "kind": "greedy", "suite": "${suite}"}},
}
"""By method, what makes ``soup`` of fine-tunes of one task."""
SOUP_ZOO = "zoo://glyphs-soup"

SCALES: Mapping[str, Sequence[float]] = {
    "sum": (0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1),
    "TIES": (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3),
    "Consensus": (0.04, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1, 1.6),
    "TSV-M": (0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3, 5.0),
    "Iso-C": (0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3, 5.0),
    "wudi-closed": (0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3),
    "AdaMerging": (0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.2, 3.3, 5.0),
    **dict.fromkeys(SOUPS, (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)),
}
"""By method, the values of ``scale`` (plain), and of ``beta`` (LiNeS and its control) but for the first, which is 0."""
GAMMAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The values of LiNeS on soups, and of its control: all that there are, from nothing in the first block to all."""

LIMITS = Limits(16e9, 3600)
GAMMA = 0.5
FORGETTING_EXPERTS = 8
FORGETTING = {"expert": "updates", "shallow_down": "shallow", "deep_down": "deep", "uniform_scale": "uniform"}
"""By way to scale an expert's update, the node that does."""


@dataclass(frozen=True)
class Recipe:
    """Nodes, and the variables that they name."""

    nodes: Nodes
    variables: Mapping[str, Any] = field(default_factory=dict)

    def with_nodes(self, nodes: Nodes) -> Recipe:
        """Return one that has these nodes as well."""
        return Recipe({**self.nodes, **nodes}, self.variables)

    def write(self, folder: Path) -> Path:
        """Write the file, and return its path."""
        path = folder / "recipe.yaml"
        text = {"name": "results", "vars": dict(self.variables), "nodes": dict(self.nodes)}
        path.write_text(yaml.safe_dump(text, sort_keys=False))
        return path


@dataclass(frozen=True)
class Cell:
    """A method on the first ``count`` experts of a zoo."""

    zoo: str
    count: int
    method: str

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return f"{self.zoo}/{self.count}/{self.method}"

    @property
    def is_soup(self) -> bool:
        """Whether the experts are of one task."""
        return self.method in SOUPS

    @property
    def experts(self) -> list[str]:
        """What is merged."""
        return list(family_of(self.zoo).experts)[: self.count]

    @property
    def tasks(self) -> list[str]:
        """The tasks of what is merged."""
        return list(dict.fromkeys(family_of(self.zoo).experts[expert] for expert in self.experts))

    @property
    def recipe(self) -> Recipe:
        """What makes ``merged``, an update, of the experts."""
        variables = {"suite": data_of(self.zoo), "tasks": self.tasks}
        if not self.is_soup:
            return Recipe({**_inputs(self.zoo, self.experts), **METHODS[self.method]}, variables)
        update: Nodes = {"merged": {"op": "task-vector", "base": "pretrained", "model": "soup"}}
        return Recipe({**_inputs(self.zoo, self.experts), **SOUPS[self.method], **update}, variables)

    @property
    def grids(self) -> Mapping[str, Sequence[float]]:
        """By variant, the values that are tried."""
        scales = SCALES[self.method]
        lines = GAMMAS if self.is_soup else (0.0, *scales[1:])
        return {PLAIN: scales, LINES: lines, UNIFORM: lines}

    def at_an_end(self, chosen: Mapping[str, float]) -> dict[str, float]:
        """Return the chosen values beyond which better ones may lie: scales end at 0 by their nature, gammas at 1."""
        bounds = (0.0, 1.0) if self.is_soup else (0.0,)
        ends = {variant: (grid[0], grid[-1]) for variant, grid in self.grids.items()}
        return {variant: v for variant, v in chosen.items() if v in ends[variant] and v not in bounds}


class CellError(Exception):
    """A cell has no result that can be published."""


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
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *SOUPS], choices=[*METHODS, *SOUPS])
    parser.add_argument("--results", type=Path, default=Path("results.json"))
    parser.add_argument("--page", type=Path, help="write the tables there (default: print them)")
    arguments = parser.parse_args()
    merges = [method for method in arguments.methods if method in METHODS]
    soups = [method for method in arguments.methods if method in SOUPS]
    cells = [Cell(*one) for one in _product(arguments.zoos, arguments.counts, merges)]
    cells += [Cell(*one) for one in _product([SOUP_ZOO], [len(family_of(SOUP_ZOO).experts)], soups)]
    measured: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    failures = []
    for key, measure in _missing(cells, measured):
        try:
            measured[key] = measure()
        except CellError as error:
            failures.append(f"{key}: {error}")
            continue
        arguments.results.write_text(json.dumps(measured))
        print(key, f"{measured[key]['seconds']:.0f} s", flush=True)
    write_page(measured, arguments.page)
    sys.exit("\n".join(failures) or None)


def _product(zoos: Iterable[str], counts: Iterable[int], methods: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    return ((zoo, count, method) for zoo in zoos for count in counts for method in methods)


def family_of(zoo: str) -> Family:
    """Return the family of a zoo's experts."""
    return FAMILIES[_name_and_choice(zoo)[0]]


def data_of(zoo: str) -> str:
    """Return the zoo whose tasks its experts are judged on, with the heads of the same pretrained model."""
    return f"zoo://{family_of(zoo).data}{_name_and_choice(zoo)[1]}"


def _name_and_choice(zoo: str) -> tuple[str, str]:
    name, at, choice = zoo.removeprefix("zoo://").partition("@")
    return name, at + choice


def _missing(cells: Sequence[Cell], measured: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield what is not measured yet, the references of each zoo first."""
    for zoo in dict.fromkeys(cell.zoo for cell in cells):
        yield from ((key, partial(measure, zoo)) for key, measure in _of_zoo(zoo) if key not in measured)
    yield from ((cell.key, partial(merge, cell)) for cell in cells if cell.key not in measured)


def _of_zoo(zoo: str) -> Iterator[tuple[str, Callable[[str], dict[str, Any]]]]:
    yield f"{zoo}/references", references
    if zoo != SOUP_ZOO:
        yield f"{zoo}/forgetting", forgetting


def references(zoo: str) -> dict[str, Any]:
    """Return accuracies by task on the test split: of the pretrained model, and of each task's expert on its own."""
    test = {"op": "evaluate", "model": "pretrained", "suite": data_of(zoo), "split": "test"}
    ran, _ = _run(Recipe({**_inputs(zoo, list(family_of(zoo).experts)), "test": test}))
    return {"seconds": ran.seconds, "metrics": dict(ran.metrics["test"])}


def forgetting(zoo: str) -> dict[str, Any]:
    """Return the metrics of experts on their own and on all other tasks, and with half of the update taken away.

    It is taken away from the shallow blocks, from the deep ones, or alike from all by one number of the same total.
    """
    lines = {"op": "lines-scale", "delta": "updates", "gamma": GAMMA}
    nodes = {
        **_inputs(zoo, list(family_of(zoo).experts)[:FORGETTING_EXPERTS]),
        "shallow": lines,
        "deep": {**lines, "schedule": "deep-down"},
        "uniform": {**lines, "schedule": "uniform"},
    }
    models: Nodes = {
        f"model_{name}": {"op": "apply", "base": "pretrained", "delta": delta} for name, delta in FORGETTING.items()
    }
    test = {"op": "evaluate", "target": "{expert}", "suite": data_of(zoo), "split": "test"}
    tests: Nodes = {name: {**test, "model": f"model_{name}"} for name in FORGETTING}
    ran, _ = _run(Recipe({**nodes, **models, **tests}))
    return {"seconds": ran.seconds, "metrics": {step: dict(metrics) for step, metrics in ran.metrics.items()}}


def merge(cell: Cell) -> dict[str, Any]:
    """Return what was chosen on validation data for each variant, and its per-sample results on the test split."""
    val = {"suite": cell.zoo, "split": "val", "tasks": cell.tasks}
    ran, _ = _run(cell.recipe.with_nodes(_variants(cell, cell.grids, val)))
    by_value = {
        variant: [metrics["mean_normalized_accuracy"] for metrics in _members(ran.metrics, variant)]
        for variant in VARIANTS
    }
    chosen = {
        variant: grid[max(range(len(grid)), key=by_value[variant].__getitem__)] for variant, grid in cell.grids.items()
    }
    if ends := cell.at_an_end(chosen):
        raise CellError(f"chosen at an end of the grid: {ends}; widen SCALES")
    picked = {variant: (value,) for variant, value in chosen.items()}
    test = {"suite": data_of(cell.zoo), "split": "test"}
    tested, judged = _run(cell.recipe.with_nodes(_variants(cell, picked, test)))
    return {
        "seconds": ran.seconds + tested.seconds,
        "tasks": cell.tasks,
        "chosen": chosen,
        "validation": by_value,
        "samples": {variant: _members(judged.samples, variant)[0] for variant in VARIANTS},
        "alone": alone(cell, chosen[LINES]),
    }


def alone(cell: Cell, value: float) -> dict[str, float]:
    """Return time and memory of one merge with LiNeS, by the command, with an empty cache."""
    model: Nodes = {
        "lines": _lines(cell, value),
        "model": {"op": "apply", "base": "pretrained", "delta": "lines"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = cell.recipe.with_nodes(model).write(folder)
        arguments = [sys.executable, "-m", "lines_pipeline", "run", str(path), "--no-tracking", "--no-cache"]
        watched = watch(Command(arguments, folder, folder / "log.txt", os.environ), LIMITS)
    if watched.failure:
        raise CellError(watched.failure)
    return {"seconds": watched.seconds, "peak_bytes": watched.anonymous_peak_bytes}


def _members(by_step: Mapping[str, Mapping[str, Any]], node: str) -> list[Mapping[str, Any]]:
    """Return what the members of a node have, by their value, the smallest first."""
    values = {float(step[len(node) + 1 : -1]): step for step in by_step if step.startswith(f"{node}[")}
    return [by_step[values[value]] for value in sorted(values)]


def _variants(cell: Cell, values: Mapping[str, Sequence[float]], judged_by: Mapping[str, Any]) -> Nodes:
    """Return the nodes that scale ``merged`` in every way, and judge the models: one evaluation a variant."""
    scales, lines, levels = ({"for_each": {"value": list(values[variant])}} for variant in VARIANTS)
    apply = {"op": "apply", "base": "pretrained"}
    return {
        "plain_model": {**apply, "delta": "merged", "scale": "{value}", **scales},
        "lines": {**_lines(cell, "{value}"), **lines},
        "LiNeS_model": {**apply, "delta": "lines"},
        "lines_of_control": {**_lines(cell, "{value}"), **levels},
        "levelled": {"op": "scale", "delta": "merged", "by": "auto", "like": "lines_of_control"},
        "uniform_model": {**apply, "delta": "levelled"},
        **{variant: {"op": "evaluate", "model": f"{variant}_model", **judged_by} for variant in VARIANTS},
    }


def _lines(cell: Cell, value: float | str) -> dict[str, Any]:
    """Return the node that scales ``merged`` by depth: by gamma, or from the automatic alpha by beta more."""
    if cell.is_soup:
        return {"op": "lines-scale", "delta": "merged", "gamma": value}
    return {"op": "lines-scale", "delta": "merged", "deltas": "updates", "alpha": "auto", "beta": value}


def _inputs(zoo: str, experts: Sequence[str]) -> Nodes:
    return {
        "pretrained": {"op": "load", "path": f"{zoo}/pretrained"},
        "experts": {"op": "load", "path": f"{zoo}/{{expert}}", "for_each": {"expert": list(experts)}},
        "updates": {"op": "task-vector", "base": "pretrained", "model": "experts"},
    }


def _run(recipe: Recipe) -> tuple[lines_pipeline.RunResult, Judged]:
    judged = Judged()
    with tempfile.TemporaryDirectory() as folder:
        path = recipe.write(Path(folder))
        ran = lines_pipeline.run(path, out=Path(folder) / "out", tracking=False, sinks=[judged.emit])
    return ran, judged


if __name__ == "__main__":
    main()

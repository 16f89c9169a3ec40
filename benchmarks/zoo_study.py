"""The study of ``docs/results.md``: every stock recipe on several seeds of the zoo's experts, as Markdown tables.

``python benchmarks/zoo_study.py [--seeds 0 1 2] [--coarse] [--results study.json]``

Coefficients and gamma are chosen on validation data by the recipes themselves; the tables show the test split. What
``--results`` holds already is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lines_pipeline
from lines_pipeline.suites.base import Role
from lines_pipeline.suites.glyphs import GlyphSuite
from lines_pipeline.zoo.glyph_tasks import TASKS

RECIPES = Path(__file__).parents[1] / "recipes"
TARGETS = ("digits", "arrows")
COUNTS = (20, 8)

METHODS: dict[str, tuple[str, str, Sequence[float]]] = {
    "sum": ("vit20_task_arithmetic", "model.scale", (0.08, 0.14, 0.2, 0.3)),
    "sum + LiNeS": ("vit20_task_arithmetic_lines", "scaled.beta", (0.1, 0.2, 0.3, 0.45)),
    "TIES": ("vit20_ties", "model.scale", (0.2, 0.35, 0.5, 0.8)),
    "TIES + LiNeS": ("vit20_ties_lines", "scaled.beta", (0.5, 0.8, 1.1, 1.5)),
    "Consensus": ("vit20_consensus", "model.scale", (0.1, 0.2, 0.3, 0.45)),
    "Consensus + LiNeS": ("vit20_consensus_lines", "scaled.beta", (0.3, 0.45, 0.6, 0.8)),
}
"""Method to recipe, tuned parameter, and the four values of ``--coarse``."""


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--coarse", action="store_true", help="four values a coefficient in place of the recipe's grid")
    parser.add_argument("--results", type=Path, default=Path("zoo_study.json"))
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for key, measure in _measurements(arguments.seeds, arguments.coarse):
        if key not in results:
            results[key] = measure()
            arguments.results.write_text(json.dumps(results, indent=1))
            print(key, results[key], flush=True)
    print(tables(results, arguments.seeds))


def _measurements(seeds: Iterable[int], coarse: bool) -> Iterable[tuple[str, Callable[[], dict[str, Any]]]]:
    for seed in seeds:
        zoo = f"zoo://glyphs@seed{seed}"
        yield f"{seed}/references", partial(_references, seed)
        for target in TARGETS:
            yield f"{seed}/gamma/{target}", partial(_forgetting, zoo, target, coarse)
        for count in COUNTS:
            for method in METHODS:
                yield f"{seed}/{count}/{method}", partial(_merge, zoo, count, method, coarse)


def _references(seed: int) -> dict[str, float]:
    suite = GlyphSuite(seed)
    roles: dict[str, Role] = {"zero-shot": "pretrained", "experts": "expert"}
    return {
        name: mean(figures["accuracy"] for figures in suite.baselines(role, list(TASKS), "test").values())
        for name, role in roles.items()
    }


def _merge(zoo: str, count: int, method: str, coarse: bool) -> dict[str, Any]:
    recipe, parameter, values = METHODS[method]
    tasks = list(TASKS)[:count]
    sets: dict[str, Any] = {"vars.zoo": zoo, "vars.tasks": tasks, "nodes.val.tasks": tasks, "nodes.test.tasks": tasks}
    if coarse:
        sets["tune.parameters"] = {parameter: {"values": list(values)}}
    result = _run(recipe, sets)
    return {
        "chosen": result.chosen[parameter],
        "val": result.metrics["val"]["mean_normalized_accuracy"],
        "test": result.metrics["test"]["mean_normalized_accuracy"],
        "accuracy": result.metrics["test"]["mean_accuracy"],
    }


def _forgetting(zoo: str, target: str, coarse: bool) -> dict[str, Any]:
    sets: dict[str, Any] = {"vars.zoo": zoo, "vars.task": target}
    if coarse:
        sets["tune.parameters"] = {"scaled.gamma": {"values": [0.25, 0.5, 0.75, 1.0]}}
    result = _run("single_task_gamma", sets)
    kept = ("control_normalized_accuracy", "target_normalized_accuracy")
    return {
        "chosen": result.chosen["scaled.gamma"],
        "plain": [result.metrics["before"][name] for name in kept],
        "lines": [result.metrics["test"][name] for name in kept],
    }


def _run(recipe: str, sets: dict[str, Any]) -> lines_pipeline.RunResult:
    with tempfile.TemporaryDirectory() as folder:
        path, store = RECIPES / f"{recipe}.yaml", f"sqlite:///{folder}/mlflow.db"
        return lines_pipeline.run(path, out=Path(folder) / "out", sets=sets, tracking_uri=store)


def tables(results: dict[str, Any], seeds: Sequence[int]) -> str:
    """The results as Markdown, in percent: mean over seeds, with the sample deviation, and every seed's figure."""
    lines = ["| | mean | each seed |", "|---|---|---|"]
    for name in ("zero-shot", "experts"):
        lines.append(
            _row(name, [results[f"{seed}/references"][name] for seed in seeds if f"{seed}/references" in results])
        )
    for count in COUNTS:
        lines += ["", f"| {count} tasks | normalized | each seed | chosen |", "|---|---|---|---|"]
        for method in METHODS:
            runs = [results[key] for seed in seeds if (key := f"{seed}/{count}/{method}") in results]
            chosen = ", ".join(f"{run['chosen']:g}" for run in runs)
            lines.append(_row(method, [run["test"] for run in runs]) + f" {chosen} |")
    lines += ["", "| one expert | control kept | each seed |", "|---|---|---|"]
    for index, what in enumerate(("control kept", "target kept")):
        for form, label in (("plain", "expert"), ("lines", "LiNeS")):
            figures = [_over_targets(results, seed, form, index) for seed in seeds]
            lines.append(_row(f"{label}: {what}", [figure for figure in figures if figure is not None]))
    return "\n".join(lines)


def _over_targets(results: dict[str, Any], seed: int, form: str, index: int) -> float | None:
    runs = [results[key][form][index] for target in TARGETS if (key := f"{seed}/gamma/{target}") in results]
    return mean(runs) if runs else None


def _row(name: str, figures: Sequence[float]) -> str:
    percent = [100 * figure for figure in figures]
    if not percent:
        return f"| {name} | – | – |"
    spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"| {name} | {mean(percent):.1f}{spread} | {', '.join(f'{value:.1f}' for value in percent)} |"


if __name__ == "__main__":
    main()

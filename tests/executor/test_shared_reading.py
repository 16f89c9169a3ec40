"""All members of a study share one reading of the inputs: bytes as the stages report them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.events import Event, StageFinished

Recipe = Callable[..., Path]

SCALED = {"op": "lines-scale", "delta": "merged", "gamma": "{gamma}"}
AUTO = {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates", "beta": "{gamma}"}
METHODS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sum": ({"op": "task-arithmetic", "deltas": "updates"}, SCALED),
    "ties": ({"op": "ties", "deltas": "updates"}, SCALED),
    "ties with automatic alpha": ({"op": "ties", "deltas": "updates"}, AUTO),
    "trimmed sum": ({"op": "trim", "delta": "total", "density": 0.3}, SCALED),
    "spectral": ({"op": "iso-c", "deltas": "updates"}, SCALED),
    "spectral with automatic alpha": ({"op": "tsv-m", "deltas": "updates"}, AUTO),
}
GAMMAS = {"low": 0.05, "high": 1, "step": 0.05}


def bytes_read(path: Path, out: str) -> int:
    events: list[Event] = []
    lines_pipeline.run(path, out=out, cache=False, tracking=False, sinks=[events.append])
    return sum(event.bytes_read for event in events if isinstance(event, StageFinished))


@pytest.mark.parametrize("method", METHODS)
def test_twenty_gammas_read_what_one_merge_reads(method: str, write_recipe: Recipe) -> None:
    merged, scaled = METHODS[method]
    values: list[int] = []
    for gammas in ([0.5], GAMMAS):
        nodes = {
            "total": {"op": "task-arithmetic", "deltas": "updates"},
            "merged": merged,
            "scaled": {**scaled, "for_each": {"gamma": gammas}},
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "saved": {"op": "save", "model": "model", "path": "{gamma}.safetensors"},
        }
        values.append(bytes_read(write_recipe(nodes), f"out{len(values)}"))
    assert len(list(Path("out1").iterdir())) == 20
    assert 0 < values[1] <= 1.05 * values[0]


@pytest.mark.parametrize("before", [True, False], ids=["before merging", "after merging"])
def test_models_that_are_only_evaluated_share_it_too(before: bool, toy: Path) -> None:
    write_model(toy / "base.safetensors", 0.25, 0.25)
    write_model(toy / "rise.safetensors", 0.5, 0.75)
    write_model(toy / "fall.safetensors", 0.125, 0.25)
    write_suite(toy, {"rise": {"val": above(0.25, 0.5)}, "fall": {"val": below(0.5, 0.75)}}, blocks=2)
    scale = {"op": "lines-scale", "gamma": "{gamma}"}
    merge = {"op": "task-arithmetic"}
    values: list[int] = []
    for gammas in ([0.5], GAMMAS):
        each = {"for_each": {"gamma": gammas}}
        after = {"merged": {**merge, "deltas": "updates"}, "scaled": {**scale, "delta": "merged", **each}}
        first = {f"scaled_{name}": {**scale, "delta": f"updates[{name}]", **each} for name in ("rise", "fall")}
        sums = {"op": "task-arithmetic", "deltas": ["scaled_rise[{gamma}]", "scaled_fall[{gamma}]"], **each}
        nodes = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["rise", "fall"]}},
            "updates": {"op": "task-vector", "base": "base", "model": "experts"},
            **({**first, "scaled": sums} if before else after),
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
            "curve": {"op": "plot", "metrics": "val", "x": "gamma", "y": "mean_accuracy"},
        }
        path = toy / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "study", "nodes": nodes}))
        values.append(bytes_read(path, f"out{len(values)}"))
    assert 0 < values[1] <= 1.05 * values[0]

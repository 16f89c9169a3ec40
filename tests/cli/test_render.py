"""The tables that end a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.cli import render

pytestmark = pytest.mark.usefixtures("shared_store")

SCALES = [0.0, 0.25, 0.5, 0.75, 1.0]


def shown(folder: Path, scales: list[float], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Run a sweep of scales and print its result; give the cells of all lines."""
    write_model(folder / "base.safetensors", 0.0)
    write_model(folder / "a.safetensors", 1.0)
    images = (0.125, 0.375, 0.625, 0.875)
    write_suite(folder, {"rise": {"val": above(*images)}, "fall": {"val": below(*images)}})
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "update", "scale": "{s}", "for_each": {"s": scales}},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
        "plain": {"op": "evaluate", "model": "expert", "suite": "suite.yaml", "split": "val"},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "sweep", "nodes": nodes}, sort_keys=False))
    render.show_result(lines_pipeline.run(path, tracking=False))
    lines = capsys.readouterr().out.replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


@pytest.mark.usefixtures("models")
def test_computed_factors_are_shown(write_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    auto = {"op": "lines-scale", "alpha": "auto", "deltas": "updates"}
    given = {"op": "lines-scale", "delta": "sum", "alpha": 0.5}
    nodes = {
        "sum": {"op": "ties", "deltas": "updates"},
        "one": {**auto, "delta": "sum"},
        "each": {**auto, "delta": "updates"},
        "given": given,
        "same": {"op": "scale", "delta": "sum", "by": "auto", "like": "one"},
        "saved_same": {"op": "save", "model": "same", "path": "same.safetensors"},
        "saved": {"op": "save", "model": "one", "path": "one.safetensors"},
        "saved_each": {"op": "save", "model": "each", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
        "saved_given": {"op": "save", "model": "given", "path": "given.safetensors"},
    }
    result = lines_pipeline.run(write_recipe(nodes), tracking=False)
    render.show_result(result)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("computed")]
    alpha, alphas = result.facts["one"]["alpha"], result.facts["each"]["alpha"]
    assert sorted(lines) == [
        f"computed each.alpha = {min(alphas):.6g} to {max(alphas):.6g} (3 values)",
        f"computed one.alpha = {alpha:.6g}",
        f"computed same.by = {result.facts['same']['by']:.6g}",
    ]
    assert f"computed one.alpha = {alpha:.6g}" in result._repr_html_()


def test_few_members_are_columns(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(toy, SCALES[:4], capsys)
    assert rows[0] == ["metric", "plain", "val[0.0]", "val[0.25]", "val[0.5]", "val[0.75]"]
    assert ["accuracy/rise", "0.0 % (0.0 to 0.0)"] in [row[:3:2] for row in rows]


def test_many_members_are_rows(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = shown(toy, SCALES, capsys)
    start = next(number for number, row in enumerate(rows) if row[0] == "val")
    assert rows[0] == ["metric", "plain"] and any(row[0] == "accuracy/rise" for row in rows[:start])
    assert rows[start][1:3] == ["mean_accuracy", "worst_accuracy"] and not any("/" in name for name in rows[start])
    assert [row[:3] for row in rows[start + 1 :]] == [
        ["0.0", "50.0 %", "0.0 %"],
        ["0.25", "50.0 %", "25.0 %"],
        ["0.5", "50.0 %", "50.0 %"],
        ["0.75", "50.0 %", "25.0 %"],
        ["1.0", "50.0 %", "0.0 %"],
    ]


def test_no_table_is_wider_than_the_terminal(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_COLUMNS_OF_A_PIPE", 80)
    rows = shown(toy, SCALES, capsys)
    headings = [row for row in rows if row[0] == "val"]
    assert len(headings) > 1 and headings[0][1] == "mean_accuracy"
    names = [name for heading in headings for name in heading[1:]]
    assert len(names) == len(set(names)) >= 6 and all(name.startswith(("mean_", "worst_")) for name in names)

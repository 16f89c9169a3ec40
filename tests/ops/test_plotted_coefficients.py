"""``plot`` of coefficients: means by block and task beside the line of LiNeS, learned or loaded."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from learned_coefficients import nodes, write, written
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.ops.coefficients.by_block import coefficient_table
from lines_pipeline.ops.metrics_table import Member

Row = dict[str, str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def run(folder: Path, recipe: dict[str, Any]) -> lines_pipeline.RunResult:
    return lines_pipeline.run(written(folder, recipe), out=folder / "out", tracking=False, trust=True)


def rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_learned_ones_are_drawn_by_block_and_task_beside_the_line(folder: Path) -> None:
    recipe = {**nodes("adamerging", steps=2), "figure": {"op": "plot", "coefficients": "learned", "beta": 0.25}}
    run(folder, recipe)
    table, found = load_file(folder / "out" / "table.safetensors"), rows(folder / "out" / "figure.csv")
    assert list(found[0]) == ["node", "block", "task", "coefficient"]
    for block in range(3):
        named = torch.stack([table[f"blocks.{block}.{part}"] for part in ("bias", "weight")]).mean(0)
        own = [row for row in found if row["node"] == "learned" and row["block"] == str(block)]
        assert [row["task"] for row in own] == ["0", "1"]
        assert [float(row["coefficient"]) for row in own] == pytest.approx(named.tolist(), rel=1e-6)
    line = [(row["block"], float(row["coefficient"])) for row in found if row["task"] == "LiNeS"]
    assert line == [("0", 0.5), ("1", 0.625), ("2", 0.75)]  # two task vectors: from 1/2 to 1/2 + beta
    outside = [row for row in found if not row["block"]]
    assert len(outside) == 2 and {row["task"] for row in outside} == {"0", "1"}
    assert "LiNeS" not in {row["task"] for row in outside}
    assert (folder / "out" / "figure.svg").read_text().startswith("<?xml")


def test_a_table_that_is_loaded_numbers_its_tasks(folder: Path) -> None:
    names = [f"blocks.{block}.{part}" for block in range(3) for part in ("weight", "bias")]
    save_file({name: torch.tensor([0.1, 0.2, 0.3]) for name in names}, folder / "table.safetensors")
    loaded = {"op": "load", "path": "table.safetensors", "type": "coefficients"}
    figure = {"op": "plot", "kind": "heatmap", "coefficients": "loaded", "beta": None}
    run(folder, {"loaded": loaded, "figure": figure})
    found = rows(folder / "out" / "figure.csv")
    assert {row["task"] for row in found} == {"0", "1", "2"} and len(found) == 9


def test_several_tables_share_one_line() -> None:
    tables = [{f"blocks.{block}.weight": [value, value] for block in range(2)} for value in (0.1, 0.2)]
    members = [Member(name, name, table=table) for name, table in zip("ab", tables, strict=True)]
    table = coefficient_table(members, "auto", 0.5)
    assert [row["coefficient"] for row in table.rows] == [0.1] * 4 + [0.2] * 4 + [0.5, 1.0]


def test_towers_are_told_apart() -> None:
    names = [
        f"{tower}.encoder.layers.{layer}.fc.weight" for tower in ("vision_model", "text_model") for layer in (0, 1)
    ]
    table = coefficient_table([Member("a", "a", table={name: [0.5] for name in names})], "auto", 0.5)
    assert table.columns == ("node", "tower", "block", "task", "coefficient")
    assert len({row["tower"] for row in table.rows}) == 2 and len(table.rows) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": "val"}, "expected 'metrics' or 'coefficients', found both"),
        ({"coefficients": None, "x": "t", "y": "u"}, "expected 'metrics' or 'coefficients', found neither"),
        ({"y": "coeficient"}, r"no column 'coeficient' \(did you mean 'coefficient'\?\); there are: node, "),
        ({"coefficients": None, "metrics": "val", "x": "t", "y": "mean_accuracy", "beta": 1}, "'beta' is for 'coeff"),
        ({"coefficients": None, "metrics": "val", "y": "mean_accuracy"}, "'x' names no column"),
        ({"coefficients": None, "metrics": "val", "x": "node"}, "'y' names no column"),
    ],
)
def test_mistakes(fields: dict[str, Any], message: str, folder: Path) -> None:
    val = {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"}
    figure = {"op": "plot", "coefficients": "learned", **fields}
    figure = {name: value for name, value in figure.items() if value is not None}
    with pytest.raises(RecipeError, match=message):
        lines_pipeline.validate(written(folder, {**nodes("adamerging", steps=1), "val": val, "figure": figure}))


def test_a_table_without_blocks(folder: Path) -> None:
    save_file({"weight": torch.tensor([0.1, 0.2])}, folder / "table.safetensors")
    loaded = {"op": "load", "path": "table.safetensors", "type": "coefficients"}
    with pytest.raises(EvalError, match="node 'figure': 'loaded': "):
        run(folder, {"loaded": loaded, "figure": {"op": "plot", "coefficients": "loaded"}})

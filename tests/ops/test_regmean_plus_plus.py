"""``regmean-plus-plus``: layers solved in order, on what the merged layers before them give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_suite import Node, State, run_recipe, saved, write_layer_suite, write_recipe
from safetensors.torch import save_file
from torch import nn

import lines_pipeline
from lines_pipeline.core.errors import LinesError

PAIRS = '''

class Pairs(nn.Module):
    """Blocks of two layers between a first layer and a last one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(3, 4), "down": nn.Linear(4, 3, bias=False)}) for _ in range(2)
        )

    def forward(self, values):
        values = self.first(values)
        for block in self.blocks:
            values = block["down"](torch.tanh(block["up"](values)))
        return self.last(values)
'''


def drawn(shapes: Mapping[str, tuple[int, ...]], count: int) -> list[State]:
    generator = torch.Generator().manual_seed(3)
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]


def nodes_of(
    folder: Path, factory: str, models: list[State], inputs: list[torch.Tensor], **own: Any
) -> dict[str, Node]:
    write_layer_suite(folder, factory, *inputs)
    (folder / "factory.py").write_text((folder / "factory.py").read_text() + PAIRS)
    for number, model in enumerate(models):
        save_file(model, folder / f"m{number}.safetensors")
    return {
        "models": {"op": "load", "path": "m{n}.safetensors", "for_each": {"n": list(range(len(models)))}},
        "merged": {"op": "regmean-plus-plus", "models": "models", "suite": "suite.yaml", **own},
    }


def inputs_of(count: int, width: int, rows: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(rows, width, generator=generator) * (number + 1) for number in range(count)]


def regmean(nodes: dict[str, Node], **own: Any) -> dict[str, Node]:
    """The nodes with RegMean in place, on Gram matrices of the models themselves."""
    measured = {"op": "gram", "model": "models", "suite": "suite.yaml", "task": "{n}"}
    merged = {"op": "regmean", "models": "models", "statistics": "measured", **own}
    return {"models": nodes["models"], "measured": measured, "merged": merged}


def solved(weights: list[torch.Tensor], rows: list[torch.Tensor], factor: float) -> torch.Tensor:
    """RegMean of one layer in float64."""
    grams = []
    for one in rows:
        gram = one.T @ one / len(one)
        grams.append(factor * gram + (1 - factor) * gram.diag().diag())
    target = sum(weight.double() @ gram for weight, gram in zip(weights, grams, strict=True))
    found: torch.Tensor = torch.linalg.solve(sum(grams), target, left=False)
    return found


def test_one_layer_is_that_of_regmean(tmp_path: Path) -> None:
    models = drawn({"weight": (2, 2)}, 3)
    nodes = nodes_of(tmp_path, "line", models, inputs_of(3, 2))
    found = saved(tmp_path, nodes, "merged")
    expected = saved(tmp_path, regmean(nodes), "merged")
    torch.testing.assert_close(found["weight"], expected["weight"], rtol=1e-6, atol=1e-7)
    weighted = {**nodes, "merged": {**nodes["merged"], "weights": [1.0, 2.0, 0.5]}}
    expected = saved(tmp_path, regmean(nodes, weights=[1.0, 2.0, 0.5]), "merged")
    torch.testing.assert_close(saved(tmp_path, weighted, "merged")["weight"], expected["weight"], rtol=1e-6, atol=1e-7)


def test_models_that_are_equal_give_that_model(tmp_path: Path) -> None:
    (model,) = drawn(SHAPES, 1)
    for count in (1, 3):
        found = saved(tmp_path, nodes_of(tmp_path, "Pairs", [model] * count, inputs_of(count, 3)), "merged")
        for name, value in model.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 0.25])
def test_the_second_layer_is_solved_behind_the_merged_first(factor: float, tmp_path: Path) -> None:
    models, inputs = drawn({"blocks.0.weight": (2, 2), "blocks.1.weight": (2, 2)}, 2), inputs_of(2, 2)
    own = {"ridge": 0.0, "reduce_non_diagonal": factor}
    nodes = nodes_of(tmp_path, "Blocks", models, inputs, **own)
    found = saved(tmp_path, nodes, "merged")
    wide = [rows.double() for rows in inputs]
    first = solved([model["blocks.0.weight"] for model in models], wide, factor)
    second = solved([model["blocks.1.weight"] for model in models], [rows @ first.T for rows in wide], factor)
    torch.testing.assert_close(found["blocks.0.weight"].double(), first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["blocks.1.weight"].double(), second, rtol=1e-5, atol=1e-6)
    plain = saved(tmp_path, regmean(nodes, **own), "merged")
    torch.testing.assert_close(plain["blocks.0.weight"].double(), first, rtol=1e-5, atol=1e-6)
    assert float((plain["blocks.1.weight"].double() - second).abs().max()) > 1e-2


SHAPES: Mapping[str, tuple[int, ...]] = {
    "first.weight": (3, 3),
    "last.weight": (2, 3),
    **{
        f"blocks.{block}.{name}": shape
        for block in range(2)
        for name, shape in {"up.weight": (4, 3), "up.bias": (4,), "down.weight": (3, 4)}.items()
    },
}


def test_within_a_block_layers_take_what_the_models_own_layers_give(tmp_path: Path) -> None:
    """As the authors do it: a block is merged whole; the first layer and the last are blocks of their own."""
    models, inputs = drawn(SHAPES, 2), inputs_of(2, 3, rows=40)
    found = saved(tmp_path, nodes_of(tmp_path, "Pairs", models, inputs, ridge=0.0), "merged")
    rows = [one.double() for one in inputs]
    merged = solved([model["first.weight"] for model in models], rows, 0.9)
    torch.testing.assert_close(found["first.weight"].double(), merged, rtol=1e-4, atol=1e-5)
    rows = [one @ merged.T for one in rows]
    for block in range(2):
        own = [{n.split(".")[2] + n[-4:]: v.double() for n, v in m.items() if f".{block}." in n} for m in models]
        inner = [torch.tanh(one @ m["upight"].T + m["upbias"]) for one, m in zip(rows, own, strict=True)]
        up, down = solved([m["upight"] for m in own], rows, 0.9), solved([m["downight"] for m in own], inner, 0.9)
        bias = (own[0]["upbias"] + own[1]["upbias"]) / 2
        for name, value in {"up.weight": up, "up.bias": bias, "down.weight": down}.items():
            torch.testing.assert_close(found[f"blocks.{block}.{name}"].double(), value, rtol=1e-4, atol=1e-5)
        rows = [torch.tanh(one @ up.T + bias) @ down.T for one in rows]
    last = solved([model["last.weight"] for model in models], rows, 0.9)
    torch.testing.assert_close(found["last.weight"].double(), last, rtol=1e-3, atol=1e-4)


def test_the_order_of_models_makes_no_difference_with_their_tasks(tmp_path: Path) -> None:
    models, inputs = drawn(SHAPES, 2), inputs_of(2, 3)
    found = saved(tmp_path, nodes_of(tmp_path, "Pairs", models, inputs), "merged")
    turned = saved(tmp_path, nodes_of(tmp_path, "Pairs", models[::-1], inputs, tasks=["1", "0"]), "merged")
    for name, value in found.items():
        torch.testing.assert_close(turned[name], value, rtol=1e-4, atol=1e-5)


def test_a_tied_weight_is_merged_under_both_names(tmp_path: Path) -> None:
    (one, other) = drawn({"one.weight": (2, 2)}, 2)
    models = [{**model, "two.weight": model["one.weight"].clone()} for model in (one, other)]
    found = saved(tmp_path, nodes_of(tmp_path, "Twice", models, inputs_of(2, 2)), "merged")
    assert torch.equal(found["one.weight"], found["two.weight"])
    assert not torch.allclose(found["one.weight"], (one["one.weight"] + other["one.weight"]) / 2)


def test_what_was_merged_is_remembered_and_a_plan_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = nodes_of(tmp_path, "line", drawn({"weight": (2, 2)}, 2), inputs_of(2, 2), rows=5)
    nodes["saved"] = {"op": "save", "model": "merged", "path": "merged.safetensors"}
    told = lines_pipeline.plan(write_recipe(tmp_path, nodes), out=tmp_path / "out", trust=True).render()
    assert "merged: measured on 5 samples a task (val), block after block, before the first pass" in told
    run_recipe(tmp_path, nodes)
    monkeypatch.setattr(nn.Linear, "forward", lambda layer, rows: pytest.fail("the model is run again"))
    assert lines_pipeline.run(tmp_path / "recipe.yaml", out=tmp_path / "again", tracking=False, trust=True).files


@pytest.mark.parametrize(
    ("factory", "own", "words"),
    [
        ("line", {"tasks": ["0"]}, "'tasks' has 1 names, expected one a model: 2"),
        ("line", {"tasks": ["0", "7"]}, "no task '7'"),
        ("line", {"weights": [0.0, 0.0]}, "expected none below 0, and one above"),
        ("line", {"exclude": ["weight"]}, "'include' and 'exclude' are not for 'regmean-plus-plus'"),
        ("line", {"blocks": r"(\d+)"}, "blocks"),
        ("line", {"split": "test"}, "'split': expected 'train' or 'val'"),
        ("Scaled", {}, "no linear layer whose weight is a tensor of its own"),
    ],
)
def test_mistakes_are_told(factory: str, own: dict[str, Any], words: str, tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"scale": (2,)} if factory == "Scaled" else {"weight": (2, 2)}
    nodes = nodes_of(tmp_path, factory, drawn(shapes, 2), inputs_of(2, 2), **own)
    with pytest.raises(LinesError, match=words.replace("(", r"\(")):
        saved(tmp_path, nodes, "merged")

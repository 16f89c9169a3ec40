"""``drift``: linear CKA and distance of features, worked out by hand, and what moves them and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, PlanError, RecipeError
from lines_pipeline.core.events import Event, MetricsComputed, StageFinished
from lines_pipeline.io.layers import find_layers
from lines_pipeline.ops.block_outputs import BlockOutputs, block_modules
from lines_pipeline.ops.similarity import LinearCka, RelativeDistance, Similarity

Recipe = Callable[..., Path]

FACTORY = '''
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.unused = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, values):
        return (self.linear(values), None)


class Chain(nn.Module):
    """Multiplies by the matrix of one block after the other; each gives a tuple, as some libraries' blocks do."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, values):
        for block in self.blocks:
            values = block(values)[0]
        return values


def build():
    return Chain()
'''
CROSS = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
IDENTITY, FLAT, TURNED = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, -3.0], [3.0, 0.0]]


def write_chain(path: Path, *matrices: Sequence[Sequence[float]]) -> None:
    state = {f"blocks.{block}.linear.weight": torch.tensor(matrix) for block, matrix in enumerate(matrices)}
    unused = {name.replace("linear", "unused"): torch.zeros(2, 2) for name in state}
    save_file(state | unused, path)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Writes a recipe that follows ``a`` and ``b`` away from ``base`` on the task ``cross``."""
    folder = tmp_path / "chain"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(folder)
    (folder / "chain_model.py").write_text(FACTORY)
    save_file({"images": torch.tensor(CROSS), "labels": torch.zeros(4, dtype=torch.int64)}, folder / "val.safetensors")
    save_file({"weight": torch.eye(2)}, folder / "head.safetensors")
    task = {"head": "head.safetensors", "data": {"val": "val.safetensors"}}
    suite = {"model": {"factory": "chain_model:build"}, "tasks": {"cross": task, "again": task}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    write_chain(folder / "base.safetensors", IDENTITY, IDENTITY)
    write_chain(folder / "a.safetensors", TURNED, FLAT)
    write_chain(folder / "b.safetensors", FLAT, IDENTITY)

    def write(nodes: dict[str, Any] | None = None, tune: Any = None, **drift: Any) -> Path:
        every = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{name}.safetensors", "for_each": {"name": ["a", "b"]}},
            "moved": {"op": "drift", "model": "experts", "base": "base", "suite": "suite.yaml", **drift},
            **(nodes or {}),
        }
        path = folder / "recipe.yaml"
        top = {"name": "chain", "nodes": every} | ({"tune": tune} if tune else {})
        path.write_text(yaml.safe_dump(top, sort_keys=False))
        return path

    return write


def ran(recipe: Path, **options: Any) -> lines_pipeline.RunResult:
    return lines_pipeline.run(recipe, out="out", tracking=False, trust=True, **options)


def test_cka_by_hand(recipe: Recipe) -> None:
    # centred products of CROSS: diag(2, 2). Flattened they are diag(2, 0), so 4 / (sqrt(8) * 2)
    half = math.sqrt(0.5)
    metrics = ran(recipe(tasks=["cross"])).metrics
    assert metrics["moved[a]"] == pytest.approx({"mean_cka": (1 + half) / 2, "cka/0": 1.0, "cka/1": half}, abs=1e-12)
    assert metrics["moved[b]"] == pytest.approx({"mean_cka": half, "cka/0": half, "cka/1": half}, abs=1e-12)


def test_distance_by_hand(recipe: Recipe) -> None:
    metrics = ran(recipe(measure="l2")).metrics
    # a turns each of four unit vectors by a right angle and makes it three times as long: sqrt(4 * 10 / 4)
    assert metrics["moved[a]"]["l2/0"] == pytest.approx(math.sqrt(10), abs=1e-12)
    assert metrics["moved[b]"] == pytest.approx(dict.fromkeys(["mean_l2", "l2/0", "l2/1"], math.sqrt(0.5)), abs=1e-12)


def test_the_base_has_not_moved(recipe: Recipe) -> None:
    nodes = {"still": {"op": "drift", "model": "base", "base": "base", "suite": "suite.yaml"}}
    assert ran(recipe(nodes)).metrics["still"] == pytest.approx(dict.fromkeys(["mean_cka", "cka/0", "cka/1"], 1.0))


def test_some_rows_of_each_task(recipe: Recipe) -> None:
    nodes = {"even": {"op": "drift", "model": "experts[b]", "base": "base", "suite": "suite.yaml", "rows": 2}}
    # the first two of CROSS lie on one axis, which b keeps
    assert ran(recipe(nodes)).metrics["even"]["cka/1"] == pytest.approx(1.0)


def test_it_is_remembered_and_told(recipe: Recipe) -> None:
    moved = {"op": "drift", "model": "mean", "base": "base", "suite": "suite.yaml"}
    path = recipe({"mean": {"op": "soup", "models": "experts"}, "moved": moved})
    first = ran(path)
    events: list[Event] = []
    again = ran(path, sinks=[events.append])
    assert again.metrics == first.metrics and again.cached == ("moved",)
    assert not [event for event in events if isinstance(event, StageFinished)]
    told = [event for event in events if isinstance(event, MetricsComputed)]
    assert [(event.step, event.cached, list(event.metrics)) for event in told] == [
        ("moved", True, ["mean_cka", "cka/0", "cka/1"])
    ]


def test_members_share_one_reading_of_the_inputs(recipe: Recipe) -> None:
    gammas = {"low": 0, "high": 1, "step": 0.25}
    nodes = {
        "updates": {"op": "task-vector", "base": "base", "model": "experts[a]"},
        "scaled": {"op": "scale", "delta": "updates", "by": "{gamma}", "for_each": {"gamma": gammas}},
        "models": {"op": "apply", "base": "base", "delta": "scaled"},
        "moved": {"op": "drift", "model": "models", "base": "base", "suite": "suite.yaml"},
        "curves": {"op": "plot", "metrics": "moved", "x": "block", "y": "cka", "group": "gamma"},
    }
    events: list[Event] = []
    result = ran(recipe(nodes), sinks=[events.append])
    read = [event.bytes_read for event in events if isinstance(event, StageFinished)]
    assert read == [2 * 4 * 16]
    rows = next(file for file in result.files if file.suffix == ".csv").read_text().splitlines()
    assert rows[0].split(",")[:4] == ["node", "gamma", "block", "cka"]
    assert [row.split(",")[1:3] for row in rows[1:4]] == [["0.00", "0"], ["0.00", "1"], ["0.25", "0"]]


def test_plan_tells_the_memory(recipe: Recipe) -> None:
    plan = lines_pipeline.plan(recipe(), trust=True)
    assert plan.drivers["moved"] > 3 * 64 + 8 * 4 * 4 * 2


def test_a_suite_whose_model_shows_no_blocks(toy: Path) -> None:
    for name, weight in {"base": 0.25, "a": 0.5}.items():
        write_model(toy / f"{name}.safetensors", weight, weight)
    write_suite(toy, {"rise": {"val": above(0.25, 0.75)}}, blocks=2)
    nodes = {name: {"op": "load", "path": f"{name}.safetensors"} for name in ("base", "a")}
    moved = {"op": "drift", "model": "a", "base": "base", "suite": "suite.yaml"}
    path = toy / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "blind", "nodes": {**nodes, "moved": moved}}))
    with pytest.raises(EvalError, match="node 'moved': the suite's model runs none of the blocks 0, 1 as a whole"):
        lines_pipeline.run(path, out="out", tracking=False)


def test_a_model_without_blocks_is_told_before_anything_is_read(recipe: Recipe) -> None:
    with pytest.raises(PlanError, match=r"node 'moved': .*no tensor"):
        lines_pipeline.plan(recipe(blocks=r"layers\.(\d+)\."), trust=True)


def test_values_are_not_chosen_by_it(recipe: Recipe) -> None:
    nodes = {"scaled": {"op": "interpolate", "models": ["base", "experts[a]"], "t": 0.5}}
    tune = {"parameters": {"scaled.t": {"values": [0.0, 1.0]}}, "objective": "moved[a].mean_cka"}
    with pytest.raises(RecipeError, match="names 'moved', a node of 'drift', expected an 'evaluate' node"):
        lines_pipeline.validate(recipe(nodes, tune), trust=True)


class Turned(nn.Module):
    """Gives [tokens, samples, width], as models do that have samples on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2, bias=False)])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = next(iter(self.blocks))(values.transpose(0, 1))
        return found


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_the_axis_of_samples_is_found_however_many_there_are(samples: int) -> None:
    module = Turned().eval()
    layers = find_layers({"blocks.0.weight": 4, "blocks.1.weight": 4}, r"blocks\.(\d+)\.")
    with pytest.raises(EvalError, match="no module for block 1"):
        block_modules(module, layers)
    module.load_state_dict({"blocks.0.weight": torch.eye(2)})
    values = torch.arange(samples * 6.0).view(samples, 3, 2)
    outputs = BlockOutputs(module, {"0": module.blocks[0]}, "cpu")
    assert torch.equal(outputs.rows(values)["0"], values.double().mean(1))


class Texts(nn.Module):
    """Gives a token's number and its square, and knows padding by the number 0; samples may lie on the second axis."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])
        self.turned = turned

    def token_mask(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs != 0).long()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = torch.stack([inputs + 5.0, inputs.float().square()], dim=-1)
        block: nn.Module = self.blocks[0]
        whole: torch.Tensor = block(found.transpose(0, 1) if self.turned else found)
        return whole


@pytest.mark.parametrize("turned", [False, True])
def test_padding_is_no_part_of_a_samples_features(turned: bool) -> None:
    module = Texts(turned=turned)
    outputs = BlockOutputs(module, {"0": module.blocks[0]}, "cpu")
    texts = torch.tensor([[1, 3, 0, 0], [2, 4, 7, 5], [0, 0, 0, 0]])
    assert outputs.rows(texts)["0"].tolist() == [[7.0, 5.0], [9.5, 23.5], [0.0, 0.0]]
    longer = torch.cat([texts, torch.zeros(3, 5, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(outputs.rows(longer)["0"], outputs.rows(texts)["0"])


def test_one_sample_tells_nothing() -> None:
    module = Turned()
    with pytest.raises(EvalError, match="one sample"):
        BlockOutputs(module, {"0": module.blocks[0]}, "cpu").rows(torch.zeros(1, 3, 2))


def batched(measure: Similarity, base: torch.Tensor, model: torch.Tensor, size: int) -> float:
    for x, y in zip(torch.split(base, size), torch.split(model, size), strict=True):
        measure.add(x, y)
    return measure.value()


def features(seed: int, rows: int, width: int) -> torch.Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn + 100.0  # far from zero: what is lost in centring would show


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(3, 40), width=st.integers(1, 6), size=st.integers(1, 40))
def test_cka_of_batches_is_that_of_the_definition(seed: int, rows: int, width: int, size: int) -> None:
    x, y = features(seed, rows, width), features(seed + 1, rows, width + 1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (b.T @ a).square().sum() / (torch.linalg.matrix_norm(a.T @ a) * torch.linalg.matrix_norm(b.T @ b))
    assert batched(LinearCka(), x, y, size) == pytest.approx(float(expected), rel=1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(3, 40), width=st.integers(1, 6))
def test_cka_does_not_see_rotations_scales_and_shifts(seed: int, rows: int, width: int) -> None:
    x, y = features(seed, rows, width), features(seed + 1, rows, width)
    turned, _ = torch.linalg.qr(features(seed + 2, width, width))
    plain = batched(LinearCka(), x, y, 7)
    assert batched(LinearCka(), x, 2.5 * y @ turned + 3.0, 7) == pytest.approx(plain, rel=1e-8)
    assert batched(LinearCka(), y, x, 7) == pytest.approx(plain, rel=1e-9)
    assert batched(LinearCka(), x, x @ turned, 7) == pytest.approx(1.0, rel=1e-9)


def test_features_that_do_not_vary() -> None:
    still, moving = torch.ones(4, 2).double(), torch.arange(8.0).view(4, 2).double()
    assert batched(LinearCka(), still, still, 2) == 1.0 and batched(LinearCka(), still, moving, 2) == 0.0
    zero = torch.zeros(4, 2).double()
    assert (
        batched(RelativeDistance(), zero, zero, 2) == 0.0 and batched(RelativeDistance(), zero, moving, 2) == math.inf
    )

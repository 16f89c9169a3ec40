"""``fisher-information``: per-sample gradients of a model's own answers, on the data of a suite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import EvalError, LinesError, RecipeError
from lines_pipeline.ops import fisher_information, per_sample

State = dict[str, torch.Tensor]
Node = dict[str, Any]

FACTORY = '''
from torch import nn


class Wrapped(nn.Module):
    """Loads the states of what it wraps, as open_clip's models are loaded."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, values):
        return self.inner(values)

    def load_state_dict(self, state, strict=True, assign=False):
        return self.inner.load_state_dict(state, strict, assign)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, values):
        return self.two(self.norm(self.one(values)))


def line():
    return nn.Linear(1, 1, bias=False)


def wrapped():
    return Wrapped(line())
'''


def write_suite(folder: Path, factory: str, inputs: torch.Tensor, head: torch.Tensor) -> None:
    (folder / "factory.py").write_text(FACTORY)
    save_file({"weight": head}, folder / "head.safetensors")
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    save_file({"images": inputs, "labels": labels}, folder / "data.safetensors")
    task = {"head": "head.safetensors", "data": {"val": "data.safetensors", "test": "data.safetensors"}}
    suite = {
        "model": {"factory": f"factory.py:{factory}"},
        "normalize_features": False,
        "tasks": {"a": task, "b": task},
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))


def write_recipe(folder: Path, models: int = 1, **params: Any) -> Path:
    """A recipe that measures the sum of so many models."""
    own = {"suite": "suite.yaml", "task": "a", **params}
    nodes: dict[str, Node] = {
        "loaded": {"op": "load", "path": "model.safetensors", "for_each": {"n": list(range(models))}},
        "model": {"op": "interpolate", "models": "loaded", "weights": 1.0},
        "measured": {"op": "fisher-information", "model": "model", **own},
        "saved": {"op": "save", "model": "measured", "path": "measured.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "measured", "nodes": nodes}, sort_keys=False))
    return path


def measure(folder: Path, model: State, **params: Any) -> State:
    save_file(model, folder / "model.safetensors")
    return read(lines_pipeline.run(write_recipe(folder, **params), out=folder / "out", tracking=False, trust=True))


def read(result: lines_pipeline.RunResult) -> State:
    tensors: State = load_file(result.files[0])
    return tensors


def by_hand(weight: float, *inputs: float) -> float:
    """Of two classes with logits w x and 0: the mean of p (1 - p) x^2."""
    shares = [1 / (1 + math.exp(-weight * value)) for value in inputs]
    return sum(p * (1 - p) * x * x for p, x in zip(shares, inputs, strict=True)) / len(inputs)


LINE = torch.tensor([[1.0], [0.0]])


@pytest.mark.parametrize("factory", ["line", "wrapped"])
def test_two_classes_agree_with_the_formula(factory: str, tmp_path: Path) -> None:
    write_suite(tmp_path, factory, torch.tensor([[1.0], [-2.0], [3.0]]), LINE)
    tensors = measure(tmp_path, {"weight": torch.tensor([[0.5]])})
    assert tensors["weight"].item() == pytest.approx(by_hand(0.5, 1.0, -2.0, 3.0), rel=1e-6)
    first = measure(tmp_path, {"weight": torch.tensor([[0.5]])}, rows=2)
    assert first["weight"].item() == pytest.approx(by_hand(0.5, 1.0, -2.0), rel=1e-6)


def tied_model() -> State:
    generator = torch.Generator().manual_seed(0)
    shapes = {"one.weight": (3, 3), "one.bias": (3,), "two.bias": (3,), "norm.weight": (3,), "norm.bias": (3,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    buffers = {"norm.running_mean": torch.randn(3, generator=generator), "norm.running_var": torch.ones(3) * 2}
    tied = {"two.weight": state["one.weight"].clone(), "norm.num_batches_tracked": torch.tensor(3)}
    return {**state, **buffers, **tied}


def reference(state: State, inputs: torch.Tensor, head: torch.Tensor) -> State:
    """In float64, one backward pass a sample and class."""
    names = ["one.weight", "one.bias", "two.bias", "norm.weight", "norm.bias"]
    values = {name: state[name].double().requires_grad_() for name in names}
    scale = values["norm.weight"] / (state["norm.running_var"].double() + 1e-5).sqrt()
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    for row in inputs.double():
        hidden = values["one.weight"] @ row + values["one.bias"]
        normed = (hidden - state["norm.running_mean"].double()) * scale + values["norm.bias"]
        answers = torch.log_softmax(head.double() @ (values["one.weight"] @ normed + values["two.bias"]), 0)
        for answer in answers:
            gradients = torch.autograd.grad(answer, list(values.values()), retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                total[name] += answer.exp().detach() * gradient.square() / len(inputs)
    return total


@pytest.mark.parametrize("chunk", [per_sample.CHUNK_NUMEL, 1, 50])
def test_tied_parameters_and_buffers_whatever_the_chunks(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "CHUNK_NUMEL", chunk)
    generator = torch.Generator().manual_seed(1)
    inputs, head = torch.randn(7, 3, generator=generator), torch.randn(4, 3, generator=generator)
    write_suite(tmp_path, "Tied", inputs, head)
    state = tied_model()
    tensors, expected = measure(tmp_path, state), reference(state, inputs, head)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name].double(), value, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(tensors["two.weight"], tensors["one.weight"])
    assert not tensors["norm.running_mean"].any() and not tensors["norm.running_var"].any()
    assert "norm.num_batches_tracked" not in tensors


def test_what_was_measured_is_remembered_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path, "line", torch.tensor([[1.0], [2.0]]), LINE)
    model = {"weight": torch.tensor([[0.5]])}
    first = measure(tmp_path, model)
    calls = []

    def counted(*given: Any) -> State:
        calls.append(given)
        return per_sample.squared_gradients(*given)

    monkeypatch.setattr(fisher_information, "squared_gradients", counted)
    (tmp_path / "out" / "measured.safetensors").unlink()
    assert torch.equal(measure(tmp_path, model)["weight"], first["weight"]) and not calls
    assert measure(tmp_path, model, rows=1)["weight"].item() == pytest.approx(by_hand(0.5, 1.0)) and len(calls) == 1
    write_suite(tmp_path, "line", torch.tensor([[1.0], [3.0]]), LINE)
    assert measure(tmp_path, model)["weight"].item() == pytest.approx(by_hand(0.5, 1.0, 3.0)) and len(calls) == 2
    assert measure(tmp_path, {"weight": torch.tensor([[0.25]])})["weight"].item() == pytest.approx(
        by_hand(0.25, 1.0, 3.0)
    )
    uncached = lines_pipeline.run(
        write_recipe(tmp_path), out=tmp_path / "anew", tracking=False, trust=True, cache=False
    )
    assert read(uncached)["weight"].item() == pytest.approx(by_hand(0.25, 1.0, 3.0)) and len(calls) == 4


def test_a_plan_tells_what_will_be_measured_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_suite(tmp_path, "line", torch.tensor([[1.0], [2.0]]), LINE)
    save_file({"weight": torch.tensor([[0.5]])}, tmp_path / "model.safetensors")
    monkeypatch.delattr(fisher_information, "squared_gradients")
    plan = lines_pipeline.plan(write_recipe(tmp_path, 3, rows=2), trust=True)
    assert "measured on 2 samples of a (val)" in plan.render()
    assert (plan.bytes_read, plan.bytes_written, plan.cached) == (4, 4, ()), "reads what was measured, not the models"


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"task": "c"}, EvalError, "no task 'c'"),
        ({"split": "test"}, RecipeError, "'split': expected 'train' or 'val'"),
        ({"split": "train"}, EvalError, "has no data for split 'train'"),
        ({"rows": 0}, RecipeError, "'rows'"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    params: Node, error: type[LinesError], words: str, tmp_path: Path
) -> None:
    write_suite(tmp_path, "line", torch.tensor([[1.0]]), LINE)
    save_file({"weight": torch.tensor([[0.5]])}, tmp_path / "model.safetensors")
    with pytest.raises(error, match=words):
        lines_pipeline.validate(write_recipe(tmp_path, **params), trust=True)


def test_a_model_that_does_not_fit_names_the_node(tmp_path: Path) -> None:
    write_suite(tmp_path, "line", torch.tensor([[1.0]]), LINE)
    with pytest.raises(EvalError, match=r"(?s)node 'measured': the model does not fit the suite's.*weight"):
        measure(tmp_path, {"wrong": torch.ones(1, 1)})


def test_members_of_a_collection_are_measured_on_their_own_tasks_and_merged(tmp_path: Path) -> None:
    write_suite(tmp_path, "line", torch.tensor([[1.0], [2.0]]), LINE)
    weights = {"a": 0.5, "b": 2.0}
    for name, weight in weights.items():
        save_file({"weight": torch.tensor([[weight]])}, tmp_path / f"{name}.safetensors")
    information = {"op": "fisher-information", "model": "experts", "suite": "suite.yaml", "task": "{item}"}
    nodes: dict[str, Node] = {
        "experts": {"op": "load", "path": "{item}.safetensors", "for_each": {"item": list(weights)}},
        "measured": information,
        "merged": {"op": "fisher", "models": "experts", "statistics": "measured", "normalize": False},
        "saved": {"op": "save", "model": "merged", "path": "merged.safetensors"},
        "judged": {"op": "evaluate", "model": "merged", "suite": "suite.yaml", "split": "val"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "merged", "nodes": nodes}, sort_keys=False))
    result = lines_pipeline.run(path, out=tmp_path / "out", tracking=False, trust=True)
    shares = {name: by_hand(weight, 1.0, 2.0) for name, weight in weights.items()}
    expected = sum(shares[name] * weight for name, weight in weights.items()) / sum(shares.values())
    assert read(result)["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert result.metrics["judged"]["mean_accuracy"] == 1.0

"""``regmean``: layers solved for the answers of all models, from Gram matrices that files hold as statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layer_suite import Node, State, given, run_recipe, saved, write_layer_suite, write_recipe
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.events import Event, Note, StageFinished


def merge(folder: Path, models: list[State], grams: list[State], **own: Any) -> State:
    nodes = given(folder, models, grams)
    nodes["merged"] = {"op": "regmean", "models": "models", "statistics": "measured", **own}
    return saved(folder, nodes, "merged")


def layer(*rows: list[float]) -> State:
    return {"layer.weight": torch.tensor(rows)}


def gram(*rows: list[float]) -> State:
    return {"layer": torch.tensor(rows)}


MODELS = [layer([1.0, 2.0]), layer([5.0, 10.0])]
APART = [gram([3.0, 0.0], [0.0, 1.0]), gram([1.0, 0.0], [0.0, 3.0])]


def test_inputs_apart_weigh_each_entry_by_hand(tmp_path: Path) -> None:
    assert merge(tmp_path, MODELS, APART, ridge=0.0)["layer.weight"].tolist() == [[2.0, 8.0]]
    weighted = merge(tmp_path, MODELS, APART, ridge=0.0, weights=[1.0, 3.0])
    torch.testing.assert_close(weighted["layer.weight"], torch.tensor([[3.0, 9.2]]))


def test_off_diagonals_are_reduced_by_hand(tmp_path: Path) -> None:
    """Halves of 1 off the diagonals: (W1 G1 + W2 G2) (G1 + G2)^-1 with G1 + G2 = [[4, 1], [1, 4]]."""
    together = [{"layer": gram["layer"] + 1.0 - torch.eye(2)} for gram in APART]
    target = torch.tensor([1.0, 2.0]) @ torch.tensor([[3.0, 0.5], [0.5, 1.0]])
    target = target + torch.tensor([5.0, 10.0]) @ torch.tensor([[1.0, 0.5], [0.5, 3.0]])
    expected = torch.tensor([(4 * target[0] - target[1]) / 15, (4 * target[1] - target[0]) / 15])
    tensors = merge(tmp_path, MODELS, together, ridge=0.0, reduce_non_diagonal=0.5)
    torch.testing.assert_close(tensors["layer.weight"], expected[None])
    none = merge(tmp_path, MODELS, together, ridge=0.0, reduce_non_diagonal=0.0)
    assert none["layer.weight"].tolist() == [[2.0, 8.0]]


def drawn(count: int, seed: int = 0, rows: int = 40) -> tuple[list[State], list[State], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    names = {"layer.weight": (5, 7), "layer.bias": (5,), "embedding.weight": (9, 7), "scale": ()}
    models = [{n: torch.randn(shape, generator=generator) for n, shape in names.items()} for _ in range(count)]
    inputs = [torch.randn(rows, 7, generator=generator) for _ in range(count)]
    return models, [{"layer": rows.T @ rows / len(rows)} for rows in inputs], inputs


def test_the_answers_are_the_nearest_to_those_of_all_models(tmp_path: Path) -> None:
    models, grams, inputs = drawn(3)
    tensors = merge(tmp_path, models, grams, ridge=0.0, reduce_non_diagonal=1.0)
    rows = torch.cat(inputs).double()
    pairs = zip(inputs, models, strict=True)
    answers = torch.cat([one.double() @ model["layer.weight"].double().T for one, model in pairs])
    expected = torch.linalg.lstsq(rows, answers).solution.T
    torch.testing.assert_close(tensors["layer.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_all_else_takes_the_weighted_mean(tmp_path: Path) -> None:
    models, grams, _ = drawn(3)
    tensors = merge(tmp_path, models, grams, weights=[1.0, 2.0, 1.0])
    for name in ("layer.bias", "embedding.weight", "scale"):
        expected = (models[0][name] + 2 * models[1][name] + models[2][name]) / 4
        torch.testing.assert_close(tensors[name], expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_laws(seed: int, tmp_path: Path) -> None:
    models, grams, _ = drawn(3, seed)
    alone = merge(tmp_path, models[:1], grams[:1])
    assert all(torch.equal(alone[name], value) for name, value in models[0].items()), "one model stays as it is"
    same = merge(tmp_path, models[:1] * 3, grams)
    for name, value in models[0].items():
        torch.testing.assert_close(same[name], value, msg="models without an update have none")
    tensors = merge(tmp_path, models, grams)
    turned = merge(tmp_path, models[::-1], grams[::-1])
    larger = merge(tmp_path, [{n: 4 * v for n, v in model.items()} for model in models], grams)
    for name, value in tensors.items():
        torch.testing.assert_close(turned[name], value)
        torch.testing.assert_close(larger[name], 4 * value)


def test_what_no_inputs_tell_takes_the_mean(tmp_path: Path) -> None:
    dead = [gram([3.0, 0.0], [0.0, 0.0]), gram([1.0, 0.0], [0.0, 0.0])]
    torch.testing.assert_close(merge(tmp_path, MODELS, dead)["layer.weight"], torch.tensor([[2.0, 6.0]]))
    nothing = [gram([0.0, 0.0], [0.0, 0.0])] * 2
    assert merge(tmp_path, MODELS, nothing)["layer.weight"].tolist() == [[3.0, 6.0]]


def test_singular_matrices_are_solved_by_least_squares_which_a_note_tells(tmp_path: Path) -> None:
    models, grams, _ = drawn(2, rows=3)
    nodes = given(tmp_path, models, grams)
    own = {"ridge": 0.0, "reduce_non_diagonal": 1.0}
    nodes["merged"] = {"op": "regmean", "models": "models", "statistics": "measured", **own}
    nodes["saved"] = {"op": "save", "model": "merged", "path": "merged.safetensors"}
    events: list[Event] = []
    path = tmp_path / "recipe.yaml"
    run_recipe(tmp_path, nodes)
    result = lines_pipeline.run(path, out=tmp_path / "again", tracking=False, cache=False, sinks=[events.append])
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [note for note in notes if "tensor 'layer.weight'" in note and "6 directions of 7: solved by least" in note]
    total = (grams[0]["layer"] + grams[1]["layer"]).double()
    target = sum(m["layer.weight"].double() @ g["layer"].double() for m, g in zip(models, grams, strict=True))
    tensors = load_file(result.files[0])["layer.weight"].double()
    torch.testing.assert_close(tensors @ total, target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "name"), [((7, 5), "layer"), ((7, 7), "layer.weight.T")])
def test_a_weight_in_by_out_is_taken_as_its_transpose(shape: tuple[int, int], name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    models = [{"layer.weight": torch.randn(shape, generator=generator)} for _ in range(2)]
    _, grams, _ = drawn(2)
    turned = [{"layer.weight": model["layer.weight"].T.contiguous()} for model in models]
    expected = merge(tmp_path, turned, grams)["layer.weight"].T
    tensors = merge(tmp_path, models, [{name: of_model["layer"]} for of_model in grams])
    torch.testing.assert_close(tensors["layer.weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    models, grams, _ = drawn(2)
    stored = [{name: value.to(dtype) for name, value in model.items()} for model in models]
    tensors = merge(tmp_path, stored, grams)
    expected = merge(tmp_path, [{n: v.float() for n, v in state.items()} for state in stored], grams)
    assert all(value.dtype is dtype for value in tensors.values())
    torch.testing.assert_close(tensors["layer.weight"].float(), expected["layer.weight"].to(dtype).float())


def test_gram_matrices_are_those_of_modules_or_of_tensors(tmp_path: Path) -> None:
    models, grams, _ = drawn(2)
    named = [{"layer.weight": of_model["layer"]} for of_model in grams]
    assert torch.equal(merge(tmp_path, models, named)["layer.weight"], merge(tmp_path, models, grams)["layer.weight"])


def test_excluded_tensors_stay_the_first_models(tmp_path: Path) -> None:
    models, grams, _ = drawn(2)
    tensors = merge(tmp_path, models, grams, exclude=["layer.*"])
    assert torch.equal(tensors["layer.weight"], models[0]["layer.weight"])
    torch.testing.assert_close(tensors["scale"], (models[0]["scale"] + models[1]["scale"]) / 2)


@pytest.mark.parametrize("mode", ["never", "always"])
def test_a_run_reads_what_its_plan_says_whatever_computes_it(mode: str, tmp_path: Path) -> None:
    if mode == "always":
        pytest.importorskip("numba")
    models, grams, _ = drawn(3)
    nodes = given(tmp_path, models, grams)
    nodes["saved"] = {"op": "save", "model": "merged", "path": "merged.safetensors"}
    events: list[Event] = []
    for ridge in (0.0, 1e-6):  # the first run learns the digests of all files
        nodes["merged"] = {"op": "regmean", "models": "models", "statistics": "measured", "ridge": ridge}
        path = write_recipe(tmp_path, nodes, engine={"compile": mode})
        plan = lines_pipeline.plan(path, out=tmp_path / "out")
        events.clear()
        lines_pipeline.run(path, out=tmp_path / "out", tracking=False, sinks=[events.append])
    assert sum(event.bytes_read for event in events if isinstance(event, StageFinished)) == plan.bytes_read


def test_models_are_evaluated_and_saved_beside_others(tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "line", torch.eye(2))
    models = [{"weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, {"weight": torch.tensor([[0.0, 0.0], [0.0, 2.0]])}]
    nodes = given(tmp_path, models, [{"weight": torch.eye(2)}] * 2)
    nodes["merged"] = {"op": "regmean", "models": "models", "statistics": "measured"}
    nodes["twice"] = {"op": "regmean", "models": ["models[0]", "merged"], "statistics": "measured"}
    for name in ("merged", "twice", "models[0]"):
        own = {"suite": "suite.yaml", "split": "val"}
        nodes[f"val_{name[:5]}"] = {"op": "evaluate", "model": name, **own}
        nodes[f"saved_{name[:5]}"] = {"op": "save", "model": name, "path": f"{name[:5]}.safetensors"}
    result = run_recipe(tmp_path, nodes)
    assert set(result.metrics) == {"val_merge", "val_twice", "val_model"}
    by_name = {path.name: load_file(path)["weight"].tolist() for path in result.files}
    assert by_name["merge.safetensors"] == [[0.5, 0.0], [0.0, 1.0]]
    assert by_name["twice.safetensors"] == [[0.75, 0.0], [0.0, 0.5]]


@pytest.mark.parametrize(
    ("grams", "params", "words"),
    [
        (
            [{"layer": torch.eye(3)}] * 2,
            {},
            r"'layer' has shape \[3, 3\], expected \[in, in\] for the tensor 'layer.weight'",
        ),
        ([gram([1.0, 0.0])] * 2, {}, r"'layer' has shape \[1, 2\], expected \[in, in\]"),
        ([APART[0], {"other": torch.eye(2)}], {}, "'other', which belong to no tensor of .*m0.safetensors"),
        ([APART[0], {"layer.bias": torch.ones(1)}], {}, "'layer.bias', which belong to no tensor"),
        (APART, {"statistics": ["measured[0]"]}, "needs one of 'statistics' a model, got 1 for 2"),
        (APART, {"weights": [0.0, 0.0]}, "expected none below 0, and one above"),
        (APART, {"statistics": "models"}, "'statistics' takes statistics, but 'models' gives"),
        (APART, {"reduce_non_diagonal": 1.5}, "'reduce_non_diagonal'"),
    ],
)
def test_mistakes(grams: list[State], params: Node, words: str, tmp_path: Path) -> None:
    with pytest.raises(LinesError, match=words):
        merge(tmp_path, MODELS, grams, **params)


def test_statistics_that_lack_a_layer_are_named(tmp_path: Path) -> None:
    models = [{"a.weight": torch.eye(2), "b.weight": torch.eye(2)}] * 2
    both, first_layer = {"a": torch.eye(2), "b": torch.eye(2)}, {"a": torch.eye(2)}
    with pytest.raises(LinesError, match=r"s1.safetensors has nothing of tensor 'b.weight', which other 'statistics'"):
        merge(tmp_path, models, [both, first_layer])


def test_gram_matrices_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(LinesError, match=r"s1.safetensors: 'layer' holds NaN or Inf"):
        merge(tmp_path, MODELS, [APART[0], gram([float("nan"), 0.0], [0.0, 1.0])])

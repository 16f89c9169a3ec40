"""``adamerging`` and ``atlas``: coefficients that are learned from a suite's data, and what takes them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from learned_coefficients import (
    Node,
    State,
    cross_entropy,
    entropy,
    nodes,
    reference,
    state,
    write,
    written,
)
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError, EvalError, LinesError, RecipeError
from lines_pipeline.core.events import Event, LearningProgress, TableComputed
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops import adamerging
from lines_pipeline.ops.adamerging import Adamerging, AdamergingParams
from lines_pipeline.ops.coefficients import fitting
from lines_pipeline.ops.coefficients.learning import OPTIMISER_BYTES
from lines_pipeline.ops.schemas.schema import Schema
from lines_pipeline.suites.opening import open_suite
from lines_pipeline.zoo.glyphs.bases import base_file
from lines_pipeline.zoo.glyphs.images import split_images

NAMES = sorted(name for name in state(0) if name != "norm.num_batches_tracked")
UNITS = {
    "tensor": [[name] for name in NAMES],
    "block": [[n for n in NAMES if n.startswith(f"blocks.{b}.")] for b in range(3)]
    + [[n for n in NAMES if n.startswith("norm.")]],
    "task": [NAMES],
}
ROUND = [list(range(4)), list(range(4, 8)), list(range(8, 10))]
"""The batches of four rows that ten rows give."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def run(folder: Path, recipe: dict[str, Node], **options: Any) -> lines_pipeline.RunResult:
    out = options.pop("out", "out")
    return lines_pipeline.run(
        written(folder, recipe), out=folder / out, **{"tracking": False, "trust": True, **options}
    )


def learned(folder: Path, op: str, **params: Any) -> State:
    run(folder, nodes(op, **params))
    tensors: State = load_file(folder / "out" / "table.safetensors")
    return tensors


@pytest.mark.parametrize("per", ["tensor", "block", "task"])
def test_adamerging_agrees_with_autograd_over_all_models_in_float64(per: str, folder: Path) -> None:
    own = {"steps": 3, "batch": 4, "lr": 0.05, "shuffle": False}
    tensors = learned(folder, "adamerging", per=per, **own)
    batches = [[ROUND[0], ROUND[1]], [ROUND[2], ROUND[0]], [ROUND[1], ROUND[2]]]
    start = torch.full((len(UNITS[per]), 2), 0.3)
    adam = partial(torch.optim.Adam, lr=0.05)
    expected = reference(UNITS[per], start, entropy, adam, batches, clamp=(0.0, 1.0))
    assert sorted(tensors) == NAMES
    for unit, row in zip(UNITS[per], expected, strict=True):
        for name in unit:
            torch.testing.assert_close(tensors[name].double(), row, rtol=0, atol=2e-5)


@pytest.mark.parametrize("per", ["tensor", "block", "task"])
def test_atlas_agrees_with_autograd_over_all_models_in_float64(per: str, folder: Path) -> None:
    own = {"steps": 4, "batch": 4, "shuffle": False, "select": "last", "clip_norm": 0.2}
    tensors = learned(folder, "atlas", per=per, **own)
    batches = [[ROUND[number % 3]] for number in range(4)]
    start = torch.zeros(len(UNITS[per]), 2)
    adam = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    expected = reference(UNITS[per], start, cross_entropy, adam, batches, clip_norm=0.2)
    for unit, row in zip(UNITS[per], expected, strict=True):
        for name in unit:
            torch.testing.assert_close(tensors[name].double(), row, rtol=0, atol=1e-4)


LINE = "from torch import nn\n\n\ndef line():\n    return nn.Linear(1, 1, bias=False)\n"


def test_one_step_by_hand(tmp_path: Path) -> None:
    """Logits (w x, 0): the entropy falls as w > 0 grows, so that what raises w gains the learning rate, the other loses
    it."""
    (tmp_path / "line.py").write_text(LINE)
    save_file({"weight": torch.tensor([[1.0], [0.0]])}, tmp_path / "head.safetensors")
    save_file({"images": torch.tensor([[2.0]]), "labels": torch.tensor([0])}, tmp_path / "data.safetensors")
    task = {"head": "head.safetensors", "data": {"val": "data.safetensors"}}
    suite = {"model": {"factory": "line.py:line"}, "normalize_features": False, "tasks": {"a": task}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    for name, weight in {"base": 0.5, "0": 0.75, "1": 0.25}.items():
        save_file({"weight": torch.tensor([[weight]])}, tmp_path / f"{name}.safetensors")
    result = run(tmp_path, nodes("adamerging", steps=1, start=0.5, lr=0.1, batches_per_step=1))
    table = load_file(tmp_path / "out" / "table.safetensors")
    torch.testing.assert_close(table["weight"], torch.tensor([0.6, 0.4]))
    model = load_file(tmp_path / "out" / "model.safetensors")
    assert model["weight"].item() == pytest.approx(0.5 + 0.6 * 0.25 - 0.4 * 0.25)
    share = 1 / (1 + math.exp(-1.0))
    summary = result.facts["learned"]
    assert summary["losses"] == [pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))]
    assert summary["coefficients"] == [[pytest.approx(0.6), pytest.approx(0.4)]]
    assert summary["vectors"] == ["0", "1"] and summary["units"] == ["weight"]


def test_without_steps_the_model_is_the_plain_merge(folder: Path) -> None:
    run(folder, nodes("adamerging", steps=0, start=0.3))
    plain = nodes("adamerging")
    plain["merged"] = {"op": "task-arithmetic", "deltas": "updates", "weights": 0.30000001192092896}
    del plain["learned"], plain["table"]
    run(folder, plain, out="plain")
    assert (folder / "out" / "table.safetensors").is_file()
    tensors, expected = (load_file(folder / one / "model.safetensors") for one in ("out", "plain"))
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_a_start_on_the_line_is_lines_on_the_plain_sum(folder: Path) -> None:
    for per in ("tensor", "block"):
        run(folder, nodes("atlas", steps=0, start="lines", beta=0.25, per=per), out=per)
    plain = nodes("atlas")
    plain["sum"] = {"op": "task-arithmetic", "deltas": "updates"}
    plain["merged"] = {"op": "lines-scale", "delta": "sum", "alpha": "auto", "deltas": "updates", "beta": 0.25}
    del plain["learned"], plain["table"]
    run(folder, plain, out="plain")
    expected = load_file(folder / "plain" / "model.safetensors")
    for per in ("tensor", "block"):
        tensors = load_file(folder / per / "model.safetensors")
        for name, value in expected.items():
            torch.testing.assert_close(tensors[name], value)


def test_vectors_in_another_order_have_their_coefficients_in_that_order(folder: Path) -> None:
    own = {"steps": 3, "lr": 0.05, "batch": 4}
    tensors = learned(folder, "adamerging", **own)
    turned = nodes("adamerging", **own)
    for node in ("learned", "merged"):
        turned[node]["deltas"] = ["updates[1]", "updates[0]"]
    run(folder, turned, out="turned")
    for name, row in load_file(folder / "turned" / "table.safetensors").items():
        torch.testing.assert_close(row.flip(0), tensors[name], rtol=0, atol=1e-5)


def test_a_vector_of_zeros_keeps_its_start_where_nothing_decays(folder: Path) -> None:
    save_file(state(0), folder / "1.safetensors")
    tensors = learned(folder, "adamerging", steps=3, lr=0.05)
    assert all(row[1].item() == pytest.approx(0.3) for row in tensors.values())
    assert any(row[0].item() != pytest.approx(0.3) for row in tensors.values())


def test_what_the_clamp_holds_takes_no_gradient(folder: Path) -> None:
    tensors = learned(folder, "adamerging", steps=4, start=0.95, lr=0.1, batch=4)
    free = learned(folder, "adamerging", steps=4, start=0.95, lr=0.1, batch=4, clamp=None)
    assert max(row.max().item() for row in tensors.values()) == 1.0
    assert max(row.max().item() for row in free.values()) > 1.0


def test_what_is_shuffled_goes_by_the_seed_alone(folder: Path) -> None:
    own = {"steps": 3, "batch": 4, "lr": 0.05}
    first = run(folder, nodes("adamerging", **own), cache=False).facts["learned"]
    again = run(folder, nodes("adamerging", **own), cache=False, workers=1, scheduler="serial").facts["learned"]
    other = run(folder, nodes("adamerging", **own, seed=1)).facts["learned"]
    assert again == first and other["losses"] != first["losses"]


def test_what_was_learned_is_remembered_by_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    first = run(folder, nodes("adamerging", steps=2), sinks=[events.append])
    assert [event.done for event in events if isinstance(event, LearningProgress)] == [1, 2]
    (table,) = (event for event in events if isinstance(event, TableComputed))
    assert table.name == "coefficients/learned" and table.rows[0].keys() == {"tensor", "0", "1"}
    assert len(table.rows) == len(NAMES)
    monkeypatch.setattr(fitting.Fit, "step", None)
    events.clear()
    (folder / "out" / "table.safetensors").unlink()
    again = run(folder, nodes("adamerging", steps=2), sinks=[events.append])
    assert again.facts == first.facts and table in events
    with pytest.raises(TypeError):
        run(folder, nodes("adamerging", steps=3))


def test_a_table_that_is_saved_and_loaded_gives_the_same_bytes(folder: Path) -> None:
    run(folder, nodes("atlas", steps=2))
    again = nodes("atlas")
    again["learned"] = {"op": "load", "path": "out/table.safetensors", "type": "coefficients"}
    del again["table"]
    run(folder, again, out="again")
    tensors, tensors_again = (load_file(folder / out / "model.safetensors") for out in ("out", "again"))
    assert all(torch.equal(tensors_again[name], value) for name, value in tensors.items())
    again["learned"].pop("type")
    again["copied"] = {"op": "save", "model": "learned", "path": "copied.safetensors"}
    with pytest.raises(CheckpointError, match=r"holds coefficients of task vectors: .* 'type: coefficients'"):
        run(folder, {name: again[name] for name in ("learned", "copied")})


@pytest.mark.parametrize("mode", ["never", "always"])
def test_coefficients_take_the_place_of_the_weights_in_every_form(mode: str, folder: Path) -> None:
    """The law: a tensor's values are those of the merge with its row as the weights."""
    if mode == "always":
        pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(0)
    table = {name: torch.randn(2, generator=generator) for name in NAMES}
    save_file(table, folder / "given.safetensors")
    signed: Node = {"sign": "sum"}
    forms: list[Node] = [{}, {"reduce": "mean"}, signed, {"normalize": True}, {**signed, "normalize": True}]
    for form in forms:
        given = nodes("adamerging")
        given["learned"] = {"op": "load", "path": "given.safetensors", "type": "coefficients"}
        given["merged"] |= form
        del given["table"]
        run(folder, given, sets={"engine.compile": mode}, cache=False)
        tensors = load_file(folder / "out" / "model.safetensors")
        for name in ("blocks.1.weight", "norm.bias"):
            plain = nodes("adamerging")
            plain["merged"] |= {"weights": table[name].tolist(), **form}
            del plain["learned"], plain["table"], plain["merged"]["coefficients"]
            run(folder, plain, out="plain")
            assert torch.equal(load_file(folder / "plain" / "model.safetensors")[name], tensors[name]), (form, name)


def test_lines_after_learned_coefficients_measures_the_merged_norm(folder: Path) -> None:
    """With coefficients the merge is no plain sum: alpha auto is not known to be 1/N."""
    scaled = nodes("adamerging", steps=0, start=0.25)
    scaled["scaled"] = {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates"}
    scaled["model"]["delta"] = "scaled"
    assert run(folder, scaled).facts["scaled"]["alpha"] == pytest.approx(1 / 0.25 / 2)


def test_adamerging_plus_plus_learns_on_trimmed_vectors_that_agree_on_signs(folder: Path) -> None:
    """The recipe: each vector trimmed, and left with the entries that have the sign which all elect."""
    recipe = nodes("adamerging", steps=0, start=1.0)
    recipe["elected"] = {"op": "ties", "deltas": "updates", "density": 0.4, "aggregate": "sum"}
    own = {"deltas": "updates[{e}]", "sign_from": "elected", "density": 0.4, "aggregate": "sum"}
    recipe["agreeing"] = {"op": "ties", "for_each": {"e": ["0", "1"]}, **own}
    recipe["learned"]["deltas"] = recipe["merged"]["deltas"] = "agreeing"
    recipe["whole"] = {"op": "save", "model": "elected", "path": "elected.safetensors"}
    run(folder, recipe)
    base, model = state(0), load_file(folder / "out" / "model.safetensors")
    for name, value in load_file(folder / "out" / "elected.safetensors").items():
        torch.testing.assert_close(model[name] - base[name], value, rtol=0, atol=1e-6)
    recipe["learned"] |= {"steps": 3, "lr": 0.05}
    result = run(folder, recipe, out="learned").facts["learned"]
    assert len(result["losses"]) == 3 and result["losses"][2] < result["losses"][0]


def test_the_best_round_is_taken_and_told_where_it_is_no_better_than_the_start(folder: Path) -> None:
    own = {"batch": 10, "lr": 0.3, "steps": 6, "shuffle": False}
    best = run(folder, nodes("atlas", **own), out="best")
    rounds = [
        run(folder, nodes("atlas", **{**own, "steps": steps}, select="last") | judge(), out=f"r{steps}")
        for steps in range(1, 7)
    ]
    scores = [round.metrics["val"]["mean_accuracy"] for round in rounds]
    first = rounds[scores.index(max(scores))]
    assert best.facts["learned"]["coefficients"] == first.facts["learned"]["coefficients"]
    assert not [note for note in best.notes if "no round" in note]
    worse = run(folder, nodes("atlas", **{**own, "lr": 1e-9}), out="worse")
    assert [note for note in worse.notes if "no round is better than the start" in note]


def judge(split: str = "val") -> dict[str, Node]:
    return {"val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": split}}


def test_without_steps_atlas_takes_twenty_rounds_over_the_largest_task(folder: Path) -> None:
    result = run(folder, nodes("atlas", batch=4, select="last")).facts["learned"]
    assert len(result["losses"]) == 20 * 3 and result["losses"][-1] < result["losses"][0]


def test_what_is_learned_on_test_inputs_is_marked_everywhere(folder: Path) -> None:
    store = f"sqlite:///{folder / 'mlflow.db'}"
    recipe = nodes("adamerging", steps=1, split="test") | judge("test")
    result = run(folder, recipe, tracking=True, tracking_uri=store)
    assert result.metrics["val"]["transductive"] == 1.0 and result.facts["learned"]["transductive"]
    assert any("'learned'" in note and "transductive" in note for note in result.notes)
    assert "transductive" in lines_pipeline.plan(written(folder, recipe), trust=True).render()
    from mlflow.tracking import MlflowClient

    record = MlflowClient(store).get_run(result.run_id).data
    assert record.tags["transductive"] == "learned" and record.metrics["val/transductive"] == 1.0
    history = MlflowClient(store).get_metric_history(result.run_id, "learning/learned/loss")
    assert [(point.step, point.value) for point in history] == [(1, result.facts["learned"]["losses"][0])]
    honest = run(folder, nodes("adamerging", steps=1) | judge("test"), out="honest")
    assert "transductive" not in honest.metrics["val"] and not honest.facts["learned"]["transductive"]
    tune = {"parameters": {"learned.lr": {"values": [0.1]}}, "objective": "val.mean_accuracy"}
    recipe["val"]["split"] = "val"
    with pytest.raises(RecipeError, match=r"depends on 'learned' with 'split: test'"):
        lines_pipeline.validate(written(folder, recipe, tune=tune), trust=True)


def test_a_learning_rate_can_be_tuned(folder: Path) -> None:
    tune = {"parameters": {"learned.lr": {"values": [0.01, 0.1]}}, "objective": "val.mean_accuracy"}
    path = written(folder, nodes("adamerging", steps=2) | judge(), tune=tune)
    result = lines_pipeline.run(path, out=folder / "out", tracking=False, trust=True)
    assert result.chosen["learned.lr"] in (0.01, 0.1)


def test_a_plan_tells_what_will_be_learned_and_learns_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(adamerging, "_entropy")
    text = lines_pipeline.plan(written(folder, nodes("adamerging", per="block")), trust=True).render()
    assert "learned on val of all tasks, before the first pass; one a block and vector" in text


@pytest.mark.parametrize(
    ("node", "change", "error", "words"),
    [
        ("learned", {"per": "task", "start": "lines"}, RecipeError, "'start: lines' differs by depth"),
        ("learned", {"clamp": [1, 0]}, RecipeError, r"'clamp' is \[1.0, 0.0\]"),
        ("learned", {"clamp": [1]}, RecipeError, "'clamp'"),
        ("learned", {"lr": 0}, RecipeError, "'lr'"),
        ("learned", {"per": "layer"}, RecipeError, "'per': expected 'tensor', 'block' or 'task'"),
        ("learned", {"tasks": ["a", "c"]}, EvalError, "no task 'c'"),
        ("learned", {"split": "train"}, EvalError, "has no data for split 'train'"),
        ("learned", {"blocks": r"parts\.(\d+)\.", "per": "block"}, LinesError, "node 'learned'"),
        ("merged", {"weights": [1, 2]}, RecipeError, "give 'weights' or 'coefficients', not both"),
        (
            "merged",
            {"coefficients": "base"},
            RecipeError,
            "takes coefficients, but 'base' gives weights",
        ),
        ("merged", {"deltas": "updates[0]"}, CheckpointError, r"rows of shape \[2\].*expected \[1\]"),
        ("model", {"delta": "learned"}, RecipeError, "'delta' takes delta, but 'learned' gives coefficients"),
        ("table", {"path": "table/"}, RecipeError, "a model folder holds weights"),
    ],
)
def test_mistakes_are_told_before_anything_is_learned(
    node: str, change: Node, error: type[LinesError], words: str, folder: Path
) -> None:
    recipe = nodes("adamerging")
    recipe[node] |= change
    with pytest.raises(error, match=words):
        lines_pipeline.validate(written(folder, recipe), trust=True)


def test_a_table_without_a_row_for_a_tensor_is_refused(folder: Path) -> None:
    save_file({name: torch.ones(2) for name in NAMES if name != "norm.bias"}, folder / "given.safetensors")
    recipe = nodes("adamerging")
    recipe["learned"] = {"op": "load", "path": "given.safetensors", "type": "coefficients"}
    with pytest.raises(CheckpointError, match=r"node 'merged': given.safetensors.* has no row for tensor 'norm.bias'"):
        lines_pipeline.validate(written(folder, recipe))
    recipe["merged"]["exclude"] = ["norm.bias"]
    run(folder, recipe)
    assert torch.equal(load_file(folder / "out" / "model.safetensors")["norm.bias"], state(0)["norm.bias"])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 5), [0, 1], r"task 'a': the model does not take inputs of shape \[2, 5\]"),
        (torch.zeros(2, 4), [0, 7], "task 'a': logits .* for labels from 0 to 7"),
        (torch.zeros(0, 4), [], "task 'a' has no inputs in 'val' to learn from"),
        (torch.full((2, 4), float("nan")), [0, 1], "the loss is not finite in step 1"),
    ],
)
def test_data_that_cannot_be_learned_from_names_node_and_task(
    images: torch.Tensor, labels: list[int], words: str, folder: Path
) -> None:
    answers = torch.tensor(labels, dtype=torch.int64)
    save_file({"images": images, "labels": answers}, folder / "a.safetensors")
    with pytest.raises(EvalError, match=f"node 'learned': .*{words}"):
        run(folder, nodes("atlas", steps=1, batch=4, select="last"))


def test_a_module_that_lacks_a_tensor_of_the_vectors_is_refused(folder: Path) -> None:
    (folder / "network.py").write_text((folder / "network.py").read_text().replace("range(3)", "range(2)"))
    with pytest.raises(EvalError, match=r"node 'learned': the model does not fit the suite's"):
        run(folder, nodes("adamerging", steps=1))


def test_the_memory_that_is_declared_is_that_of_two_models_however_many_vectors() -> None:
    tensors = {"w": TensorSpec("w", "bfloat16", (100, 100)), "n": TensorSpec("n", "int64", (5,))}
    base = Schema(tensors, ("w", "n"))
    op = Adamerging()
    declared = {n: op.driver_bytes(AdamergingParams(suite="s"), {"base": [base], "deltas": [base] * n}) for n in (2, 9)}
    assert declared[2] == declared[9] == 3 * 4 * 100 * 100 + OPTIMISER_BYTES


def test_what_an_evaluation_keeps_is_learned_on_afterwards(tmp_path: Path) -> None:
    """Images of the zoo are made once a process; an evaluation may be the first to ask for them."""
    split_images.cache_clear()
    open_suite("zoo://glyphs", tmp_path).evaluate(load_file(base_file(0)), ["case"], "val")
    suite = {"suite": "zoo://glyphs", "tasks": ["case"], "split": "val"}
    pretrained = {"pretrained": {"op": "load", "path": "zoo://glyphs/pretrained"}}
    still = {"op": "task-vector", "base": "pretrained", "model": "pretrained"}
    learning = {"op": "adamerging", "base": "pretrained", "deltas": ["still"], "steps": 1, **suite}
    saved = {"op": "save", "model": "learned", "path": "learned.safetensors"}
    run(tmp_path, {**pretrained, "still": still, "learned": learning, "saved": saved})
    learned = load_file(tmp_path / "out" / "learned.safetensors")
    assert all(torch.equal(value, torch.full_like(value, 0.3)) for value in learned.values())

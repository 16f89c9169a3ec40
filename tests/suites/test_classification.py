"""Suites of the user's own: a YAML file, a model factory, heads and images beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy_suite import ENCODER, above, below, write_images, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.events import Event, MetricsComputed, StageStarted
from lines_pipeline.suites.opening import open_suite

pytestmark = pytest.mark.usefixtures("shared_store")

TASKS: Mapping[str, Any] = {
    "rise": {"val": above(0.125, 0.375, 0.625, 0.875), "test": above(0.5, 1.0)},
    "fall": {"val": below(0.25, 0.5, 1.0, 2.0), "test": below(0.5, 1.0)},
}
"""A merged model with the sum 0.75 gets 3 of 4 and 2 of 4 right on val, 1 of 2 and 1 of 2 on test."""

RECORDED: Mapping[str, Any] = {
    "expert_accuracy": {"rise": {"val": 1.0}, "fall": {"val": 0.75}},
    "pretrained_accuracy": {"rise": {"val": 0.25}, "fall": {"val": 1.0}},
}


@pytest.fixture
def recipe(toy: Path) -> Callable[..., Path]:
    """Writes a recipe that merges 0, 0.5 and 0.25 to 0.75, and evaluates the model with the given fields."""
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 0.5)
    write_model(toy / "b.safetensors", 0.25)

    def write(**evaluate: Any) -> Path:
        nodes = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}},
            "updates": {"op": "task-vector", "model": "experts", "base": "base"},
            "merged": {"op": "task-arithmetic", "deltas": "updates"},
            "model": {"op": "apply", "base": "base", "delta": "merged"},
            "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val", **evaluate},
        }
        path = toy / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "toy", "nodes": nodes}))
        return path

    return write


Recipe = Callable[..., Path]


def accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are accuracies, without their intervals."""
    return {
        n: v for n, v in metrics.items() if "accuracy" in n and not n.endswith(("/low", "/high")) and "top5" not in n
    }


def test_a_recipe_is_judged_as_worked_out_by_hand(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS, **RECORDED)
    assert accuracies(lines_pipeline.run(recipe()).metrics["val"]) == {
        "accuracy/rise": 0.75,
        "accuracy/fall": 0.5,
        "mean_accuracy": 0.625,
        "worst_accuracy": 0.5,
        "normalized_accuracy/rise": 0.75,
        "normalized_accuracy/fall": 0.5 / 0.75,
        "mean_normalized_accuracy": (0.75 + 0.5 / 0.75) / 2,
    }


def test_a_target_adds_what_was_learnt_and_what_was_kept(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS, **RECORDED)
    result = lines_pipeline.run(recipe(target="fall")).metrics["val"]
    assert result["target_accuracy"] == 0.5
    assert result["control_accuracy"] == 0.75
    assert result["target_normalized_accuracy"] == 0.5 / 0.75
    assert result["control_normalized_accuracy"] == 0.75 / 0.25


def test_a_split_without_references_has_accuracies_only(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS, **RECORDED)
    result = lines_pipeline.run(recipe(split="test")).metrics["val"]
    expected = {"accuracy/rise": 0.5, "accuracy/fall": 0.5, "mean_accuracy": 0.5, "worst_accuracy": 0.5}
    assert accuracies(result) == expected


def test_some_tasks_of_a_suite(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    metrics = accuracies(lines_pipeline.run(recipe(tasks=["rise"])).metrics["val"])
    assert metrics == {"accuracy/rise": 0.75, "mean_accuracy": 0.75, "worst_accuracy": 0.75}


def test_a_run_that_only_judges_needs_no_folder_to_write_to(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    assert lines_pipeline.run(recipe(), out="/proc/x/out").metrics["val"]["mean_accuracy"] == 0.625


def test_paths_in_a_suite_start_from_its_own_folder(toy: Path, recipe: Recipe) -> None:
    (toy / "suites").mkdir()
    write_suite(toy / "suites", TASKS)
    assert lines_pipeline.run(recipe(suite="suites/suite.yaml")).metrics["val"]["mean_accuracy"] == 0.625


def test_rows_of_a_head_are_used_as_they_are(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    save_file({"weight": torch.tensor([[1.0, 0.0], [0.0, 0.5]])}, toy / "head.safetensors")
    result = lines_pipeline.run(recipe()).metrics["val"]
    assert (result["accuracy/rise"], result["accuracy/fall"]) == (0.25, 0.75)  # half of 0.75 is above 0.125 and 0.25


def test_more_images_than_fit_in_a_batch(toy: Path) -> None:
    write_suite(toy, {"many": {"val": above(*(step / 512 for step in range(512)))}})
    suite = open_suite("suite.yaml", toy)
    assert suite.tasks == ("many",)
    for right in (0, 128, 300, 512):
        state = {"blocks.0.weight": torch.tensor([[right / 512]])}
        assert suite.evaluate(state, ["many"], "val").values["many"]["accuracy"] == right / 512


def test_a_bias_and_a_scale_of_the_logits(toy: Path, recipe: Recipe) -> None:
    """The sum is 0.75; unit features of the image x are (x, 0.75) / length."""
    path = write_suite(toy, TASKS)
    save_file({"weight": torch.eye(2), "bias": torch.tensor([0.25, 0.0])}, toy / "head.safetensors")
    content = yaml.safe_load(path.read_text()) | {"normalize_features": False, "logit_scale": 2.0}
    path.write_text(yaml.safe_dump(content))
    result = lines_pipeline.run(recipe()).metrics["val"]
    assert (result["accuracy/rise"], result["accuracy/fall"]) == (0.5, 0.5)  # 2 * 0.75 > 2 * x + 0.25
    losses = [math.log(1 + math.exp(2 * image + 0.25 - 1.5)) for image, _ in TASKS["rise"]["val"]]
    assert result["loss/rise"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    sure, unsure = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(-0.5))  # right; one right and one wrong; at 0.5 wrong
    bins = [1 - sure, 1 - 2 * unsure, -0.5]
    assert result["calibration_error/rise"] == pytest.approx(sum(map(abs, bins)) / 4, rel=1e-5)


def test_features_are_scaled_to_unit_length_unless_told_otherwise(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    result = lines_pipeline.run(recipe()).metrics["val"]
    logits = [[x / math.hypot(image, 0.75) for x in (image, 0.75)] for image, _ in TASKS["rise"]["val"]]
    assert result["loss/rise"] == pytest.approx(sum(math.log(1 + math.exp(a - b)) for a, b in logits) / 4, rel=1e-5)


def test_the_top_five_where_there_are_more_than_five_classes(toy: Path, recipe: Recipe) -> None:
    path = write_suite(toy, {"rise": {"val": [(1.0, 0), (1.0, 4), (1.0, 5), (1.0, 6)]}})
    head = torch.tensor([[-float(row), 0.0] for row in range(7)])
    save_file({"weight": head}, toy / "head.safetensors")
    path.write_text(path.read_text() + "normalize_features: false\n")
    result = lines_pipeline.run(recipe()).metrics["val"]
    assert (result["accuracy/rise"], result["top5_accuracy/rise"], result["mean_top5_accuracy"]) == (0.25, 0.5, 0.5)
    write_suite(toy, TASKS)
    assert not [name for name in lines_pipeline.run(recipe()).metrics["val"] if "top5" in name]


def test_images_that_belong_together_are_resampled_together(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, {"rise": {"val": above(*([0.5] * 10), *([1.0] * 10))}})
    assert lines_pipeline.run(recipe()).metrics["val"]["accuracy/rise/low"] > 0.2
    data = load_file(toy / "rise_val.safetensors")
    save_file({**data, "clusters": torch.arange(20) // 10}, toy / "rise_val.safetensors")
    result = lines_pipeline.run(recipe()).metrics["val"]
    assert (result["accuracy/rise/low"], result["accuracy/rise"], result["accuracy/rise/high"]) == (0.0, 0.5, 1.0)


def test_any_metric_of_the_suite_may_be_tuned(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    content = yaml.safe_load(recipe().read_text())
    tune = {"parameters": {"model.scale": {"values": [0.25, 1.0, 4.0]}}, "objective": "val.loss/rise"}
    (toy / "recipe.yaml").write_text(yaml.safe_dump({**content, "tune": tune}))
    events: list[Event] = []
    result = lines_pipeline.run(toy / "recipe.yaml", sinks=[events.append])
    assert result.chosen == {"model.scale": 4.0}
    assert judged(events) == [True]


def test_logits_without_a_number_are_no_reason_to_fail(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    (toy / "python" / "toy_encoder.py").write_text(ENCODER.replace("total = sum", "total = float('nan') * sum"))
    first, again = (lines_pipeline.run(recipe()) for _ in range(2))
    assert math.isnan(first.metrics["val"]["mean_loss"]) and math.isnan(again.metrics["val"]["mean_loss"])
    assert again.cached == ("val",) and "loss/rise/low" not in first.metrics["val"]


def test_a_suite_gives_what_trains_and_measures_need(toy: Path) -> None:
    write_suite(toy, TASKS)
    suite = open_suite("suite.yaml", toy)
    images, labels = next(iter(suite.batches("rise", "val")))
    model = suite.model()
    model.load_state_dict({"blocks.0.weight": torch.tensor([[0.75]])})
    answers = suite.heads()["rise"].logits(model(images)).argmax(1)
    score = suite.evaluate(model, ["rise"], "val").values["rise"]["accuracy"]
    assert float((answers == labels).float().mean()) == score == 0.75


def test_stored_types_are_widened_for_judging(toy: Path) -> None:
    write_suite(toy, {"rise": {"val": above(0.125, 0.375)}})
    state = {"blocks.0.weight": torch.tensor([[0.25]], dtype=torch.bfloat16)}
    assert open_suite("suite.yaml", toy).evaluate(state, ["rise"], "val").values["rise"]["accuracy"] == 0.5


def judged(events: list[Event]) -> list[bool]:
    """Whether each evaluation was remembered."""
    return [event.cached for event in events if isinstance(event, MetricsComputed)]


def test_a_model_is_judged_again_only_where_suite_or_images_changed(toy: Path, recipe: Recipe) -> None:
    path = write_suite(toy, TASKS)
    events: list[Event] = []
    first = lines_pipeline.run(recipe(), sinks=[events.append])
    again = lines_pipeline.run(recipe(), sinks=[events.append])
    assert again.metrics == first.metrics and again.cached == ("val",)
    path.write_text(path.read_text() + "# a remark\n")
    lines_pipeline.run(recipe(), sinks=[events.append])
    write_images(toy / "rise_val.safetensors", above(0.5, 1.0))
    changed = lines_pipeline.run(recipe(), sinks=[events.append])
    assert changed.metrics["val"]["accuracy/rise"] == 0.5
    assert judged(events) == [False, True, True, False]


def test_references_may_change_without_judging_again(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS, expert_accuracy={"rise": {"val": 1.0}})
    lines_pipeline.run(recipe())
    write_suite(toy, TASKS, expert_accuracy={"rise": {"val": 0.5}})
    assert lines_pipeline.run(recipe()).metrics["val"]["normalized_accuracy/rise"] == 1.5


def save(folder: Path, name: str, **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / f"{name}.safetensors")


def edit(folder: Path, old: str, new: str) -> None:
    """Change the text of the suite."""
    path = folder / "suite.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


IMAGES, LABELS = torch.zeros(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64)

MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no suite": (lambda f: (f / "suite.yaml").unlink(), r"suite\.yaml: no such suite"),
    "no YAML": (lambda f: (f / "suite.yaml").write_text("tasks: ["), r"suite\.yaml:2:1: not valid YAML"),
    "an unknown key": (
        lambda f: edit(f, "head:", "haed:"),
        r"suite\.yaml:6:3: 'head' is missing\n.*suite\.yaml:7:5: unknown key 'haed' \(did you mean 'head'\?\)",
    ),
    "no tasks": (
        lambda f: (f / "suite.yaml").write_text("model: {factory: 'a:b'}\ntasks: {}"),
        r"suite\.yaml:2:8: 'tasks': expected at least 1 entry",
    ),
    "no factory": (
        lambda f: edit(f, "toy_encoder:build", "toy_encoder"),
        r"suite\.yaml:2:12: 'model\.factory': expected open_clip:NAME, package\.module:callable or file\.py:callable",
    ),
    "no such module": (
        lambda f: edit(f, "toy_encoder:", "toy_decoder:"),
        r"suite\.yaml:2:12: .* toy_decoder:build: there is no module toy_decoder, neither in .* \(PYTHONPATH\)",
    ),
    "no such callable": (
        lambda f: edit(f, ":build", ":built"),
        r"toy_encoder\.py has no 'built' \(did you mean 'build'\?\)",
    ),
    "wrong arguments": (
        lambda f: edit(f, "blocks:", "layers:"),
        r"toy_encoder:build raised TypeError: .*unexpected keyword.*layers' \(.*toy_encoder\.py:19\)",
    ),
    "no such split": (lambda f: edit(f, "val:", "train:"), "task 'rise' has no data for split 'val'; it has: train"),
    "no such data": (
        lambda f: (f / "fall_val.safetensors").unlink(),
        r"task 'fall': fall_val\.safetensors: no such file",
    ),
    "no such head": (lambda f: (f / "head.safetensors").unlink(), r"head\.safetensors"),
    "two heads": (lambda f: save(f, "head", a=torch.eye(2), b=torch.eye(2)), "head of 'rise': expected one 2-D tensor"),
    "a head of another width": (
        lambda f: save(f, "head", weight=torch.eye(3)),
        r"'rise'.*head of shape \(3, 3\).*features \[4, 3\]",
    ),
    "no labels": (lambda f: save(f, "rise_val", images=IMAGES), "expected tensors 'images' and 'labels', found images"),
    "too few labels": (
        lambda f: save(f, "rise_val", images=IMAGES, labels=LABELS[:3]),
        r"'rise': .* images of shape \(4, 1, 1, 1\) and labels of shape \(3,\), expected one label an image",
    ),
    "no images": (lambda f: save(f, "rise_val", images=IMAGES[:0], labels=LABELS[:0]), "'rise' has no images"),
    "images the model cannot take": (
        lambda f: save(f, "rise_val", images=IMAGES[:, 0, 0, 0], labels=LABELS),
        r"task 'rise': the model does not take images of shape \(4,\)",
    ),
    "features of another width": (
        lambda f: save(f, "rise_val", images=IMAGES.expand(4, 3, 1, 1).clone(), labels=LABELS),
        r"features of shape \(4, 6\)",
    ),
    "a bias of another size": (
        lambda f: save(f, "head", weight=torch.eye(2), bias=torch.zeros(3)),
        r"head of 'rise': 'bias' has shape \(3,\), expected \[2\], one a class",
    ),
    "labels of another head": (
        lambda f: save(f, "rise_val", images=IMAGES, labels=LABELS + 2),
        "task 'rise': labels from 2 to 2, the head has 2 classes; expected labels from 0 to 1",
    ),
    "another model": (
        lambda f: edit(f, "blocks: 1", "blocks: 2"),
        r"does not fit toy_encoder:build.*blocks\.1\.weight",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_file(
    spoil: Callable[[Path], object], message: str, toy: Path, recipe: Recipe
) -> None:
    write_suite(toy, TASKS)
    spoil(toy)
    with pytest.raises(EvalError, match=f"(?s){message}") as raised:
        lines_pipeline.run(recipe())
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("field", [{"tasks": ["rise", "fal"]}, {"target": "fal"}])
def test_an_unknown_task_is_refused_before_anything_is_read(field: dict[str, Any], toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    with pytest.raises(EvalError, match=r"no task 'fal' \(did you mean 'fall'\?\); it has: rise, fall"):
        lines_pipeline.validate(recipe(**field))


@pytest.mark.parametrize("name", ["rise_val.safetensors", "head.safetensors"])
def test_a_missing_file_is_a_note_and_stops_a_run_before_the_merge(name: str, toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    (toy / name).unlink()
    notes = lines_pipeline.validate(recipe()).notes
    assert notes[0].endswith(f"task 'rise': {name}: no such file")
    events: list[Event] = []
    with pytest.raises(EvalError, match=f"task 'rise': {name}: no such file"):
        lines_pipeline.run(recipe(), sinks=[events.append])
    assert not [event for event in events if isinstance(event, StageStarted)]


@pytest.mark.parametrize("check", [lines_pipeline.validate, lines_pipeline.plan, lines_pipeline.run])
def test_a_missing_split_is_an_error_of_the_suite(check: Callable[[Path], object], toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    with pytest.raises(EvalError, match="task 'rise' has no data for split 'train'; it has: val, test"):
        check(recipe(split="train"))


def test_files_of_other_tasks_need_not_be_there(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    (toy / "fall_val.safetensors").unlink()
    assert lines_pipeline.run(recipe(tasks=["rise"])).metrics["val"]["mean_accuracy"] == 0.75


def test_the_embedded_suite_has_no_training_split(recipe: Recipe) -> None:
    with pytest.raises(
        EvalError, match="zoo://glyphs@base0-seed0: split 'train' is for training, expected one of val, test, ood"
    ):
        lines_pipeline.validate(recipe(suite="zoo://glyphs", split="train"))


def test_an_objective_that_the_suite_cannot_give(toy: Path, recipe: Recipe) -> None:
    write_suite(toy, TASKS)
    path = recipe()
    content = yaml.safe_load(path.read_text())
    tune = {"parameters": {"model.scale": {"values": [0.5, 1.0]}}, "objective": "val.mean_top5_accuracy"}
    path.write_text(yaml.safe_dump({**content, "tune": tune}))
    with pytest.raises(EvalError, match=r"the suite gives no metric val\.mean_top5_accuracy for the objective"):
        lines_pipeline.run(path)

"""Output ensembles: the mean of probabilities or logits of several models is judged as one model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional
from toy_suite import write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, RecipeError
from lines_pipeline.core.events import Event, MetricsComputed, SamplesJudged
from lines_pipeline.suites.ensembles import ensemble_scores, require_classifier
from lines_pipeline.suites.opening import open_suite
from lines_pipeline.suites.samples import Samples
from lines_pipeline.zoo.glyph_tasks import PRETRAINED

Recipe = Callable[..., Path]

SUMS = {"down": -0.5, "up": 1.8, "above": 1.75}
IMAGES = {"near": [(0.5, 1), (0.25, 0)], "far": [(2.0, 0), (1.0, 1), (0.5, 0)]}
FUNCTION = "def score(model, task, split):\n    return 1.0\n"


def margin(image: float, total: float) -> float:
    """The logit of class 1 less that of class 0: features are the image and the sum, at unit length."""
    return (total - image) / math.hypot(image, total)


def probability(margins: Sequence[float]) -> float:
    """The mean probability of class 1."""
    return sum(1 / (1 + math.exp(-of_model)) for of_model in margins) / len(margins)


@pytest.fixture
def recipe(toy: Path) -> Recipe:
    """Writes a recipe with the models ``SUMS``, and an ensemble of them all with the given fields."""
    for name, total in SUMS.items():
        write_model(toy / f"{name}.safetensors", total)
    recorded = {task: {"val": 0.5} for task in IMAGES}
    write_suite(toy, {task: {"val": images} for task, images in IMAGES.items()}, expert_accuracy=recorded)
    (toy / "python" / "metrics.py").write_text(FUNCTION)
    python = {"kind": "python", "function": "metrics:score", "metrics": {"score": {}}, "tasks": ["near"]}
    (toy / "function.yaml").write_text(yaml.safe_dump(python))

    def write(nodes: Mapping[str, Any] | None = None, tune: Any = None, /, **fields: Any) -> Path:
        own = {
            "models": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": list(SUMS)}},
            "val": {"op": "evaluate", "models": "models", "suite": "suite.yaml", "split": "val", **fields},
            **(nodes or {}),
        }
        present = {name: {k: v for k, v in node.items() if v is not None} for name, node in own.items()}
        path = toy / "recipe.yaml"
        content = {"name": "ensemble", "nodes": present} | ({"tune": tune} if tune else {})
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def metrics(recipe: Path, node: str = "val") -> Mapping[str, float]:
    return lines_pipeline.run(recipe, out="out", tracking=False).metrics[node]


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_all_metrics_are_those_of_the_mean_as_worked_out_by_hand(combine: str, recipe: Recipe) -> None:
    figures = metrics(recipe(combine=combine))
    for task, images in IMAGES.items():
        margins = [[margin(image, total) for total in SUMS.values()] for image, _ in images]
        means = [probability(own if combine == "probabilities" else [sum(own) / len(own)]) for own in margins]
        right = [mean if label == 1 else 1 - mean for mean, (_, label) in zip(means, images, strict=True)]
        assert figures[f"accuracy/{task}"] == sum(mean > 0.5 for mean in right) / len(right)
        assert figures[f"loss/{task}"] == pytest.approx(-sum(map(math.log, right)) / len(right), rel=1e-6)
        assert figures[f"normalized_accuracy/{task}"] == figures[f"accuracy/{task}"] / 0.5
        low, high = figures[f"loss/{task}/low"], figures[f"loss/{task}/high"]
        assert low < figures[f"loss/{task}"] < high


def test_the_mean_of_probabilities_is_not_that_of_logits(recipe: Recipe) -> None:
    # of the first image, margins are -1.41, 0.70 and 0.69: their mean is below 0, the mean probability above 1/2
    assert probability([margin(0.5, total) for total in SUMS.values()]) > 0.5
    of_probabilities, of_logits = metrics(recipe()), metrics(recipe(combine="logits"))
    assert (of_probabilities["accuracy/near"], of_logits["accuracy/near"]) == (0.5, 0.0)
    assert (of_probabilities["accuracy/far"], of_logits["accuracy/far"]) == (1 / 3, 2 / 3)


def test_an_ensemble_of_one_model_is_that_model(recipe: Recipe) -> None:
    alone = {"op": "evaluate", "model": "models[up]", "suite": "suite.yaml", "split": "val"}
    path = recipe({"alone": alone}, models=["models[up]"])
    events: list[Event] = []
    result = lines_pipeline.run(path, out="out", tracking=False, sinks=[events.append])
    assert result.metrics["val"] == result.metrics["alone"]


def test_the_order_of_models_makes_no_difference_and_twice_a_model_counts_twice(recipe: Recipe) -> None:
    forth = metrics(recipe())
    back = metrics(recipe(models=["models[above]", "models[up]", "models[down]"]))
    assert back == pytest.approx(forth, rel=1e-6)
    twice = metrics(recipe(models=["models[down]", "models[up]", "models[up]"]))
    margins = [margin(1.0, SUMS[name]) for name in ("down", "up", "up")]
    assert twice["accuracy/far"] == 1 / 3 + (probability(margins) > 0.5) / 3
    same = metrics(recipe(models=["models[up]", "models[up]"]))
    assert same == pytest.approx(metrics(recipe(models=["models[up]"])), rel=1e-6)


def test_scores_are_remembered_by_models_and_combination(recipe: Recipe) -> None:
    path = recipe()
    first = lines_pipeline.run(path, out="out", tracking=False)
    again = lines_pipeline.run(path, out="out", tracking=False)
    assert (first.cached, again.cached) == ((), ("val",)) and again.metrics == first.metrics
    assert lines_pipeline.run(recipe(combine="logits"), out="out", tracking=False).cached == ()
    assert lines_pipeline.run(recipe(models=["models[up]", "models[down]"]), out="out", tracking=False).cached == ()


def test_results_of_every_sample_are_told_as_for_one_model(recipe: Recipe) -> None:
    alone = {"op": "evaluate", "model": "models[up]", "suite": "suite.yaml", "split": "val"}
    events: list[Event] = []
    lines_pipeline.run(recipe({"alone": alone}), out="out", tracking=False, sinks=[events.append])
    by_name = {event.step: event for event in events if isinstance(event, SamplesJudged)}
    assert by_name["val"].data == by_name["alone"].data  # so that both are compared sample by sample
    samples = Samples.unpacked(by_name["val"].samples["near"])
    assert samples.values["accuracy"].tolist() == [True, False]
    computed = next(event for event in events if isinstance(event, MetricsComputed) and event.step == "val")
    assert computed.metrics["loss/near"] == pytest.approx(np.mean(samples.values["loss"], dtype=np.float64))


def test_each_row_of_a_for_each_is_an_ensemble_of_its_own(recipe: Recipe) -> None:
    fields = {"models": ["models[down]", "models[{other}]"], "for_each": {"other": ["up", "above"]}}
    result = lines_pipeline.run(recipe(**fields), out="out", tracking=False)
    assert set(result.metrics) == {"val[up]", "val[above]"}


def test_ensembles_normalize_and_are_tuned(recipe: Recipe) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "mixed": {"op": "interpolate", "models": ["models[down]", "models[up]"], "t": 0.0},
        "merged": {"op": "evaluate", "model": "models[up]", "suite": "suite.yaml", "split": "val"},
    }
    nodes["merged"]["baselines"] = {"expert": "val"}
    tune = {"parameters": {"mixed.t": {"values": [0.0, 0.5, 1.0]}}, "objective": "val.mean_loss"}
    result = lines_pipeline.run(recipe(nodes, tune, models=["mixed", "models[up]"]), out="out", tracking=False)
    ensembles = {
        t: metrics(recipe({"mixed": {**nodes["mixed"], "t": t}}, models=["mixed", "models[up]"]))["mean_loss"]
        for t in (0.0, 0.5, 1.0)
    }
    assert result.chosen["mixed.t"] == min(ensembles, key=lambda t: ensembles[t])
    both = result.metrics
    assert both["merged"]["normalized_loss/far"] == both["val"]["loss/far"] / both["merged"]["loss/far"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "models[up]"}, "expected 'model', or 'models' to be judged as one ensemble; found both"),
        ({"models": None}, "expected 'model', or 'models' to be judged as one ensemble; found neither"),
        (
            {"models": None, "model": "models[up]", "combine": "logits"},
            "'combine' is for 'models': one model has nothing to average",
        ),
        ({"combine": "votes"}, "'combine'"),
    ],
)
def test_mistakes_in_the_recipe(fields: dict[str, Any], words: str, recipe: Recipe) -> None:
    with pytest.raises(RecipeError) as error:
        lines_pipeline.validate(recipe(**fields))
    assert words in str(error.value) and "node 'val'" in str(error.value)


def test_a_suite_without_class_probabilities_says_so_before_the_run(recipe: Recipe) -> None:
    expected = r"recipe\.yaml:\d+:\d+: node 'val': the suite function.yaml gives no class probabilities to average"
    with pytest.raises(EvalError, match=expected) as error:
        lines_pipeline.validate(recipe(suite="function.yaml"))
    assert len(str(error.value).splitlines()) == 1
    assert metrics(recipe(models=["models[up]"], suite="function.yaml"))["mean_score"] == 1.0


def test_a_model_that_is_saved_has_no_card_of_an_ensemble(recipe: Recipe, toy: Path) -> None:
    (toy / "folder").mkdir()
    (toy / "folder" / "config.json").write_text('{"model_type": "toy"}')
    write_model(toy / "folder" / "model.safetensors", 0.75)
    nodes = {
        "base": {"op": "load", "path": "folder"},
        "saved": {"op": "save", "model": "base", "path": "saved/"},
        "alone": {"op": "evaluate", "model": "base", "suite": "suite.yaml", "split": "val"},
    }
    result = lines_pipeline.run(recipe(nodes, models=["base", "models[up]"]), out="out", tracking=False)
    card = (Path(result.out) / "saved" / "README.md").read_text()
    assert "alone" in card and "val" not in {line.split("|")[1].strip() for line in card.splitlines() if "|" in line}


def test_on_the_embedded_suite_the_mean_of_two_models_answers() -> None:
    suite, generator = open_suite("zoo://glyphs", Path()), torch.Generator().manual_seed(0)
    pretrained = load_file(PRETRAINED)
    noisy = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in pretrained.items()}
    scores = ensemble_scores(
        require_classifier(suite, "zoo://glyphs"), [pretrained, noisy], ["digits"], "val", "probabilities"
    )
    module, head = suite.model().eval(), suite.heads()["digits"]
    means, truth = [], []
    with torch.inference_mode():
        for images, labels in suite.batches("digits", "val"):
            probabilities = []
            for state in (pretrained, noisy):
                module.load_state_dict(state)
                probabilities.append(functional.softmax(head.logits(module(images)).double(), dim=1))
            means.append(torch.stack(probabilities).mean(0))
            truth.append(labels)
    mean, label = torch.cat(means), torch.cat(truth)
    figures = scores.values["digits"]
    assert figures["accuracy"] == (mean.argmax(1) == label).double().mean().item()
    assert figures["loss"] == pytest.approx(functional.nll_loss(mean.log(), label).item(), rel=1e-5)
    alone = [suite.evaluate(state, ["digits"], "val").values["digits"]["loss"] for state in (pretrained, noisy)]
    assert figures["loss"] < sum(alone) / 2  # the loss is convex in the probabilities
    clusters = scores.samples["digits"].clusters
    assert clusters is not None and len(np.unique(clusters)) < len(label)

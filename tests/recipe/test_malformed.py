"""Every mistake in a recipe is told in one clear text, kept in ``tests/golden/errors`` (rewrite: run this file)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lines_pipeline.core.errors import LinesError, RecipeError
from lines_pipeline.ops import registry
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.suites.declaring import declared_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "errors"

HEAD = "name: broken\n"
TAIL = "  val: {op: evaluate, model: model, suite: 'zoo://glyphs', split: val}\n"
BODY = """\
nodes:
  base: {op: load, path: base.pt}
  experts: {op: load, path: "{task}.pt", for_each: {task: [letters, digits]}}
  updates: {op: task-vector, base: base, model: experts}
  merged: {op: ties, deltas: updates, density: 0.2}
  model: {op: apply, base: base, delta: merged}
"""
GOOD = HEAD + BODY + TAIL


def tuned(text: str) -> str:
    """The good recipe with a ``tune`` of these lines."""
    return GOOD + "tune:\n" + "".join(f"  {line}\n" for line in text.splitlines())


def with_node(text: str) -> str:
    """The good recipe with one more node."""
    return GOOD + f"  {text}\n"


def instead(old: str, new: str) -> str:
    """The good recipe with one text replaced."""
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new)


DOCUMENTS = {
    "empty": "",
    "only_comment": "# nothing here\n",
    "not_a_map": "- name\n- nodes\n",
    "just_text": "vit20\n",
    "tag": HEAD + "seed: !!python/object/apply:os.system ['true']\n",
    "plain_tag": HEAD + "seed: !!int '3'\n",
    "duplicate_key": HEAD + "seed: 1\nname: again\n" + BODY,
    "duplicate_node": GOOD + "  base: {op: load, path: other.pt}\n",
    "two_documents": GOOD + "---\nname: second\n",
    "unclosed_bracket": HEAD + "nodes: {a: [1, 2\n",
    "tab_indent": HEAD + "nodes:\n\tbase: 1\n",
    "merge_key": HEAD + "vars: {a: &a {b: 1}, c: {<<: *a}}\n",
    "unknown_alias": HEAD + "seed: *nowhere\n",
    "alias_of_itself": HEAD + "vars: &v {a: *v}\n",
    "complex_key": HEAD + "vars: {[a, b]: 1}\n",
    "deep_nesting": HEAD + "vars: " + "[" * 5_000 + "]" * 5_000 + "\n",
    "not_finite": HEAD + "seed: .inf\n",
    "too_large_number": HEAD + "vars: {a: 1e999}\n",
    "control_character": HEAD + "description: a\x01b\n",
}

SETTINGS = {
    "unknown_top_key": GOOD.replace("nodes:", "notes: 1\nnodes:"),
    "no_name": BODY + TAIL,
    "no_nodes": HEAD,
    "no_name_no_nodes": "seed: 3\n",
    "empty_nodes": HEAD + "nodes: {}\n",
    "name_with_slash": instead("name: broken", "name: ../../etc"),
    "seed_text": instead("name: broken", "name: broken\nseed: seven"),
    "seed_fraction": instead("name: broken", "name: broken\nseed: 1.5"),
    "seed_truth": instead("name: broken", "name: broken\nseed: true"),
    "engine_unknown_key": GOOD + "engine: {worker: 2}\n",
    "engine_no_workers": GOOD + "engine: {workers: 0}\n",
    "engine_scheduler": GOOD + "engine: {scheduler: thread}\n",
    "engine_memory": GOOD + "engine: {memory: 4 elephants}\n",
    "engine_device": GOOD + "engine: {device: gpu}\n",
    "engine_compile": GOOD + "engine: {compile: sometimes}\n",
    "engine_list": GOOD + "engine: [threads]\n",
    "tracking_unknown_key": GOOD + "tracking: {url: x}\n",
    "tracking_tags": GOOD + "tracking: {tags: {team: [a]}}\n",
    "nodes_list": HEAD + "nodes: [a, b]\n",
    "node_is_text": with_node("extra: ties"),
    "several_at_once": instead("density: 0.2", "densty: 0.2").replace("op: apply", "op: aply")
    + "engine: {workers: x}\n",
}

REFERENCES = {
    "unknown_variable": "vars: {zoo: a, tasks: [x]}\n" + instead("path: base.pt", 'path: "${zo}/base.pt"'),
    "no_variables": instead("path: base.pt", 'path: "${zoo}/base.pt"'),
    "variables_in_circle": "vars: {a: '${b}', b: '${c}', c: '${a}'}\n" + GOOD,
    "variable_of_itself": "vars: {a: 'x${a}'}\n" + GOOD,
    "unset_environment": instead("path: base.pt", 'path: "${env:LINES_TEST_UNSET}"'),
    "odd_environment_name": instead("path: base.pt", 'path: "${env:9-x}"'),
    "unclosed_reference": instead("path: base.pt", 'path: "${zoo/base.pt"'),
    "list_in_text": "vars: {tasks: [a]}\n" + instead("path: base.pt", 'path: "x/${tasks}"'),
    "unknown_inside": "vars: {zoo: {path: a}}\n" + instead("path: base.pt", 'path: "${zoo.pth}"'),
}

NODES = {
    "unknown_op": instead("op: ties", "op: teis"),
    "no_op": instead("op: ties, ", ""),
    "op_is_number": instead("op: ties", "op: 3"),
    "unknown_parameter": instead("density: 0.2", "densty: 0.2"),
    "density_percent": instead("density: 0.2", "density: 20"),
    "density_zero": instead("density: 0.2", "density: 0"),
    "density_text": instead("density: 0.2", "density: 'a lot'"),
    "density_null": instead("density: 0.2", "density: null"),
    "scope_typo": instead("density: 0.2", "scope: globl"),
    "missing_path": instead("path: base.pt", ""),
    "missing_input": instead("base: base, delta: merged", "delta: merged"),
    "unknown_node": instead("deltas: updates", "deltas: update"),
    "unknown_member": instead("deltas: updates", "deltas: ['updates[letters]', 'updates[digit]']"),
    "member_of_single": instead("base: base, delta", "base: 'base[digits]', delta"),
    "list_for_one": instead("base: base, delta", "base: [base], delta"),
    "number_for_node": instead("deltas: updates", "deltas: 3"),
    "empty_list_of_nodes": instead("deltas: updates", "deltas: []"),
    "wrong_type": instead("delta: merged", "delta: base"),
    "wrong_type_of_weights": instead("model: model, suite", "model: merged, suite"),
    "metrics_as_input": with_node("again: {op: save, model: val, path: x.safetensors}"),
    "circle": instead("deltas: updates", "deltas: [updates, second]")
    + "  second: {op: trim, delta: merged, density: 0.5}\n",
    "circle_of_one": with_node("loop: {op: scale, delta: loop, by: 2}"),
    "alpha_missing": with_node("scaled: {op: lines-scale, delta: merged, beta: 0.5}"),
    "alpha_typo": with_node("scaled: {op: lines-scale, delta: merged, alpha: atuo}"),
    "gamma_and_alpha": with_node("scaled: {op: lines-scale, delta: merged, gamma: 0.5, alpha: 1}"),
    "auto_without_deltas": with_node("scaled: {op: lines-scale, delta: merged, alpha: auto}"),
    "t_of_three": with_node("mixed: {op: interpolate, models: [base, experts], t: 0.5}"),
    "greedy_on_test": with_node("soup: {op: soup, models: experts, kind: greedy, suite: s, split: test}"),
    "weights_too_few": instead("density: 0.2", "weights: [1.0]"),
    "weights_lack_item": instead("density: 0.2", "weights: {letters: 1.0}"),
    "weights_strange_item": instead("density: 0.2", "weights: {letters: 1.0, digits: 1.0, digit: 2.0}"),
    "weights_text": instead("density: 0.2", "weights: {letters: 1.0, digits: heavy}"),
    "weights_text_in_list": instead("density: 0.2", "weights: [1.0, heavy]"),
    "by_item_lacks_one": with_node("halved: {op: scale, delta: updates, by: {letters: 0.5}}"),
    "for_each_empty": instead("task: [letters, digits]", "task: []"),
    "for_each_text": instead("task: [letters, digits]", "task: letters"),
    "for_each_twice": instead("task: [letters, digits]", "task: [letters, digits, letters]"),
    "for_each_unequal": instead("{task: [letters, digits]}", "{task: [letters, digits], n: [1]}"),
    "for_each_maps": instead("task: [letters, digits]", "task: [{a: 1}]"),
    "for_each_not_a_map": instead("{task: [letters, digits]}", "[letters]"),
    "unequal_collections": with_node("more: {op: load, path: '{t}', for_each: {t: [letters, greek]}}")
    + "  odd: {op: task-vector, base: experts, model: more}\n",
    "for_each_and_collection": with_node("odd: {op: scale, delta: updates, by: 1, for_each: {task: [letters]}}"),
    "include_on_evaluate": instead("split: val", "include: ['*']"),
    "include_text": instead("density: 0.2", "include: '*.bias'"),
    "nothing_to_do": HEAD + BODY,
    "save_outside": with_node("saved: {op: save, model: model, path: ../x.safetensors}"),
    "save_twice": with_node("saved: {op: save, model: experts, path: x.safetensors}"),
    "save_packed_weights": with_node("saved: {op: save, model: model, path: x.safetensors, packed: true}"),
    "save_shard_size": with_node("saved: {op: save, model: model, path: x.safetensors, max_shard_size: 5 potatoes}"),
    "blocks_no_regex": with_node("scaled: {op: lines-scale, delta: merged, gamma: 0.5, blocks: '(['}"),
    "blocks_no_group": with_node("scaled: {op: lines-scale, delta: merged, gamma: 0.5, blocks: 'layers'}"),
    "rename_no_regex": instead("path: base.pt", "path: base.pt, rename: [{from: '*', to: b}]"),
    "rename_no_group": instead("path: base.pt", "path: base.pt, rename: [{from: a, to: 'b\\1'}]"),
    "op_of_another_tool": instead("op: ties", "op: passthrough"),
    "mergekit": "merge_method: slerp\nmodels: [{model: a}, {model: b}]\nbase_model: a\nparameters: {t: 0.5}\n",
    "mergekit_slices": "slices:\n  - sources: [{model: a, layer_range: [0, 4]}]\nmerge_method: passthrough\n",
    "rename_typo": instead("path: base.pt", "path: base.pt, rename: [{form: a, to: b}]"),
    "prefix_typo": instead("path: base.pt", "path: base.pt, prefix: {strp: a}"),
    "node_name_with_dot": with_node("a.b: {op: load, path: x}"),
    "node_name_with_space": with_node("'a b': {op: load, path: x}"),
}

GRID = "parameters: {merged.density: {low: 0.1, high: 0.5, step: 0.1}}\n"
TUNE = {
    "tune_unknown_key": tuned(GRID + "objective: val.mean_accuracy\ndirektion: maximize"),
    "tune_no_objective": tuned(GRID.strip()),
    "tune_unknown_node": tuned("parameters: {merge.density: {values: [0.1]}}\nobjective: val.mean_accuracy"),
    "tune_unknown_parameter": tuned("parameters: {merged.densty: {values: [0.1]}}\nobjective: val.mean_accuracy"),
    "tune_no_dot": tuned("parameters: {density: {values: [0.1]}}\nobjective: val.mean_accuracy"),
    "tune_empty": tuned("parameters: {}\nobjective: val.mean_accuracy"),
    "tune_value_out_of_range": tuned(
        "parameters: {merged.density: {low: 0.5, high: 1.5, step: 0.5}}\nobjective: val.mean_accuracy"
    ),
    "tune_low_above_high": tuned("parameters: {merged.density: {low: 0.5, high: 0.1}}\nobjective: val.mean_accuracy"),
    "tune_step_misses_high": tuned(
        "parameters: {merged.density: {low: 0.1, high: 0.5, step: 0.3}}\nobjective: val.mean_accuracy"
    ),
    "tune_huge_grid": tuned(
        "parameters: {merged.density: {low: 0, high: 1, step: 1e-9}}\nobjective: val.mean_accuracy"
    ),
    "tune_no_step": tuned("parameters: {merged.density: {low: 0.1, high: 0.5}}\nobjective: val.mean_accuracy"),
    "tune_no_trials": tuned(GRID + "objective: val.mean_accuracy\nsampler: random"),
    "tune_grid_trials": tuned(GRID + "objective: val.mean_accuracy\ntrials: 5"),
    "tune_cmaes_list": tuned(
        "parameters: {merged.density: {values: [0.1]}}\nobjective: val.mean_accuracy\nsampler: cmaes\ntrials: 3"
    ),
    "tune_sampler_typo": tuned(GRID + "objective: val.mean_accuracy\nsampler: gird"),
    "tune_values_and_range": tuned("parameters: {merged.density: {values: [1], low: 0}}\nobjective: val.mean_accuracy"),
    "tune_values_twice": tuned("parameters: {merged.density: {values: [0.1, 0.1]}}\nobjective: val.mean_accuracy"),
    "tune_log_of_zero": tuned(
        "parameters: {merged.density: {low: 0, high: 1, log: true}}\nobjective: val.mean_accuracy"
    ),
    "tune_not_upstream": with_node("other: {op: scale, delta: merged, by: 1}")
    + "tune: {parameters: {other.by: {values: [1, 2]}}, objective: val.mean_accuracy}\n",
    "tune_split": tuned("parameters: {val.split: {values: [val, test]}}\nobjective: val.mean_accuracy"),
    "objective_unknown_node": tuned(GRID + "objective: vall.mean_accuracy"),
    "objective_not_evaluate": tuned(GRID + "objective: merged.mean_accuracy"),
    "objective_unknown_metric": tuned(GRID + "objective: val.mean_acuracy"),
    "objective_needs_target": tuned(GRID + "objective: val.target_accuracy"),
    "objective_on_test": instead("split: val", "split: test") + "tune:\n  " + GRID + "  objective: val.mean_accuracy\n",
    "objective_code": tuned(GRID + "objective: __import__('os').system('true')"),
    "objective_product": tuned(GRID + "objective: val.mean_accuracy * val.mean_accuracy"),
    "objective_power": tuned(GRID + "objective: 9 ** 9 ** 9 * val.mean_accuracy"),
    "objective_number": tuned(GRID + "objective: 1 + 2"),
    "objective_unfinished": tuned(GRID + "objective: 2 *"),
}

SETS: dict[str, dict[str, Any]] = {
    "set_unknown_variable": {"vars.zooo": "x"},
    "set_without_name": {"nodes.merged..density": 1},
    "set_unknown_node": {"nodes.merge.density": 0.5},
    "set_unknown_parameter": {"nodes.merged.densty": 0.5},
    "set_wrong_value": {"nodes.merged.density": "high"},
    "set_unknown_section": {"engin.workers": 2},
    "set_node_as_tune_spells_it": {"merged.density": 0.5},
    "set_unknown_setting": {"engine.worker": 2},
    "set_under_text": {"name.first": "x"},
    "set_index_too_large": {"nodes.experts.for_each.task.7": "x"},
    "set_extends": {"extends": "x.yaml"},
    "set_object": {"seed": object},
}

GROUPS = {"documents": DOCUMENTS, "settings": SETTINGS, "references": REFERENCES, "nodes": NODES, "tune": TUNE}
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    (group, name, text, {}) for group, cases in GROUPS.items() for name, text in cases.items()
]
CASES += [("sets", name, GOOD, sets) for name, sets in SETS.items()]


def told(folder: Path, text: str, sets: dict[str, Any]) -> str:
    """What a user is told about a recipe, without the folder and the list of ops."""
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        build_graph(load_recipe(path, sets), declared_metrics)
    except RecipeError as error:
        return str(error).replace(f"{folder}/", "").replace(", ".join(registry()), "<ops>")
    return "nothing"


def golden(group: str) -> dict[str, str]:
    """The kept texts of a group, by case."""
    text = (GOLDEN / f"{group}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^\[(\w+)\]\n(.*?)\n(?=\n|\Z)", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("group", "name", "text", "sets"), CASES, ids=[case[1] for case in CASES])
def test_mistake_is_told_as_kept(tmp_path: Path, group: str, name: str, text: str, sets: dict[str, Any]) -> None:
    messages = told(tmp_path, text, sets)
    assert messages != "nothing"
    assert messages == golden(group)[name]


def test_no_kept_text_is_left_over() -> None:
    kept = {(group, name) for group in [*GROUPS, "sets"] for name in golden(group)}
    assert kept == {(group, name) for group, name, _, _ in CASES}


def test_the_recipe_the_mistakes_are_made_in_is_right(tmp_path: Path) -> None:
    assert told(tmp_path, GOOD, {}) == "nothing"


def test_errors_end_with_exit_code_two(tmp_path: Path) -> None:
    with pytest.raises(LinesError) as caught:
        load_recipe(tmp_path / "absent.yaml")
    assert caught.value.exit_code == 2


def _rewrite(folder: Path) -> None:
    for group in [*GROUPS, "sets"]:
        parts = [f"[{name}]\n{told(folder, text, sets)}\n" for each, name, text, sets in CASES if each == group]
        (GOLDEN / f"{group}.txt").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    _rewrite(Path(sys.argv[1]))

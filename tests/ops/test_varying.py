"""Numbers that vary by tensor: the law is that a tensor comes out as with its own number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BLOCKS, model_weights
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError, PlanError, RecipeError

Node = dict[str, Any]
State = dict[str, torch.Tensor]

FC, LN, PROJ = "*.c_fc.weight", "*.ln_1.bias", "visual.proj"
LOADED: dict[str, Node] = {
    "base": {"op": "load", "path": "models/base.safetensors"},
    "experts": {"op": "load", "path": "models/{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
    "updates": {"op": "task-vector", "model": "experts", "base": "base"},
}
APPLIED: dict[str, Node] = {
    "model": {"op": "apply", "base": "base", "delta": "merged"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}


def written(folder: Path, merged: Node, **more: Node) -> Path:
    path = folder / "recipe.yaml"
    nodes = {**LOADED, "merged": merged, **APPLIED, **more}
    path.write_text(yaml.safe_dump({"name": "varying", "nodes": nodes}, sort_keys=False))
    return path


def run(folder: Path, merged: Node, *, more: dict[str, Node] | None = None, **options: Any) -> State:
    path = written(folder, merged, **(more or {}))
    result = lines_pipeline.run(path, out=folder / "out", **{"tracking": False, **options})
    tensors: State = load_file(result.files[0])
    return tensors


def by_name(fc: Any, ln: Any, rest: Any) -> Node:
    return {"by_name": {FC: fc, "*.ln_1.*": ln, "*": rest}}


def number_of(name: str, fc: Any, ln: Any, rest: Any) -> Any:
    return fc if name.endswith("c_fc.weight") else ln if ".ln_1." in name else rest


OPS: dict[str, tuple[Node, str, tuple[Any, Any, Any]]] = {
    "scale": ({"op": "scale", "delta": "sum"}, "by", (0.5, -2.0, 3)),
    "sum": ({"op": "task-arithmetic", "deltas": "updates"}, "weights", (0.5, 1.0, -1)),
    "trim": ({"op": "trim", "delta": "sum"}, "density", (0.2, 0.9, 1)),
    "trim of each tensor": ({"op": "trim", "delta": "sum", "scope": "tensor"}, "density", (0.2, 0.9, 1)),
    "ties": ({"op": "ties", "deltas": "updates"}, "density", (0.3, 0.5, 1.0)),
    "ties by weights": ({"op": "ties", "deltas": "updates", "aggregate": "sum"}, "weights", (0.3, -0.5, 1.0)),
    "dare": ({"op": "dare", "delta": "sum", "rescale": "l1"}, "density", (0.3, 0.9, 0.5)),
    "lines": ({"op": "lines-scale", "delta": "sum", "alpha": 0.1}, "beta", (0.3, 0.9, 0.5)),
    "lines, automatic": (
        {"op": "lines-scale", "delta": "kept", "alpha": "auto", "deltas": "updates"},
        "beta",
        (0.3, 0.9, 0.5),
    ),
    "consensus": ({"op": "consensus", "deltas": "updates", "merged": "sum"}, "min_tasks", (1, 2, 3)),
    "isotropic": ({"op": "iso-cts", "deltas": "updates"}, "common_fraction", (0.3, 0.9, 0.5)),
    "cart": ({"op": "cart", "deltas": "updates"}, "rank_ratio", (0.3, 0.9, 0.5)),
}
MORE: dict[str, Node] = {
    "sum": {"op": "task-arithmetic", "deltas": "updates"},
    "kept": {"op": "trim", "delta": "sum", "density": 0.5},
}


@pytest.mark.parametrize("case", OPS)
def test_a_tensor_comes_out_as_with_its_own_number_alone(case: str, models: Path, tmp_path: Path) -> None:
    node, parameter, numbers = OPS[case]
    varied = run(tmp_path, {**node, parameter: by_name(*numbers)}, more=MORE)
    for number in numbers:
        plain = run(tmp_path, {**node, parameter: number}, more=MORE)
        for name in (name for name in plain if number_of(name, *numbers) == number):
            assert torch.equal(varied[name], plain[name]), (name, number)


@pytest.mark.parametrize("mode", ["never", "always"])
def test_compiled_and_interpreted_on_any_workers_are_alike(mode: str, models: Path, tmp_path: Path) -> None:
    if mode == "always":
        pytest.importorskip("numba")
    node = {"op": "ties", "deltas": "updates", "density": by_name(0.3, 0.5, 1.0), "weights": {"by_block": [0, 1]}}
    first = run(tmp_path, node, sets={"engine.compile": "never"})
    again = run(tmp_path, node, sets={"engine.compile": mode}, cache=False, workers=1, scheduler="serial")
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_an_element_of_a_list_and_a_member_of_a_map_may_vary(models: Path, tmp_path: Path) -> None:
    node: Node = {"op": "task-arithmetic", "deltas": "updates"}
    listed = run(tmp_path, {**node, "weights": [0.5, by_name(1, 2, 3), 0.25]})
    mapped = run(tmp_path, {**node, "weights": {"a": 0.5, "b": by_name(1, 2, 3), "c": 0.25}})
    for number in (1, 2, 3):
        plain = run(tmp_path, {**node, "weights": [0.5, number, 0.25]})
        for name in (name for name in plain if number_of(name, 1, 2, 3) == number):
            assert torch.equal(listed[name], plain[name]) and torch.equal(mapped[name], plain[name])


def test_items_fill_the_numbers_of_a_collection(models: Path, tmp_path: Path) -> None:
    halves = {"op": "scale", "delta": "updates", "by": {"by_name": {FC: "{factor}", "*": 0}}}
    numbers = {"factor": [1.0, 2.0, 4.0], "e": ["a", "b", "c"]}
    merged = {"op": "task-arithmetic", "deltas": "halves"}
    result = run(tmp_path, merged, more={"halves": {**halves, "for_each": {"e": numbers["e"], "factor": [1, 2, 4]}}})
    plain = run(tmp_path, {"op": "task-arithmetic", "deltas": "updates", "weights": numbers["factor"]})
    for name, value in load_file(models / "base.safetensors").items():
        if name.endswith("c_fc.weight"):
            torch.testing.assert_close(result[name], plain[name])
        else:
            assert torch.equal(result[name], value)


def block(name: str) -> int | None:
    return int(name.split(".")[3]) if "resblocks" in name else None


def test_numbers_by_block_lie_on_lines_between_those_given(models: Path, tmp_path: Path) -> None:
    """By hand for four blocks: [0, 1] is 0, 1/3, 2/3, 1; [0, 3, 0] is 0, 2, 2, 0. Outside: the nearest block."""
    assert BLOCKS == 4
    for numbers, expected in {
        (0, 1): (0, 1 / 3, 2 / 3, 1),
        (0, 3, 0): (0, 2, 2, 0),
        (4, 3, 2, 1): (4, 3, 2, 1),
    }.items():
        result = run(tmp_path, {"op": "scale", "delta": "updates[a]", "by": {"by_block": list(numbers)}})
        base, expert = (load_file(models / f"{one}.safetensors") for one in ("base", "a"))
        for name in (name for name, value in base.items() if value.is_floating_point()):
            factor = expected[-1] if block(name) is None else expected[block(name) or 0]
            torch.testing.assert_close(result[name], base[name] + factor * (expert[name] - base[name]))


def test_weights_on_a_line_by_block_are_lines_scale(models: Path, tmp_path: Path) -> None:
    line = run(tmp_path, {"op": "task-arithmetic", "deltas": "updates", "weights": {"by_block": [0.25, 1.0]}})
    own = {"op": "lines-scale", "delta": "sum", "alpha": 0.25, "beta": 0.75, "outside": "by-position"}
    scaled = run(tmp_path, own, more={"sum": MORE["sum"]})
    for name, value in scaled.items():
        torch.testing.assert_close(line[name], value)


def test_a_sum_with_numbers_that_vary_is_no_plain_sum(models: Path, tmp_path: Path) -> None:
    """Were it taken for one, alpha auto would be 1/3; all its weights are 2, so that it is 1/6."""
    doubled = {"op": "task-arithmetic", "deltas": "updates", "weights": {"by_name": {FC: 2, "*": 2.0}}}
    scaled = {"op": "lines-scale", "delta": "doubled", "alpha": "auto", "deltas": "updates"}
    result = lines_pipeline.run(written(tmp_path, scaled, doubled=doubled), out=tmp_path / "out", tracking=False)
    assert result.facts["merged"]["alpha"] == pytest.approx(1 / 6)
    varied = {"op": "task-arithmetic", "deltas": "updates", "weights": {"by_name": {FC: 1, "*": 2}}}
    result = lines_pipeline.run(written(tmp_path, scaled, doubled=varied), out=tmp_path / "out", tracking=False)
    assert 1 / 6 < result.facts["merged"]["alpha"] < 1 / 3


def test_facts_are_lists_where_they_differ(models: Path, tmp_path: Path) -> None:
    node = {"op": "trim", "delta": "updates[a]", "density": by_name(0.2, 0.9, 0.2)}
    result = lines_pipeline.run(written(tmp_path, node), out=tmp_path / "out", tracking=False)
    (first, second) = result.facts["merged"]["trim_thresholds"]
    assert first[0] > second[0]


def test_a_cached_value_is_that_of_its_numbers(models: Path, tmp_path: Path) -> None:
    values = [
        run(tmp_path, {"op": "scale", "delta": "updates[a]", "by": by_name(*numbers)})
        for numbers in ((1, 2, 3), (1, 2, 4), (1, 3, 4), (1, 2, 3))
    ]
    assert not torch.equal(values[0][PROJ], values[1][PROJ])
    assert torch.equal(values[0][PROJ], values[3][PROJ])


def test_recipes_whose_globs_stand_in_another_order_are_not_equal(models: Path, tmp_path: Path) -> None:
    globs = {FC: 1, "visual.*": 2}
    hashes = set()
    for order in (globs, dict(reversed(globs.items()))):
        node: Node = {"op": "scale", "delta": "updates[a]", "by": {"by_name": {**order, "*": 3}}}
        hashes.add(lines_pipeline.load_recipe(written(tmp_path, node)).hash)
        node["by"] = [node["by"]]
        hashes.add(lines_pipeline.load_recipe(written(tmp_path, node)).hash)
    assert len(hashes) == 4


def test_a_plan_tells_the_numbers(models: Path, tmp_path: Path) -> None:
    weights = [1, by_name(0.5, 2, 3), {"by_block": [0, 1]}]
    plan = lines_pipeline.plan(written(tmp_path, {"op": "task-arithmetic", "deltas": "updates", "weights": weights}))
    text = plan.render()
    assert "weights[1]: 0.5 for *.c_fc.weight (4 tensors), 2 for *.ln_1.* (4 tensors), 3 for * (2 tensors)" in text
    assert "weights[2] by block: visual 0, 0.333333, 0.666667, 1; outside the blocks as in the nearest one" in text


def test_a_number_can_be_tuned_beside_one_that_varies(models: Path, tmp_path: Path) -> None:
    path = written(tmp_path, {"op": "scale", "delta": "updates[a]", "by": by_name(1, 2, 3)})
    for numbers in ("[0, 1]", "[1, 0]"):
        lines_pipeline.validate(path, sets={"nodes.merged.by": {"by_block": yaml.safe_load(numbers)}})


@pytest.mark.parametrize(
    ("node", "error", "words"),
    [
        ({"by": {"by_name": {"*.attn.*": 1, "*": 2}}}, PlanError, r"'by': the glob '\*.attn.\*' matches no tensor"),
        (
            {"by": {"by_name": {"x": 1, "y": 1, "*": 2}}},
            PlanError,
            r"'x' matches no tensor[^\n]*\n.*'y' matches no tensor",
        ),
        ({"by": {"by_name": {FC: 1}}}, PlanError, "'by' has no number for tensor 'logit_scale'.*'\\*' stands for all"),
        ({"by": {"by_name": {}}}, RecipeError, "expected a map from globs to numbers, found an empty map"),
        ({"by": {"by_name": {"*": 2, FC: 1}}}, RecipeError, r"'\*' stands before '\*.c_fc.weight'.*: put '\*' last"),
        ({"by": {"by_name": 1}}, RecipeError, "expected a map from globs to numbers, found 1"),
        ({"by": {"by_name": {"*": "x"}}}, RecipeError, "'by': expected a number, found 'x'"),
        ({"by": {"by_name": {"*": True}}}, RecipeError, "'by': expected a number, found true"),
        ({"by": {"by_name": {"*": 1}, "by_block": [1, 2]}}, RecipeError, "'by_name' or 'by_block' alone"),
        ({"by": {"by_name": {"*": 1}, "more": 2}}, RecipeError, "'by_name' or 'by_block' alone"),
        (
            {"by": {"by_block": [1]}},
            RecipeError,
            "expected two numbers or more, first block to last, found a list of 1",
        ),
        ({"by": {"by_block": [1, 2, 3, 4, 5]}}, PlanError, "'by' has 5 numbers by block, 'visual' has 4 blocks"),
        ({"op": "trim", "density": {"by_name": {FC: 0.5, "*": 1.5}}}, RecipeError, "at most 1, found 1.5"),
        ({"op": "trim", "density": {"by_name": {FC: 0, "*": 1}}}, RecipeError, "above 0, found 0"),
        ({"op": "trim", "density": 1, "exact": {"by_name": {"*": 1}}}, RecipeError, "expected true or false, found 1"),
        ({"op": "trim", "density": 1, "scope": {"by_name": {"*": 1}}}, RecipeError, "expected 'global' or 'tensor'"),
    ],
)
def test_mistakes_have_a_place_before_anything_is_read(
    node: Node, error: type[LinesError], words: str, models: Path, tmp_path: Path
) -> None:
    path = written(tmp_path, {"op": "scale", "delta": "updates[a]", **node})
    with pytest.raises(error, match=f"node 'merged'.*{words}"):
        lines_pipeline.validate(path)


def test_a_mistake_in_an_element_stands_at_the_element(models: Path, tmp_path: Path) -> None:
    text = """name: placed
nodes:
  base: {op: load, path: models/base.safetensors}
  experts: {op: load, path: "models/{e}.safetensors", for_each: {e: [a, b, c]}}
  updates: {op: task-vector, model: experts, base: base}
  merged:
    op: ties
    deltas: updates
    density:
      - 0.2
      - by_name:
          "*.weight": 0.5
          "*": 7
      - 0.3
  saved: {op: save, model: merged, path: merged.safetensors}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"recipe.yaml:13:16: node 'merged': 'density': .*at most 1, found 7"):
        lines_pipeline.validate(tmp_path / "recipe.yaml")


def test_a_whole_number_that_blocks_would_split_is_refused(models: Path, tmp_path: Path) -> None:
    consensus = {"op": "consensus", "deltas": "updates", "merged": "sum", "min_tasks": {"by_block": [1, 3]}}
    with pytest.raises(PlanError, match=r"node 'merged': for tensor .* 'min_tasks' is 1.66667, expected .*integer"):
        lines_pipeline.validate(written(tmp_path, consensus, sum=MORE["sum"]))
    run(tmp_path, {**consensus, "min_tasks": {"by_block": [1, 2, 2, 3]}}, more={"sum": MORE["sum"]})


@pytest.mark.parametrize("op", ["load", "evaluate", "save"])
def test_what_computes_no_tensors_takes_no_numbers_by_name(op: str, models: Path, tmp_path: Path) -> None:
    fields: dict[str, Node] = {
        "load": {"path": {"by_name": {"*": 1}}},
        "evaluate": {"model": "model", "suite": "zoo://glyphs", "target": {"by_name": {"*": 1}}},
        "save": {"model": "model", "path": "x.safetensors", "max_shard_size": {"by_name": {"*": 1}}},
    }
    with pytest.raises(RecipeError, match="is one number: it takes neither 'by_name' nor 'by_block'"):
        lines_pipeline.validate(
            written(tmp_path, {"op": "scale", "delta": "updates[a]", "by": 1}, odd={"op": op, **fields[op]})
        )


def test_a_tied_tensor_goes_by_any_of_its_names_and_towers_by_their_own_depth(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {f"visual.transformer.resblocks.{b}.w": (4, 4) for b in range(3)}
    shapes |= {f"transformer.resblocks.{b}.w": (4, 4) for b in range(5)}
    (tmp_path / "models").mkdir()
    for name in ("base", "a", "b", "c"):
        state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        torch.save({**state, "zed.w": state["visual.transformer.resblocks.0.w"]}, tmp_path / "models" / f"{name}.pt")
    nodes = {
        name: {**node, "path": node["path"].replace("safetensors", "pt")} if "path" in node else node
        for name, node in LOADED.items()
    }
    tied = {"op": "scale", "delta": "updates[a]", "by": {"by_name": {"zed.*": 2, "*": 0}}}
    deep = {"op": "scale", "delta": "updates[a]", "by": {"by_block": [0, 1, 2]}}
    nodes |= {
        name: {"op": "save", "model": node, "path": f"{name}.safetensors"}
        for name, node in {"t": "tied", "d": "deep", "u": "updates[a]"}.items()
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "towers", "nodes": {**nodes, "tied": tied, "deep": deep}}, sort_keys=False))
    lines_pipeline.run(path, out=tmp_path / "out", tracking=False)
    update, by_name, by_block = (load_file(tmp_path / "out" / f"{one}.safetensors") for one in "utd")
    assert any(value.any() for value in by_name.values())
    for name, value in by_name.items():
        factor = 2 if name in ("zed.w", "visual.transformer.resblocks.0.w") else 0
        assert torch.equal(value, factor * update[name])
    for number, share in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        name = f"transformer.resblocks.{number}.w"
        torch.testing.assert_close(by_block[name], share * update[name])
    torch.testing.assert_close(by_block["visual.transformer.resblocks.1.w"], update["visual.transformer.resblocks.1.w"])


def test_a_base_of_which_a_part_is_left_out_needs_no_number_for_it(models: Path, tmp_path: Path) -> None:
    node = {"op": "scale", "delta": "updates[a]", "by": {"by_name": {FC: 2}}, "include": [FC]}
    result, base = run(tmp_path, node), load_file(models / "base.safetensors")
    assert torch.equal(result[PROJ], base[PROJ]) and model_weights(0).keys() == result.keys()

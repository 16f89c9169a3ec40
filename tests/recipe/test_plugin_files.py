"""Python files beside a recipe that add ops: run in trusted folders only, known by their content."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dask_processes import DaskProcesses, connected
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline.core.errors import EngineError, RecipeError
from lines_pipeline.core.events import RunStarted
from lines_pipeline.core.trust import trust
from lines_pipeline.ops import registry
from lines_pipeline.recipe.load import load_recipe

Write = Callable[..., Path]

METHODS = """\
from pathlib import Path
Path({ran!r}).write_text("ran")
print("spoils no output")
from factors import FACTOR
from lines_pipeline.ops import op, Delta

@op(formula="f sum_t tau_t", source="a test")
def my_sum(deltas: list[Delta], *, by: float = 1.0) -> Delta:
    "A weighted sum."
    return sum(deltas[1:], deltas[0]) * FACTOR * by
"""
NODES: dict[str, dict[str, Any]] = {
    "merged": {"op": "my-sum", "deltas": "updates", "by": 0.25},
    "model": {"op": "apply", "base": "base", "delta": "merged"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}
SAVED = {"saved": {"op": "save", "model": "base", "path": "model.safetensors"}}


@pytest.fixture
def recipe(models: Path, write_recipe: Write, tmp_path: Path) -> Path:
    """A recipe with a plug-in that imports a file beside it and leaves a trace when it is run."""
    (models / "my_methods.py").write_text(METHODS.format(ran=str(tmp_path / "ran")))
    (models / "factors.py").write_text("FACTOR = 2.0\n")
    return write_recipe(NODES, plugins=["my_methods.py"])


def run(recipe: Path, **options: Any) -> dict[str, torch.Tensor]:
    result = lines_pipeline.run(recipe, trust=True, tracking=False, out="out", **options)
    tensors: dict[str, torch.Tensor] = load_file(next(file for file in result.files if file.suffix == ".safetensors"))
    return tensors


def expected(models: Path, factor: float) -> dict[str, torch.Tensor]:
    base, *experts = (load_file(models / f"{name}.safetensors") for name in ("base", "a", "b", "c"))
    floating = {name: value for name, value in base.items() if value.is_floating_point()}
    return {
        name: value + (sum((expert[name] - value for expert in experts[1:]), experts[0][name] - value)) * factor
        for name, value in floating.items()
    }


def test_a_recipe_merges_with_the_op_of_a_file_beside_it(recipe: Path, models: Path) -> None:
    result = run(recipe)
    for name, value in expected(models, 0.5).items():
        torch.testing.assert_close(result[name], value)
    assert "my-sum" not in registry()


def test_results_are_known_by_the_content_of_the_file_and_of_what_it_imports(recipe: Path, models: Path) -> None:
    hashes = {load_recipe(recipe).hash}
    run(recipe)
    (models / "factors.py").write_text("FACTOR = 4.0\n")
    hashes.add(load_recipe(recipe).hash)
    result = run(recipe)
    torch.testing.assert_close(result["visual.proj"], expected(models, 1.0)["visual.proj"])
    (models / "my_methods.py").write_text((models / "my_methods.py").read_text().replace("* by", "* by * 0"))
    hashes.add(load_recipe(recipe).hash)
    assert torch.equal(run(recipe)["visual.proj"], load_file(models / "base.safetensors")["visual.proj"])
    assert len(hashes) == 3


@pytest.mark.parametrize("use", [lines_pipeline.run, lines_pipeline.plan, lines_pipeline.validate])
def test_in_a_folder_that_is_not_trusted_nothing_runs(use: Callable[..., Any], recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown op 'my-sum'.*plug-ins.*not a trusted folder; give --trust, or"):
        use(recipe)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("check", [lines_pipeline.plan, lines_pipeline.validate])
def test_plug_ins_are_listed(check: Callable[..., Any], recipe: Path, models: Path, write_recipe: Write) -> None:
    write_recipe(SAVED, plugins=["my_methods.py"])
    (note,) = check(recipe).notes
    assert note.startswith("the recipe runs Python: my_methods.py (sha256 ") and "not a trusted folder" in note
    with pytest.raises(RecipeError, match=r"the recipe runs Python, my_methods.py, but .*not a trusted folder"):
        lines_pipeline.run(recipe)
    trust(models)
    assert "with the ops my-sum" in check(recipe).notes[0]


def test_all_recipes_of_a_chain_have_to_be_trusted_and_name_files_beside_themselves(
    recipe: Path, models: Path, tmp_path: Path
) -> None:
    over = tmp_path / "over" / "recipe.yaml"
    over.parent.mkdir()
    (over.parent / "mine.py").write_text((models / "my_methods.py").read_text().replace("my_sum", "our_sum"))
    (over.parent / "factors.py").write_text("FACTOR = 8.0\n")
    inputs = {name: {"path": str(models / path)} for name, path in [("base", "base.safetensors")]}
    inputs["experts"] = {"path": f"{models}/{{e}}.safetensors"}
    nodes = {**inputs, "also": {"op": "our-sum", "deltas": "updates"}}
    over.write_text(yaml.safe_dump({"extends": str(recipe), "plugins": ["mine.py"], "nodes": nodes}))
    trust(models)
    with pytest.raises(RecipeError, match="not a trusted folder"):
        lines_pipeline.validate(over)
    trust(over.parent)
    notes = lines_pipeline.validate(over).notes
    assert [note.partition(" (")[0] for note in notes[:2]] == [
        "the recipe runs Python: my_methods.py",
        "the recipe runs Python: mine.py",
    ]


def test_a_link_out_of_a_trusted_folder_is_not_trusted(recipe: Path, models: Path, tmp_path: Path) -> None:
    trust(models)
    elsewhere = tmp_path / "elsewhere.py"
    (models / "my_methods.py").rename(elsewhere)
    (models / "my_methods.py").symlink_to(elsewhere)
    with pytest.raises(RecipeError, match=f"'{tmp_path}' is not a trusted folder"):
        lines_pipeline.validate(recipe)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("my_method.py", r"there is no file .*my_method.py \(did you mean 'my_methods.py'\?\)"),
        ("../my_methods.py", "is not below the recipe's folder"),
        ("/my_methods.py", "is not below the recipe's folder"),
        ("my_methods", "expected a Python file beside the recipe"),
        ("", "expected a Python file beside the recipe"),
    ],
)
def test_what_is_no_file_beside_the_recipe(named: str, told: str, write_recipe: Write, recipe: Path) -> None:
    write_recipe(NODES, plugins=["my_methods.py", named])
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+:\d+: 'plugins\[1\]': .*{told}"):
        lines_pipeline.validate(recipe, trust=True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_there", r"my_methods.py raised ModuleNotFoundError: .* \(.*my_methods.py:1\)"),
        ("x = 1\nraise ValueError('no')", r"my_methods.py raised ValueError: no \(.*my_methods.py:2\)"),
        ("def (", "my_methods.py:1: not valid Python|my_methods.py raised SyntaxError"),
        (
            "from lines_pipeline.ops import op, Delta\n@op(formula='', source='')\ndef f(delta) -> Delta: ...",
            r"my_methods.py: f \(.*my_methods.py:2\): parameter 'delta' has no annotation",
        ),
        (
            "from lines_pipeline.ops import op, Delta\n@op(formula='', source='')\ndef ties(d: Delta) -> Delta: ...",
            "my_methods.py defines the op 'ties', which lines-pipeline has: name it otherwise",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_error_at_its_place(
    source: str, told: str, recipe: Path, models: Path
) -> None:
    (models / "my_methods.py").write_text(source)
    with pytest.raises(RecipeError, match=told) as caught:
        lines_pipeline.validate(recipe, trust=True)
    assert len(caught.value.diagnostics) == 1 and "recipe.yaml:" in str(caught.value)


def test_two_files_with_one_op(recipe: Path, models: Path, write_recipe: Write) -> None:
    (models / "more.py").write_text((models / "my_methods.py").read_text())
    write_recipe(NODES, plugins=["my_methods.py", "more.py"])
    with pytest.raises(RecipeError, match=r"more.py defines the op 'my-sum', which my_methods.py has"):
        lines_pipeline.validate(recipe, trust=True)


def test_a_method_that_raises_is_told_with_its_line(recipe: Path, models: Path) -> None:
    text = (models / "my_methods.py").read_text()
    (models / "my_methods.py").write_text(text.replace("return sum(", "return torch.sum("))
    with pytest.raises(lines_pipeline.LinesError, match=r"op 'my-sum' raised on .*NameError.*my_methods.py:10\)"):
        run(recipe)


STATISTIC = textwrap.dedent("""
    from dataclasses import dataclass
    from lines_pipeline.core.types import EdgeType
    from lines_pipeline.ops.base import Op, Port, Statistic
    from lines_pipeline.ops.kernels import total

    @dataclass(frozen=True)
    class Mass(Statistic):
        def observe(self, values, tensor, needs, state):
            return (total(values[0].abs()),)

        def partial(self, *reduced):
            return reduced[0]

        def combine(self, partials, numels, state):
            return sum(sum(found) for found in partials.values())
""")
UNIT = """
from masses import Mass, EdgeType, Op, Port

class Unit(Op):
    "A task vector of mass 1."
    name, formula, source = "unit", "tau / |tau|_1", "a test"
    gives, inputs = EdgeType.DELTA, {"delta": Port(EdgeType.DELTA)}

    def statistics(self, params, inputs, step):
        return {"mass": Mass(inputs["delta"])}

    def apply(self, params, inputs, tensor, stats):
        return inputs["delta"][0] / stats["mass"]
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster of two workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    processes = DaskProcesses(folder)
    try:
        address = processes.scheduler()
        for _ in range(2):
            processes.worker(address)
        connected(address, 2)
        yield address
    finally:
        processes.stop()


def test_a_cluster_runs_plug_ins_and_statistics_of_their_own(
    cluster: str, recipe: Path, models: Path, write_recipe: Write
) -> None:
    (models / "masses.py").write_text(STATISTIC)
    (models / "unit.py").write_text(UNIT)
    unit = {"unit": {"op": "unit", "delta": "merged"}, "model": {**NODES["model"], "delta": "unit"}}
    write_recipe({**NODES, **unit}, plugins=["my_methods.py", "unit.py"])
    here, there = (run(recipe, scheduler=scheduler, cache=False) for scheduler in ("threads", cluster))
    assert all(torch.equal(here[name], there[name]) for name in here)
    difference = sum(float((here[name] - value).abs().sum()) for name, value in expected(models, 0.0).items())
    assert difference == pytest.approx(1.0, abs=1e-3)


def test_a_worker_that_finds_another_file_says_so(
    cluster: str, recipe: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lines_pipeline.executor.schedulers import dask_cluster
    from lines_pipeline.executor.schedulers.shipping import packed

    def changed(*arguments: Any) -> Any:
        shipment = packed(*arguments)
        (models / "factors.py").write_text("FACTOR = 3.0\n")
        return shipment

    monkeypatch.setattr(dask_cluster, "packed", changed)
    with pytest.raises(EngineError, match=r"worker .*my_methods.py: other contents here"):
        run(recipe, scheduler=cluster)


@pytest.mark.usefixtures("shared_store")
def test_the_record_of_a_run_has_the_files_and_their_digests(recipe: Path, models: Path) -> None:
    events: list[Any] = []
    result = lines_pipeline.run(recipe, trust=True, out="out", sinks=[events.append])
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.texts["plugins/my_methods.py"] == (models / "my_methods.py").read_text()
    assert started.tags["plugin.my_methods.py"] == load_recipe(recipe).plugins.digests["my_methods.py"]
    assert not [note for note in result.notes if note.startswith("warning")]

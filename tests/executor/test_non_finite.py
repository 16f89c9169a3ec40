"""Results are looked at: what is NaN or Inf, or what a type cannot hold, is an error, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TIES_LINES
from safetensors.torch import load_file, save_file
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.executor import compilation

pytestmark = pytest.mark.usefixtures("shared_store")

Recipe = Callable[..., Path]

SUMMED: Mapping[str, Any] = {
    "merged": {"op": "task-arithmetic", "deltas": "updates"},
    "model": {"op": "apply", "base": "base", "delta": "merged"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}


@pytest.fixture(params=[False, True], ids=["interpreted", "compiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways in which blocks are computed."""
    if request.param:
        pytest.importorskip("numba")
    monkeypatch.setattr(compilation, "compiling_pays", lambda nbytes: request.param)
    return bool(request.param)


def change(folder: Path, names: str, dtype: torch.dtype | None = None, **values: float) -> None:
    """Store models in another type, with values put into their tensor ``visual.proj``, by place ``row_column``."""
    for name in names.split():
        state = load_file(folder / f"{name}.safetensors")
        state = {n: v.to(dtype) if dtype and v.is_floating_point() else v for n, v in state.items()}
        for place, value in values.items():
            row, column = map(int, place[1:].split("_"))
            state["visual.proj"][row, column] = value
        save_file(state, folder / f"{name}.safetensors")


def refused(recipe: Path, words: str, **options: Any) -> str:
    """The message of a run that writes nothing."""
    with pytest.raises(CheckpointError, match=words) as error:
        lines_pipeline.run(recipe, out="out", **options)
    assert not Path("out").exists()
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("method", ["sum", "ties", "shards"])
def test_a_sum_beyond_float16(method: str, models: Path, write_recipe: Recipe) -> None:
    change(models, "base", torch.float16)
    change(models, "a b c", torch.float16, p1_2=40_000.0, p3_3=-39_000.0)
    nodes = {**SUMMED}
    if method == "ties":
        nodes["merged"] = {"op": "ties", "deltas": "updates", "aggregate": "sum"}
    if method == "shards":
        nodes["saved"] = {**SUMMED["saved"], "max_shard_size": "1KB"}
    recipe = write_recipe(nodes)
    message = refused(
        recipe, r"node 'model': tensor 'visual\.proj' of the result: 2 of 64 values \(3\.1 %\) are beyond"
    )
    assert "float16" in message and "'dtype: bfloat16' or 'dtype: float32'" in message
    result = lines_pipeline.run(
        recipe, out="out", sets={"nodes.saved.dtype": "float32", "nodes.saved.max_shard_size": None}
    )
    assert load_file(result.files[0])["visual.proj"][1, 2] > 100_000


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("given", "asked", "value", "range_of", "remedy"),
    [
        (torch.float32, "float16", 70_000.0, "float16", "bfloat16"),
        (torch.bfloat16, "float16", 1e30, "float16", "float32"),
        (torch.float32, "bfloat16", 3.4e38, "bfloat16", "float32"),
        (torch.float64, "float32", 1e39, "float32", "float64"),
        (torch.float64, "float16", 1e300, "float16", "float32"),
    ],
)
def test_a_type_that_is_asked_for_and_cannot_hold_a_value(
    given: torch.dtype, asked: str, value: float, range_of: str, remedy: str, models: Path, write_recipe: Recipe
) -> None:
    change(models, "base a b c", given, p0_0=value)
    recipe = write_recipe({**SUMMED, "saved": {**SUMMED["saved"], "dtype": asked}})
    message = refused(
        recipe, rf"tensor 'visual\.proj' of the result: 1 of 64 values \(1\.6 %\) is beyond the range of {range_of}"
    )
    assert f"'dtype: {remedy}'" in message


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_neither_saturates_nor_overflows(dtype: torch.dtype, models: Path, write_recipe: Recipe) -> None:
    most = torch.finfo(dtype).max
    change(models, "base a", dtype, **{f"p{row}_{column}": most for row in range(2) for column in range(8)})
    nodes = {
        "model": {"op": "interpolate", "models": ["base", "experts[a]"], "weights": [3.0, 3.0]},
        "saved": SUMMED["saved"],
    }
    name = str(dtype).removeprefix("torch.")
    refused(
        write_recipe(nodes), rf"visual\.proj' of the result: 16 of 64 values \(25 %\) are beyond the range of {name}"
    )
    nodes["model"]["weights"] = [0.5, 0.5]
    assert lines_pipeline.run(write_recipe(nodes), out="out").files[0].exists()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["delta", "weights"])
def test_infinity_that_no_input_has(kind: str, models: Path, write_recipe: Recipe) -> None:
    change(models, "base", p0_0=-3e38)
    change(models, "a b c", p0_0=3e38)
    saved = {**SUMMED["saved"], "model": "merged" if kind == "delta" else "model"}
    refused(
        write_recipe({**SUMMED, "saved": saved}),
        r"visual\.proj' of the result: 1 of 64 values \(1\.6 %\) is NaN or Inf, which",
    )


@pytest.mark.usefixtures("way")
def test_a_result_that_is_partialed(models: Path, write_recipe: Recipe) -> None:
    change(models, "a b c", p0_0=1e30)
    nodes = {**TIES_LINES, "model": {**TIES_LINES["model"], "scale": 1e9}}
    refused(write_recipe(nodes), r"node 'model': tensor 'visual\.proj'.* NaN or Inf")
    change(models, "a b c", p0_0=2e38)
    nodes = {
        **TIES_LINES,
        "merged": {"op": "ties", "deltas": "updates", "aggregate": "sum"},
        "scaled": SUMMED["merged"],
    }
    nodes |= {"model": {"op": "apply", "base": "base", "delta": "merged"}}
    refused(write_recipe(nodes), r"node 'model': tensor 'visual\.proj'.* NaN or Inf")


@pytest.mark.usefixtures("way")
def test_what_all_inputs_have_stays_and_what_they_have_not_is_told(models: Path, write_recipe: Recipe) -> None:
    change(models, "base a b c", torch.float16, p0_0=float("nan"), p0_1=float("inf"))
    result = lines_pipeline.run(write_recipe(SUMMED), out="kept")
    base, tensors = load_file(models / "base.safetensors")["visual.proj"], load_file(result.files[0])["visual.proj"]
    assert torch.equal(tensors.isnan(), base.isnan()) and tensors[0, 1] == float("inf")
    assert tensors[0, :1].view(torch.int16) == base[0, :1].view(torch.int16)
    change(models, "a b c", p7_7=40_000.0)
    refused(
        write_recipe(SUMMED), r"visual\.proj' of the result: 1 of 64 values \(1\.6 %\) is beyond the range of float16"
    )


@pytest.mark.usefixtures("way")
def test_masks_and_integers_are_let_be(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        **SUMMED,
        "mask": {"op": "magnitude-mask", "delta": "merged", "density": 0.5},
        "kept": {"op": "save", "model": "mask", "path": "mask.safetensors", "packed": True},
        "plain": {"op": "save", "model": "mask", "path": "plain.safetensors"},
    }
    assert len(lines_pipeline.run(write_recipe(nodes), out="out").files) == 3


def test_a_model_that_is_only_judged(toy: Path) -> None:
    write_model(toy / "base.safetensors", 0.0)
    write_model(toy / "a.safetensors", 1.0)
    for name in ("base", "a"):
        state = load_file(toy / f"{name}.safetensors")
        save_file({key: value.half() for key, value in state.items()}, toy / f"{name}.safetensors")
    write_suite(toy, {"rise": {"val": above(0.125, 0.625)}})
    nodes = {
        "base": {"op": "load", "path": "base.safetensors"},
        "expert": {"op": "load", "path": "a.safetensors"},
        "update": {"op": "task-vector", "model": "expert", "base": "base"},
        "model": {"op": "apply", "base": "base", "delta": "update", "scale": 1e6},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    (toy / "recipe.yaml").write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    for _ in range(2):
        message = refused(toy / "recipe.yaml", "node 'model': tensor .* beyond the range of float16")
        assert "judged in the type of their base" in message


@pytest.fixture
def normalized(models: Path) -> Path:
    """Models with statistics of a BatchNorm."""
    for name, variance in (("base", 1.0), ("a", 0.2), ("b", 0.1), ("c", 0.3)):
        state = load_file(models / f"{name}.safetensors")
        state |= {"bn.running_var": torch.full((4,), variance), "bn.running_mean": torch.zeros(4)}
        save_file(state, models / f"{name}.safetensors")
    return models


@pytest.mark.parametrize("shards", [None, "1KB"])
def test_a_variance_below_zero_is_told(shards: str | None, normalized: Path, write_recipe: Recipe) -> None:
    recipe = write_recipe({**SUMMED, "saved": {**SUMMED["saved"], "max_shard_size": shards}})
    for _ in range(2):  # the second time the file is found
        notes = lines_pipeline.run(recipe, out="out").notes
        (note_told,) = [note for note in notes if "running_var" in note]
        assert note_told.startswith("warning: node 'model': tensor 'bn.running_var'") and "-1.4" in note_told
        assert "exclude: ['*running_var', '*running_mean']" in note_told
    excluded = {"nodes.updates.exclude": ["*running_var", "*running_mean"]}
    left = lines_pipeline.run(recipe, out="out", sets=excluded).notes
    assert [note for note in left if "left out" in note] and not [note for note in left if "warning" in note]
    assert not lines_pipeline.run(recipe, out="out", sets={"nodes.merged.weights": 0.1}).notes


TRIMMED = {"op": "ties", "deltas": "updates"}
LITTLE = {
    "ties": {"merged": {**TRIMMED, "density": 0.2}},
    "ties of almost nothing": {"merged": {**TRIMMED, "density": 1e-9, "aggregate": "max"}},
    "ties by tensor": {"merged": {**TRIMMED, "density": 1e-9, "scope": "tensor", "aggregate": "sum"}},
    "trim": {"sum": SUMMED["merged"], "merged": {"op": "trim", "delta": "sum", "density": 1e-9}},
    "mask": {
        "sum": SUMMED["merged"],
        "own": {"op": "magnitude-mask", "delta": "sum", "density": 1e-9},
        "merged": {"op": "mask", "delta": "sum", "mask": "own"},
    },
}


@pytest.mark.parametrize("method", LITTLE)
def test_models_without_a_value_to_merge_stay(method: str, models: Path, write_recipe: Recipe) -> None:
    """Integers alone, and tensors of no size."""
    state = {"ids": torch.arange(5), "none": torch.zeros(0, 4), "set": torch.tensor([True, False])}
    for name in ("base", "a", "b", "c"):
        save_file(state, models / f"{name}.safetensors")
    result = lines_pipeline.run(write_recipe({**SUMMED, **LITTLE[method]}), out="out")
    tensors = load_file(result.files[0])
    assert tensors.keys() == state.keys() and all(torch.equal(tensors[name], value) for name, value in state.items())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("density", [0.001, 1.0])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_differences_that_overflow(density: float, scope: str, models: Path, write_recipe: Recipe) -> None:
    change(models, "base", p0_0=-3e38, p1_1=0.0)
    change(models, "a b", p0_0=3e38, p1_1=3e38)
    change(models, "c", p0_0=3e38, p1_1=-3e38)
    merged = {**TRIMMED, "density": density, "scope": scope, "aggregate": "sum", "weights": 2.0}
    refused(write_recipe({**SUMMED, "merged": merged}), "too large for their type|NaN or Inf, which no input is")

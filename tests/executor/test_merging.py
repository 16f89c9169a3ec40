"""What a merged checkpoint holds: types, buffers, tied tensors, what is left out, and what the header says."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

Recipe = Callable[..., Path]

SUM: dict[str, dict[str, Any]] = {
    "merged": {"op": "task-arithmetic", "deltas": "updates"},
    "model": {"op": "apply", "base": "base", "delta": "merged", "scale": 0.5},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}

MODEL_PARTS = "parts/model.safetensors"


def merged(recipe: Path) -> dict[str, torch.Tensor]:
    """The tensors of the file that a recipe saves."""
    tensors: dict[str, torch.Tensor] = load_file(lines_pipeline.run(recipe, out="out").files[0])
    return tensors


def test_a_sum_is_what_it_says(models: Path, write_recipe: Recipe) -> None:
    tensors = merged(write_recipe(SUM))
    base, *experts = (load_file(models / f"{name}.safetensors") for name in ("base", "a", "b", "c"))
    for name, value in base.items():
        if value.is_floating_point():
            expected = value + 0.5 * sum(expert[name] - value for expert in experts)
            torch.testing.assert_close(tensors[name], expected)
    assert torch.equal(tensors["position_ids"], base["position_ids"])


SCALED_SUM: dict[str, dict[str, Any]] = {
    **SUM,
    "scaled": {"op": "lines-scale", "delta": "merged", "deltas": "updates", "alpha": "auto", "beta": 0.5},
    "model": {"op": "apply", "base": "base", "delta": "scaled"},
}


@pytest.mark.parametrize(
    ("own", "sweeps"),
    [({}, 1), ({"weights": [1, 1, 0.9]}, 2), ({"reduce": "mean"}, 2), ({"exclude": ["visual.proj"]}, 2)],
)
def test_alpha_is_measured_unless_the_delta_is_the_plain_sum(
    own: dict[str, Any], sweeps: int, write_recipe: Recipe
) -> None:
    recipe = write_recipe({**SCALED_SUM, "merged": {**SUM["merged"], **own}})
    assert len(lines_pipeline.plan(recipe).passes) == sweeps
    facts = lines_pipeline.run(recipe, out="out").facts["scaled"]
    assert facts["alpha"] == facts["norm_summed_tvs"] / facts["norm_mtv"] / 3
    assert (facts["alpha"] == 1 / 3) == (sweeps == 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_are_stored_as_the_base_has_them(dtype: torch.dtype, models: Path, write_recipe: Recipe) -> None:
    state = load_file(models / "base.safetensors")
    state["visual.proj"] = state["visual.proj"].to(dtype)
    save_file(state, models / "base.safetensors")
    tensors = merged(write_recipe(SUM))
    assert tensors["visual.proj"].dtype == dtype
    assert tensors["logit_scale"].dtype == torch.float32


def test_excluded_tensors_keep_the_base(models: Path, write_recipe: Recipe) -> None:
    nodes = {**SUM, "merged": {**SUM["merged"], "exclude": ["*.ln_1.bias"]}}
    tensors, base = merged(write_recipe(nodes)), load_file(models / "base.safetensors")
    kept = [name for name in base if torch.equal(tensors[name], base[name])]
    assert kept == sorted([*(name for name in base if name.endswith("ln_1.bias")), "position_ids"])


def test_tied_tensors_are_merged_once_and_stay_equal(models: Path, write_recipe: Recipe) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        state["head.weight"] = state["visual.proj"]
        torch.save(state, models / f"{name}.pt")
    recipe = write_recipe(SUM)
    recipe.write_text(recipe.read_text().replace("{e}.safetensors", "{e}.pt").replace("base.safetensors", "base.pt"))
    tensors = merged(recipe)
    assert torch.equal(tensors["head.weight"], tensors["visual.proj"])


def test_equal_buffers_of_infinities_are_copied(models: Path, write_recipe: Recipe) -> None:
    for name in ("base", "a", "b", "c"):
        state = load_file(models / f"{name}.safetensors")
        save_file(state | {"mask": torch.tensor([0.0, float("-inf"), float("nan")])}, models / f"{name}.safetensors")
    recipe = write_recipe(SUM)
    for _ in range(2):
        tensors = merged(recipe)["mask"]
        assert tensors[0] == 0 and tensors[1] == float("-inf") and tensors[2].isnan()


def test_a_nan_of_one_expert_is_refused_and_nothing_is_written(models: Path, write_recipe: Recipe) -> None:
    state = load_file(models / "b.safetensors")
    state["visual.proj"][1, 2] = float("nan")
    save_file(state, models / "b.safetensors")
    with pytest.raises(LinesError, match=r"b\.safetensors: tensor 'visual\.proj' holds 1 NaN"):
        merged(write_recipe(SUM))
    assert not Path("out").exists()


def test_the_header_tells_recipe_and_inputs_and_no_time(write_recipe: Recipe) -> None:
    recipe = write_recipe(SUM)
    path = lines_pipeline.run(recipe, out="out").files[0]
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    metadata = header["__metadata__"]
    assert json.loads(metadata["recipe"])["nodes"]["merged"]["op"] == "task-arithmetic"
    assert set(json.loads(metadata["inputs"])) == {"base", "experts[a]", "experts[b]", "experts[c]"}
    assert lines_pipeline.run(recipe, out="other", cache=False).files[0].read_bytes() == content


def test_shards_have_an_index_and_the_same_tensors(write_recipe: Recipe) -> None:
    whole = merged(write_recipe(SUM))
    saved = {**SUM["saved"], "max_shard_size": "2KB"}
    lines_pipeline.run(write_recipe({**SUM, "saved": saved}), out="shards")
    index = json.loads(Path("shards/model.safetensors.index.json").read_text())
    by_name = {name: load_file(f"shards/{shard}")[name] for name, shard in index["weight_map"].items()}
    assert len(set(index["weight_map"].values())) > 1
    assert all(torch.equal(by_name[name], whole[name]) for name in whole)


def test_packed_masks_hold_one_bit_a_parameter(models: Path, write_recipe: Recipe) -> None:
    nodes = {
        "mask": {"op": "magnitude-mask", "delta": "updates[a]", "density": 0.3},
        "plain": {"op": "save", "model": "mask", "path": "plain.safetensors"},
        "packed": {"op": "save", "model": "mask", "path": "packed.safetensors", "packed": True},
    }
    lines_pipeline.run(write_recipe(nodes), out="out")
    plain, packed = load_file("out/plain.safetensors"), load_file("out/packed.safetensors")
    for name, mask in plain.items():
        bits = torch.tensor([(int(byte) >> bit) & 1 for byte in packed[name] for bit in range(8)], dtype=torch.bool)
        assert torch.equal(bits[: mask.numel()], mask.flatten())


def test_a_plan_over_the_budget_is_refused_before_any_read(write_recipe: Recipe) -> None:
    with pytest.raises(LinesError, match="allow at least"):
        lines_pipeline.run(write_recipe(SUM), out="out", memory="100MB")
    assert not Path("out").exists()


def test_an_object_store_gets_the_same_bytes_and_no_copy_stays(tmp_path: Path, write_recipe: Recipe) -> None:
    fsspec = pytest.importorskip("fsspec")
    nodes = {**SUM, "shards": {**SUM["saved"], "path": MODEL_PARTS, "max_shard_size": "2KB"}}
    local = lines_pipeline.run(write_recipe(nodes), out="out", cache=False)
    remote = lines_pipeline.run(write_recipe(nodes), out="memory://bucket/run/")
    names = [path.relative_to("out").as_posix() for path in sorted(Path("out").rglob("*")) if path.is_file()]
    materialise = fsspec.filesystem("memory")
    assert sorted(materialise.find("/bucket/run")) == [f"/bucket/run/{name}" for name in sorted(names)]
    assert all(materialise.cat_file(f"/bucket/run/{name}") == Path("out", name).read_bytes() for name in names)
    assert remote.files == () and set(local.files) == {Path("out", name).absolute() for name in names}
    assert sorted(remote.urls) == sorted(f"memory://bucket/run/{name}" for name in names)
    assert list((tmp_path / "cache" / "lines-pipeline" / "uploads").iterdir()) == []


def test_what_went_to_an_object_store_is_not_looked_for_in_a_folder(write_recipe: Recipe) -> None:
    pytest.importorskip("fsspec")
    lines_pipeline.run(write_recipe(SUM), out="memory://bucket/run")
    assert "files" not in {entry.kind for entry in lines_pipeline.api.cache_list().entries}


def test_a_file_url_is_a_folder(tmp_path: Path, write_recipe: Recipe) -> None:
    result = lines_pipeline.run(write_recipe(SUM), out=f"file://{tmp_path}/there")
    assert result.files == (tmp_path / "there" / "model.safetensors",)

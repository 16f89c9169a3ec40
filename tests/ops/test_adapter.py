"""An adapter stands for the update that merging it would add, module by module as peft computes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft_adapters import APPLIED, PREFIX, write_adapter, write_nodes
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError, RecipeError

pytestmark = pytest.mark.usefixtures("shared_store")

Q, V = "model.layers.0.q_proj", "model.layers.0.v_proj"
BASE = {
    f"{Q}.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    f"{V}.weight": torch.tensor([[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]),
    "model.norm.weight": torch.ones(2),
    "position_ids": torch.arange(3),
}
A, B = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [3.0]])
PRODUCT = torch.tensor([[2.0, -2.0], [3.0, -3.0]])
FACTORS = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``base/`` and, for ``q_proj``, ``adapter/``."""
    (tmp_path / "base").mkdir()
    save_file(BASE, tmp_path / "base" / "model.safetensors")
    write_adapter(tmp_path / "adapter", FACTORS)
    return tmp_path


def saved(place: Path, nodes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that a recipe saves."""
    tensors: dict[str, torch.Tensor] = load_file(lines_pipeline.run(write_nodes(place, nodes), out="out").files[0])
    return tensors


def delta(place: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """The update alone."""
    update = {"op": "adapter", "path": "adapter", **fields}
    loads = {"base": APPLIED["base"]} if "base" in fields else {}
    save = {"op": "save", "model": "update", "path": "delta.safetensors"}
    return saved(place, {**loads, "update": update, "saved": save})


def refused(place: Path, *words: str, **fields: Any) -> None:
    """Validating and running fail alike, naming the adapter, with these words, and write nothing."""
    nodes = {**APPLIED, "update": {**APPLIED["update"], **fields}}
    recipe = write_nodes(place, nodes)
    for act in (lines_pipeline.validate, lines_pipeline.run):
        with pytest.raises(LinesError) as error:
            act(recipe)
        assert error.value.exit_code == 2
        assert all(word in str(error.value) for word in (f"{recipe}:", "adapter", *words)), str(error.value)
    assert not (place / "runs").exists()


def test_the_update_is_the_scaled_product_and_zero_elsewhere(place: Path) -> None:
    write_adapter(place / "adapter", FACTORS, lora_alpha=3)
    result = delta(place, base="base", scale=0.5)
    assert torch.equal(result[f"{Q}.weight"], 1.5 * PRODUCT)
    assert {name: value.dtype for name, value in result.items()} == dict.fromkeys(
        BASE.keys() - {"position_ids"}, torch.float32
    )
    assert not result[f"{V}.weight"].any() and not result["model.norm.weight"].any()


def test_without_a_base_it_has_the_tensors_that_it_names(place: Path) -> None:
    value = delta(place)
    assert value.keys() == {f"{Q}.weight"}
    assert torch.equal(value[f"{Q}.weight"], PRODUCT)


def test_what_is_left_out_keeps_the_base_in_every_bit(place: Path) -> None:
    merged = saved(place, {**APPLIED, "update": {**APPLIED["update"], "exclude": ["*q_proj*"]}})
    assert all(torch.equal(merged[name], value) for name, value in BASE.items())


@pytest.mark.parametrize("op", ["ties", "task-arithmetic"])
def test_it_is_the_task_vector_of_the_merged_model(op: str, place: Path) -> None:
    """Zeros are part of it: thresholds are taken over the whole model, as over that of any task vector."""
    merged = {**BASE, f"{Q}.weight": BASE[f"{Q}.weight"] + PRODUCT}
    save_file(merged, place / "merged.safetensors")
    vector = {
        "merged": {"op": "load", "path": "merged.safetensors"},
        "update": {"op": "task-vector", "model": "merged", "base": "base"},
    }
    sums = {"sum": {"op": op, "deltas": ["update"]}, "saved": {"op": "save", "model": "sum", "path": "d.safetensors"}}
    update_saved, vector_saved = (saved(place, {**APPLIED, **update, **sums}) for update in ({}, vector))
    assert (
        all(torch.equal(update_saved[name], value) for name, value in vector_saved.items())
        and update_saved.keys() == vector_saved.keys()
    )


def test_a_soup_of_two_is_that_of_their_products(place: Path) -> None:
    write_adapter(
        place / "other",
        {f"{Q}.lora_A.weight": A.repeat(4, 1), f"{Q}.lora_B.weight": B.repeat(1, 4)},
        r=4,
        use_rslora=True,
    )
    nodes = {
        "update": {"op": "adapter", "path": "{x}", "for_each": {"x": ["adapter", "other"]}},
        "sum": {"op": "task-arithmetic", "deltas": "update", "weights": [0.5, -1.0]},
        "saved": {"op": "save", "model": "sum", "path": "delta.safetensors"},
    }
    expected = 0.5 * PRODUCT - 1 / math.sqrt(4) * 4 * PRODUCT
    torch.testing.assert_close(saved(place, nodes)[f"{Q}.weight"], expected)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"lora_alpha": 8}, 8),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 2}}, 2),
        ({"lora_alpha": 8, "alpha_pattern": {"proj": 2}}, 8),
        ({"lora_alpha": 8, "alpha_pattern": {r".*\.layers\.0\..*": 4, "q_proj": 2}}, 4),
        ({"r": 3, "lora_alpha": 6, "rank_pattern": {"layers.0.q_proj": 1}}, 6),
        ({"r": 3, "lora_alpha": 6, "rank_pattern": {f"^{Q}": 1}}, 6),
    ],
)
def test_ranks_and_alphas_are_those_of_the_module(config: dict[str, Any], scaling: float, place: Path) -> None:
    write_adapter(place / "adapter", FACTORS, **config)
    assert torch.equal(delta(place)[f"{Q}.weight"], scaling * PRODUCT)


@pytest.mark.parametrize(("strip", "add"), [("", ""), ("model.", ""), ("", "language_model.")])
def test_the_base_may_have_one_prefix_more_or_less(strip: str, add: str, place: Path) -> None:
    named = {add + name.removeprefix(strip): value for name, value in BASE.items()}
    save_file(named, place / "base" / "model.safetensors")
    values = saved(place, APPLIED)
    name = add + f"{Q}.weight".removeprefix(strip)
    assert torch.equal(values[name], named[name] + PRODUCT)


def test_two_parts_of_a_base_that_fit_are_refused(place: Path) -> None:
    both = {f"{part}.{name}": value.clone() for part in ("text", "vision") for name, value in BASE.items()}
    save_file(both, place / "base" / "model.safetensors")
    refused(place, f"'{Q}.weight' could be 'text.{Q}.weight', 'vision.{Q}.weight'")


TURNED = {f"{V}.lora_A.weight": torch.tensor([[1.0, 2.0, 3.0]]), f"{V}.lora_B.weight": torch.tensor([[1.0], [10.0]])}


@pytest.mark.parametrize("says", [True, False])
def test_weights_that_are_stored_as_in_by_out_are_told_by_their_shape(says: bool, place: Path) -> None:
    write_adapter(place / "adapter", TURNED, fan_in_fan_out=says)
    expected = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert torch.equal(delta(place, base="base")[f"{V}.weight"], expected)


def test_square_weights_are_turned_as_the_configuration_says(place: Path) -> None:
    write_adapter(place / "adapter", FACTORS, fan_in_fan_out=True)
    assert torch.equal(delta(place)[f"{Q}.weight"], PRODUCT.T)


def test_modules_saved_whole_and_biases_differ_from_the_base(place: Path) -> None:
    whole = {"model.norm.weight": torch.full((2,), 3.0)}
    write_adapter(place / "adapter", {**FACTORS, **whole}, modules_to_save=["norm"])
    values = saved(place, APPLIED)
    assert torch.equal(values["model.norm.weight"], whole["model.norm.weight"])
    assert torch.equal(values[f"{Q}.weight"], BASE[f"{Q}.weight"] + PRODUCT)
    halved = saved(place, {**APPLIED, "update": {**APPLIED["update"], "scale": 0.5}})
    assert torch.equal(halved["model.norm.weight"], torch.full((2,), 2.0))


def test_a_head_that_the_base_lacks_is_refused_or_left_out(place: Path) -> None:
    write_adapter(place / "adapter", {**FACTORS, "score.weight": torch.ones(3, 2)}, modules_to_save=["score"])
    refused(place, "whole of 'score.weight'", "graft", 'exclude: ["score.weight"]')


def test_whole_tensors_need_the_values_of_a_loaded_base(place: Path) -> None:
    write_adapter(place / "adapter", {**FACTORS, "model.norm.weight": torch.ones(2)})
    nodes: dict[str, dict[str, Any]] = {
        "update": {"op": "adapter", "path": "adapter"},
        "saved": {"op": "save", "model": "update", "path": "d.safetensors"},
    }
    with pytest.raises(LinesError, match=r"give 'base', a node that loads the model.*exclude"):
        lines_pipeline.run(write_nodes(place, nodes))
    nodes["update"]["exclude"] = ["model.norm.*"]
    assert saved(place, nodes).keys() == {f"{Q}.weight"}
    computed = {**APPLIED, "mean": {"op": "soup", "models": ["base"]}, "update": {**APPLIED["update"], "base": "mean"}}
    with pytest.raises(LinesError, match="has to be loaded"):
        lines_pipeline.validate(write_nodes(place, computed))


def test_adapters_can_stand_on_each_other(place: Path) -> None:
    nodes = {
        **APPLIED,
        "second": {"op": "adapter", "path": "adapter", "base": "model", "scale": 2.0},
        "both": {"op": "apply", "base": "model", "delta": "second"},
        "saved": {"op": "save", "model": "both", "path": "model.safetensors"},
    }
    assert torch.equal(saved(place, nodes)[f"{Q}.weight"], BASE[f"{Q}.weight"] + 3 * PRODUCT)


Change = Callable[[Path], object]


def config(**values: Any) -> Change:
    return lambda adapter: write_adapter(adapter, FACTORS, **values)


def tensors(values: dict[str, torch.Tensor], **settings: Any) -> Change:
    return lambda adapter: write_adapter(adapter, values, **settings)


def text(content: str) -> Change:
    return lambda adapter: (adapter / "adapter_config.json").write_text(content)


REFUSED: dict[str, tuple[Change, str]] = {
    "no configuration": (lambda adapter: (adapter / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no tensors": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "not JSON": (text("{"), "not valid JSON"),
    "a list": (text("[]"), "not a map"),
    "another kind": (config(peft_type="IA3"), "kind IA3"),
    "AdaLoRA": (config(peft_type="ADALORA"), "kind ADALORA"),
    "rank of a text": (config(r="4"), "expected 'r' above 0"),
    "alpha NaN": (text('{"peft_type": "LORA", "r": 1, "lora_alpha": NaN}'), "a number 'lora_alpha'"),
    "pattern of texts": (config(rank_pattern={"q": "x"}), "rank_pattern"),
    "bad pattern": (config(rank_pattern={"(": 1}), "bad pattern '('"),
    "wrong rank": (config(r=2), "the rank 2 that adapter_config.json says"),
    "PiSSA": (config(init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    "layers twice": (config(layer_replication=[[0, 1], [0, 1]]), "layer_replication"),
    "single tokens": (config(trainable_token_indices=[1]), "trainable_token_indices"),
    "parameters": (config(target_parameters=["experts.w"]), "target_parameters"),
    "activated": (config(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    "a new kind": (config(use_something_new=True), "use_something_new"),
    "A alone": (tensors({f"{Q}.lora_A.weight": A}), "lacks 'lora_B.weight'"),
    "AdaLoRA's tensor": (tensors({**FACTORS, f"{Q}.lora_E": A}), "lora_E"),
    "IA3's tensor": (tensors({f"{Q}.ia3_l": A}), "ia3_l"),
    "magnitudes without DoRA": (tensors({**FACTORS, f"{Q}.lora_magnitude_vector": torch.ones(2)}), "DoRA"),
    "DoRA without magnitudes": (config(use_dora=True), "DoRA"),
    "two adapters": (
        tensors({f"{m}.lora_{k}.{a}.weight": w for m, a in ((Q, "one"), (V, "two")) for k, w in (("A", A), ("B", B))}),
        "several adapters ('one', 'two')",
    ),
    "another module": (tensors({f"{Q}2.lora_A.weight": A, f"{Q}2.lora_B.weight": B}), "which base lacks"),
    "another width": (
        tensors({f"{Q}.lora_A.weight": torch.ones(1, 5), f"{Q}.lora_B.weight": B}),
        "has shape [2, 5], the base's tensor [2, 2]",
    ),
    "nothing": (tensors({}), "changes no tensor"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_stand_for_is_refused(change: Change, words: str, place: Path) -> None:
    change(place / "adapter")
    refused(place, words)


def test_a_pattern_that_backtracks_is_refused_in_time(place: Path) -> None:
    module = "a" * 60
    factors = {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B}
    write_adapter(place / "adapter", factors, rank_pattern={"(a|a|aa)+b": 1})
    refused(place, "takes too long")


def test_its_path_may_be_wrong(place: Path) -> None:
    refused(place, "did you mean 'adapter'", path="adapters")
    refused(place, "takes the folder", path="adapter/adapter_model.safetensors")


def test_it_is_not_for_tuning(place: Path) -> None:
    path = write_nodes(place, APPLIED)
    tune = {"parameters": {"update.scale": {"values": [0.5, 1]}}, "objective": "val.mean_accuracy"}
    path.write_text(json.dumps({"name": "x", "nodes": dict(APPLIED), "tune": tune}))
    with pytest.raises(RecipeError, match="'scale' of 'adapter' is not for tuning"):
        lines_pipeline.validate(path)


def test_a_plan_computes_nothing_and_the_digest_is_recorded(place: Path) -> None:
    recipe = write_nodes(place, APPLIED)
    plan = lines_pipeline.plan(recipe)
    assert plan.bytes_read > 0 and not list((place / "cache").rglob("*.safetensors"))
    lines_pipeline.run(recipe, out="out")
    assert lines_pipeline.run(recipe, out="out").cached == ("saved",)
    write_adapter(place / "adapter", {**FACTORS, f"{Q}.lora_B.weight": 2 * B})
    assert torch.equal(saved(place, dict(APPLIED))[f"{Q}.weight"], BASE[f"{Q}.weight"] + 2 * PRODUCT)


def test_a_damaged_copy_in_the_cache_is_made_anew(place: Path) -> None:
    before = delta(place, base="base")
    (copy,) = (place / "cache").rglob("spool/*.safetensors")
    content = bytearray(copy.read_bytes())
    content[-40] ^= 1
    copy.write_bytes(content)
    after = delta(place, base="base")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    content[-40] ^= 2
    copy.write_bytes(content)
    assert [entry.kind for entry in lines_pipeline.api.cache_verify().entries] == ["spool"]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_scheduler(workers: int, place: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = {"w.weight": (3000, 1700)}
    base = {name: torch.randn(size, generator=generator) for name, size in shape.items()}
    save_file(base, place / "base" / "model.safetensors")
    a, b = torch.randn(8, 1700, generator=generator), torch.randn(3000, 8, generator=generator)
    write_adapter(place / "adapter", {"w.lora_A.weight": a.bfloat16(), "w.lora_B.weight": b}, r=8, lora_alpha=16)
    recipe = write_nodes(place, APPLIED)
    result = lines_pipeline.run(recipe, out="out", workers=workers, scheduler="serial" if workers == 1 else "threads")
    merged = load_file(result.files[0])["w.weight"]
    torch.testing.assert_close(merged, base["w.weight"] + 2 * (b @ a.bfloat16().float()))


def test_an_adapter_whose_base_is_not_here_yet_waits_for_it(place: Path) -> None:
    base = {"op": "load", "path": "https://host/model.safetensors"}
    recipe = write_nodes(place, {**APPLIED, "base": base})
    notes = lines_pipeline.validate(recipe).notes
    assert any("https://host" in note for note in notes) and any("'update': its base" in note for note in notes)
    with pytest.raises(LinesError, match="not on this machine yet: https://host"):
        lines_pipeline.plan(recipe)


def test_a_plan_writes_nothing_and_tells_what_the_run_will_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "adapter" / "adapter_model.safetensors").unlink()
    strided = {f"{PREFIX}{name}": torch.stack([value, value], -1)[..., 0] for name, value in FACTORS.items()}
    torch.save(strided, place / "adapter" / "adapter_model.bin")
    recipe = write_nodes(place, APPLIED)
    assert any("'update': 0.0 MB of its update" in note for note in lines_pipeline.plan(recipe).notes)
    assert not list((place / "cache").rglob("*.safetensors"))
    monkeypatch.setattr(
        "lines_pipeline.executor.explain.sizes", lambda *args: {}
    )  # the cache lies on a disk of its own
    for free, count in ((16, 0), (15, 1)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert len(lines_pipeline.plan(recipe).shortages) == count


def test_an_update_that_is_in_the_cache_is_not_announced(place: Path) -> None:
    recipe = write_nodes(place, APPLIED)
    lines_pipeline.run(recipe, out="out")
    assert not any("of its update" in note for note in lines_pipeline.plan(recipe).notes)


def test_bounds_know_all_names_of_a_tied_tensor(place: Path) -> None:
    (place / "base" / "model.safetensors").unlink()
    torch.save({**BASE, "zz.tied.weight": BASE[f"{Q}.weight"]}, place / "base" / "pytorch_model.bin")
    nodes = {**APPLIED, "update": {**APPLIED["update"], "exclude": ["zz.*"]}}
    assert torch.equal(saved(place, nodes)[f"{Q}.weight"], BASE[f"{Q}.weight"])


@pytest.mark.parametrize("base", [{"base": "base"}, {}])
def test_a_glob_that_matches_nothing_is_refused(base: dict[str, str], place: Path) -> None:
    update = {"op": "adapter", "path": "adapter", **base, "exclude": ["*.nothing"]}
    with pytest.raises(LinesError, match=r"node 'update': the glob '\*\.nothing' matches no tensor"):
        lines_pipeline.validate(write_nodes(place, {**APPLIED, "update": update}))
    allowed = {**update, "exclude": ["*q_proj*"]}
    nodes = {**APPLIED, "update": allowed}
    lines_pipeline.validate(write_nodes(place, nodes))


def test_tensors_that_the_base_lacks_have_a_remedy_that_works(place: Path) -> None:
    write_adapter(place / "adapter", {f"outer.{name}": value for name, value in FACTORS.items()})
    nodes = {**APPLIED, "update": {"op": "adapter", "path": "adapter"}}
    with pytest.raises(LinesError, match="Give 'base' to its adapter node"):
        lines_pipeline.validate(write_nodes(place, nodes))
    assert torch.equal(saved(place, dict(APPLIED))[f"{Q}.weight"], BASE[f"{Q}.weight"] + PRODUCT)


def test_new_names_do_not_hide_an_adapter(place: Path) -> None:
    load = {"op": "load", "path": "adapter/adapter_model.safetensors", "rename": [{"from": "lora_", "to": ""}]}
    nodes = {"model": load, "saved": APPLIED["saved"]}
    with pytest.raises(LinesError, match="an adapter"):
        lines_pipeline.validate(write_nodes(place, nodes))

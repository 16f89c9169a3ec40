"""Saving an update as a LoRA adapter: the nearest matrices of a rank, in the folder that peft reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import PREFIX, write_adapter, write_nodes
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import LinesError

pytestmark = pytest.mark.usefixtures("shared_store")

Q, V = "model.layers.0.q_proj", "model.layers.0.v_proj"
SHAPES: Mapping[str, tuple[int, ...]] = {
    f"{Q}.weight": (6, 5),
    f"{V}.weight": (3, 5),
    "model.embed_tokens.weight": (7, 5),
    "model.norm.weight": (5,),
    "model.conv.weight": (4, 3, 2, 2),
}
SAVED = {"op": "save", "model": "update", "path": "lora/", "format": "peft", "rank": 2}
NODES: Mapping[str, Any] = {
    "base": {"op": "load", "path": "base"},
    "expert": {"op": "load", "path": "expert.safetensors"},
    "update": {"op": "task-vector", "base": "base", "model": "expert"},
    "saved": SAVED,
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``base/``, and an expert whose matrices changed by all their directions."""
    (tmp_path / "base").mkdir()
    base = {name: drawn(*shape, seed=1) for name, shape in SHAPES.items()}
    save_file(base, tmp_path / "base" / "model.safetensors")
    write_expert(tmp_path, {f"{Q}.weight": drawn(6, 5), f"{V}.weight": drawn(3, 5)})
    return tmp_path


def write_expert(place: Path, changes: Mapping[str, torch.Tensor]) -> None:
    base = load_file(place / "base" / "model.safetensors")
    save_file(
        {n: value + changes[n] if n in changes else value for n, value in base.items()}, place / "expert.safetensors"
    )


def delta_of(place: Path, name: str) -> torch.Tensor:
    """The change of a tensor, as the files have it."""
    base, expert = load_file(place / "base" / "model.safetensors"), load_file(place / "expert.safetensors")
    changed: torch.Tensor = expert[name] - base[name]
    return changed


def run(place: Path, nodes: Mapping[str, Any] = NODES, out: str = "out", **fields: Any) -> lines_pipeline.RunResult:
    changed = {**nodes, "saved": {**nodes["saved"], **fields}}
    return lines_pipeline.run(write_nodes(place, changed), out=place / out)


def product(tensors: Mapping[str, torch.Tensor], module: str) -> torch.Tensor:
    return tensors[f"{PREFIX}{module}.lora_B.weight"] @ tensors[f"{PREFIX}{module}.lora_A.weight"]


def test_factors_are_the_nearest_of_their_rank_and_the_error_is_told(place: Path) -> None:
    result = run(place)
    tensors = load_file(place / "out" / "lora" / "adapter_model.safetensors")
    lost = norm = 0.0
    for module in (Q, V):
        delta = delta_of(place, f"{module}.weight").double()
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        nearest = (left[:, :2] * values[:2]) @ right[:2]
        torch.testing.assert_close(product(tensors, module).double(), nearest, rtol=1e-5, atol=1e-6)
        lost, norm = lost + float(values[2:].square().sum()), norm + float(values.square().sum())
    facts = result.facts["saved"]
    assert facts["relative_error"] == pytest.approx((lost / norm) ** 0.5, rel=1e-4)
    assert facts["matrices"] == 2 and facts["largest_relative_error_tensor"] == f"{Q}.weight"


def test_the_folder_is_an_adapters(place: Path) -> None:
    run(place)
    folder = place / "out" / "lora"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "lines_pipeline.json",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 2, [Q, V])
    assert (config["base_model_name_or_path"], config["fan_in_fan_out"]) == ("base", False)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {name.removeprefix(PREFIX): tuple(value.shape) for name, value in tensors.items()} == {
        f"{Q}.lora_A.weight": (2, 5),
        f"{Q}.lora_B.weight": (6, 2),
        f"{V}.lora_A.weight": (2, 5),
        f"{V}.lora_B.weight": (3, 2),
    }
    assert "library_name: peft" in (folder / "README.md").read_text()


def test_an_adapter_comes_back_as_it_was(place: Path) -> None:
    factors = {f"{Q}.lora_A.weight": drawn(2, 5), f"{Q}.lora_B.weight": drawn(6, 2, seed=1)}
    write_adapter(place / "adapter", factors, r=2, lora_alpha=3)
    update = {"op": "adapter", "path": "adapter", "base": "base"}
    result = run(place, {"base": NODES["base"], "update": update, "saved": SAVED})
    tensors = load_file(place / "out" / "lora" / "adapter_model.safetensors")
    assert len(tensors) == 2
    torch.testing.assert_close(
        product(tensors, Q), 1.5 * factors[f"{Q}.lora_B.weight"] @ factors[f"{Q}.lora_A.weight"], rtol=1e-5, atol=1e-5
    )
    assert result.facts["saved"]["relative_error"] < 1e-6

    again = {"update": {"op": "adapter", "path": "out/lora", "base": "base"}, "base": NODES["base"]}
    file = {"op": "save", "model": "update", "path": "delta.safetensors"}
    delta = load_file(lines_pipeline.run(write_nodes(place, {**again, "saved": file}), out=place / "again").files[0])
    torch.testing.assert_close(delta[f"{Q}.weight"], product(tensors, Q), rtol=1e-5, atol=1e-5)
    assert not delta[f"{V}.weight"].any()


def test_a_rank_above_the_directions_is_filled_with_zeros(place: Path) -> None:
    run(place, rank=9, dtype="bfloat16")
    tensors = load_file(place / "out" / "lora" / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    factor = tensors[f"{PREFIX}{V}.lora_A.weight"]
    assert factor.shape == (9, 5) and factor[:3].any() and not factor[3:].any()


def test_equal_recipes_give_equal_bytes_and_a_second_run_makes_nothing(place: Path) -> None:
    first = run(place)
    written = (place / "out" / "lora" / "adapter_model.safetensors").stat().st_mtime_ns
    second = run(place)
    assert (place / "out" / "lora" / "adapter_model.safetensors").stat().st_mtime_ns == written
    assert "saved" in second.cached and second.facts["saved"] == first.facts["saved"]
    run(place, out="other")
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (place / "out" / "lora" / name).read_bytes() == (place / "other" / "lora" / name).read_bytes()


@pytest.mark.parametrize("lost", ["model.embed_tokens.weight", "model.norm.weight", "model.conv.weight"])
def test_changes_that_lora_does_not_hold_are_refused_until_they_are_left_out(place: Path, lost: str) -> None:
    write_expert(place, {f"{Q}.weight": drawn(6, 5), lost: drawn(*SHAPES[lost])})
    with pytest.raises(LinesError) as error:
        run(place)
    assert all(words in str(error.value) for words in ("node 'saved'", f"tensor '{lost}' changes", "exclude: ["))
    assert not (place / "out").exists()
    run(place, {**NODES, "update": {**NODES["update"], "exclude": [lost]}})
    assert (place / "out" / "lora" / "adapter_config.json").exists()


def test_no_change_at_all_is_refused(place: Path) -> None:
    write_expert(place, {})
    with pytest.raises(LinesError, match="the update is zero everywhere"):
        run(place)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank": None}, "an adapter needs a 'rank'"),
        ({"path": "lora.safetensors"}, "an adapter is a folder: let 'path' end in /"),
        ({"model": "expert"}, "an adapter holds an update, but 'expert' gives weights; take its task vector first"),
        ({"max_shard_size": "5GB"}, "peft reads adapters from one file"),
        ({"format": "safetensors", "path": "x.safetensors"}, "'rank' is that of an adapter: say 'format: peft' too"),
    ],
)
def test_mistakes(place: Path, fields: dict[str, Any], words: str) -> None:
    saved = {key: value for key, value in {**SAVED, **fields}.items() if value is not None}
    with pytest.raises(LinesError) as error:
        lines_pipeline.validate(write_nodes(place, {**NODES, "saved": saved}))
    assert words in str(error.value)


def test_plan_tells_of_the_adapter_and_reads_nothing(place: Path) -> None:
    text = lines_pipeline.plan(write_nodes(place, NODES)).render()
    assert "saved: a LoRA adapter of rank 2, for those of 2 matrices that change" in text
    assert "while saved is carried out" in text


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, num_key_value_heads=1, **sizes))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=10, n_embd=8, n_layer=2, n_head=2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "matrices"), [(llama, "proj.weight"), (gpt2, "c_")])
def test_peft_opens_the_folder_and_adds_the_update(make: Callable[[], Any], matrices: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "base")
    expert = load_file(tmp_path / "base" / "model.safetensors")
    for seed, (name, value) in enumerate(sorted(expert.items())):
        if matrices in name and value.dim() == 2:
            expert[name] = value + drawn(value.shape[0], 2, seed=seed) @ drawn(2, value.shape[1], seed=seed + 100)
    save_file(expert, tmp_path / "expert.safetensors")
    run(tmp_path)

    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "out" / "lora"))
    merged = adapted.merge_and_unload().state_dict()
    for name, value in expert.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-4, atol=1e-5)

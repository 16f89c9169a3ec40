"""Adapters and quantised checkpoints are not models: ``load`` refuses them in one sentence. Their likes pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError

W = "model.layers.0.mlp.down_proj"
FLOATS = torch.ones(4, 4)
FLOAT8 = torch.ones(4, 4).to(torch.float8_e4m3fn)


def integers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.ones(shape or (4, 4)).to(dtype)


def recipe(folder: Path, tensors: dict[str, torch.Tensor], config: Any = None) -> Path:
    (folder / "m").mkdir()
    save_file({**tensors, "model.norm.weight": torch.ones(4)}, folder / "m" / "model.safetensors")
    if config is not None:
        (folder / "m" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    nodes = {
        "a": {"op": "load", "path": "m"},
        "same": {"op": "soup", "models": ["a"]},
        "saved": {"op": "save", "model": "same", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "loaded", "nodes": nodes}))
    return path


QUANTIZED: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "bnb 4": (
        "bitsandbytes (4 bits)",
        {
            f"{W}.weight": integers(torch.uint8, 8, 1),
            f"{W}.weight.absmax": integers(torch.uint8, 2),
            f"{W}.weight.quant_map": torch.ones(16),
            f"{W}.weight.quant_state.bitsandbytes__nf4": integers(torch.uint8, 9),
        },
    ),
    "bnb 8": (
        "bitsandbytes (8 bits)",
        {
            f"{W}.weight": integers(torch.int8),
            f"{W}.SCB": torch.ones(4),
            f"{W}.weight_format": integers(torch.uint8, 1),
        },
    ),
    "gptq": (
        "GPTQ",
        {
            f"{W}.qweight": integers(torch.int32),
            f"{W}.qzeros": integers(torch.int32),
            f"{W}.scales": FLOATS.half(),
            f"{W}.g_idx": integers(torch.int32, 4),
        },
    ),
    "awq": (
        "AWQ",
        {f"{W}.qweight": integers(torch.int32), f"{W}.qzeros": integers(torch.int32), f"{W}.scales": FLOATS.half()},
    ),
    "mlx": (
        "MLX",
        {f"{W}.weight": integers(torch.uint32), f"{W}.scales": FLOATS.half(), f"{W}.biases": FLOATS.half().clone()},
    ),
    "compressed-tensors": (
        "compressed-tensors",
        {f"{W}.weight_packed": integers(torch.int32), f"{W}.weight_scale": FLOATS},
    ),
    "mxfp4": (
        "MXFP4",
        {"experts.gate_up_proj_blocks": integers(torch.uint8), "experts.gate_up_proj_scales": integers(torch.uint8)},
    ),
    "hqq": ("HQQ", {f"{W}.W_q": integers(torch.uint8), f"{W}.scale": FLOATS, f"{W}.zero": FLOATS.clone()}),
    "aqlm": ("AQLM", {f"{W}.codes": integers(torch.int8), f"{W}.codebooks": FLOATS}),
    "DeepSeek": ("scaled fp8", {f"{W}.weight": FLOAT8, f"{W}.weight_scale_inv": torch.ones(1, 1)}),
    "DeepSeek's own": ("scaled fp8", {f"{W}.weight": FLOAT8, f"{W}.scale": torch.ones(1, 1)}),
    "one scale": ("scaled fp8", {f"{W}.weight": FLOAT8, f"{W}.weight_scale": torch.tensor(2.0)}),
    "ComfyUI": ("scaled fp8", {f"{W}.weight": FLOAT8, f"{W}.scale_weight": torch.tensor(2.0)}),
    "experts": ("scaled fp8", {"experts.down_proj": FLOAT8, "experts.down_proj_scale": FLOATS}),
    "int8 with scales": ("scaled integers", {f"{W}.weight": integers(torch.int8), f"{W}.weight_scale": FLOATS}),
}


@pytest.mark.parametrize(("scheme", "tensors"), QUANTIZED.values(), ids=QUANTIZED)
def test_quantised_checkpoints_are_refused_with_their_scheme(
    scheme: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match=r"recipe\.yaml:\d+:\d+: node 'a': m: quantised with .*load the model"
    ) as error:
        lines_pipeline.validate(recipe(tmp_path, tensors))
    assert scheme in str(error.value) and "\n" not in str(error.value)


def test_a_scheme_that_only_the_configuration_tells(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "spqr"}}
    with pytest.raises(CheckpointError, match=r"quantised \(spqr"):
        lines_pipeline.validate(recipe(tmp_path, {f"{W}.dense_weights": integers(torch.int32)}, config))


ADAPTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "peft": ("op: adapter", ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight")),
    "peft by name": ("op: adapter", ("q.lora_A.default.weight", "q.lora_B.default.weight")),
    "kohya": ("kohya", ("lora_unet_q.lora_up.weight", "lora_unet_q.lora_down.weight", "lora_unet_q.alpha")),
    "diffusers": (
        "diffusers",
        ("unet.attn1.processor.to_q_lora.up.weight", "unet.attn1.processor.to_q_lora.down.weight"),
    ),
    "MLX": ("MLX", ("model.layers.0.q_proj.lora_a", "model.layers.0.q_proj.lora_b")),
    "LoHa": ("LyCORIS", ("lora_unet_q.hada_w1_a", "lora_unet_q.hada_w1_b")),
    "LoKr": ("LyCORIS", ("lora_unet_q.lokr_w1", "lora_unet_q.lokr_w2_a")),
    "IA3": ("IA3", ("base_model.model.q.ia3_l",)),
    "unmerged": ("merge_and_unload", ("q.base_layer.weight", "q.lora_A.default.weight", "q.lora_B.default.weight")),
}


@pytest.mark.parametrize(("remedy", "names"), ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_are_refused_with_what_takes_them(remedy: str, names: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {name: torch.ones(2, 2) for name in names}
    with pytest.raises(CheckpointError, match=r"node 'a': m: a.* adapter") as error:
        lines_pipeline.validate(recipe(tmp_path, tensors))
    assert remedy in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_an_adapter_is_refused_too(tmp_path: Path) -> None:
    path = recipe(tmp_path, {"base_model.model.q.lora_A.weight": torch.ones(2, 2)})
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="use 'op: adapter'"):
        lines_pipeline.validate(path)


ORDINARY: dict[str, tuple[dict[str, torch.Tensor], Any]] = {
    "scales and biases": ({f"{W}.weight": FLOATS, f"{W}.scales": torch.ones(4), f"{W}.biases": torch.ones(4)}, None),
    "LayerScale": ({"visual.ls_1.gamma": torch.ones(4), "visual.scale": torch.ones(4), "visual.weight": FLOATS}, None),
    "plain fp8": ({f"{W}.weight": FLOAT8, f"{W}.bias": torch.ones(4)}, None),
    "a scale a channel": ({f"{W}.weight": FLOAT8, f"{W}.scale": torch.ones(4)}, None),
    "integer buffers": ({"position_ids": torch.arange(4), "relative_position_index": torch.ones(4, 4).long()}, None),
    "weight_scale of floats": ({f"{W}.weight": FLOATS, f"{W}.weight_scale": torch.ones(1)}, None),
    "a configuration left over": ({f"{W}.weight": FLOATS}, {"quantization_config": {"quant_method": "fp8"}}),
    "a configuration that is none": ({f"{W}.weight": FLOATS}, "{"),
    "low rank by design": ({"attn.q_a_proj.weight": FLOATS, "attn.lora.0.weight": FLOATS.clone()}, None),
    "blocks": ({"resblocks.0.attn_blocks": FLOATS, "resblocks.0.attn_scales": FLOATS.clone()}, None),
}


@pytest.mark.parametrize(("tensors", "config"), ORDINARY.values(), ids=ORDINARY)
def test_ordinary_models_pass(tensors: dict[str, torch.Tensor], config: Any, tmp_path: Path) -> None:
    assert lines_pipeline.validate(recipe(tmp_path, tensors, config)).notes == ()

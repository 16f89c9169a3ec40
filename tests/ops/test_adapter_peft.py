"""Adapters of transformers' models, as peft saves them, give what peft's own merge gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import APPLIED, write_nodes
from safetensors.torch import load_file

import lines_pipeline

pytestmark = [
    pytest.mark.usefixtures("shared_store"),
    pytest.mark.filterwarnings("ignore"),
]


def llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, num_key_value_heads=1, **sizes, **options))


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=10, **sizes))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=10, n_embd=8, n_layer=2, n_head=2))


def convolutional() -> Any:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"))


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama": (llama, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "rsLoRA by module": (
        llama,
        {
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 3},
            "alpha_pattern": {"model.layers.0.self_attn.v_proj": 16},
        },
    ),
    "DoRA": (llama, {"r": 2, "use_dora": True, "target_modules": ["q_proj", "up_proj"]}),
    "embeddings": (llama, {"r": 2, "target_modules": ["embed_tokens", "lm_head", "k_proj"]}),
    "biases of B": (bert, {"r": 2, "lora_bias": True, "target_modules": ["query", "value"]}),
    "trained biases": (bert, {"r": 2, "bias": "lora_only", "target_modules": ["query", "value"]}),
    "all biases": (bert, {"r": 2, "bias": "all", "target_modules": ["query"]}),
    "a head saved whole": (bert, {"r": 2, "target_modules": ["query"], "modules_to_save": ["classifier"]}),
    "weights stored in by out": (gpt2, {"r": 2, "target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "convolutions": (convolutional, {"r": 2, "target_modules": ["convolution"]}),
    "convolutions with DoRA": (convolutional, {"r": 2, "use_dora": True, "target_modules": ["convolution"]}),
}


def train(model: Any) -> None:
    """Give everything that an adapter trains other values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize(("make", "config"), CASES.values(), ids=CASES)
def test_the_merged_model_is_pefts(make: Callable[[], Any], config: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(**config))
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()

    tensors = load_file(lines_pipeline.run(write_nodes(tmp_path, APPLIED), out="out").files[0])
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert tensors.keys() == base.keys() <= merged.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-6)
    assert sum(not torch.equal(value, base[name]) for name, value in tensors.items()) > 1

"""Models that write text: dense, of experts, of states, and mixtures of these."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.family import GROUPED, LAYERS, PADDED, TEXT, Family

H = {"h": r"\.h\.(\d+)\."}

DECODERS: Mapping[str, Family] = {
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2}, H),
    "gpt-neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", PADDED, LAYERS),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", TEXT, LAYERS),
    "llama-tied": Family("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": True}, LAYERS),
    "mistral": Family("MistralForCausalLM", "MistralConfig", GROUPED, LAYERS),
    "mixtral": Family("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 2}, LAYERS),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "tie_word_embeddings": True}, LAYERS),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", GROUPED, LAYERS),
    "qwen3-moe": Family(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**GROUPED, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
        LAYERS,
    ),
    "qwen3-next": Family(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        LAYERS,
    ),
    "gemma": Family("GemmaForCausalLM", "GemmaConfig", GROUPED, LAYERS),
    "gemma2": Family("Gemma2ForCausalLM", "Gemma2Config", GROUPED, LAYERS),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED, LAYERS),
    "phi": Family("PhiForCausalLM", "PhiConfig", PADDED, LAYERS),
    "phi3": Family("Phi3ForCausalLM", "Phi3Config", PADDED, LAYERS),
    "opt": Family("OPTForCausalLM", "OPTConfig", {**PADDED, "ffn_dim": 32, "word_embed_proj_dim": 16}, LAYERS),
    "bloom": Family(
        "BloomForCausalLM", "BloomConfig", {"vocab_size": 40, "hidden_size": 16, "n_layer": 3, "n_head": 2}, H
    ),
    "falcon": Family("FalconForCausalLM", "FalconConfig", PADDED, H),
    "mamba": Family(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4},
        LAYERS,
    ),
    "jamba": Family(
        "JambaForCausalLM",
        "JambaConfig",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        LAYERS,
    ),
    "gpt-oss": Family(
        "GptOssForCausalLM", "GptOssConfig", {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}, LAYERS
    ),
    "deepseek-v3": Family(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **PADDED,
            "moe_intermediate_size": 8,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_key_value_heads": 2,
        },
        LAYERS,
    ),
    "llama4": Family(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {**GROUPED, "num_local_experts": 2, "intermediate_size_mlp": 32, "interleave_moe_layer_step": 1},
        LAYERS,
    ),
    "olmo2": Family("Olmo2ForCausalLM", "Olmo2Config", PADDED, LAYERS),
    "cohere": Family("CohereForCausalLM", "CohereConfig", PADDED, LAYERS),
    "granite": Family("GraniteForCausalLM", "GraniteConfig", PADDED, LAYERS),
    "starcoder2": Family("Starcoder2ForCausalLM", "Starcoder2Config", GROUPED, LAYERS),
}

"""Models of several towers: image and text, sound and text, pages."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.family import GROUPED, IMAGE, LAYER, PADDED, TEXT, Family

TWO_TOWERS = {
    "text": r"text_model\.encoder\.layers\.(\d+)\.",
    "visual": r"vision_model\.encoder\.layers\.(\d+)\.",
}

TOWERS: Mapping[str, Family] = {
    "clip": Family(
        "CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 8}, TWO_TOWERS
    ),
    "siglip": Family("SiglipModel", "SiglipConfig", {"text_config": TEXT, "vision_config": IMAGE}, TWO_TOWERS),
    "blip": Family(
        "BlipForConditionalGeneration",
        "BlipConfig",
        {
            "text_config": {**PADDED, "encoder_hidden_size": 16, "sep_token_id": 2},
            "vision_config": IMAGE,
            "projection_dim": 8,
        },
        {"text": r"encoder\.layer\.(\d+)\.", "visual": r"vision_model\.encoder\.layers\.(\d+)\."},
    ),
    "clap": Family(
        "ClapModel",
        "ClapConfig",
        {
            "text_config": PADDED,
            "projection_dim": 8,
            "audio_config": {
                "depths": [1, 2, 1],
                "num_attention_heads": [1, 2, 2],
                "hidden_size": 32,
                "patch_embeds_hidden_size": 8,
                "window_size": 2,
                "spec_size": 32,
                "num_mel_bins": 8,
                "projection_dim": 8,
            },
        },
        {"text": r"encoder\.layer\.(\d+)\.", "audio": r"layers\.(\d+)\.blocks\.(\d+)\."},
    ),
    "layoutlmv3": Family(
        "LayoutLMv3ForTokenClassification",
        "LayoutLMv3Config",
        {
            **PADDED,
            "max_2d_position_embeddings": 16,
            "coordinate_size": 4,
            "shape_size": 4,
            "hidden_size": 24,
            "input_size": 8,
            "patch_size": 4,
        },
        LAYER,
    ),
    "llava": Family(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "vision_config": {"model_type": "clip_vision_model", **IMAGE},
            "text_config": {"model_type": "llama", **TEXT},
            "image_token_index": 39,
        },
        {"visual": r"vision_tower\..*\.layers\.(\d+)\.", "text": r"language_model\..*layers\.(\d+)\."},
    ),
    "paligemma": Family(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "vision_config": {"model_type": "siglip_vision_model", **IMAGE},
            "text_config": {"model_type": "gemma", **GROUPED},
            "projection_dim": 16,
            "image_token_index": 39,
        },
        {"visual": r"vision_tower\..*layers\.(\d+)\.", "text": r"language_model\..*layers\.(\d+)\."},
    ),
    "gemma3-vision": Family(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {"text_config": GROUPED, "vision_config": IMAGE, "mm_tokens_per_image": 4},
        {"visual": r"vision_tower\..*layers\.(\d+)\.", "text": r"language_model\..*layers\.(\d+)\."},
    ),
    "smolvlm": Family(
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        {
            "vision_config": IMAGE,
            "text_config": {"model_type": "llama", **TEXT},
            "scale_factor": 2,
            "image_token_id": 39,
        },
        {"visual": r"vision_model\..*layers\.(\d+)\.", "text": r"text_model\..*layers\.(\d+)\."},
    ),
    "internvl": Family(
        "InternVLForConditionalGeneration",
        "InternVLConfig",
        {
            "vision_config": {**IMAGE, "image_size": [8, 8], "patch_size": [4, 4]},
            "text_config": {"model_type": "qwen2", **GROUPED},
            "image_token_id": 39,
        },
        {"visual": r"vision_tower\..*layer\.(\d+)\.", "text": r"language_model\..*layers\.(\d+)\."},
    ),
    "qwen2-vl": Family(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        {
            "text_config": {**GROUPED, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
            "image_token_id": 38,
            "video_token_id": 39,
        },
        {"visual": r"visual\.blocks\.(\d+)\.", "text": r"model\.layers\.(\d+)\."},
    ),
}

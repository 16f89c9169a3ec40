"""Names of tensors as models of many families have them, and headers of checkpoints that hold no data."""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ATTENTION = ("norm1.weight", "attn.qkv.weight", "mlp.fc1.weight", "mlp.fc2.weight")
CONVOLUTION = ("conv1.weight", "bn1.weight", "conv2.weight", "bn2.weight")


def header_only(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write a safetensors file whose data are a hole: nothing of it can be read but its header."""
    offset, header = 0, {}
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


def shapes_of(kind: str, **settings: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the floating-point tensors of a transformers model, made without memory."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModel
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        with torch.device("meta"):
            model = AutoModel.from_config(CONFIG_MAPPING[kind](**settings))
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if value.is_floating_point()}


def blocks(prefix: str, depth: int, parts: Iterable[str] = ATTENTION) -> list[str]:
    """Names of the tensors of ``depth`` blocks."""
    return [f"{prefix}{index}.{part}" for index in range(depth) for part in parts]


def stages(form: str, depths: Sequence[int], parts: Iterable[str] = CONVOLUTION, *, first: int = 0) -> list[str]:
    """Names of the tensors of blocks in stages; ``form`` has a place for the stage and one for the block."""
    places = [(stage, block) for stage, depth in enumerate(depths, start=first) for block in range(depth)]
    return [f"{form.format(stage, block)}.{part}" for stage, block in places for part in parts]


def expected_places(names: Iterable[str], towers: Mapping[str, str]) -> dict[str, tuple[str, int, int]]:
    """Tower, index and depth by name, from patterns: indices in all groups, counted on from stage to stage."""
    names = list(names)
    expected: dict[str, tuple[str, int, int]] = {}
    for tower, pattern in towers.items():
        matches = {name: match for name in names if (match := re.search(pattern, name))}
        indices = sorted({tuple(map(int, match.groups())) for match in matches.values()})
        expected |= {n: (tower, indices.index(tuple(map(int, m.groups()))), len(indices)) for n, m in matches.items()}
    return expected


V, T = {"num_hidden_layers": 3}, {"num_hidden_layers": 2}
ENCODER_DECODER = {"encoder_layers": 3, "decoder_layers": 2}
TWO_STACKS = {"encoder": r"^encoder\.layers\.(\d+)\.", "decoder": r"^decoder\.layers\.(\d+)\."}
LLAMA, RESNET = {"model_type": "llama", **T}, {"model_type": "resnet", "depths": [1, 2, 1, 1]}

TRANSFORMERS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "whisper": (ENCODER_DECODER, TWO_STACKS),
    "bart": ({"encoder_layers": 2, "decoder_layers": 4}, TWO_STACKS),
    "mbart": (ENCODER_DECODER, TWO_STACKS),
    "pegasus": (ENCODER_DECODER, TWO_STACKS),
    "marian": (ENCODER_DECODER, TWO_STACKS),
    "m2m_100": (ENCODER_DECODER, TWO_STACKS),
    "led": ({**ENCODER_DECODER, "attention_window": 4}, TWO_STACKS),
    "speech_to_text": (ENCODER_DECODER, TWO_STACKS),
    "prophetnet": ({"num_encoder_layers": 3, "num_decoder_layers": 2}, TWO_STACKS),
    "t5": (
        {"num_layers": 3, "num_decoder_layers": 2},
        {"encoder": r"^encoder\.block\.(\d+)\.", "decoder": r"^decoder\.block\.(\d+)\."},
    ),
    "seamless_m4t": (
        {**ENCODER_DECODER, "speech_encoder_layers": 4, "t2u_encoder_layers": 5, "t2u_decoder_layers": 6},
        {
            "text_encoder.layers": r"^text_encoder\.layers\.(\d+)\.",
            "audio": r"^speech_encoder\.encoder\.layers\.(\d+)\.",
            "text_decoder.layers": r"^text_decoder\.layers\.(\d+)\.",
            "encoder": r"^t2u_model\.model\.encoder\.layers\.(\d+)\.",
            "decoder": r"^t2u_model\.model\.decoder\.layers\.(\d+)\.",
            "resblocks": r"^vocoder\.hifi_gan\.resblocks\.(\d+)\.",
        },
    ),
    "clip": (
        {"text_config": T, "vision_config": V},
        {"text": r"^text_model\.encoder\.layers\.(\d+)\.", "visual": r"^vision_model\.encoder\.layers\.(\d+)\."},
    ),
    "siglip": (
        {"text_config": T, "vision_config": V},
        {"text": r"^text_model\.encoder\.layers\.(\d+)\.", "visual": r"^vision_model\.encoder\.layers\.(\d+)\."},
    ),
    "chinese_clip": (
        {"text_config": T, "vision_config": V},
        {"text": r"^text_model\.encoder\.layer\.(\d+)\.", "visual": r"^vision_model\.encoder\.layers\.(\d+)\."},
    ),
    "align": (
        {"text_config": T},
        {"text": r"^text_model\.encoder\.layer\.(\d+)\.", "visual": r"^vision_model\.encoder\.blocks\.(\d+)\."},
    ),
    "flava": (
        {"text_config": T, "image_config": V, "multimodal_config": {"num_hidden_layers": 4}},
        {
            "text": r"^text_model\.encoder\.layer\.(\d+)\.",
            "visual": r"^image_model\.encoder\.layer\.(\d+)\.",
            "encoder": r"^multimodal_model\.encoder\.layer\.(\d+)\.",
        },
    ),
    "blip": (
        {"text_config": T, "vision_config": V},
        {"text": r"^text_model\.encoder\.layer\.(\d+)\.", "visual": r"^vision_model\.encoder\.layers\.(\d+)\."},
    ),
    "blip-2": (
        {
            "qformer_config": {"num_hidden_layers": 4, "encoder_hidden_size": 64},
            "vision_config": {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4},
            "text_config": {"model_type": "opt", **T},
        },
        {
            "visual": r"^vision_model\.encoder\.layers\.(\d+)\.",
            "qformer": r"^qformer\.encoder\.layer\.(\d+)\.",
            "text": r"^language_model\.model\.decoder\.layers\.(\d+)\.",
        },
    ),
    "llava": (
        {"vision_config": {"model_type": "clip_vision_model", **V}, "text_config": LLAMA},
        {
            "visual": r"^vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\.",
            "text": r"^language_model\.layers\.(\d+)\.",
        },
    ),
    "idefics3": (
        {"vision_config": V, "text_config": LLAMA},
        {"visual": r"^vision_model\.encoder\.layers\.(\d+)\.", "text": r"^text_model\.layers\.(\d+)\."},
    ),
    "smolvlm": (
        {"vision_config": V, "text_config": LLAMA},
        {"visual": r"^vision_model\.encoder\.layers\.(\d+)\.", "text": r"^text_model\.layers\.(\d+)\."},
    ),
    "qwen2_vl": (
        {"vision_config": {"depth": 3}, "text_config": T},
        {"visual": r"^visual\.blocks\.(\d+)\.", "text": r"^language_model\.layers\.(\d+)\."},
    ),
    "paligemma": (
        {
            "vision_config": {"model_type": "siglip_vision_model", **V},
            "text_config": {"model_type": "gemma", **T},
        },
        {
            "visual": r"^vision_tower\.(?:vision_model\.)?encoder\.layers\.(\d+)\.",
            "text": r"^language_model\.layers\.(\d+)\.",
        },
    ),
    "internvl": (
        {"vision_config": V, "text_config": {"model_type": "qwen2", **T}},
        {"visual": r"^vision_tower\.encoder\.layer\.(\d+)\.", "text": r"^language_model\.layers\.(\d+)\."},
    ),
    "albert": (
        {"num_hidden_layers": 6, "num_hidden_groups": 3, "inner_group_num": 2},
        {"albert_layer_groups": r"^encoder\.albert_layer_groups\.(\d+)\."},
    ),
    "distilbert": ({"n_layers": 3}, {"layer": r"^transformer\.layer\.(\d+)\."}),
    "mpt": ({"n_layers": 3}, {"blocks": r"^blocks\.(\d+)\."}),
    "dinov2": (V, {"encoder": r"^encoder\.layer\.(\d+)\."}),
    "dinov3_vit": (V, {"layer": r"^(?:model\.)?layer\.(\d+)\."}),
    "xlnet": ({"n_layer": 3}, {"layer": r"^layer\.(\d+)\."}),
    "gpt2": ({"n_layer": 3}, {"h": r"^h\.(\d+)\."}),
    "gpt_neo": ({"num_layers": 2, "attention_types": [[["global", "local"], 1]]}, {"h": r"^h\.(\d+)\."}),
    "gpt_neox": (V, {"layers": r"^layers\.(\d+)\."}),
    "gptj": ({"n_layer": 3}, {"h": r"^h\.(\d+)\."}),
    "opt": (V, {"decoder": r"^decoder\.layers\.(\d+)\."}),
    "bloom": ({"n_layer": 3}, {"h": r"^h\.(\d+)\."}),
    "falcon": (V, {"h": r"^h\.(\d+)\."}),
    "mamba": (V, {"layers": r"^layers\.(\d+)\."}),
    "rwkv": (V, {"blocks": r"^blocks\.(\d+)\."}),
    "llama": (V, {"layers": r"^layers\.(\d+)\."}),
    "mixtral": (V, {"layers": r"^layers\.(\d+)\."}),
    "bert": (V, {"encoder": r"^encoder\.layer\.(\d+)\."}),
    "vit": (V, {"layers": r"^(?:encoder\.)?layers?\.(\d+)\."}),
    "efficientnet": ({}, {"blocks": r"^encoder\.blocks\.(\d+)\."}),
    "mobilenet_v2": ({}, {"layer": r"^layer\.(\d+)\."}),
    "swin": ({"depths": [1, 2, 3, 1]}, {"stages": r"^encoder\.layers\.(\d+)\.blocks\.(\d+)\."}),
    "convnext": ({"depths": [2, 1, 3, 1]}, {"stages": r"^encoder\.stages\.(\d+)\.layers\.(\d+)\."}),
    "resnet": ({"depths": [1, 2, 3, 1]}, {"stages": r"^encoder\.stages\.(\d+)\.layers\.(\d+)\."}),
    "regnet": ({"depths": [1, 2, 3, 1]}, {"stages": r"^encoder\.stages\.(\d+)\.layers\.(\d+)\."}),
    "segformer": ({"depths": [1, 2, 3, 1]}, {"stages": r"^stages\.(\d+)\.blocks\.(\d+)\."}),
    "wav2vec2": (V, {"encoder": r"^encoder\.layers\.(\d+)\."}),
    "hubert": (V, {"encoder": r"^encoder\.layers\.(\d+)\."}),
    "clap": (
        {"text_config": T, "audio_config": {"depths": [1, 2, 1, 1]}},
        {
            "text": r"^text_model\.encoder\.layer\.(\d+)\.",
            "audio": r"^audio_model\.audio_encoder\.layers\.(\d+)\.blocks\.(\d+)\.",
        },
    ),
    "detr": (
        {**ENCODER_DECODER, "use_timm_backbone": False, "backbone_config": {**RESNET, "out_features": ["stage4"]}},
        {
            "stages": r"^backbone\.(?:conv_encoder\.)?model\.encoder\.stages\.(\d+)\.layers\.(\d+)\.",
            **TWO_STACKS,
        },
    ),
}
"""By kind of model: settings that give every stack another depth, and what the towers are (indices in groups)."""

_EXPERT = [f"model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight" for i in range(3) for e in range(8)]
_UNET = "model.diffusion_model"
RECORDED: Mapping[str, tuple[Sequence[str], Mapping[str, int]]] = {
    "open_clip": (
        [*blocks("visual.transformer.resblocks.", 12), "visual.proj", *blocks("transformer.resblocks.", 6)],
        {"visual": 12, "text": 6},
    ),
    "open_clip wrapped": (blocks("model.visual.transformer.resblocks.", 12), {"visual": 12}),
    "open_clip SigLIP": (
        [*blocks("visual.trunk.blocks.", 4), *blocks("text.transformer.resblocks.", 3)],
        {"visual": 4, "text": 3},
    ),
    "open_clip ConvNeXt": (
        [*stages("visual.trunk.stages.{}.blocks.{}", [3, 3, 9, 3]), *blocks("text.transformer.resblocks.", 5)],
        {"visual": 18, "text": 5},
    ),
    "open_clip ResNet": (
        [*stages("visual.layer{}.{}", [3, 4, 6, 3], first=1), *blocks("transformer.resblocks.", 12)],
        {"visual": 16, "text": 12},
    ),
    "compiled, data parallel": (blocks("_orig_mod.module.model.layers.", 4), {"layers": 4}),
    "sentence-transformers": (
        [*blocks("0.auto_model.encoder.layer.", 6), "0.auto_model.embeddings.word.weight", "2.linear.weight"],
        {"encoder": 6},
    ),
    "bi-encoder by prefix": (
        [*blocks("query.encoder.layer.", 4), *blocks("document.encoder.layer.", 6)],
        {"query.encoder.layer": 4, "document.encoder.layer": 6},
    ),
    "bi-encoder in a list": (
        [*blocks("encoders.0.encoder.layer.", 4), *blocks("encoders.1.encoder.layer.", 4)],
        {"encoders.0.encoder.layer": 4, "encoders.1.encoder.layer": 4},
    ),
    "torchvision ViT": (blocks("encoder.layers.encoder_layer_", 5), {"encoder": 5}),
    "torchvision Swin": (
        [*stages("features.{}.{}", [0, 2, 0, 4], ATTENTION), "features.0.0.weight", "features.2.reduction.weight"],
        {"features": 6},
    ),
    "torchvision RegNet": (
        [
            f"trunk_output.block{s}.block{s}-{n}.f.{p}.0.weight"
            for s, d in ((1, 2), (2, 3))
            for n in range(d)
            for p in "abc"
        ],
        {"stages": 5},
    ),
    "torchvision DenseNet": (
        [
            f"features.denseblock{s}.denselayer{n}.{p}"
            for s, d in ((1, 6), (2, 4))
            for n in range(1, d + 1)
            for p in CONVOLUTION
        ],
        {"stages": 10},
    ),
    "ResNet": (
        [*stages("layer{}.{}", [3, 4, 6, 3], first=1), "fc.weight", "layer2.0.downsample.0.weight"],
        {"stages": 16},
    ),
    "timm ViT": ([*blocks("blocks.", 12), "patch_embed.proj.weight"], {"blocks": 12}),
    "timm ViT, chunked": ([f"blocks.{i // 4}.{i}.{part}" for i in range(12) for part in ATTENTION], {"blocks": 12}),
    "timm ConvNeXt": (
        [*stages("stages.{}.blocks.{}", [3, 3, 9, 3]), "stages.1.downsample.0.weight", "stages.1.downsample.1.weight"],
        {"stages": 18},
    ),
    "timm EfficientNet": (stages("blocks.{}.{}", [1, 2, 2, 3, 3, 4, 1]), {"blocks": 16}),
    "EfficientNet": (blocks("_blocks.", 16), {"_blocks": 16}),
    "timm Swin": (
        [*stages("layers.{}.blocks.{}", [2, 2, 6, 2], ATTENTION), "layers.1.downsample.reduction.weight"],
        {"stages": 12},
    ),
    "timm RegNet": (stages("s{}.b{}", [2, 4, 6], first=1), {"stages": 12}),
    "timm CaiT": ([*blocks("blocks.", 6), *blocks("blocks_token_only.", 2)], {"blocks": 8}),
    "SegFormer": (
        [
            *stages("segformer.encoder.block.{}.{}", [2, 1, 2, 3], ATTENTION),
            *blocks("segformer.encoder.patch_embeddings.", 4, ("proj.weight", "layer_norm.weight")),
        ],
        {"block": 8},
    ),
    "T5": (
        [
            *blocks("encoder.block.", 3, ("layer.0.SelfAttention.q.weight", "layer.1.DenseReluDense.wi.weight")),
            *blocks("decoder.block.", 2, ("layer.0.SelfAttention.q.weight", "layer.1.EncDecAttention.q.weight")),
        ],
        {"encoder": 3, "decoder": 2},
    ),
    "experts": ([*_EXPERT, *blocks("model.layers.", 3, ("self_attn.q.weight",))], {"layers": 3}),
    "LLaVA": (
        [*blocks("vision_tower.vision_model.encoder.layers.", 5), *blocks("language_model.model.layers.", 7)],
        {"visual": 5, "text": 7},
    ),
    "DETR": (
        [
            *stages("backbone.conv_encoder.model.layer{}.{}", [3, 4], first=1),
            *blocks("encoder.layers.", 6),
            *blocks("decoder.layers.", 5),
        ],
        {"stages": 7, "encoder": 6, "decoder": 5},
    ),
    "Stable Diffusion": (
        [
            *blocks(f"{_UNET}.input_blocks.", 12, ("0.in_layers.0.weight", "1.norm.weight")),
            *blocks(f"{_UNET}.middle_block.", 3, ("in_layers.0.weight",)),
            *blocks(f"{_UNET}.output_blocks.", 12, ("0.in_layers.0.weight", "1.norm.weight")),
            *blocks("cond_stage_model.transformer.text_model.encoder.layers.", 4),
        ],
        {"unet": 25, "text": 4},
    ),
    "SDXL": (
        [
            *blocks(f"{_UNET}.input_blocks.", 9, ("0.in_layers.0.weight", "1.transformer_blocks.0.attn1.weight")),
            *blocks(f"{_UNET}.middle_block.", 3, ("in_layers.0.weight",)),
            *blocks(f"{_UNET}.output_blocks.", 9, ("0.in_layers.0.weight",)),
            *blocks("conditioner.embedders.0.transformer.text_model.encoder.layers.", 3),
            *blocks("conditioner.embedders.1.model.transformer.resblocks.", 5),
        ],
        {
            "unet": 19,
            "conditioner.embedders.0.transformer.text_model.encoder.layers": 3,
            "conditioner.embedders.1.model.transformer.resblocks": 5,
        },
    ),
    "diffusers UNet": (
        [
            *blocks("down_blocks.", 4, ("resnets.0.conv1.weight", "resnets.1.conv1.weight")),
            "mid_block.resnets.0.conv1.weight",
            *blocks("up_blocks.", 4, ("resnets.0.conv1.weight", "resnets.1.conv1.weight", "resnets.2.conv1.weight")),
        ],
        {"unet": 9},
    ),
    "FLUX": ([*blocks("double_blocks.", 19), *blocks("single_blocks.", 38)], {"blocks": 57}),
    "FLUX, diffusers": (
        [*blocks("transformer_blocks.", 19), *blocks("single_transformer_blocks.", 38)],
        {"blocks": 57},
    ),
    "SD3": (blocks("model.diffusion_model.joint_blocks.", 24), {"joint_blocks": 24}),
    "lists of single layers": ([*blocks("layers.", 4, ("weight", "bias"))], {"layers": 4}),
}
"""Layouts as files have them, and the depth of every tower."""

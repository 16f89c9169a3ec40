"""Layer maps of every family, on names as the real models have them."""

from __future__ import annotations

import pytest

from lines_pipeline.core.errors import PlanError
from lines_pipeline.io.layers import find_layers


def names(*patterns: str, depth: int = 12) -> list[str]:
    """Names with ``{}`` counted up to ``depth``."""
    return [pattern.format(i) for pattern in patterns for i in (range(depth) if "{}" in pattern else (0,))]


CLIP_VISUAL = ["visual.transformer.resblocks.{}.attn.in_proj_weight", "visual.transformer.resblocks.{}.mlp.c_fc.weight"]
STAGES = {0: 3, 1: 3, 2: 9, 3: 3}
FAMILIES = {
    "open_clip": (
        names(*CLIP_VISUAL, "visual.proj", "transformer.resblocks.{}.ln_1.weight"),
        {"visual": 12, "text": 12},
    ),
    "open_clip wrapped": (names("model.visual.transformer.resblocks.{}.ln_1.bias"), {"visual": 12}),
    "open_clip timm": (names("visual.trunk.blocks.{}.attn.qkv.weight", "visual.head.proj.weight"), {"visual": 12}),
    "HF CLIP": (
        names("vision_model.encoder.layers.{}.mlp.fc1.weight", depth=24)
        + names("text_model.encoder.layers.{}.layer_norm1.bias"),
        {"visual": 24, "text": 12},
    ),
    "HF ViT": (names("vit.encoder.layer.{}.attention.attention.query.weight", "classifier.weight"), {"encoder": 12}),
    "BERT": (names("bert.encoder.layer.{}.output.dense.weight", "bert.pooler.dense.weight"), {"encoder": 12}),
    "RoBERTa": (names("roberta.encoder.layer.{}.intermediate.dense.bias", depth=24), {"encoder": 24}),
    "timm ViT": (names("blocks.{}.attn.qkv.weight", "patch_embed.proj.weight"), {"blocks": 12}),
    "timm ViT chunked": ([f"blocks.{i // 4}.{i}.mlp.fc1.weight" for i in range(12)], {"blocks": 12}),
    "T5": (
        names(
            "encoder.block.{}.layer.0.SelfAttention.q.weight",
            "decoder.block.{}.layer.2.DenseReluDense.wi.weight",
            depth=6,
        ),
        {"encoder": 6, "decoder": 6},
    ),
    "GPT-2": (names("transformer.h.{}.attn.c_attn.weight", "h.{}.ln_1.weight"), {"h": 12}),
    "LLaMA": (names("model.layers.{}.self_attn.q_proj.weight", "model.embed_tokens.weight", depth=32), {"layers": 32}),
    "LLaVA": (
        names("vision_tower.vision_model.encoder.layers.{}.mlp.fc1.weight", depth=24)
        + names("language_model.model.layers.{}.mlp.up_proj.weight", depth=32),
        {"text": 32},
    ),
    "ConvNeXt timm": (
        [f"stages.{s}.blocks.{b}.mlp.fc1.weight" for s, n in STAGES.items() for b in range(n)]
        + ["stages.1.downsample.0.weight"],
        {"stages": 18},
    ),
    "ConvNeXt HF": (
        [f"convnext.encoder.stages.{s}.layers.{b}.dwconv.weight" for s, n in STAGES.items() for b in range(n)],
        {"stages": 18},
    ),
    "ResNet": (
        [f"layer{s}.{b}.conv1.weight" for s, n in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for b in range(n)]
        + ["fc.weight"],
        {"stages": 16},
    ),
}


@pytest.mark.parametrize(("found", "depths"), FAMILIES.values(), ids=FAMILIES)
def test_depths_of_every_family(found: list[str], depths: dict[str, int]) -> None:
    layers = find_layers(found)
    assert layers.depths == depths
    for tower, depth in depths.items():
        assert {index for at, index in layers.blocks.values() if at == tower} == set(range(depth))


def test_blocks_count_over_stages_in_order() -> None:
    layers = find_layers(FAMILIES["ResNet"][0])
    assert layers.place("layer1.0.conv1.weight") == (0, 16)
    assert layers.place("layer2.0.conv1.weight") == (3, 16)
    assert layers.place("layer4.2.conv1.weight") == (15, 16)
    assert layers.place("fc.weight") is None


def test_the_first_number_in_a_name_is_not_the_block() -> None:
    layers = find_layers(FAMILIES["T5"][0])
    assert layers.blocks["decoder.block.3.layer.2.DenseReluDense.wi.weight"] == ("decoder", 3)


def test_a_regex_is_searched_anywhere() -> None:
    layers = find_layers([f"net.stack_{i}.w" for i in range(3)], r"stack_(\d+)")
    assert layers.place("net.stack_2.w") == (2, 3)


@pytest.mark.parametrize(
    ("found", "pattern", "message"),
    [
        (["a.weight", "b.weight"], "auto", "no blocks found"),
        (["h.0.w"], "auto", "at least two"),
        (["h.0.w", "h.2.w"], "auto", r"blocks \[1\]"),
        (["h.1.w", "h.2.w"], "auto", r"blocks \[0\]"),
        (["a.0", "a.1"], "(", "bad regular expression"),
        (["a.0", "a.1"], r"\d", "needs a group"),
        (["a.0", "a.1"], r"(a)\.", "not a number"),
        (["a.0", "a.1"], r"q(\d)", "no tensor name matches"),
    ],
)
def test_maps_that_cannot_be_are_refused(found: list[str], pattern: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        find_layers(found, pattern)

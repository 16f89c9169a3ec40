"""What the names of stacks mean: tables of words, of stacks that make up one tower, and of what towers are called."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple


class Role(Enum):
    """Says what a list of modules is, by its name."""

    DEPTH = "blocks"
    """A forward pass takes them one after the other."""
    UNKNOWN = "a list whose name does not say whether it is depth"
    PARALLEL = "modules side by side, not blocks one after the other"
    EMBEDDINGS = "embeddings, before the blocks"
    CONVOLUTIONS = "convolutions before, between or after the blocks"
    PROJECTIONS = "projections, between towers or after them"
    NORMS = "norms"

    @property
    def is_aside(self) -> bool:
        """Return whether lists in a module of such a name are no depth either."""
        return self in (Role.EMBEDDINGS, Role.CONVOLUTIONS, Role.PROJECTIONS)

    @property
    def may_be_depth(self) -> bool:
        """Return whether leaving such a list out of the towers may be wrong."""
        return self in (Role.DEPTH, Role.UNKNOWN, Role.PARALLEL)


_WORDS = {
    Role.PARALLEL: "expert experts head heads branch branches adapter adapters lora loras classifier classifiers "
    "classes quantizer quantizers codebook codebooks ensemble",
    Role.EMBEDDINGS: "embed embeds embedder embedders embedding embeddings prompt prompts token tokens query queries",
    Role.CONVOLUTIONS: "conv convs conv1d conv2d convolution convolutions stem downsample downsampling downsampler "
    "downsamplers downsamples upsample upsampling upsampler upsamplers subsample subsampling shortcut",
    Role.PROJECTIONS: "proj projs projection projections projector projectors merger mergers connector connectors "
    "mlp mlps readout readouts",
    Role.NORMS: "norm norms norm1 norm2 norm3 layernorm layernorms batchnorm",
}
_ROLES = {word: role for role, words in _WORDS.items() for word in words.split()}
_DEPTH = re.compile(
    r"_?(?:\w+_)?(?:(?:dense)?layers?|(?:dense|res)?blocks?|stages?|levels?|units?|cells?)[_-]?#?|_?h|(?:s|b|res)#"
)

STAGES = frozenset({"features", "network", "down", "up"})
"""Lists whose elements may be stages of blocks, beside those with a word for depth in their names."""
BACKWARDS = frozenset({"up"})
"""Stages that a forward pass takes from the last to the first (the decoder of Stable Diffusion's autoencoder)."""
SHARED = frozenset({"albert_layer_groups"})
"""Lists of blocks that several layers share, one after the other: what a block is made of is no depth."""


def role_of(word: str) -> Role:
    """Return what the name of a list (``layers``; ``layer#`` for ``layer1``, ``layer2``) says of it."""
    for part in word.rstrip("#").lower().split("_"):
        if part in _ROLES:
            return _ROLES[part]
    return Role.DEPTH if word in SHARED or _DEPTH.fullmatch(word) else Role.UNKNOWN


class Part(NamedTuple):
    """Describes a part of a tower of several modules: its names, and whether it is one block as a whole."""

    names: tuple[str, ...]
    one_block: bool = False


SEQUENCES = (
    (
        Part(("input_blocks", "down_blocks", "in_blocks")),
        Part(("middle_block", "mid_block", "mid_blocks"), one_block=True),
        Part(("output_blocks", "up_blocks", "out_blocks")),
    ),
    (Part(("double_blocks", "double_layers")), Part(("single_blocks", "single_layers"))),
    (Part(("joint_transformer_blocks", "transformer_blocks")), Part(("single_transformer_blocks",))),
    (Part(("blocks",)), Part(("blocks_token_only", "cls_attn_blocks"))),
)
"""Modules side by side that a forward pass takes one after the other, and that are one tower: UNets, FLUX, CaiT."""


class Family(NamedTuple):
    """Describes a family of models: how the path of its blocks ends, and the names of tower and family."""

    ending: str
    tower: str
    name: str


_FAMILIES = (
    Family(r"visual\.transformer\.resblocks\.N", "visual", "open_clip"),
    Family(r"(text\.)?transformer\.resblocks\.N", "text", "open_clip"),
    Family(r"visual\.trunk\..*", "visual", "open_clip with a timm trunk"),
    Family(r"visual\.layerS\.N", "visual", "open_clip"),
    Family(r"vision_model\.encoder\.layers\.N", "visual", "HF CLIP, SigLIP"),
    Family(r"text_model\.encoder\.layers\.N", "text", "HF CLIP, SigLIP"),
    Family(r"encoder\.layer\.N", "encoder", "encoder.layer as in BERT"),
    Family(r"encoder\.block\.N", "encoder", "block as in T5"),
    Family(r"decoder\.block\.N", "decoder", "block as in T5"),
    Family(r"encoder\.layers\.N", "encoder", "encoder and decoder layers as in BART"),
    Family(r"decoder\.layers\.N", "decoder", "encoder and decoder layers as in BART"),
    Family(r"encoder\.layers\.encoder_layer_N", "encoder", "torchvision ViT"),
    Family(r"stages\.S\.blocks\.N", "stages", "stages of blocks as in ConvNeXt (timm)"),
    Family(r"stages\.S\.layers\.N", "stages", "stages of layers as in ConvNeXt (HF)"),
    Family(r"layers\.S\.blocks\.N", "stages", "stages of blocks as in Swin"),
    Family(r"layerS\.N|resS\.N", "stages", "ResNet"),
    Family(r"sS\.bN|blockS\.block-N", "stages", "RegNet"),
    Family(r"denseblockS\.denselayerN", "stages", "DenseNet"),
    Family(r"blocks\.N then .*", "blocks", "blocks as in CaiT"),
    Family(r"blocks\.N", "blocks", "blocks as in timm ViT"),
    Family(r"h\.N", "h", "h as in GPT-2"),
    Family(r"layers\.N", "layers", "layers as in LLaMA"),
    Family(r".*(middle_block|mid_blocks?).*", "unet", "UNet"),
    Family(r"double_blocks.*", "blocks", "FLUX"),
    Family(r"transformer_blocks.*", "blocks", "diffusion transformer"),
)
_MODALITIES = (
    (re.compile(r"(^|[._])(qformer|q_former)[._]"), "qformer"),
    (re.compile(r"(^|[._])(vision|visual|image|img|video)[._]"), "visual"),
    (re.compile(r"(^|[._])(audio|speech|acoustic)[._]"), "audio"),
    (re.compile(r"(^|[._])(text|language|llm|txt)[._]"), "text"),
)


def family_of(path: str) -> tuple[str, str]:
    """Return a short name for the tower whose blocks stand at ``path``, and its family (empty where none is known)."""
    for ending, tower, name in _FAMILIES:
        if re.search(rf"(^|\.)({ending})$", path):
            return _modality(path) or tower, name
    words = [word for word in path.split(".") if word not in ("N", "S")]
    return _modality(path) or re.sub(r"[SN_]+$", "", words[-1] if words else "") or "blocks", ""


def _modality(path: str) -> str:
    return next((name for pattern, name in _MODALITIES if pattern.search(path)), "")

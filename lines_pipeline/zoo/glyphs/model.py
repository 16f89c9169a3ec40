"""Defines the zoo's model: a pre-norm vision transformer whose tensors are named as open_clip names them."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.nn import functional

from lines_pipeline.zoo.glyphs.domains import IMAGE_SIZE

WIDTH, BLOCKS, HEADS, EMBEDDING = 64, 8, 2, 64
LOGIT_SCALE = 16.0


class Attention(nn.Module):
    """Applies multi-head self-attention over [batch, tokens, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * WIDTH, WIDTH))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * WIDTH))
        self.out_proj = nn.Linear(WIDTH, WIDTH)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, _ = tokens.shape
        projected = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(batch, count, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, count, WIDTH))
        return out


class Mlp(nn.Module):
    """Applies two layers with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c_proj(functional.gelu(self.c_fc(tokens)))
        return out


class ResidualBlock(nn.Module):
    """Applies a pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(WIDTH), Attention()
        self.ln_2, self.mlp = nn.LayerNorm(WIDTH), Mlp()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.ln_1(tokens))
        out: torch.Tensor = tokens + self.mlp(self.ln_2(tokens))
        return out


class Transformer(nn.Module):
    """Applies the stack of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([ResidualBlock() for _ in range(BLOCKS)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.resblocks:
            tokens = block(tokens)
        return tokens


class VisualEncoder(nn.Module):
    """Maps images [n, 1, 20, 20] to unit features [n, EMBEDDING]; tokens are pooled by their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTH // 2, 3, 2, 1)
        self.conv2 = nn.Conv2d(WIDTH // 2, WIDTH, 3, 2, 1)
        self.positional_embedding = nn.Parameter(torch.randn((IMAGE_SIZE // 4) ** 2, WIDTH) * 0.02)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBEDDING) * WIDTH**-0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.conv2(functional.gelu(self.conv1((images - 0.2) / 0.35)))
        tokens = self.ln_pre(patches.flatten(2).transpose(1, 2) + self.positional_embedding)
        return functional.normalize(self.ln_post(self.transformer(tokens)).mean(1) @ self.proj, dim=-1)


class GlyphEncoder(nn.Module):
    """Defines the zoo's checkpoint: an image encoder under the name that CLIP gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = VisualEncoder()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.visual(images)
        return features


def class_scores(features: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Return the cosine of features [n, EMBEDDING] with class vectors [classes, EMBEDDING], as logits."""
    return LOGIT_SCALE * features @ functional.normalize(head, dim=-1).T


def block_of(parameter: str) -> int:
    """Return the block that a parameter counts as: -1 for what precedes the blocks, the last for what follows them."""
    block = re.search(r"resblocks\.(\d+)\.", parameter)
    if block:
        return int(block[1])
    return BLOCKS - 1 if parameter.startswith(("visual.ln_post", "visual.proj")) else -1

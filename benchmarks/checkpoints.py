"""Checkpoints to merge, made of random numbers: a pretrained model and experts near it, shaped like a ViT of open_clip.

A folder holds one size. What is there already is kept, so that runs with more experts add only what is missing.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

Shapes = Mapping[str, tuple[int, ...]]

BLOCKS = 12
VOCABULARY = 49408
BASE_DEVIATION = 0.02
UPDATE_DEVIATION = 0.001


@dataclass(frozen=True)
class Checkpoints:
    """A pretrained model and its experts, as safetensors files of float32 tensors."""

    base: Path
    experts: tuple[Path, ...]
    parameters: int
    """Parameters of one model."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every input of a merge, the pretrained model first."""
        return (self.base, *self.experts)

    @property
    def bytes_total(self) -> int:
        """What a merge must read at least."""
        return sum(path.stat().st_size for path in self.files)


def generate(root: Path, experts: int, parameters: float) -> Checkpoints:
    """Make ``experts`` checkpoints of about ``parameters`` parameters under ``root``, or find them there."""
    shapes = vit_shapes(parameters)
    count = parameter_count(shapes)
    folder = root / f"vit_{count}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "base.safetensors", *(folder / f"expert{i:02}.safetensors" for i in range(experts))]
    for number, path in enumerate(paths):
        if not path.exists():
            _write(path, shapes, number)
    return Checkpoints(paths[0], tuple(paths[1:]), count)


def vit_shapes(parameters: float) -> Shapes:
    """The tensors of the ViT whose width, a multiple of 16, brings it nearest to that many parameters.

    113e6 gives the width 768 of ViT-B/32: its image tower, and the token embedding of its text tower.
    """
    widths = range(48, 8192, 16)
    return _shapes(min(widths, key=lambda width: abs(parameter_count(_shapes(width)) - parameters)))


def parameter_count(shapes: Shapes) -> int:
    """How many numbers a model of these tensors has."""
    return sum(math.prod(shape) for shape in shapes.values())


def _shapes(width: int) -> Shapes:
    joint = width * 2 // 3
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "token_embedding.weight": (VOCABULARY, joint),
        "visual.class_embedding": (width,),
        "visual.conv1.weight": (width, 3, 32, 32),
        "visual.positional_embedding": (50, width),
        "visual.proj": (width, joint),
    }
    for norm in ("visual.ln_pre", "visual.ln_post"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for index in range(BLOCKS):
        block = f"visual.transformer.resblocks.{index}."
        shapes |= {block + name: shape for name, shape in _block_shapes(width).items()}
    return shapes


def _block_shapes(width: int) -> Shapes:
    norms = {f"{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    return norms | {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }


def _write(path: Path, shapes: Shapes, number: int) -> None:
    """Write model ``number`` (0 is the pretrained one) tensor by tensor; the file appears under its name when whole."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(_header(shapes))
        for tensor in _tensors(shapes, number):
            file.write(tensor.numpy().data)
    os.replace(partial, path)


def _header(shapes: Shapes) -> bytes:
    fields, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 4 * math.prod(shape)
        fields[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensors(shapes: Shapes, number: int) -> Iterator[torch.Tensor]:
    for name, shape in shapes.items():
        tensor = BASE_DEVIATION * _normal(shape, name, 0)
        yield tensor if number == 0 else tensor.add_(_normal(shape, name, number), alpha=UPDATE_DEVIATION)


def _normal(shape: tuple[int, ...], name: str, number: int) -> torch.Tensor:
    seed = zlib.crc32(f"{number}/{name}".encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

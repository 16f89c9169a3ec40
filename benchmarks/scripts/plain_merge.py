"""A merge as a short script does it: load everything, stack the flattened models, work on the whole stack at once.

``python plain_merge.py SETTINGS.json``; the settings are written by ``benchmarks/tools.py``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]

BLOCK = re.compile(r"resblocks\.(\d+)\.")


def main() -> None:
    """Load, merge, save."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    base = load_file(settings["base"])
    names = sorted(base)
    flat_base = flatten(base, names)
    updates = torch.stack([flatten(load_file(path), names) - flat_base for path in settings["experts"]])
    merged = updates.sum(0) if settings["method"].startswith("task-arithmetic") else ties(updates, settings["density"])
    merged *= scales(settings, base, names, updates, merged)
    save_file(unflatten(flat_base + merged, base, names), settings["output"])


def flatten(state: State, names: list[str]) -> torch.Tensor:
    """One long vector of all tensors."""
    return torch.cat([state[name].flatten() for name in names])


def unflatten(vector: torch.Tensor, like: State, names: list[str]) -> State:
    """The tensors that ``flatten`` joined."""
    parts = vector.split([like[name].numel() for name in names])  # type: ignore[no-untyped-call]
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}


def ties(updates: torch.Tensor, density: float) -> torch.Tensor:
    """Trim every row at the magnitude that leaves ``density`` of it, elect signs, average what agrees."""
    magnitudes = updates.abs()
    rank = updates.shape[1] - int(updates.shape[1] * density)
    trimmed = updates * (magnitudes >= magnitudes.kthvalue(rank, dim=1, keepdim=True).values)
    sign = trimmed.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    agreeing = trimmed * (trimmed.sign() == sign)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


def scales(
    settings: dict[str, Any], base: State, names: list[str], updates: torch.Tensor, merged: torch.Tensor
) -> torch.Tensor | float:
    """The factor of every entry: one number, or with LiNeS one that grows from block to block."""
    if not settings["method"].endswith("-lines"):
        return float(settings["coefficient"])
    alpha = float(updates.sum(0).abs().sum() / merged.abs().sum()) / len(updates)
    depths = [int(match[1]) if (match := BLOCK.search(name)) else 0 for name in names]
    factors = torch.tensor([alpha + settings["beta"] * depth / max(depths) for depth in depths])
    return factors.repeat_interleave(torch.tensor([base[name].numel() for name in names]))


if __name__ == "__main__":
    main()

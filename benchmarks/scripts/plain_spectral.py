"""TSV-M and Iso-C as the papers write them: all models in memory, torch's decomposition of every matrix.

``python plain_spectral.py SETTINGS.json``; the settings are written by ``benchmarks/spectral.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Load, merge, save."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    base = {name: value.float() for name, value in load_file(settings["base"]).items()}
    experts = [load_file(path) for path in settings["experts"]]
    merge = {"tsv-m": tsv_m, "iso-c": iso_c}[settings["method"]]
    merged = {}
    for name, value in base.items():
        updates = [expert[name].float() - value for expert in experts]
        update = merge(updates) if value.ndim == 2 else sum(updates) / len(updates)
        merged[name] = (value + update).bfloat16()
    save_file(merged, settings["output"])


def iso_c(updates: list[torch.Tensor]) -> torch.Tensor:
    """The polar factor of the sum, times the mean singular value."""
    left, values, right = torch.linalg.svd(torch.stack(updates).sum(0), full_matrices=False)
    merged: torch.Tensor = values.mean() * (left @ right)
    return merged


def tsv_m(updates: list[torch.Tensor]) -> torch.Tensor:
    """R/N triplets of every update, side by side, with the polar factors of both sides in place of their vectors."""
    rank = int(min(updates[0].shape) * (1 / len(updates)))
    parts = [torch.linalg.svd(update, full_matrices=False) for update in updates]
    left = torch.cat([part[0][:, :rank] for part in parts], 1)
    values = torch.cat([part[1][:rank] for part in parts])
    right = torch.cat([part[2][:rank] for part in parts])
    return (polar(left) * values) @ polar(right)


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal polar factor."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    factor: torch.Tensor = left @ right
    return factor


if __name__ == "__main__":
    main()

"""Says where the pretrained models lie."""

from __future__ import annotations

from pathlib import Path

BASES = 3
"""Models that ship: seeds of pretraining."""


def base_file(base: int) -> Path:
    """Return the file of a pretrained model, 0..BASES-1."""
    return Path(__file__).parent / "weights" / f"base{base}.safetensors"

"""Models of many families, as small as their classes allow, that transformers makes without a network."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.decoders import DECODERS
from tiny_models.encoders import ENCODERS
from tiny_models.family import Family
from tiny_models.images import IMAGES
from tiny_models.sequences import SEQUENCES
from tiny_models.towers import TOWERS

FAMILIES: Mapping[str, Family] = {**ENCODERS, **DECODERS, **SEQUENCES, **IMAGES, **TOWERS}
"""By name; every one of these is written, merged, and opened again by the tests."""

__all__ = ["FAMILIES", "Family"]

"""Says how the experts of each family are tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lines_pipeline.zoo.entries import Report
from lines_pipeline.zoo.glyphs.experts import fine_tune
from lines_pipeline.zoo.glyphs.model import GlyphEncoder
from lines_pipeline.zoo.glyphs.variants import tune_decayed, tune_pulled, tune_reward, tune_soup

TUNED: Mapping[str, Callable[[str, int, int, Report], GlyphEncoder]] = {
    "glyphs": partial(fine_tune, "glyphs"),
    "glyphs-domains": partial(fine_tune, "glyphs-domains"),
    "glyphs-soup": tune_soup,
    "glyphs-rewards": tune_reward,
    "glyphs-decayed": tune_decayed,
    "glyphs-pulled": tune_pulled,
}
"""By family: makes an expert, given its name, base and seed, and what hears of its steps."""

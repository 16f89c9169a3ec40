"""What ops that scale by depth have in common: their regular expressions, and what ``plan`` says of their blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.patterns import Pattern, PatternError
from lines_pipeline.core.printable import printable, shortened
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.explanations import OpExplanation

LayerPatterns = str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
"""Finds blocks: ``auto``, or a regex with a group for the block's index, or several, one a tower."""
LAYER_MAP = "Layer map: auto, or a regex with a group for the block's index, or a list, one a tower."
"""Describes a parameter of that type."""


class Place(NamedTuple):
    """Tells where a tensor is: in which block (from 0) of how many, and in which tower (from 0)."""

    block: int
    depth: int
    tower: int = 0


def place_of(layers: LayerMap, block: tuple[str, int]) -> Place:
    """Return the place of a block, which a layer map tells by tower and index."""
    tower, index = block
    return Place(index, layers.depths[tower], list(layers.depths).index(tower))


def pattern_diagnostics(blocks: str | tuple[str, ...], field: str) -> Iterator[Diagnostic]:
    """Yield what is wrong with regular expressions for a block's index; ``field`` is the parameter that holds them."""
    if isinstance(blocks, tuple):
        for index, text in enumerate(blocks):
            yield from _diagnostics(text, (field, index))
    elif blocks != "auto":
        yield from _diagnostics(blocks, (field,))


def _diagnostics(text: str, path: tuple[str | int, ...]) -> Iterator[Diagnostic]:
    try:
        groups = Pattern(text).groups
    except PatternError as error:
        yield Diagnostic(path, str(error))
        return
    if not groups:
        shown = shortened(text)
        yield Diagnostic(path, rf"expected a group for the block's index, such as (\d+), found '{shown}'")


def explain_blocks(
    layers: LayerMap, outside: str, said: Callable[[Place], str], scale: Callable[[Place], float] | None
) -> OpExplanation:
    """Explain the layer map and every block's factor: ``said`` in a line each, ``scale`` in numbers once known."""
    shares, paths = layers.shares(), layers.paths
    depths = ", ".join(
        f"{tower}: {depth} blocks, {shares[tower]:.1%} of the parameters, {printable(paths[tower])}"
        for tower, depth in layers.depths.items()
    )
    places = {
        tower: [place_of(layers, (tower, index)) for index in range(depth)] for tower, depth in layers.depths.items()
    }
    texts = {tower: [said(place) for place in of_tower] for tower, of_tower in places.items()}
    below = [
        f"{tower} block {index}: {text}" for tower, of_tower in texts.items() for index, text in enumerate(of_tower)
    ]
    return OpExplanation(
        (f"layer map {layers.family} ({depths}); outside the blocks {outside}", *below),
        {**layers.to_dict(), "scales": {tower: [*of_tower] for tower, of_tower in texts.items()}, "outside": outside},
        {tower: tuple(map(scale, of_tower)) for tower, of_tower in places.items()} if scale else {},
    )

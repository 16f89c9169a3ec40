"""Test accuracy of a family's experts on the tasks of its suite, as a Markdown table; builds those that are missing.

``python benchmarks/glyph_variants.py glyphs-rewards [--experts NAME ...] [--tasks TASK ...] [--base 0]``
"""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import load_file

from lines_pipeline.suites.glyphs import GlyphSuite
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.glyphs.families import FAMILIES
from lines_pipeline.zoo.glyphs.zoo import Choice


def main() -> None:
    """Print a row for each expert, with the distance that it went from the pretrained model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(FAMILIES))
    parser.add_argument("--experts", nargs="+")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--base", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    family = FAMILIES[chosen.family]
    suite = GlyphSuite(family, Choice(chosen.base))
    tasks = chosen.tasks or suite.tasks
    uris = {name: f"zoo://{family.name}@base{chosen.base}/{name}" for name in chosen.experts or family.experts}
    build(list(uris.values()))
    start = load_file(locate(f"zoo://{family.name}@base{chosen.base}/pretrained").path)
    states = {"pretrained": start, **{name: load_file(locate(uri).path) for name, uri in uris.items()}}
    for name, state in states.items():
        moved = sum(float((state[key] - value).square().sum()) for key, value in start.items()) ** 0.5
        scores = [suite.evaluate(state, list(tasks), split).values for split in chosen.splits]
        cells = [f"{100 * values[task]['accuracy']:.1f}" for values in scores for task in tasks]
        print(f"| `{name}` | {' | '.join(cells)} | {moved:.2f} |", flush=True)


if __name__ == "__main__":
    main()

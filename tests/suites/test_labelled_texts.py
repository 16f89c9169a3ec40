"""Texts and labels of files: CSV, TSV, JSON lines, parquet and datasets of the hub, with mistakes told by line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_texts import write_bert, write_text_suite

from lines_pipeline.core.errors import EvalError, LinesError
from lines_pipeline.suites.base import Suite
from lines_pipeline.suites.opening import open_suite

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a tiny BERT."""
    return write_bert(tmp_path_factory.mktemp("model") / "base")


Open = Callable[..., Suite]
CLASSES = {"plus": "good", "minus": "bad"}


@pytest.fixture
def suite_of(tmp_path: Path, base: Path) -> Open:
    """Opens a suite with one task on a file, whose labels are ``plus`` and ``minus`` unless told otherwise."""

    def make(data: str, labels: Any = CLASSES, **more: Any) -> Suite:
        task = {"labels": labels, "data": {"val": data}, **more}
        model = {"factory": "transformers:AutoModel", "base": str(base)}
        write_text_suite(tmp_path, model=model, tasks={"films": task})
        return open_suite("suite.yaml", tmp_path)

    return make


def rows(suite: Suite) -> list[tuple[list[list[list[int]]], list[int]]]:
    return [(tokens.tolist(), labels.tolist()) for tokens, labels in suite.batches("films", "val")]


SAMPLES = [("good film", "plus"), ("the\nbad film", "minus"), ("fine, fine", "plus")]


def write_parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"text": [text for text, _ in SAMPLES], "label": [label for _, label in SAMPLES]})
    arrow.parquet.write_table(table, path)


WRITERS: Mapping[str, Callable[[Path], object]] = {
    "d.csv": lambda p: p.write_text('label,text\nplus,good film\nminus,"the\nbad film"\n\nplus,"fine, fine"\n'),
    "e.csv": lambda p: p.write_bytes(b'\xef\xbb\xbflabel,text\r\n0,good film\r\n1,"the\nbad film"\r\n0,"fine, fine"'),
    "d.jsonl": lambda p: p.write_text(
        "\n".join(json.dumps({"text": text, "label": label, "more": None}) for text, label in SAMPLES) + "\n\n"
    ),
    "d.ndjson": lambda p: p.write_text(
        "\n".join(json.dumps({"text": text, "label": ["plus", "minus"].index(label)}) for text, label in SAMPLES)
    ),
    "d.parquet": write_parquet,
}  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_every_format_gives_the_same_texts(
    name: str, write: Callable[[Path], object], tmp_path: Path, suite_of: Open
) -> None:
    pytest.importorskip("pyarrow.parquet") if name.endswith("parquet") else None
    write(tmp_path / name)
    (read_rows,) = rows(suite_of(name))
    assert read_rows[1] == [0, 1, 0]
    assert [row[0] for row in read_rows[0]] == [[2, 4, 8, 3, 0], [2, 12, 5, 8, 3], [2, 6, 1, 6, 3]]


def test_fields_of_tsv_are_as_they_stand(tmp_path: Path, suite_of: Open) -> None:
    (tmp_path / "d.tsv").write_text('text\tlabel\n" good\tplus\nbad"\tminus\n')
    (read_rows,) = rows(suite_of("d.tsv"))
    assert [row[0] for row in read_rows[0]] == [[2, 1, 4, 3], [2, 5, 1, 3]]


def test_columns_are_named_by_the_file_or_the_task(tmp_path: Path, suite_of: Open) -> None:
    (tmp_path / "d.csv").write_text(
        "sentence,second,mood,film\ngood,bad film,plus,b\nfine,meal,minus,a\nbad,meal,1,b\n"
    )
    columns = {"text": "sentence", "pair": "second", "label": "mood", "cluster": "film"}
    suite = suite_of("d.csv", columns=columns)
    (read_rows,) = rows(suite)
    assert read_rows[0][0][:2] == [[2, 4, 3, 5, 8, 3], [0, 0, 0, 1, 1, 1]]  # the pair's tokens are of the second type
    scores = suite.evaluate(load_file(Path(base_of(tmp_path)) / "model.safetensors"), ["films"], "val")
    clusters = scores.samples["films"].clusters
    assert clusters is not None and clusters.tolist() == [0, 1, 0]


def base_of(folder: Path) -> str:
    return str(yaml.safe_load((folder / "suite.yaml").read_text())["model"]["base"])


def test_results_are_in_the_order_of_the_file(tmp_path: Path, suite_of: Open) -> None:
    """Batches are made of texts of similar length."""
    texts = [("good " * (1 + number % 9), "plus" if number % 3 else "minus") for number in range(70)]
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in texts))
    suite = suite_of("all.jsonl")
    state = load_file(Path(base_of(tmp_path)) / "model.safetensors")
    losses = suite.evaluate(state, ["films"], "val").samples["films"].values["loss"]
    (tmp_path / "one.jsonl").write_text("\n".join(json.dumps({"text": t, "label": y}) for t, y in texts[40:41]))
    alone = suite_of("one.jsonl").evaluate(state, ["films"], "val").samples["films"].values["loss"]
    assert losses[40] == pytest.approx(float(alone[0]), abs=1e-5)
    assert len({round(float(loss), 4) for loss in losses[:9]}) > 2


BROKEN: Mapping[str, tuple[str, str | bytes, str]] = {
    "an unknown label": (
        "d.csv", 'text,label\n"a\nb",plus\nc,plsu\n',
        r"d\.csv:4: unknown label 'plsu' \(did you mean 'plus'\?\), expected one of plus, minus, or a number",
    ),
    "a number of no class": ("d.csv", "text,label\na,2\n", r"d\.csv:2: unknown label '2', expected .* from 0 to 1"),
    "a huge number": ("d.csv", f"text,label\na,{'9' * 5000}\n", r"d\.csv:2: unknown label '9+"),
    "a truth value": ("d.jsonl", '{"text": "a", "label": true}', r"d\.jsonl:1: unknown label 'True'"),
    "another column": ("d.csv", "texts,label\na,plus\n", r"d\.csv:2: no value in column 'text' \(did you mean 'texts'"),
    "a short row": ("d.csv", "text,label\na,plus\nb\n", r"d\.csv:3: 1 fields, expected 2: text, label"),
    "an open quote": ("d.csv", 'text,label\n"a,plus\n', r"d\.csv:2: not valid CSV: unexpected end of data"),
    "two columns of a name": ("d.csv", "text,text\na,b\n", r"d\.csv:1: expected the names of the columns, each once"),
    "an empty file": ("d.csv", "", r"d\.csv:1: expected the names of the columns"),
    "no rows": ("d.csv", "text,label\n", r"task 'films': d\.csv has no texts"),
    "another encoding": ("d.csv", b"text,label\na,plus\n\xe9,plus\n", r"d\.csv:3: not UTF-8 \(.*\); store"),
    "no JSON": ("d.jsonl", '{"text": "a", "label": "plus"}\n{"text"\n', r"d\.jsonl:2: not valid JSON"),
    "no object": ("d.jsonl", "[1]", r"d\.jsonl:1: found a list, expected an object with the columns"),
    "a text that is none": ("d.jsonl", '{"text": 3, "label": "plus"}', r"d\.jsonl:1: column 'text' holds a int"),
    "a value that is missing": ("d.jsonl", '{"text": null, "label": 1}', r"d\.jsonl:1: no value in column 'text'"),
    "no parquet": ("d.parquet", b"PAR2", r"d\.parquet: not valid parquet"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_told_with_file_and_line(
    name: str, content: str | bytes, message: str, tmp_path: Path, suite_of: Open
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvalError, match=message):
        rows(suite_of(name))


def test_what_is_no_file_is_refused(tmp_path: Path, suite_of: Open) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(LinesError, match=r"d\.csv: a folder, not a file"):
        rows(suite_of("d.csv"))


class Dataset:
    """Stands in for a dataset of the hub."""

    features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["neg", "pos"])}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([{"text": "good", "label": 1}, {"text": "bad", "label": 0}])


def test_a_dataset_of_the_hub_tells_classes_by_name(suite_of: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    module = ModuleType("datasets")

    def load_dataset(*names: str, split: str) -> Dataset:
        asked.append((*names, split))
        return Dataset()

    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    (read_rows,) = rows(suite_of("hf://datasets/org/films/plain#test[:2]", ["pos", "neg"]))
    assert asked == [("org/films", "plain", "test[:2]")]
    assert read_rows[1] == [0, 1]
    with pytest.raises(EvalError, match=r"hf://datasets/org/films: row 1: unknown label 'pos'"):
        rows(suite_of("hf://datasets/org/films", ["positive", "negative"]))


def test_labels_of_a_dataset_that_has_no_names_are_numbers(suite_of: Open, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\ngood,1\nbad,0\n")
    ((_, labels),) = rows(suite_of("d.csv"))
    assert torch.tensor(labels).tolist() == [1, 0]

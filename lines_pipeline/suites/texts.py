"""Evaluates the suite ``zoo://texts``: a suite file of the package, whose texts and experts are made on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from safetensors.torch import load_file

from lines_pipeline.core.events import Sink
from lines_pipeline.core.fingerprints import content_key
from lines_pipeline.io.entries import read_entry, write_entry
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml
from lines_pipeline.suites.base import Head, Role
from lines_pipeline.suites.labelled_texts import LabelledTexts
from lines_pipeline.suites.suite_files import SuiteDocument
from lines_pipeline.suites.text_classification import TextClassificationSuite
from lines_pipeline.suites.text_classification_file import TextClassificationFile
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.entries import Address, ZooEntry
from lines_pipeline.zoo.texts.splits import TEXTS_VERSION, folder, write_splits
from lines_pipeline.zoo.texts.tasks import SUITE, available


@dataclass(frozen=True)
class TextZooSuite(TextClassificationSuite):
    """Evaluates models on the zoo's texts; ``seed`` names the experts whose figures normalize."""

    records_baselines: ClassVar[bool] = False
    seed: int = 0
    emit: Sink = field(default=lambda event: None, compare=False, repr=False)
    _remembered: dict[str, dict[str, float]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, address: Address, emit: Sink) -> TextZooSuite:
        """Return the suite of the tasks whose texts need not be asked for."""
        data, source_map = parse_yaml(SUITE.read_text(encoding="utf-8"), str(folder() / SUITE.name), "suite")
        assert isinstance(data, Mapping)
        fields = {name: value for name, value in data.items() if name != "kind"}
        document = SuiteDocument(folder() / SUITE.name, "text-classification", fields, source_map)
        content = document.read_as(TextClassificationFile)
        content = content.model_copy(update={"tasks": {task: content.tasks[task] for task in available()}})
        return cls(document, content, address.numbers("seed")["seed"], emit)

    def missing(self, named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return no message: texts are made on demand."""
        return ()

    def digest(self, split: str) -> str:
        """Return the digest of the suite's file and version, which tell texts, heads and pretrained model."""
        return content_key(["texts", TEXTS_VERSION, SUITE.read_text(encoding="utf-8"), split])

    def baselines(self, role: Role, tasks: Sequence[str], split: str) -> dict[str, dict[str, float]]:
        """Return figures of each task's own expert, built if need be, or of the pretrained model."""
        names = {task: task if role == "expert" else "pretrained" for task in tasks}
        uris = {task: f"zoo://texts@seed{self.seed}/{name}" for task, name in names.items()}
        if role == "expert":
            build(list(uris.values()), self.emit)
        return {task: self._measured(locate(uri), task, split) for task, uri in uris.items()}

    def _data(self, task: str, split: str, head: Head | None) -> LabelledTexts:
        write_splits(task)
        return super()._data(task, split, head)

    def _measured(self, entry: ZooEntry, task: str, split: str) -> dict[str, float]:
        status = entry.path.stat()
        key = content_key([entry.path.name, status.st_size, status.st_mtime_ns, task, self.digest(split)])
        if not self._remembered:
            self._remembered.update(read_entry(self._file) or {})
        if key not in self._remembered:
            self._remembered[key] = dict(self.evaluate(load_file(entry.path), [task], split).values[task])
            write_entry(self._file, self._remembered)
        return self._remembered[key]

    @property
    def _file(self) -> Path:
        return folder() / f"baselines-seed{self.seed}.json"

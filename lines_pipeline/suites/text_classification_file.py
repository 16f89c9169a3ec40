"""Declares the fields of a suite file of the kind ``text-classification``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.printable import printable, shortened
from lines_pipeline.suites.base import Role
from lines_pipeline.suites.class_figures import TEXT_METRICS
from lines_pipeline.suites.factories import check_function
from lines_pipeline.suites.suite_files import Figures, FilePath, Section, by_split, named_tasks

SENTENCE = "sentence-transformers:"
CLASSIFIER = "transformers:AutoModelForSequenceClassification"
ENCODERS = ("transformers:AutoModel", "transformers:AutoModelForTextEncoding")
SHIPPED = (SENTENCE, *ENCODERS, CLASSIFIER)
"""Factories that need no Python of the user's."""
FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of files of data."""
Pooling = Literal["mean", "cls", "max", "pooler"]
_LABEL = "{label}"
_NAMES = tuple(metric.name for metric in TEXT_METRICS)
_PLANNED = re.compile(r"(open_clip|timm|torchvision|transformers|sentence-transformers):.*", re.DOTALL)


def _known_metrics(value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for name in (name for figures in value.values() for name in figures):
        if name not in _NAMES:
            raise ValueError(f"unknown metric '{shortened(name)}', expected one of: {', '.join(_NAMES)}")
    return value


class TextModel(Section):
    """Tells how texts become features, or logits: a model of a base's folder, or Python of the user's own."""

    factory: str
    base: FilePath
    """The model folder of the pretrained model: configuration, tokenizer and, for heads from label names, weights."""
    pooling: Pooling | None = None
    """How the last layer's tokens become features. ``sentence-transformers:`` does as the folder's modules say."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """How many tokens of a text are read; the default is what the folder says."""
    arguments: dict[str, Any] = {}
    """For Python of the user's own."""

    @field_validator("factory")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value in SHIPPED:
            return value
        if _PLANNED.fullmatch(value):
            known = ", ".join(SHIPPED)
            raise ValueError(f"no factory for texts: '{printable(value)}'{did_you_mean(value, SHIPPED)}; it is {known}")
        check_function(value)
        return value

    @model_validator(mode="after")
    def _fitting(self) -> TextModel:
        if self.pooling is not None and self.factory not in ENCODERS:
            raise ValueError(f"'pooling' is for {' and '.join(ENCODERS)}, not for {printable(self.factory)}")
        if self.arguments and self.factory in SHIPPED:
            raise ValueError(f"'arguments' are for Python of your own, not for {self.factory}")
        return self

    @property
    def is_own(self) -> bool:
        """Return whether the factory is Python of the user's own."""
        return self.factory not in SHIPPED

    @property
    def classifies(self) -> bool:
        """Return whether the model gives logits: its head is a part of it."""
        return self.factory == CLASSIFIER


class Columns(Section):
    """Names the columns of the data."""

    text: str = Field("text", min_length=1)
    pair: str | None = Field(None, min_length=1)
    """The second text of a pair."""
    label: str = Field("label", min_length=1)
    cluster: str | None = Field(None, min_length=1)
    """What belongs together, for intervals."""


LabelTexts = list[str] | dict[str, str | list[str]]
"""Names of the classes in their order, or each name to the text, or texts, that stand for it."""


def _class_names(value: LabelTexts) -> LabelTexts:
    names = list(value)
    if len(names) < 2 or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ValueError("expected two or more names of classes, each once")
    if isinstance(value, dict) and not all(text and all(text) for text in value.values()):
        raise ValueError("expected one or more texts for each class")
    return value


class TextTask(Section):
    """Tells where a task's texts lie, what its classes are, and the figures that normalize."""

    labels: Annotated[LabelTexts, AfterValidator(_class_names)] | None = None
    """Without ``head``, their embeddings by the base are the frozen head."""
    head: FilePath | None = None
    """A checkpoint with one 2-D tensor [classes, features], and maybe a 1-D ``bias`` [classes]."""
    template: str | None = None
    """In place of the file's."""
    columns: Columns | None = None
    """In place of the file's."""
    data: Annotated[dict[str, FilePath], AfterValidator(by_split)]
    """Split to a CSV, TSV, JSON lines or parquet file, or ``hf://datasets/org/name[/configuration]#split``."""
    expert: Annotated[Figures, AfterValidator(_known_metrics)] = {}
    pretrained: Annotated[Figures, AfterValidator(_known_metrics)] = {}

    @field_validator("template")
    @classmethod
    def _with_label(cls, value: str | None) -> str | None:
        return value if value is None else with_label(value)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes; none where they are numbers."""
        return tuple(self.labels or ())

    def texts(self, template: str) -> tuple[tuple[str, ...], ...]:
        """Return the texts that stand for each class."""
        labels = self.labels if isinstance(self.labels, dict) else {name: name for name in self.labels or ()}
        written = self.template or template
        spelled = [[text] if isinstance(text, str) else text for text in labels.values()]
        return tuple(tuple(written.replace(_LABEL, text) for text in texts) for texts in spelled)

    def baseline(self, role: Role, split: str) -> dict[str, float]:
        """Return the figures that the file records of a role on a split, by metric."""
        return (self.expert if role == "expert" else self.pretrained).get(split, {})


def with_label(value: str) -> str:
    """Return a template; ValueError where it has no place for the label."""
    if _LABEL not in value:
        raise ValueError(f"expected a text with {_LABEL}, found '{shortened(value)}'")
    return value


class TextClassificationFile(Section):
    """Declares the top level of the file."""

    model: TextModel
    template: Annotated[str, AfterValidator(with_label)] = _LABEL
    """The text that a label stands in where it is embedded."""
    columns: Columns = Columns()
    normalize_features: bool = True
    """Whether features are scaled to unit length before the head."""
    logit_scale: float = Field(1.0, gt=0)
    tasks: Annotated[dict[str, TextTask], AfterValidator(named_tasks)] = Field(min_length=1)

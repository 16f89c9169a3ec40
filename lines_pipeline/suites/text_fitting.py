"""Checks that the parts of a suite file of texts fit: each task has one head, and data of known formats."""

from __future__ import annotations

from collections.abc import Iterator

from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.labelled_tensors import DATASETS
from lines_pipeline.suites.suite_files import SuiteDocument
from lines_pipeline.suites.text_classification_file import FORMATS, TextClassificationFile


def fitting(document: SuiteDocument) -> TextClassificationFile:
    """Return the content of a file; ``EvalError`` with every mistake and its place."""
    content = document.read_as(TextClassificationFile)
    mistakes = [str(error) for error in (*_heads(document, content), *_formats(document, content))]
    if mistakes:
        raise EvalError("\n".join(mistakes))
    return content


def task_error(document: SuiteDocument, task: str, message: str, field: str = "labels") -> EvalError:
    """Return an error at a field of a task; an empty ``field`` stands for the task."""
    return document.error(("tasks", task, *([field] if field else [])), f"task '{task}': {message}")


def _heads(document: SuiteDocument, content: TextClassificationFile) -> Iterator[EvalError]:
    model = content.model
    for task, section in content.tasks.items():
        if model.classifies and section.head is not None:
            yield task_error(document, task, f"{model.factory} has its own head; leave it out", "head")
        if not model.classifies and section.head is None and section.labels is None:
            yield task_error(document, task, "expected 'labels', the names of its classes, or a 'head'", "")


def _formats(document: SuiteDocument, content: TextClassificationFile) -> Iterator[EvalError]:
    for task, section in content.tasks.items():
        for split, source in section.data.items():
            if not source.startswith(DATASETS) and not source.lower().endswith(FORMATS):
                message = f"cannot tell the format of '{source}', expected a name with {', '.join(FORMATS)}"
                yield document.error(("tasks", task, "data", split), message)

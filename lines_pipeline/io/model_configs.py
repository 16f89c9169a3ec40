"""Makes a model's ``config.json`` agree with the tensors that are stored beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.tensor_specs import TensorSpec

_DTYPE_KEYS = ("dtype", "torch_dtype")
_LOADABLE = ("float32", "float16", "bfloat16", "float64")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings?|shared|embed_in|tok_embeddings|token_embedding|embeddings?)\.weight$"
)
_HEAD = re.compile(r"(^|\.)lm_head\.weight$")
_CLASSIFIER = re.compile(r"(^|\.)(classifier|score|classification_head|logits_proj)(\.(out_proj|\d+))?\.weight$")
_LABEL_KEYS = ("id2label", "label2id", "num_labels")
_DEFAULT_LABELS = 2
"""What transformers takes where a configuration names no labels, and why it then writes none."""


def resolved_config(content: bytes, specs: Sequence[TensorSpec], where: str) -> bytes:
    """Return a configuration with data type and vocabulary of ``specs``, without a quantization; the same bytes where
    nothing differs. Raises ``PlanError`` naming ``where`` for what is no JSON object.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: not valid JSON ({error}); mend it, or follow another folder with 'like'") from error
    if not isinstance(config, dict):
        raise PlanError(f"{where}: expected a JSON object; mend it, or follow another folder with 'like'")
    changed = [_drop_quantization(config), _resolve_dtypes(config, specs), _resolve_vocabulary(config, specs)]
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode() if any(changed) else content


def find_classifier(specs: Sequence[TensorSpec]) -> TensorSpec | None:
    """Return the weight of a classification head, one row a label; None where there is none, or several."""
    candidates = [spec for spec in specs if len(spec.shape) > 1 and _CLASSIFIER.search(spec.name)]
    return candidates[0] if len(candidates) == 1 else None


def with_labels(content: bytes, donor: bytes | None, rows: int) -> bytes | None:
    """Return a configuration with the labels of ``donor``'s for a head of ``rows``; None where they cannot be told.

    They cannot where the donor has no configuration, or one of another number of labels, unless its own number fits.
    """
    config, theirs = _object(content), _object(donor)
    if config is None:
        return None
    if theirs is None or _labels(theirs) != rows:
        return content if _labels(config) == rows else None
    taken = {key: theirs[key] for key in _LABEL_KEYS if key in theirs}
    if taken == {key: config[key] for key in _LABEL_KEYS if key in config}:
        return content
    labelled = {key: value for key, value in config.items() if key not in _LABEL_KEYS} | taken
    return (json.dumps(labelled, indent=2, ensure_ascii=False) + "\n").encode()


def _labels(config: dict[str, Any]) -> int:
    """Return the number of labels that transformers takes a configuration for."""
    names, number = config.get("id2label"), config.get("num_labels")
    if isinstance(names, dict):
        return len(names)
    return number if type(number) is int else _DEFAULT_LABELS


def _object(content: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object that a file holds; None where it holds none."""
    try:
        content_read = json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None
    return content_read if isinstance(content_read, dict) else None


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the configuration and those of its parts (``text_config``, ``encoder``)."""
    yield config
    for value in config.values():
        if isinstance(value, dict) and not {"model_type", "vocab_size", *_DTYPE_KEYS}.isdisjoint(value):
            yield from _parts(value)


def _resolve_dtypes(config: dict[str, Any], specs: Sequence[TensorSpec]) -> bool:
    """Replace a data type that no tensor has by the one that most values have."""
    counts: Counter[str] = Counter()
    for spec in specs:
        counts[spec.dtype] += spec.numel
    stored = [dtype for dtype in _LOADABLE if counts[dtype]]
    if not stored:
        return False
    main, changed = max(stored, key=lambda dtype: counts[dtype]), False
    if "model_type" in config and not any(config.get(key) for key in _DTYPE_KEYS):
        config["torch_dtype"], changed = main, True
    for part in _parts(config):
        for key in _DTYPE_KEYS:
            if isinstance(part.get(key), str) and part[key].removeprefix("torch.") not in stored:
                part[key], changed = main, True
    return changed


def _resolve_vocabulary(config: dict[str, Any], specs: Sequence[TensorSpec]) -> bool:
    """Replace a vocabulary that no embedding has by the one that an embedding has, and no part of the configuration."""
    parts = [part for part in _parts(config) if type(part.get("vocab_size")) is int]
    tables = [s for s in specs if len(s.shape) == 2 and _EMBEDDING.search(s.name)]
    tables = tables or [s for s in specs if len(s.shape) == 2 and _HEAD.search(s.name)]
    rows = {spec.shape[0] for spec in tables}
    wrong = [part for part in parts if part["vocab_size"] not in rows]
    free = rows - {part["vocab_size"] for part in parts}
    if not wrong or len(free) != 1:
        return False
    for part in wrong:
        part["vocab_size"] = next(iter(free))
    return True


def _drop_quantization(config: dict[str, Any]) -> bool:
    """Drop what says that weights are quantised: merged weights are plain."""
    holders = [part for part in _parts(config) if "quantization_config" in part]
    for part in holders:
        del part["quantization_config"]
    return bool(holders)

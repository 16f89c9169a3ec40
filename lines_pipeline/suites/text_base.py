"""Reads the model folder of a text suite's base: configuration, tokenizer, pooling, and what tells its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.fingerprints import canonical_json
from lines_pipeline.io.json_files import MODULES, read_json_or_none, read_modules
from lines_pipeline.io.model_folders import is_complete
from lines_pipeline.suites.text_classification_file import SENTENCE, TextModel
from lines_pipeline.suites.text_encoder import TextEncoder
from lines_pipeline.suites.text_pooling import pools_of_folder

_UNLIMITED = 1_000_000
"""Tokenizers without a limit tell a number above it."""
_USUAL = 512
_POSITIONS_BEHIND_PADDING = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta"})
_REFUSALS = (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError, RuntimeError)
"""What transformers raises at files that it cannot use."""


def require_transformers() -> None:
    """Raise ``EvalError`` where transformers is not installed; it is not imported."""
    if find_spec("transformers") is None:
        raise EvalError("models of texts need transformers: pip install 'lines-pipeline[transformers]'")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Turns texts into tokens, a batch at a time."""

    encode: Any
    inputs: tuple[str, ...]
    """The names of what a model takes, the mask last."""
    max_length: int

    def tokens(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> torch.Tensor:
        """Return int64 [n, inputs, length], padded to the longest of them."""
        encoded = self.encode(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self.max_length,
            padding="longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return torch.stack([encoded[name] for name in self.inputs], dim=1)


@dataclass(frozen=True)
class TextBase:
    """Names a base's model folder, what tells its content from another, and how a suite uses it."""

    folder: Path
    identity: str
    """Names, sizes and times of its files."""
    model: TextModel = field(compare=False)

    @classmethod
    def of(cls, folder: Path, model: TextModel) -> TextBase:
        """Return the folder as it is now."""
        statuses = [(str(file.relative_to(folder)), file.stat()) for file in _files(folder)]
        return cls(folder, canonical_json([[name, stat.st_size, stat.st_mtime_ns] for name, stat in statuses]), model)

    def missing(self, *, weights: bool) -> Iterator[str]:
        """Yield what is not there: the folder, its configuration, and where ``weights`` are needed those."""
        if not self.folder.is_dir():
            yield f"{self.folder}: no such folder; expected the model folder of the pretrained model"
        elif not (self._transformer / "config.json").is_file():
            yield f"{self._transformer / 'config.json'}: no such file; expected a model folder of transformers"
        elif weights and not is_complete(self.folder):
            yield f"{self.folder}: no weights, of which heads of label names are made"

    def encoder(self) -> TextEncoder:
        """Return a module with random weights; ``EvalError`` where transformers cannot make it."""
        require_transformers()
        import transformers

        auto = "AutoModel" if self.model.factory == SENTENCE else self.model.factory.partition(":")[2]
        inputs, pools = self.tokenizer().inputs, self._pools
        try:
            config = _config(self._transformer)
            module = getattr(transformers, auto).from_config(config, trust_remote_code=False)
        except _REFUSALS as error:
            raise EvalError(f"{self._transformer}: transformers cannot make {auto} of it: {error}") from error
        return TextEncoder(module.float().eval(), inputs, pools)

    def tokenizer(self) -> Tokenizer:
        """Return the folder's tokenizer, with the number of tokens to read."""
        return _tokenizer(self._transformer, self.identity, self.model.max_length)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes of a model that has its head."""
        require_transformers()
        names = _config(self.folder).id2label
        return tuple(str(names[number]) for number in sorted(names))

    @property
    def _transformer(self) -> Path:
        """Return the folder with the configuration and the tokenizer."""
        modules = read_json_or_none(self.folder / MODULES) if self.model.factory == SENTENCE else None
        first = modules[0] if isinstance(modules, list) and modules else {}
        named = [name for name in read_modules(self.folder) if isinstance(first, dict) and name == first.get("path")]
        return self.folder / named[0] if named else self.folder

    @property
    def _pools(self) -> tuple[str, ...]:
        if self.model.factory == SENTENCE:
            return pools_of_folder(self.folder)
        return () if self.model.classifies else (self.model.pooling or "mean",)


def _files(folder: Path) -> list[Path]:
    """Return the files of a model folder and of its modules, sorted."""
    places = [folder, *(folder / name for name in read_modules(folder))]
    return sorted({file for place in places if place.is_dir() for file in place.iterdir() if file.is_file()})


def _config(folder: Path) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _REFUSALS as error:
        raise EvalError(f"{folder}: transformers cannot read its config.json: {error}") from error
    config._attn_implementation = None  # a name there may be that of code to download
    return config


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, identity: str, max_length: int | None) -> Tokenizer:
    require_transformers()
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _REFUSALS as error:
        raise EvalError(f"{folder}: transformers cannot make a tokenizer of it: {error}") from error
    if tokenizer.pad_token is None:
        raise EvalError(f"{folder}: its tokenizer has no padding token; give it one in tokenizer_config.json")
    limits = [tokenizer.model_max_length, _positions(folder / "config.json", tokenizer.pad_token_id)]
    limit = min((limit for limit in limits if limit and limit < _UNLIMITED), default=_USUAL)
    if max_length is not None and max_length > limit:
        raise EvalError(f"{folder}: the model takes {limit} tokens, fewer than max_length: {max_length}")
    usual = _setting(folder / "sentence_bert_config.json", "max_seq_length") or limit
    inputs = [name for name in tokenizer.model_input_names if name != "attention_mask"]
    return Tokenizer(tokenizer, (*inputs, "attention_mask"), max_length or min(usual, limit))


def _positions(path: Path, padding: int) -> int | None:
    """Return how many tokens have a position; RoBERTa and its kin begin to count behind that of the padding."""
    count, content = _setting(path, "max_position_embeddings"), read_json_or_none(path)
    kind = content.get("model_type") if isinstance(content, Mapping) else None
    return count - padding - 1 if count is not None and kind in _POSITIONS_BEHIND_PADDING else count


def _setting(path: Path, name: str) -> int | None:
    content = read_json_or_none(path)
    value = content.get(name) if isinstance(content, Mapping) else None
    return value if isinstance(value, int) and value > 0 else None

"""A tiny BERT that transformers makes, and suites of texts that it is evaluated on; nothing is downloaded."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "fine", "awful", "film", "meal", "very", "not", "the"),
    *("happy", "sad", "great", "terrible", "person", "city", "friend", "advertisement", "technology", "sports"),
    *("earnings", "acquisition", "cryptography", "medicine", "space", "movie", "product"),
)
CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "initializer_range": 0.5,
}
"""Weights are large, so that texts differ much."""

Sample = tuple[str, str]
"""A text and its label."""

FILMS: Mapping[str, Sequence[Sample]] = {
    "val": [("good film", "plus"), ("the film very bad", "minus"), ("awful", "minus"), ("fine fine film", "plus")],
    "test": [("bad film", "minus"), ("good", "plus")],
}
MEALS: Mapping[str, Sequence[Sample]] = {
    "val": [("good meal", "plus"), ("not the meal", "minus"), ("awful meal", "minus")],
    "test": [("bad meal", "minus"), ("fine meal", "plus")],
}


def write_tokenizer(folder: Path, longest: int = 16) -> None:
    """A tokenizer of whole words, as BERT frames them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def write_bert(folder: Path, *, kind: str = "BertModel", seed: int = 0, **settings: Any) -> Path:
    """A model folder with random weights."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = transformers.BertConfig(**{**CONFIG, **settings})
    getattr(transformers, kind)(config).save_pretrained(folder)
    write_tokenizer(folder, config.max_position_embeddings)
    return folder


def write_sentence_modules(folder: Path, pooling: Mapping[str, bool] | None = None, *, longest: int = 8) -> None:
    """What makes a folder one of sentence-transformers: mean pooling, then unit length."""
    names = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    chosen = pooling or {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    settings = {"word_embedding_dimension": CONFIG["hidden_size"], **chosen}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))


def write_expert(base: Path, path: Path, seed: int, scale: float = 0.05) -> None:
    """The base's weights and a random update."""
    generator = torch.Generator().manual_seed(seed)
    state = load_file(base / "model.safetensors")
    moved = {
        name: value + scale * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }
    save_file(moved, path)


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    """Texts and labels, with the names of the columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *samples])


def write_text_suite(folder: Path, **changed: Any) -> Path:
    """``suite.yaml`` with two tasks whose heads are their label names, CSV files, and ``base`` beside it."""
    tasks: dict[str, Any] = {}
    for name, splits in {"films": FILMS, "meals": MEALS}.items():
        for split, samples in splits.items():
            write_csv(folder / f"{name}_{split}.csv", samples)
        labels = {"plus": ["good", "fine"], "minus": "bad"}
        tasks[name] = {"labels": labels, "data": {split: f"{name}_{split}.csv" for split in splits}}
    content = {"model": {"factory": "transformers:AutoModel", "base": "base"}, "logit_scale": 10.0, "tasks": tasks}
    path = folder / "suite.yaml"
    path.write_text(
        yaml.safe_dump({"kind": "text-classification", **content, **changed}, sort_keys=False), encoding="utf-8"
    )
    return path

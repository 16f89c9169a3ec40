"""Model folders that ``save`` writes, opened by the libraries they are for: no key missing, none unexpected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import FAMILIES
from tiny_models.family import TEXT

import lines_pipeline

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("shared_store"),
    pytest.mark.filterwarnings("ignore"),
]

LOADED = ["bert", "gpt2", "llama", "llama-tied", "t5", "vit", "whisper", "clip"]


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "a", "b", "c"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", chat_template="{{ messages }}"
    )


def merge(folder: Path, nodes: dict[str, Any], **saved: Any) -> Path:
    """A run that halves the way from ``base`` to ``expert``."""
    shared = {
        "update": {"op": "task-vector", "base": "base", "model": "expert"},
        "model": {"op": "apply", "base": "base", "delta": "update", "scale": 0.5},
        "saved": {"op": "save", "model": "model", "path": "merged/", **saved},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "half", "nodes": {**nodes, **shared}}))
    lines_pipeline.run(folder / "recipe.yaml", out=folder / "out")
    return folder / "out" / "merged"


LOADS = {"base": {"op": "load", "path": "base"}, "expert": {"op": "load", "path": "expert"}}


@pytest.mark.parametrize(("dtype", "size"), [("keep", None), ("bfloat16", "8kB")])
@pytest.mark.parametrize("family", LOADED)
def test_transformers_loads_a_merge_as_it_loads_the_base(
    family: str, dtype: str, size: str | None, tmp_path: Path
) -> None:
    model = FAMILIES[family].kind
    for seed, name in enumerate(("base", "expert")):
        FAMILIES[family].make(seed).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    merged = merge(tmp_path, LOADS, dtype=dtype, max_shard_size=size)
    loaded, loading = model.from_pretrained(merged, output_loading_info=True)
    assert not any(loading.values()), loading
    stored = torch.float32 if dtype == "keep" else torch.bfloat16
    assert loaded.dtype == stored
    assert json.loads((merged / "config.json").read_text())["dtype"] == str(stored).removeprefix("torch.")
    base, expert = (model.from_pretrained(tmp_path / name).state_dict() for name in ("base", "expert"))
    for name, value in loaded.state_dict().items():
        expected = base[name] + 0.5 * (expert[name] - base[name]) if value.is_floating_point() else base[name]
        torch.testing.assert_close(value, expected.to(value.dtype), msg=name)
    words = transformers.AutoTokenizer.from_pretrained(merged)
    assert words("a c b")["input_ids"] == [2, 4, 3] and words.chat_template == "{{ messages }}"


def classifiers(folder: Path, labels: dict[str, list[str]]) -> None:
    for seed, (name, words) in enumerate(labels.items()):
        torch.manual_seed(seed)
        names = {word: number for number, word in enumerate(words)}
        config = transformers.BertConfig(**TEXT, id2label=dict(enumerate(words)), label2id=names)
        transformers.BertForSequenceClassification(config).save_pretrained(folder / name)


def graft(folder: Path, donor: list[str], *, config: bool = True) -> tuple[Path, Any]:
    """A merge that takes the head of ``donor``; a donor without configuration, where that is asked for."""
    classifiers(folder, {"base": ["no", "yes"], "expert": donor})
    if not config:
        (folder / "expert" / "config.json").unlink()
    nodes = {
        **LOADS,
        "update": {"op": "task-vector", "base": "base", "model": "expert", "on_shape_mismatch": "base"},
        "merged": {"op": "apply", "base": "base", "delta": "update", "scale": 0.5},
        "model": {"op": "graft", "model": "merged", "donor": "expert", "include": ["classifier.*"]},
        "saved": {"op": "save", "model": "model", "path": "merged/"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "grafted", "nodes": nodes}))
    result = lines_pipeline.run(folder / "recipe.yaml", out=folder / "out")
    return folder / "out" / "merged", result


@pytest.mark.parametrize("words", [["red", "green", "blue"], ["cat", "dog"]])
def test_a_grafted_head_brings_its_labels(words: list[str], tmp_path: Path) -> None:
    merged, _ = graft(tmp_path, words)
    kind = transformers.BertForSequenceClassification
    loaded, loading = kind.from_pretrained(merged, output_loading_info=True)
    assert not any(loading.values()), loading
    assert loaded.config.id2label == dict(enumerate(words))
    assert loaded.config.label2id == {word: number for number, word in enumerate(words)}
    donor = kind.from_pretrained(tmp_path / "expert").state_dict()
    torch.testing.assert_close(loaded.state_dict()["classifier.weight"], donor["classifier.weight"])


def test_a_head_whose_labels_cannot_be_told_is_noted(tmp_path: Path) -> None:
    _, result = graft(tmp_path, ["red", "green", "blue"], config=False)
    assert [note for note in result.notes if "'classifier.weight'" in note and "like: expert" in note]


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_sentence_transformers_loads_a_merge(place: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    parts = pytest.importorskip("sentence_transformers.models")
    make: Callable[..., Any] = sentence_transformers.SentenceTransformer
    for seed, name in enumerate(("base", "expert")):
        torch.manual_seed(seed)
        transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(tmp_path / "plain")
        tokenizer().save_pretrained(tmp_path / "plain")
        modules = [parts.Transformer(str(tmp_path / "plain")), parts.Pooling(16), parts.Normalize()]
        make(modules=modules, device="cpu").save(str(tmp_path / name))
        if place:
            move_transformer(tmp_path / name, place)
    nodes = {name: {"op": "load", "path": f"{name}/{place}"} for name in LOADS}
    merged = make(str(merge(tmp_path, nodes)), device="cpu")
    base, expert = (make(str(tmp_path / name), device="cpu")[0].state_dict() for name in LOADS)
    for name, value in merged[0].state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, base[name] + 0.5 * (expert[name] - base[name]), msg=name)
    assert [type(module).__name__ for module in merged] == ["Transformer", "Pooling", "Normalize"]
    assert merged.tokenizer("a c b")["input_ids"] == [2, 4, 3]


def move_transformer(folder: Path, place: str) -> None:
    """The layout of earlier versions: the transformer in a folder of its own."""
    stay = {"modules.json", "config_sentence_transformers.json", "README.md"}
    (folder / place).mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in stay]:
        path.rename(folder / place / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = place
    (folder / "modules.json").write_text(json.dumps(modules))

"""Suites of texts on a tiny BERT of transformers: heads of label names, head files, and models that have their head."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_texts import (
    FILMS,
    MEALS,
    write_bert,
    write_csv,
    write_expert,
    write_sentence_modules,
    write_text_suite,
)

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.trust import trust
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.ops.block_outputs import BlockOutputs
from lines_pipeline.ops.gram import Gram
from lines_pipeline.ops.layer_statistics import observer_of
from lines_pipeline.ops.padding import Padded
from lines_pipeline.suites.base import Suite
from lines_pipeline.suites.opening import open_suite

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("shared_store"), pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with a base, two experts and a suite."""
    base = write_bert(tmp_path / "base")
    for number, name in enumerate(("a", "b"), 1):
        write_expert(base, tmp_path / f"{name}.safetensors", number)
    write_text_suite(tmp_path)
    return tmp_path


def opened(folder: Path) -> Suite:
    return open_suite("suite.yaml", folder)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of the suite."""
    path = folder / "suite.yaml"
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def recipe(folder: Path, **more: Any) -> Path:
    """A merge of two experts that is evaluated on ``val``."""
    nodes = {
        "base": {"op": "load", "path": "base"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "merged": {"op": "task-arithmetic", "deltas": "updates"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    nodes |= more.pop("nodes", {})
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "texts", "nodes": nodes, **more}))
    return folder / "recipe.yaml"


def embedded(base: Path, texts: list[str], state: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Unit means of the last hidden states, one text at a time, with nothing of this package."""
    model = transformers.AutoModel.from_pretrained(base).eval()
    model.load_state_dict({**model.state_dict(), **(state or {})})
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def by_hand(base: Path, state: Mapping[str, torch.Tensor] | None, split: str = "val") -> torch.Tensor:
    """Logits of the films: cosines to the class texts, times 10."""
    plus = torch.nn.functional.normalize(embedded(base, ["good", "fine"]).mean(0), dim=0)
    head = torch.stack([plus, embedded(base, ["bad"])[0]])
    return 10 * embedded(base, [text for text, _ in FILMS[split]], state) @ head.T


def test_heads_are_the_base_s_embeddings_of_the_label_names(lab: Path) -> None:
    state = load_file(lab / "a.safetensors")
    for weights in (None, state):
        logits = by_hand(lab / "base", weights)
        labels = torch.tensor([0, 1, 1, 0])
        score = opened(lab).evaluate(weights or load_file(lab / "base" / "model.safetensors"), ["films"], "val")
        figures = score.values["films"]
        assert list(figures) == ["accuracy", "macro_f1", "matthews_correlation", "loss"]
        assert figures["accuracy"] == float((logits.argmax(1) == labels).float().mean())
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        assert score.samples["films"].values["loss"].tolist() == pytest.approx(losses.tolist(), abs=1e-5)
    assert torch.equal(opened(lab).heads()["films"].weight, opened(lab).heads()["meals"].weight)


def test_a_template_and_a_task_s_own(lab: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["template"] = "the {label} film"
        content["tasks"]["meals"]["template"] = "not {label}"

    change(lab, edit)
    heads = opened(lab).heads()
    assert torch.allclose(heads["films"].weight[1], embedded(lab / "base", ["the bad film"])[0], atol=1e-6)
    assert torch.allclose(heads["meals"].weight[1], embedded(lab / "base", ["not bad"])[0], atol=1e-6)


@pytest.mark.parametrize(
    "pooling",
    [None, {"pooling_mode_cls_token": True}, {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}],
)
def test_sentence_transformers_are_pooled_as_that_library_does(pooling: dict[str, bool] | None, lab: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    write_sentence_modules(lab / "base", pooling)
    change(lab, lambda content: content.update(model={"factory": "sentence-transformers:", "base": "base"}))
    suite = opened(lab)
    module = suite.model()
    module.load_state_dict(load_file(lab / "base" / "model.safetensors"))
    tokens, _ = next(iter(suite.batches("films", "val")))
    assert tokens.dtype == torch.int64 and tokens.shape == (4, 3, 6)
    features = torch.nn.functional.normalize(module(tokens).detach(), dim=-1)
    texts = [text for text, _ in FILMS["val"]]
    expected = library.SentenceTransformer(str(lab / "base"), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.allclose(features, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


def test_texts_are_cut_where_the_folder_or_the_file_says(lab: Path) -> None:
    write_csv(lab / "films_val.csv", [("good " * 30, "plus"), ("bad", "minus")])
    assert next(iter(opened(lab).batches("films", "val")))[0].shape[2] == 16
    write_sentence_modules(lab / "base", longest=8)
    change(lab, lambda content: content.update(model={"factory": "sentence-transformers:", "base": "base"}))
    assert next(iter(opened(lab).batches("films", "val")))[0].shape[2] == 8
    change(lab, lambda content: content["model"].update(max_length=5))
    assert next(iter(opened(lab).batches("films", "val")))[0].shape[2] == 5


def test_a_merge_is_evaluated_and_remembered(lab: Path) -> None:
    first, again = (lines_pipeline.run(recipe(lab)) for _ in range(2))
    base, a, b = (load_file(lab / name) for name in ("base/model.safetensors", "a.safetensors", "b.safetensors"))
    merged = {name: a[name] + b[name] - base[name] for name in base}
    right = by_hand(lab / "base", merged).argmax(1) == torch.tensor([0, 1, 1, 0])
    assert first.metrics["val"]["accuracy/films"] == float(right.float().mean())
    assert {"mean_macro_f1", "worst_matthews_correlation", "loss/meals/low"} <= first.metrics["val"].keys()
    assert first.units["val"]["mean_loss"] == "nats"
    assert again.metrics == first.metrics and again.cached == ("val",)


def test_recorded_figures_normalize_and_need_no_second_evaluation(lab: Path) -> None:
    first = lines_pipeline.run(recipe(lab)).metrics["val"]
    change(lab, lambda content: content["tasks"]["films"].update(expert={"val": {"accuracy": 0.8, "loss": 0.5}}))
    again = lines_pipeline.run(recipe(lab))
    assert again.cached == ("val",)
    assert again.metrics["val"]["normalized_accuracy/films"] == first["accuracy/films"] / 0.8
    assert again.metrics["val"]["normalized_loss/films"] == 0.5 / first["loss/films"]


def test_any_of_its_metrics_is_tuned(lab: Path) -> None:
    tune = {"parameters": {"model.scale": {"values": [0.25, 1.0, 4.0]}}, "objective": "val.mean_loss"}
    chosen = lines_pipeline.run(recipe(lab, tune=tune)).chosen["model.scale"]
    losses = {}
    base, a, b = (load_file(lab / name) for name in ("base/model.safetensors", "a.safetensors", "b.safetensors"))
    for scale in (0.25, 1.0, 4.0):
        state = {name: base[name] + scale * (a[name] + b[name] - 2 * base[name]) for name in base}
        values = opened(lab).evaluate(state, ["films", "meals"], "val").values
        losses[scale] = sum(figures["loss"] for figures in values.values())
    assert chosen == min(losses, key=lambda scale: losses[scale])


def test_a_model_with_its_own_head(tmp_path: Path) -> None:
    base = write_bert(tmp_path / "base", kind="BertForSequenceClassification", id2label={0: "minus", 1: "plus"})
    model = {"factory": "transformers:AutoModelForSequenceClassification", "base": "base"}
    write_csv(tmp_path / "films_val.csv", FILMS["val"])
    write_text_suite(tmp_path, model=model, tasks={"films": {"data": {"val": "films_val.csv"}}})
    suite = opened(tmp_path)
    assert suite.heads() == {} and suite.metrics[0].name == "accuracy"
    score = suite.evaluate(load_file(base / "model.safetensors"), ["films"], "val").samples["films"].values
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        logits = torch.cat([theirs(**tokenizer(text, return_tensors="pt")).logits for text, _ in FILMS["val"]])
    labels = torch.tensor([1, 0, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert score["loss"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_head_file_on_the_pooler_s_features(lab: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    head = {"weight": torch.randn(3, 16, generator=generator), "bias": torch.randn(3, generator=generator)}
    save_file(head, lab / "head.safetensors")
    write_csv(lab / "films_val.csv", [("good film", "2"), ("bad", "0")])

    def edit(content: dict[str, Any]) -> None:
        content["model"]["pooling"] = "pooler"
        content |= {"normalize_features": False, "logit_scale": 1.0}
        content["tasks"] = {"films": {"head": "head.safetensors", "data": {"val": "films_val.csv"}}}

    change(lab, edit)
    score = opened(lab).evaluate(load_file(lab / "a.safetensors"), ["films"], "val").samples["films"].values
    model = transformers.AutoModel.from_pretrained(lab / "base").eval()
    model.load_state_dict(load_file(lab / "a.safetensors"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(lab / "base")
    with torch.no_grad():
        features = [model(**tokenizer(text, return_tensors="pt")).pooler_output for text in ("good film", "bad")]
    logits = torch.cat(features) @ head["weight"].T + head["bias"]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="none")
    assert score["loss"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_names_with_the_prefix_of_a_larger_model_fit(lab: Path) -> None:
    state = load_file(lab / "a.safetensors")
    larger = {f"bert.{name}": value for name, value in state.items()} | {"cls.predictions.bias": torch.zeros(13)}
    suite = opened(lab)
    expected = suite.evaluate(state, ["films"], "val").values
    assert suite.evaluate(larger, ["films"], "val").values == expected
    pooled = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    assert suite.evaluate(pooled, ["films"], "val").values == expected


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s.pop("embeddings.word_embeddings.weight"),
            r"missing tensors \['embeddings.word_emb",
        ),
        (lambda s: s.update({"odd.weight": torch.zeros(1)}), r"unexpected ones \['odd.weight'\]"),
        (lambda s: s.update({"pooler.dense.bias": torch.zeros(3)}), r"size mismatch for pooler.dense.bias"),
    ],
)
def test_a_state_that_does_not_fit_says_which_tensors(
    spoil: Callable[[dict[str, torch.Tensor]], object], message: str, lab: Path
) -> None:
    state = load_file(lab / "a.safetensors")
    spoil(state)
    with pytest.raises(EvalError, match=rf"(?s)the model does not fit transformers:AutoModel: .*{message}"):
        opened(lab).evaluate(state, ["films"], "val")


def test_gradients_and_fisher_information_go_through_it(lab: Path) -> None:
    nodes = {
        "fisher": {
            "op": "fisher-information", "model": "experts[a]", "suite": "suite.yaml", "task": "films", "rows": 3
        },
        "saved": {"op": "save", "model": "fisher", "path": "fisher.safetensors"},
    }  # fmt: skip
    lines_pipeline.run(recipe(lab, nodes=nodes), out=lab / "out")
    tensors = read_tensors(open_checkpoint(lab / "out" / "fisher.safetensors"))
    suite = opened(lab)
    module, head = suite.model(), suite.heads()["films"]
    module.load_state_dict(load_file(lab / "a.safetensors"))
    (name, weight), *_ = [(n, p) for n, p in module.named_parameters() if n.endswith("layer.2.output.dense.weight")]
    tokens, _ = next(iter(suite.batches("films", "val")))
    expected = torch.zeros_like(weight)
    for sample in tokens[:3]:
        logs = torch.log_softmax(head.logits(module(sample[None]))[0], dim=-1)
        for log in logs:
            (gradient,) = torch.autograd.grad(log, weight, retain_graph=True)
            expected += log.exp().detach() * gradient.square() / 3
    assert torch.allclose(tensors["encoder.layer.2.output.dense.weight"], expected, rtol=1e-3, atol=1e-9), name
    assert expected.sum() > 0


@pytest.mark.parametrize("kind", ["distilbert", "electra", "roberta", "albert", "mpnet"])
def test_other_encoders_give_their_means_one_by_one_and_in_batches(kind: str, lab: Path) -> None:
    sizes = {"hidden_size": 16, "dim": 16, "embedding_size": 16, "intermediate_size": 32, "hidden_dim": 32}
    layers = {"num_hidden_layers": 2, "n_layers": 2, "num_attention_heads": 2, "n_heads": 2}
    words = {"vocab_size": 40, "max_position_embeddings": 20, "pad_token_id": 0, "initializer_range": 0.5}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes, **layers, **words))
    model.save_pretrained(lab / "base")
    tokenizer = json.loads((lab / "base" / "tokenizer_config.json").read_text())
    inputs = ["input_ids", "attention_mask"]
    (lab / "base" / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_input_names": inputs}))
    suite = opened(lab)
    module = suite.model()
    module.load_state_dict(load_file(lab / "base" / "model.safetensors"))
    tokens, _ = next(iter(suite.batches("films", "val")))
    features = torch.nn.functional.normalize(module(tokens).detach(), dim=-1)
    expected = embedded(lab / "base", [text for text, _ in FILMS["val"]])
    assert torch.allclose(features, expected, atol=1e-5)
    if kind in ("distilbert", "electra", "roberta"):
        parameters = {name: value.detach() for name, value in module.named_parameters()}
        each = torch.func.vmap(lambda one: torch.func.functional_call(module, parameters, (one[None],))[0])
        with sdpa_kernel(SDPBackend.MATH):
            assert torch.allclose(each(tokens), module(tokens).detach(), atol=1e-5)


ENCODER = '''
import torch


class Counter(torch.nn.Module):
    """Counts two tokens, and adds a weight."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(2))

    def forward(self, tokens):
        ids = tokens[:, 0]
        counts = torch.stack([(ids == 4).sum(1), (ids == 5).sum(1)], dim=1)
        return counts + self.shift


def build():
    return Counter()
'''


def test_python_of_the_user_s_own_needs_trust(lab: Path) -> None:
    (lab / "enc.py").write_text(ENCODER)
    save_file({"shift": torch.tensor([0.1, 0.0])}, lab / "a.safetensors")
    save_file({"weight": torch.eye(2)}, lab / "head.safetensors")

    def edit(content: dict[str, Any]) -> None:
        content["model"] = {"factory": "enc.py:build", "base": "base"}
        tasks = content["tasks"]
        content["tasks"] = {"films": {**tasks["films"], "labels": ["plus", "minus"], "head": "head.safetensors"}}

    change(lab, edit)
    nodes = {
        "model": {"op": "load", "path": "a.safetensors"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    (lab / "recipe.yaml").write_text(yaml.safe_dump({"name": "own", "nodes": nodes}))
    assert [code.text for code in opened(lab).code()] == ["enc.py:build"]
    assert "enc.py:build" in lines_pipeline.validate(lab / "recipe.yaml").notes[0]
    with pytest.raises(EvalError, match=r"runs Python, enc\.py:build .* is not a trusted folder"):
        lines_pipeline.run(lab / "recipe.yaml")
    trust(lab)
    result = lines_pipeline.run(lab / "recipe.yaml").metrics["val"]
    assert result["accuracy/films"] == 0.75  # 'awful' counts nothing, and the shift makes it a plus


def test_models_of_transformers_run_none_of_a_folder_s_own_code(lab: Path) -> None:
    assert opened(lab).code() == () and opened(lab).foreign_code() is None
    config = json.loads((lab / "base" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (lab / "base" / "config.json").write_text(json.dumps(config))
    (lab / "base" / "evil.py").write_text(f"open({str(lab / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(EvalError, match=r"transformers cannot (read|make)"):
        opened(lab).evaluate(load_file(lab / "a.safetensors"), ["films"], "val")
    assert not (lab / "ran").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: write_csv(f / "meals_val.csv", MEALS["val"][:2]),
        lambda f: (f / "base" / "tokenizer_config.json").write_text("{} "),
        lambda f: write_expert(f / "base", f / "base" / "model.safetensors", 9),
        lambda f: change(f, lambda content: content.update(template="the {label}")),
    ],
)
def test_the_digest_goes_by_data_base_and_file(spoil: Callable[[Path], object], lab: Path) -> None:
    before = opened(lab).digest("val")
    assert opened(lab).digest("val") == before and opened(lab).digest("test") != before
    spoil(lab)
    assert opened(lab).digest("val") != before


def test_what_is_missing_is_told_before_anything_is_loaded(lab: Path) -> None:
    (lab / "films_val.csv").unlink()
    (lab / "base" / "model.safetensors").unlink()
    base, film = opened(lab).check(["films"], "val")
    assert base.endswith("base: no weights, of which heads of label names are made")
    assert film.endswith("task 'films': films_val.csv: no such file")
    (lab / "base" / "config.json").unlink()
    assert opened(lab).check(["films"], "val")[0].endswith("expected a model folder of transformers")
    change(lab, lambda content: content["model"].update(base="nowhere"))
    assert "nowhere: no such folder" in opened(lab).check(["films"], "val")[0]
    with pytest.raises(EvalError, match="task 'films' has no data for split 'train'; it has: val, test"):
        opened(lab).check(["films"], "train")


MISTAKES: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown class of transformers": (
        lambda c: c["model"].update(factory="transformers:AutoModl"),
        r"suite\.yaml:3:12: 'model\.factory': no factory for texts: .*did you mean 'transformers:AutoModel'",
    ),
    "a model of images": (lambda c: c["model"].update(factory="timm:vit"), r"suite\.yaml:3:12: .*no factory for texts"),
    "no base": (lambda c: c["model"].pop("base"), r"suite\.yaml:2:1: 'base' is missing"),
    "pooling of a classifier": (
        lambda c: c["model"].update(factory="transformers:AutoModelForSequenceClassification", pooling="cls"),
        r"'pooling' is for transformers:AutoModel",
    ),
    "neither labels nor head": (
        lambda c: c["tasks"]["films"].pop("labels"),
        r"suite\.yaml:8:5: task 'films': expected 'labels', the names of its classes, or a 'head'",
    ),
    "a head that the model has": (
        lambda c: (c["model"].update(factory="transformers:AutoModelForSequenceClassification"),
                   c["tasks"]["films"].update(head="h.safetensors")),
        r"task 'films': transformers:AutoModelForSequenceClassification has its own head",
    ),
    "a format that is not known": (
        lambda c: c["tasks"]["films"]["data"].update(val="films.xlsx"),
        r"suite\.yaml:\d+:\d+: cannot tell the format of 'films\.xlsx', expected a name with \.csv, \.tsv",
    ),
    "one class": (lambda c: c["tasks"]["films"].update(labels=["plus"]), "expected two or more names of classes"),
    "a template without the label": (lambda c: c.update(template="a film"), r"expected a text with \{label\}"),
    "an unknown metric": (
        lambda c: c["tasks"]["films"].update(expert={"val": {"acuracy": 0.5}}), "unknown metric 'acuracy'"
    ),
    "an unknown split": (lambda c: c["tasks"]["films"]["data"].update(dev="x.csv"), "unknown split 'dev'"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_is_told_with_its_place(
    edit: Callable[[dict[str, Any]], object], message: str, lab: Path
) -> None:
    change(lab, edit)
    with pytest.raises(EvalError, match=message):
        lines_pipeline.validate(recipe(lab))


def test_labels_and_heads_have_to_agree(lab: Path) -> None:
    save_file({"weight": torch.zeros(3, 16)}, lab / "head.safetensors")
    change(lab, lambda content: content["tasks"]["films"].update(head="head.safetensors"))
    with pytest.raises(EvalError, match=r"suite\.yaml:\d+:\d+: task 'films': 2 labels, the head has 3 classes"):
        opened(lab).evaluate(load_file(lab / "a.safetensors"), ["films"], "val")
    save_file({"weight": torch.zeros(2, 9)}, lab / "head.safetensors")
    with pytest.raises(EvalError, match=r"the model gave shape \(4, 16\), expected \[4, 9\]: features"):
        opened(lab).evaluate(load_file(lab / "a.safetensors"), ["films"], "val")


def test_modules_that_are_not_known_are_refused(lab: Path) -> None:
    write_sentence_modules(lab / "base", {"pooling_mode_weightedmean_tokens": True})
    change(lab, lambda content: content.update(model={"factory": "sentence-transformers:", "base": "base"}))
    with pytest.raises(EvalError, match=r"1_Pooling/config\.json: pooling by pooling_mode_weighted.*; expected"):
        opened(lab).model()
    modules = json.loads((lab / "base" / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (lab / "base" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EvalError, match=r"modules\.json: modules Transformer, Pooling, Dense; expected"):
        opened(lab).model()


def test_drift_of_a_text_does_not_depend_on_the_padding_beside_it(lab: Path) -> None:
    """What the last block gives, pooled over a text's own tokens, is what the suite's mean pooling makes of it."""
    suite = opened(lab)
    tokens, _ = next(iter(suite.batches("films", "val")))
    module: Any = suite.model().eval()
    padded: object = module
    assert isinstance(padded, Padded)
    assert torch.equal(module.token_mask(tokens), (tokens[:, 0] != 0).long()) and not module.token_mask(tokens).all()
    (name,) = [name for name, _ in module.named_modules() if name.endswith("layer.2")]
    outputs = BlockOutputs(module, {"2": module.get_submodule(name)}, "cpu")
    with torch.inference_mode():
        expected = module(tokens)
    torch.testing.assert_close(outputs.rows(tokens)["2"].float(), expected, rtol=1e-4, atol=1e-5)


def test_gram_of_texts_does_not_depend_on_the_padding_beside_them(lab: Path) -> None:
    """Tokens of a text alone, one text after the other, are all that count."""
    suite = opened(lab)
    tokens, _ = next(iter(suite.batches("films", "val")))
    module: Any = suite.model().eval()
    lengths = module.token_mask(tokens).sum(1).tolist()
    assert len(set(lengths)) > 1
    weights = {name: value for name, value in module.named_parameters() if name.endswith("dense.weight")}
    batches = [tokens], [text[None, :, :length] for text, length in zip(tokens, lengths, strict=True)]
    together, alone = (Gram().measured(observer_of(module, weights, parts)) for parts in batches)
    assert len(together) > 3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)

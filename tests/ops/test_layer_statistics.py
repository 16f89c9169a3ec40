"""``gram`` and ``layer-inputs``: what flows into the layers of a model, on the data of a suite."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from layer_suite import Node, State, saved, write_layer_suite, write_recipe
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import lines_pipeline
from lines_pipeline.core.errors import EvalError, LinesError, RecipeError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.ops import registry
from lines_pipeline.ops.capturing import Tell
from lines_pipeline.ops.gram import Gram
from lines_pipeline.ops.schemas.schema import Schema
from lines_pipeline.ops.task_statistics import TaskParams
from lines_pipeline.ops.token_counts import TokenCounts


def measure(folder: Path, op: str, model: State, **params: object) -> State:
    save_file(model, folder / "model.safetensors")
    nodes: dict[str, Node] = {
        "model": {"op": "load", "path": "model.safetensors"},
        "measured": {"op": op, "model": "model", "suite": "suite.yaml", "task": "0", **params},
    }
    return saved(folder, nodes, "measured")


INPUTS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 6.0]])


def test_a_layer_by_hand(tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "line", INPUTS)
    model = {"weight": torch.zeros(2, 2)}
    assert torch.equal(measure(tmp_path, "layer-inputs", model)["weight"], INPUTS)
    gram = measure(tmp_path, "gram", model, rows=2)
    assert {name: value.tolist() for name, value in gram.items()} == {"weight": [[5.0, 7.0], [7.0, 10.0]]}


def layers() -> State:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "attention.in_proj_weight": (12, 4),
        "attention.in_proj_bias": (12,),
        "attention.out_proj.weight": (4, 4),
        "attention.out_proj.bias": (4,),
        "square.weight": (4, 4),
        "square.bias": (4,),
        "wide.weight": (4, 6),
        "wide.bias": (6,),
        "tight.weight": (4, 6),
        "tight.bias": (4,),
        "own": (4, 4),
        "norm.weight": (4,),
        "norm.bias": (4,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def by_token(values: torch.Tensor) -> torch.Tensor:
    """Rows of [n, tokens, features] as nn.MultiheadAttention sees them: all first tokens, then all second ones."""
    return values.transpose(0, 1).reshape(-1, values.shape[-1])


def test_every_kind_of_layer_is_observed_and_named(tmp_path: Path) -> None:
    tokens = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
    write_layer_suite(tmp_path, "Layers", tokens)
    state = layers()
    rows = measure(tmp_path, "layer-inputs", state)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).requires_grad_(False)
    attention.load_state_dict({n.removeprefix("attention."): v for n, v in state.items() if n.startswith("attention")})
    attended = attention(tokens, tokens, tokens)[0]
    outputs = functional.linear(
        rows["attention.out_proj.weight"], state["attention.out_proj.weight"], state["attention.out_proj.bias"]
    )
    torch.testing.assert_close(outputs, by_token(attended))
    squared = (tokens + attended).reshape(15, 4)
    widened = torch.tanh(squared @ state["square.weight"] + state["square.bias"])
    tightened = torch.tanh(widened @ state["wide.weight"] + state["wide.bias"])
    expected = {
        "attention.in_proj_weight": by_token(tokens),
        "attention.out_proj.weight": rows["attention.out_proj.weight"],
        "square.weight.T": squared,
        "wide.weight": widened,
        "tight.weight": tightened,
        "own": tightened @ state["tight.weight"].T + state["tight.bias"],
    }
    assert rows.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(rows[name], value)
    grams = measure(tmp_path, "gram", state)
    assert grams.keys() == {
        *("attention.in_proj_weight", "attention.out_proj", "square.weight.T", "wide", "tight", "own")
    }
    for name, value in rows.items():
        wide = value.double()
        torch.testing.assert_close(
            grams[name.removesuffix(".weight")].double(), wide.T @ wide / 15, rtol=1e-6, atol=1e-7
        )


def test_attention_to_other_widths_has_an_input_for_each_projection(tmp_path: Path) -> None:
    tokens = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))
    write_layer_suite(tmp_path, "Crossed", tokens)
    model = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
    rows = measure(tmp_path, "layer-inputs", {f"attention.{n}": v.detach() for n, v in model.state_dict().items()})
    assert torch.equal(rows["attention.q_proj_weight"], tokens[:, :1].reshape(5, 4))
    assert torch.equal(rows["attention.k_proj_weight"], by_token(tokens[:, 1:, :3]))
    assert torch.equal(rows["attention.v_proj_weight"], by_token(tokens[:, 1:, :3]))
    assert rows["attention.out_proj.weight"].shape == (5, 4) and len(rows) == 4


def texts_model() -> State:
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "positional_embedding": (5, 4),
        "attention.in_proj_weight": (12, 4),
        "attention.in_proj_bias": (12,),
        "attention.out_proj.weight": (4, 4),
        "attention.out_proj.bias": (4,),
        "wide.weight": (4, 6),
        "wide.bias": (6,),
        "tight.weight": (4, 6),
        "tight.bias": (4,),
        "head.weight": (2, 4),
        "head.bias": (2,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("lengths", [(3, 5, 1, 4), (2, 4, 3, 4), (5, 5, 2, 3, 1), (5, 5)])
def test_padding_gives_no_rows_in_whatever_axes_it_lies(lengths: tuple[int, ...], tmp_path: Path) -> None:
    """Texts in one batch give what each gives alone: also where there are as many texts as tokens, and in attention,
    which counts tokens first."""
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randn(1, length, 4, generator=generator) for length in lengths]
    write_layer_suite(
        tmp_path, "Texts", torch.cat([functional.pad(t, (0, 0, 0, max(lengths) - t.shape[1])) for t in texts])
    )
    rows, grams = (measure(tmp_path, op, texts_model()) for op in ("layer-inputs", "gram"))
    alone: dict[str, list[torch.Tensor]] = {}
    for number, text in enumerate(texts):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_layer_suite(folder, "Texts", text)
        for name, value in measure(folder, "layer-inputs", texts_model()).items():
            alone.setdefault(name, []).append(value)
    assert rows.keys() == alone.keys()
    for name, values in alone.items():
        expected = torch.cat(values)
        assert len(expected) == (len(lengths) if name == "head.weight" else sum(lengths))
        torch.testing.assert_close(sorted_rows(rows[name]), sorted_rows(expected), rtol=1e-4, atol=1e-5)
        gram = expected.double().T @ expected.double() / len(expected)
        torch.testing.assert_close(grams[name.removesuffix(".weight")].double(), gram, rtol=1e-4, atol=1e-5)


def told_bytes(op: str, model: State, rows: int) -> int:
    """What an op's driver says that it holds beside the state and the module."""
    tensors = {name: TensorSpec(name, "float32", tuple(value.shape)) for name, value in model.items()}
    schema = Schema(tensors, tuple(tensors))
    params = TaskParams(suite="suite.yaml", task="0", rows=rows)
    return registry()[op].driver_bytes(params, {"model": [schema]}) - 2 * schema.state_bytes


@pytest.mark.parametrize("op", ["gram", "layer-inputs"])
def test_what_is_kept_of_tokens_is_told(op: str, tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "Texts", torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(1)))
    sizes = [value.nbytes for value in measure(tmp_path, op, texts_model(), rows=40).values()]
    joined = max(sizes) if op == "layer-inputs" else 2 * sum(sizes)
    told = told_bytes(op, texts_model(), 40)
    assert sum(sizes) + joined <= told < 2 * (sum(sizes) + joined)


def test_nothing_of_the_inputs_is_held_while_gram_runs() -> None:
    def observe(tell: Tell) -> None:
        for _ in range(3):
            rows = torch.ones(5, 2)
            held = weakref.ref(rows)
            tell("layer.weight", rows)
            del rows
            assert held() is None

    assert torch.equal(Gram().measured(observe)["layer"], torch.ones(2, 2))


def test_tokens_are_those_of_the_table_of_positions_in_the_same_tower() -> None:
    shapes = {
        "positional_embedding": (77, 8),
        "visual.positional_embedding": (50, 8),
        "visual.blocks.0.weight": (8, 8),
        "blocks.0.weight": (8, 8),
        "relative_position_bias_table": (900, 2),
    }
    tensors = {name: TensorSpec(name, "float32", shape) for name, shape in shapes.items()}
    counts = TokenCounts.of(Schema(tensors, tuple(tensors)))
    assert (counts.at("visual.blocks.0.weight"), counts.at("blocks.0.weight")) == (50, 77)
    for name, shape in {
        "vit.embeddings.position_embeddings": (1, 5, 8),
        "pos_embed": (1, 5, 8),
        "bert.embeddings.position_embeddings.weight": (5, 8),
        "vision_model.embeddings.position_embedding.weight": (5, 8),
        "h.wpe.weight": (5, 8),
        "encoder.embed_positions.weight": (5, 8),
    }.items():
        assert TokenCounts.of(Schema({name: TensorSpec(name, "float32", shape)}, (name,))).at("any.weight") == 5
    assert TokenCounts.of(Schema({}, ())).at("any.weight") == 1


def test_a_tied_weight_has_the_inputs_of_all_its_layers(tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "Twice", INPUTS)
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    rows = measure(tmp_path, "layer-inputs", {"one.weight": weight, "two.weight": weight.clone()})
    assert {name: value.tolist() for name, value in rows.items()} == {
        "one.weight": [*INPUTS.tolist(), *(2 * INPUTS @ weight.T).tolist()]
    }


def test_only_rows_that_were_asked_for_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layer_suite(tmp_path, "line", INPUTS)
    model = {"weight": torch.zeros(2, 2)}
    first = measure(tmp_path, "gram", model)
    runs: list[int] = []
    forward = nn.Linear.forward

    def counted(layer: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
        runs.append(len(rows))
        return forward(layer, rows)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    assert torch.equal(measure(tmp_path, "gram", model)["weight"], first["weight"]) and runs == []
    assert measure(tmp_path, "gram", model, rows=1)["weight"].tolist() == [[1.0, 2.0], [2.0, 4.0]] and runs == [1]


def test_a_plan_tells_what_will_be_measured_and_measures_nothing(tmp_path: Path) -> None:
    write_layer_suite(tmp_path, "line", INPUTS)
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    nodes: dict[str, Node] = {
        "model": {"op": "load", "path": "model.safetensors"},
        "measured": {"op": "gram", "model": "model", "suite": "suite.yaml", "task": "0", "rows": 2},
        "merged": {"op": "regmean", "models": ["model"], "statistics": ["measured"]},
        "saved": {"op": "save", "model": "merged", "path": "merged.safetensors"},
    }
    plan = lines_pipeline.plan(write_recipe(tmp_path, nodes), trust=True)
    assert "measured on 2 samples of 0 (val)" in plan.render()
    assert plan.passes[0]["bytes_read"] == 4 * (4 + 4), "the weight, and the Gram matrix"


@pytest.mark.parametrize(
    ("factory", "model", "params", "error", "words"),
    [
        ("Scaled", {"scale": torch.ones(2)}, {}, EvalError, "node 'measured'.*no linear layer"),
        ("line", {"wrong": torch.ones(2, 2)}, {}, EvalError, "(?s)node 'measured': the model does not fit"),
        ("line", {"weight": torch.ones(2, 2)}, {"task": "7"}, EvalError, "no task '7'"),
        ("line", {"weight": torch.ones(2, 2)}, {"split": "test"}, RecipeError, "'split': expected 'train' or 'val'"),
        ("line", {"weight": torch.ones(2, 2)}, {"rows": 0}, RecipeError, "'rows'"),
    ],
)
def test_mistakes(
    factory: str, model: State, params: dict[str, object], error: type[LinesError], words: str, tmp_path: Path
) -> None:
    write_layer_suite(tmp_path, factory, INPUTS)
    with pytest.raises(error, match=words):
        measure(tmp_path, "gram", model, **params)


def test_gpt2_is_merged_by_regression_on_weights_that_are_in_by_out(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "factory.py").write_text(GPT2)
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (6, 4))
    write_layer_suite(tmp_path, "build", tokens)
    (tmp_path / "factory.py").write_text(GPT2)
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8, **SPECIAL)
    for number in range(2):
        torch.manual_seed(number)
        state = transformers.GPT2Model(config).state_dict()
        save_file({name: value.clone() for name, value in state.items()}, tmp_path / f"m{number}.safetensors")
    nodes: dict[str, Node] = {
        "models": {"op": "load", "path": "m{n}.safetensors", "for_each": {"n": [0, 1]}},
        "measured": {"op": "gram", "model": "models", "suite": "suite.yaml", "task": "0"},
        "merged": {"op": "regmean", "models": "models", "statistics": "measured", "ridge": 0.0},
    }
    tensors = saved(tmp_path, nodes, "merged")
    models = [transformers.GPT2Model(config).eval().requires_grad_(False) for _ in range(2)]
    inputs = []
    for number, model in enumerate(models):
        model.load_state_dict(load(tmp_path / f"m{number}.safetensors"))
        values: list[torch.Tensor] = []
        model.h[0].attn.c_proj.register_forward_pre_hook(lambda layer, given, values=values: values.append(given[0]))
        model(tokens)
        inputs.append(values[0].reshape(-1, 8).double())
    reduced = []
    for rows in inputs:
        gram = rows.T @ rows / len(rows)
        reduced.append(0.9 * gram + 0.1 * gram.diag().diag())
    weights = [model.h[0].attn.c_proj.weight.double() for model in models]
    target = sum(gram @ weight for gram, weight in zip(reduced, weights, strict=True))
    expected = torch.linalg.solve(sum(reduced), target)
    torch.testing.assert_close(tensors["h.0.attn.c_proj.weight"].double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tensors["wte.weight"], sum(model.wte.weight for model in models) / 2)


SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}
GPT2 = """
from transformers import GPT2Config, GPT2Model
from torch import nn


class Last(GPT2Model):
    def forward(self, tokens):
        return super().forward(tokens).last_hidden_state[:, -1]


def build():
    return Last(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8, bos_token_id=0, eos_token_id=0))
"""


def load(path: Path) -> State:
    from safetensors.torch import load_file

    tensors: State = load_file(path)
    return tensors

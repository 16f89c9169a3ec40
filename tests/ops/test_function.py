"""Ops written as functions: what the signature declares, and what is said of one that declares something else."""

from __future__ import annotations

import pickle
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
import torch
from pydantic import Field, ValidationError

from lines_pipeline.core.errors import PluginError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import Delta, Mask, Op, Weights, op
from lines_pipeline.ops.base import Granularity, Port, Values
from lines_pipeline.ops.function import FunctionOp

SPEC = TensorSpec("t", "float32", (2, 2))


class Said(TypedDict):
    """What every op here says of itself."""

    formula: str
    source: str


SAID: Said = {"formula": "max |tau_t|", "source": "a test"}


@op(**SAID, laws=["permutation"])
def mag_max(deltas: list[Delta], *, scale: Annotated[float, Field(gt=0, description="A factor.")] = 1.0) -> Delta:
    """Keeps the largest."""
    best = deltas[0]
    for delta in deltas[1:]:
        best = best + (delta - best) * (delta.abs() > best.abs())
    return best * scale


@op(**SAID)
def fill(model: Weights, kept: Mask | None, tensor: TensorSpec, *, by: float, to: Literal["a", "b"] = "a") -> Weights:
    """Takes an optional mask, the tensor's spec and a parameter without a default."""
    return model * by if kept is None else model * kept * len(tensor.shape)


@op(**SAID, granularity="tensor", working_bytes=lambda tensor, counts: 3 * tensor.nbytes * counts["deltas"])
def centred(deltas: Sequence[Delta]) -> Delta:
    return sum(delta - delta.mean(1, keepdim=True) for delta in deltas)


@op(**SAID, granularity="tensor")
def stacked(deltas: list[Delta], *, rows: int = 1) -> Mask:
    return torch.stack(deltas).sum(0) > rows


def applied(method: FunctionOp, inputs: Values, **params: Any) -> Any:
    """Return the numbers that an op gives for ``SPEC``."""
    result = method.apply(method.Params.model_validate(params), inputs, SPEC, {})
    assert isinstance(result, torch.Tensor)
    return result.tolist()


def test_the_signature_says_what_the_op_declares() -> None:
    assert isinstance(mag_max, Op)
    assert (mag_max.name, mag_max.formula, mag_max.gives) == ("mag-max", "max |tau_t|", EdgeType.DELTA)
    assert mag_max.inputs == {"deltas": Port(EdgeType.DELTA, many=True)}
    assert mag_max.laws == ("permutation",) and mag_max.__doc__ == "Keeps the largest."
    assert mag_max.Params().model_dump() == {"scale": 1.0}
    with pytest.raises(ValidationError, match="greater than 0"):
        mag_max.Params.model_validate({"scale": 0.0})
    assert fill.inputs == {"model": Port(EdgeType.WEIGHTS), "kept": Port(EdgeType.MASK, optional=True)}
    assert fill.Params.model_fields["by"].is_required() and not fill.Params.model_fields["to"].is_required()


def test_elementwise_functions_take_blocks() -> None:
    tensors, two = torch.tensor([1.0, -4.0]), torch.tensor([3.0, 1.0])
    assert applied(mag_max, {"deltas": (tensors, two)}, scale=0.5) == [1.5, -2.0]
    assert mag_max([tensors, two]).tolist() == [3.0, -4.0]
    assert applied(fill, {"model": (tensors,)}, by=2.0) == [2.0, -8.0]
    kept = torch.tensor([True, False])
    assert applied(fill, {"model": (tensors,), "kept": (kept,)}, by=2.0) == [2.0, 0.0]


def test_functions_of_whole_tensors_take_them_in_their_shape() -> None:
    flat = torch.tensor([1.0, 3.0, 0.0, 4.0])
    assert centred.granularity is Granularity.TENSOR and centred.wants_whole(centred.Params(), SPEC)
    assert applied(centred, {"deltas": (flat, flat)}) == [-2.0, 2.0, -4.0, 4.0]
    assert applied(stacked, {"deltas": (flat, flat)}) == [True, True, False, True]


def test_the_memory_of_whole_tensors_is_what_the_author_says_or_all_that_is_taken_at_once() -> None:
    assert centred.working_bytes(centred.Params(), SPEC, {"deltas": 5}) == 3 * 16 * 5
    assert stacked.working_bytes(stacked.Params(), SPEC, {"deltas": 5}) == (5 + 2) * 16


def test_ops_and_their_parameters_pickle_by_name() -> None:
    assert pickle.loads(pickle.dumps(mag_max)) is mag_max
    params = mag_max.Params.model_validate({"scale": 2.0})
    assert pickle.loads(pickle.dumps(params)) == params
    assert mag_max.Params.__qualname__ == "mag_max.Params"


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (lambda delta: delta[:1], r"gave torch.float32 of shape \(1,\) for tensor 't', expected .* of shape \(2,\)"),
        (lambda delta: delta.double(), "gave torch.float64"),
        (lambda delta: 3.0, "gave a float, expected a tensor"),
        (lambda delta: delta.no_such, r"raised on tensor 't' AttributeError: .*no_such.* \(.*test_function.py:\d+\)"),
    ],
)
def test_what_a_function_gives_is_looked_at(result: Callable[[Any], Any], told: str) -> None:
    @op(**SAID)
    def broken(delta: Delta) -> Delta:
        return result(delta)

    with pytest.raises(PluginError, match=f"op 'broken' {told}"):
        broken.apply(broken.Params(), {"delta": (torch.ones(2),)}, SPEC, {})


MISTAKES = {
    "def f(deltas) -> Delta: ...": "parameter 'deltas' has no annotation, expected Delta, Weights, Mask, or a list",
    "def f(deltas: list[Delta], by=1.0) -> Delta: ...": "parameter 'by' has no annotation, expected 'def f",
    "def f(deltas: list[Delta], *, by=1.0) -> Delta: ...": "parameter 'by' has no annotation, expected the type of an",
    "def f(deltas: list[Delta] = []) -> Delta: ...": "input 'deltas' has a default",
    "def f(deltas: float) -> Delta: ...": "input 'deltas' is of an unknown type, 'float'; expected Delta",
    "def f(deltas: list[float]) -> Delta: ...": "input 'deltas' is of an unknown type",
    "def f(deltas: Deltas) -> Delta: ...": "its annotations cannot be read: name 'Deltas' is not defined",
    "def f(deltas: list[Delta]): ...": "what it gives is not said: expected '-> Delta', '-> Weights' or '-> Mask'",
    "def f(deltas: list[Delta]) -> list[Delta]: ...": "what it gives is not said",
    "def f(*deltas: Delta) -> Delta: ...": "it takes no input",
    "def f(delta: Delta, **more: float) -> Delta: ...": "takes anything: expected inputs and options by name",
    "def f(delta: Delta, *, other: Delta) -> Delta: ...": "option 'other' is an input by its type",
    "def f(delta: Delta, *, include: str = '') -> Delta: ...": "option 'include' has the name of a field",
    "def f(for_each: Delta) -> Delta: ...": "parameter 'for_each' has the name of a field",
    "def f(delta: Delta, *, how: Strange = None) -> Delta: ...": "an option is of a type that recipes cannot hold",
    "def f(delta: Delta, *, by: Annotated[float, Field(gt=0)] = -1.0) -> Delta: ...": "the default of 'by' is -1.0",
    "def f(*, by: float = 1.0) -> Delta: ...": "it takes no input",
    "def MagMax(delta: Delta) -> Delta: ...": "its name becomes the op's: expected lower-case letters",
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.items())
def test_a_mistake_in_a_signature_is_told_with_function_and_line(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "methods.py"
    head = """\
        from typing import Annotated
        from pydantic import Field
        from lines_pipeline.ops import op, Delta, Weights, Mask
        class Strange: pass
        @op(formula="", source="")
    """
    file.write_text(textwrap.dedent(head) + text)
    name = re.match(r"def (\w+)", text)
    assert name is not None
    with pytest.raises(PluginError, match=re.escape(told)) as caught:
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "methods"})
    assert str(caught.value).startswith(f"{name[1]} ({file}:5): ")


def test_granularities_and_their_memory_are_checked() -> None:
    def one(delta: Delta) -> Delta: ...

    with pytest.raises(PluginError, match="granularity is 'model', expected 'elementwise' or 'tensor'"):
        op(**SAID, granularity="model")(one)
    with pytest.raises(PluginError, match="'working_bytes' is for granularity='tensor'"):
        op(**SAID, working_bytes=lambda tensor, counts: 0)(one)

"""Ops written as functions: the signature says what an op declares, the body what it computes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Never, NoReturn, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import ValidationError, create_model
from pydantic.errors import PydanticUserError

from lines_pipeline.core.errors import LinesError, PluginError
from lines_pipeline.core.tensor_specs import ITEM_BYTES, TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.core.user_code.running import what_was_raised
from lines_pipeline.jit.boundary import Untraceable
from lines_pipeline.jit.tracing import TracedValue
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port, Values
from lines_pipeline.ops.kernels import Block, Value

Weights = Annotated[Any, EdgeType.WEIGHTS]
"""Values of a checkpoint: a tensor in the compute type, 1-D for elementwise ops, else in its own shape."""
Delta = Annotated[Any, EdgeType.DELTA]
"""Values of a task vector."""
Mask = Annotated[Any, EdgeType.MASK]
"""Values of a mask: booleans."""

WorkingBytes = Callable[[TensorSpec, Mapping[str, int]], int]
"""Memory that a function takes for a whole tensor, by its spec and the number of inputs by port: its result
included, one input apart."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_RESERVED = ("op", "for_each", "include", "exclude")
_EXPECTED = "expected Delta, Weights, Mask, or a list of one of them"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FunctionOp(Op[Any]):
    """An op that calls a function; ``op`` makes a subclass of its own for every function."""

    signature: ClassVar[Signature]
    function: ClassVar[Callable[..., Any]]
    own_working_bytes: ClassVar[WorkingBytes | None]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as a test by hand does."""
        return type(self).function(*args, **kwargs)

    def __reduce__(self) -> str:
        """Pickle by module and name, as functions do."""
        return type(self).function.__qualname__

    def wants_whole(self, params: Any, tensor: TensorSpec) -> bool:
        return True

    def working_bytes(self, params: Any, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        own = type(self).own_working_bytes
        if own is not None:
            return own(tensor, counts)
        together = sum(counts.get(port, 0) for port in self.signature.lists)
        return (together + 2) * tensor.numel * ITEM_BYTES[tensor.compute_dtype]

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Never]) -> Value:
        whole = self.granularity is Granularity.TENSOR
        arguments = self.signature.arguments(inputs, tensor, tensor.shape if whole else None)
        given = {name: getattr(params, name) for name in type(params).model_fields}
        first: Block = next((value for values in inputs.values() for value in values[:1]), None) if not whole else None
        try:
            result = type(self).function(*arguments, **given)
        except (LinesError, Untraceable):
            raise
        except Exception as error:  # the door of code that is not ours
            if isinstance(first, TracedValue):
                raise Untraceable(str(error)) from error
            raise PluginError(
                f"op '{self.name}' raised on tensor '{tensor.name}' {what_was_raised(error, self.signature.code)}"
            ) from error
        if isinstance(result, torch.Tensor):
            self._check(result, tensor, tensor.shape if first is None else first.shape)
            return result.reshape(-1)
        if isinstance(result, TracedValue):
            return result
        raise PluginError(
            f"op '{self.name}' gave a {type(result).__name__}, expected a tensor ({self.signature.place})"
        )

    def _check(self, result: torch.Tensor, tensor: TensorSpec, shape: Sequence[int]) -> None:
        expected = torch.bool if self.gives is EdgeType.MASK else getattr(torch, tensor.compute_dtype)
        if tuple(result.shape) != tuple(shape) or result.dtype != expected:
            raise PluginError(
                f"op '{self.name}' gave {result.dtype} of shape {tuple(result.shape)} for tensor '{tensor.name}', "
                f"expected {expected} of shape {tuple(shape)} ({self.signature.place})"
            )


@dataclass(frozen=True)
class Signature:
    """Tells what the parameters of a function stand for."""

    code: Code
    place: str
    """``name (file:line)``, for messages."""
    kinds: tuple[tuple[str, Port | None], ...]
    """Of the positional parameters, in order: the port, or None for the spec of the tensor."""
    lists: frozenset[str]
    """Ports whose values the function takes all at once."""

    def arguments(self, inputs: Values, tensor: TensorSpec, shape: Sequence[int] | None) -> list[Any]:
        """Return the positional arguments: values as they are, or each in a ``shape``."""
        return [
            tensor if port is None else self._argument(name, port, inputs.get(name, ()), shape)
            for name, port in self.kinds
        ]

    def _argument(self, name: str, port: Port, values: Sequence[Value], shape: Sequence[int] | None) -> Any:
        if port.optional and not values:
            return None
        shaped = values if shape is None else ShapedValues(values, shape)
        if port.many:
            return list(shaped) if name in self.lists else shaped
        return shaped[0]


@dataclass(frozen=True)
class ShapedValues(Sequence[torch.Tensor]):
    """The values of a port in a tensor's shape, each made when it is taken."""

    values: Sequence[Block]
    shape: Sequence[int]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index].reshape(tuple(self.shape))


def op(
    *,
    formula: str,
    source: str,
    granularity: str = "elementwise",
    working_bytes: WorkingBytes | None = None,
    laws: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], FunctionOp]:
    """Make an op of a function: its name is the function's, with ``_`` as ``-``.

    Positional parameters under ``Delta``, ``Weights``, ``Mask`` or a ``list`` of one of these are the ports (with
    ``| None``: optional ones), one under ``TensorSpec`` gets the name, type and shape of the tensor; keyword-only
    parameters are the op's own; the return annotation is what it gives. ``granularity="tensor"`` gives the function
    whole tensors in their shapes (of a port under ``Sequence[Delta]`` one at a time, as it takes them) in place of 1-D
    blocks. ``laws`` names those of ``ops.testing`` that it keeps.

    Raises ``PluginError`` naming function and line for a signature that says something else.
    """

    def made(function: Callable[..., Any]) -> FunctionOp:
        return _op_of(function, formula, source, granularity, working_bytes, tuple(laws))

    return made


def _op_of(
    function: Callable[..., Any],
    formula: str,
    source: str,
    granularity: str,
    working_bytes: WorkingBytes | None,
    laws: tuple[str, ...],
) -> FunctionOp:
    code = Code(function.__name__, function.__name__, "", Path(function.__code__.co_filename), None)
    place = f"{function.__name__} ({code.file}:{function.__code__.co_firstlineno})"
    _check_declaration(function.__name__, granularity, working_bytes, place)
    hints = _hints(function, place)
    parameters = inspect.signature(function).parameters.values()
    signature = _signature(code, place, parameters, hints)
    options = [parameter for parameter in parameters if parameter.kind not in _POSITIONAL]
    op_class = type(
        function.__name__,
        (FunctionOp,),
        {
            "__doc__": inspect.getdoc(function) or "",
            "__module__": function.__module__,
            "name": function.__name__.replace("_", "-"),
            "formula": formula,
            "source": source,
            "gives": _given(hints, place),
            "inputs": {name: port for name, port in signature.kinds if port is not None},
            "granularity": Granularity(granularity),
            "laws": laws,
            "Params": _params_of(function, options, hints, place),
            "signature": signature,
            "function": staticmethod(function),
            "own_working_bytes": staticmethod(working_bytes) if working_bytes is not None else None,
        },
    )
    method = op_class()
    assert isinstance(method, FunctionOp)
    return method


def _check_declaration(name: str, granularity: str, working_bytes: WorkingBytes | None, place: str) -> None:
    if not _NAME.fullmatch(name):
        _refuse(place, "its name becomes the op's: expected lower-case letters, digits and single '_'")
    if granularity not in ("elementwise", "tensor"):
        _refuse(place, f"granularity is {granularity!r}, expected 'elementwise' or 'tensor'")
    if working_bytes is not None and granularity != "tensor":
        _refuse(place, "'working_bytes' is for granularity='tensor'")


def _signature(code: Code, place: str, parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]) -> Signature:
    """Return what the positional parameters stand for; refuse a function without an input."""
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    kinds = tuple((parameter.name, _port_of(parameter, hints, place)) for parameter in positional)
    inputs = [name for name, port in kinds if port is not None]
    if not inputs:
        _refuse(place, f"it takes no input: {_EXPECTED} at a positional parameter")
    lists = frozenset(name for name in inputs if get_origin(_without_none(hints[name])) is list)
    return Signature(code, place, kinds, lists)


def _refuse(place: str, message: str) -> NoReturn:
    raise PluginError(f"{place}: {message}")


def _hints(function: Callable[..., Any], place: str) -> dict[str, Any]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.annotation is inspect.Parameter.empty:
            has_default = parameter.default is not inspect.Parameter.empty
            expected = _EXPECTED if parameter.kind in _POSITIONAL else "expected the type of an option"
            if has_default and parameter.kind in _POSITIONAL:
                expected = (
                    f"expected 'def {function.__name__}(..., *, {parameter.name}: TYPE = ...)': options stand after '*'"
                )
            _refuse(place, f"parameter '{parameter.name}' has no annotation, {expected}")
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        _refuse(place, f"its annotations cannot be read: {error}; they are looked up at the top of the file")


def _port_of(parameter: inspect.Parameter, hints: Mapping[str, Any], place: str) -> Port | None:
    """Return the port that a positional parameter declares; None for the one that takes the ``TensorSpec``."""
    name = parameter.name
    if name in _RESERVED:
        _refuse(place, f"parameter '{name}' has the name of a field that nodes have anyway")
    if parameter.default is not inspect.Parameter.empty:
        _refuse(
            place,
            f"input '{name}' has a default: say '{name}: Delta | None' for one that may be left out, and put options "
            "after '*'",
        )
    if hints[name] is TensorSpec:
        return None
    port = _port(hints[name])
    if port is None:
        _refuse(place, f"input '{name}' is of an unknown type, {_shown(hints[name])}; {_EXPECTED}")
    return port


def _port(hint: Any) -> Port | None:
    plain = _without_none(hint)
    many = get_origin(plain) in (list, Sequence, Iterable)
    edge = _edge(get_args(plain)[0] if many else plain)
    return None if edge is None else Port(edge, many=many, optional=plain is not hint)


def _without_none(hint: Any) -> Any:
    """Return the type, without the ``None`` that makes it optional."""
    if get_origin(hint) in (Union, UnionType):
        types = [member for member in get_args(hint) if member is not NoneType]
        if len(types) == 1 and len(get_args(hint)) == 2:
            return types[0]
    return hint


def _edge(hint: Any) -> EdgeType | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((annotation for annotation in get_args(hint)[1:] if isinstance(annotation, EdgeType)), None)


def _given(hints: Mapping[str, Any], place: str) -> EdgeType:
    edge = _edge(hints.get("return"))
    if edge is None:
        shown = f", found {_shown(hints['return'])}" if "return" in hints else ""
        _refuse(place, f"what it gives is not said: expected '-> Delta', '-> Weights' or '-> Mask'{shown}")
    return edge


def _params_of(
    function: Callable[..., Any], options: Iterable[inspect.Parameter], hints: Mapping[str, Any], place: str
) -> type[OpParams]:
    fields: dict[str, Any] = {}
    for option in options:
        if option.kind is not inspect.Parameter.KEYWORD_ONLY:
            _refuse(place, f"'{option}' takes anything: expected inputs and options by name")
        if option.name in _RESERVED:
            _refuse(place, f"option '{option.name}' has the name of a field that nodes have anyway")
        if _port(hints[option.name]) is not None:
            _refuse(place, f"option '{option.name}' is an input by its type: put it before '*'")
        fields[option.name] = (hints[option.name], ... if option.default is inspect.Parameter.empty else option.default)
    try:
        params_class = create_model("Params", __base__=OpParams, __module__=function.__module__, **fields)
        params_class.model_json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        _refuse(place, f"an option is of a type that recipes cannot hold: {str(error).splitlines()[0]}")
    params_class.__qualname__ = f"{function.__qualname__}.Params"
    params_class.__doc__ = f"The options of {function.__name__}."
    _check_defaults(params_class, {name: default for name, (_, default) in fields.items() if default is not ...}, place)
    return params_class


def _check_defaults(params_class: type[OpParams], defaults: Mapping[str, Any], place: str) -> None:
    try:
        params_class.model_validate(dict(defaults))
    except ValidationError as error:
        for detail in error.errors():
            if detail["loc"] and detail["loc"][0] in defaults and detail["type"] != "missing":
                _refuse(place, f"the default of '{detail['loc'][0]}' is {detail['input']!r}: {detail['msg']}")


def _shown(hint: Any) -> str:
    return f"'{getattr(hint, '__name__', None) or hint}'"

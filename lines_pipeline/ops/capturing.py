"""Observes what flows into the layers of a model while it runs: the rows that each weight matrix is multiplied with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lines_pipeline.ops.layer_names import TRANSPOSED

_ATTENTION = inspect.signature(functional.multi_head_attention_forward)
_PROJECTIONS = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}


Tell = Callable[[str, torch.Tensor], None]
"""Takes the inputs [..., in] of a layer, by the name of its weight."""


class LayerInputs(TorchFunctionMode):
    """Tells the inputs of linear layers, by the name of the weight, while models run in its context. It keeps none.

    Layers are known by the function they call with a parameter: ``linear`` (nn.Linear, and whoever calls it), ``addmm``
    (the Conv1D of GPT-2, whose weight is [in, out]), and the attention of nn.MultiheadAttention, which multiplies
    within: of that, the input of ``in_proj_weight`` where query, key and value are one tensor, and of ``out_proj``.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], tell: Tell) -> None:
        """Take the ``parameters`` of a model, by the names under which their inputs are told when they are used."""
        super().__init__()
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._receive = tell

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.linear:
            self._tell(_argument(args, named, 1, "weight"), _argument(args, named, 0, "input"))
        elif func is torch.addmm:
            weight = _argument(args, named, 2, "mat2")
            self._tell(weight, _argument(args, named, 1, "mat1"), transposed=True)
        elif func is functional.multi_head_attention_forward:
            self._tell_attention(_ATTENTION.bind(*args, **named).arguments)
        return func(*args, **named)

    def _tell(self, weight: Any, inputs: torch.Tensor, *, transposed: bool = False) -> None:
        name = self._names.get(id(weight))
        if name is not None:
            square = transposed and weight.shape[0] == weight.shape[1]
            self._receive(name + TRANSPOSED * square, inputs.detach())

    def _tell_attention(self, given: Mapping[str, Any]) -> None:
        query, key, value = (given[name] for name in _PROJECTIONS)
        if given.get("use_separate_proj_weight", False):
            for source, weight in _PROJECTIONS.items():
                self._tell(given.get(weight), given[source])
        elif query is key and key is value:
            self._tell(given["in_proj_weight"], query)
        out = given["out_proj_weight"]
        if id(out) in self._names:
            apart = {"out_proj_weight": torch.eye(len(out), dtype=out.dtype, device=out.device), "out_proj_bias": None}
            self._tell(out, functional.multi_head_attention_forward(**{**given, **apart})[0])


def _argument(args: tuple[Any, ...], named: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else named.get(name)

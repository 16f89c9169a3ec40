"""Makes one feature of a text's tokens, as a model folder or a suite file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lines_pipeline.core.errors import CheckpointError, EvalError
from lines_pipeline.io.json_files import MODULES, read_json, read_modules

Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Features [n, width] of hidden states [n, tokens, width] and weights [n, tokens, 1]: 1 for tokens, 0 for padding."""


def _mean(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def _mean_sqrt_len(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9).sqrt()


def _max(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(weight == 0, torch.finfo(hidden.dtype).min).amax(1)


def _cls(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the hidden state of each text's first token, which padding may stand before."""
    first = weight.argmax(1, keepdim=True).expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, first)[:, 0]


POOLS: Mapping[str, Pool] = {"cls": _cls, "max": _max, "mean": _mean, "mean_sqrt_len": _mean_sqrt_len}
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}
"""Flags of a pooling module's configuration, in the order in which their features are joined."""


def pools_of_folder(folder: Path) -> tuple[str, ...]:
    """Return the pools that a sentence-transformers folder's modules name.

    Raises ``EvalError`` for modules that are not a transformer, one pooling and maybe a normalization.
    """
    try:
        modules = read_json(folder / MODULES)
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    except CheckpointError as error:
        raise EvalError(f"{error}; expected a folder of sentence-transformers") from error
    except (TypeError, KeyError) as error:
        raise EvalError(f"{folder / MODULES}: expected a list of modules with 'type' and 'path'") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        named = ", ".join(kinds) or "none"
        raise EvalError(f"{folder / MODULES}: modules {named}; expected Transformer, Pooling and maybe Normalize")
    place = modules[1].get("path")
    if place not in read_modules(folder):
        raise EvalError(f"{folder / MODULES}: expected the pooling's 'path' to be a folder in it, found {place!r}")
    return _pools(folder / place / "config.json")


def _pools(path: Path) -> tuple[str, ...]:
    try:
        config: Any = read_json(path)
    except CheckpointError as error:
        raise EvalError(str(error)) from error
    if not isinstance(config, Mapping):
        raise EvalError(f"{path}: expected an object with the pooling's settings")
    if isinstance(mode := config.get("pooling_mode"), str):  # as newer releases of the library write it
        modes = [mode]
    else:
        on = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        modes = [name for flag, name in _MODES.items() if flag in on] + [name for name in on if name not in _MODES]
    modes = [{"mean_sqrt_len_tokens": "mean_sqrt_len"}.get(mode, mode) for mode in modes]
    if not modes or not set(modes) <= POOLS.keys():
        raise EvalError(f"{path}: pooling by {', '.join(modes) or 'nothing'}; expected {', '.join(sorted(POOLS))}")
    return tuple(modes)

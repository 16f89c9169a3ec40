"""Observes what the blocks of a model give while it runs: one row of features a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.io.layers import LayerMap
from lines_pipeline.ops.padding import token_mask

Rows = Mapping[str, torch.Tensor]
"""Features by block: float64 [samples, width]."""


def block_modules(module: nn.Module, layers: LayerMap) -> dict[str, nn.Module]:
    """Return the modules that hold the blocks of a layer map, by block: ``3``, of several towers ``text/3``.

    ``EvalError`` where a block is no module of its own.
    """
    names: dict[tuple[str, int], list[str]] = {}
    for name, block in layers.blocks.items():
        names.setdefault(block, []).append(name)
    order = {tower: number for number, tower in enumerate(layers.depths)}
    by_block, modules = dict[str, nn.Module](), dict(module.named_modules())
    for tower, index in sorted(names, key=lambda block: (order[block[0]], block[1])):
        path = _path(names[tower, index])
        own = [path] if path in modules else [name for name in modules if name.endswith(f".{path}")]
        label = str(index) if len(order) == 1 else f"{tower}/{index}"
        if len(own) != 1 or not path or any(modules[own[0]] is other for other in by_block.values()):
            raise EvalError(f"the suite's model has no module for block {label} ('{path}'): its output cannot be seen")
        by_block[label] = modules[own[0]]
    return by_block


def _path(tensors: Sequence[str]) -> str:
    """Return the path that all tensors of a block have in common, up to its last number."""
    paths = [name.split(".")[:-1] for name in tensors]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    last = max((place for place, part in enumerate(common) if part.isdigit()), default=len(common) - 1)
    return ".".join(common[: last + 1])


@dataclass
class BlockOutputs:
    """Holds a module in evaluation mode, and the modules of its blocks."""

    module: nn.Module
    blocks: Mapping[str, nn.Module]
    device: str
    _axes: Mapping[str, int] = field(default_factory=dict)
    """Which axis counts samples, by block that is run: seen from two runs, on one sample and on two."""

    def rows(self, batch: Any) -> Rows:
        """Return the features of the blocks that are run: the mean over all positions of a sample but padding.

        ``EvalError`` where no block is run.
        """
        self._axes = self._axes or self._sample_axes(batch)
        mask = token_mask(self.module, batch.to(self.device))
        return {block: _pooled(value, self._axes[block], mask) for block, value in self._run(batch).items()}

    def _sample_axes(self, batch: Any) -> dict[str, int]:
        if len(batch) < 2:
            raise EvalError("the first batch has one sample, expected two or more: one model cannot be compared on it")
        of_one, of_two = self._run(batch[:1]), self._run(batch[:2])
        if not of_one:
            raise EvalError(
                f"the suite's model runs none of the blocks {', '.join(self.blocks)} as a whole: "
                "their outputs cannot be seen; expected a module whose blocks are called"
            )
        axes = {}
        for block, value in of_one.items():
            sizes = enumerate(zip(value.shape, of_two[block].shape, strict=True))
            grown = [axis for axis, (alone, both) in sizes if (alone, both) == (1, 2)]
            if len(grown) != 1 or value.dim() < 2:
                shape = list(of_two[block].shape)
                raise EvalError(f"block {block} gives {shape} for two samples, expected features of each sample")
            axes[block] = grown[0]
        return axes

    @torch.no_grad()
    def _run(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return the output of each block that is run; the last one, where it is run several times."""
        seen: dict[str, torch.Tensor] = {}

        def keep(block: str, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, torch.Tensor):
                seen[block] = first

        hooks = [
            module.register_forward_hook(lambda _, given, output, block=block: keep(block, output))
            for block, module in self.blocks.items()
        ]
        try:
            self.module(batch.to(self.device))
        except (RuntimeError, TypeError, ValueError) as error:
            raise EvalError(f"the model does not take inputs of shape {list(batch.shape)}: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        return seen


def _pooled(value: torch.Tensor, axis: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Return [samples, width] in float64: of images [n, c, h, w] the channels are the features, else the last axis.

    Of [n, tokens, width] a mask [n, tokens] tells which positions count.
    """
    value = value.movedim(axis, 0).double()
    if mask is not None and value.dim() == 3 and value.shape[:2] == mask.shape:
        weights = mask.double() / mask.sum(1, keepdim=True).clamp(min=1)
        return (value * weights.unsqueeze(-1)).sum(1)
    if value.dim() == 4:
        return value.flatten(2).mean(2)
    return value.flatten(1, -2).mean(1) if value.dim() > 2 else value

"""Finds the frozen head in a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.base import Head


def head_in(tensors: Mapping[str, torch.Tensor], where: str) -> Head:
    """Return the only 2-D tensor [classes, features], and the 1-D ``bias`` [classes] if there is one, as float32.

    Raises ``EvalError`` for other tensors.
    """
    bias = tensors.get("bias")
    matrices = [value for name, value in tensors.items() if value.dim() == 2 and name != "bias"]
    if len(matrices) != 1:
        raise EvalError(f"{where}: expected one 2-D tensor, found {len(matrices)}")
    if bias is not None and bias.shape != matrices[0].shape[:1]:
        shape, rows = tuple(bias.shape), len(matrices[0])
        raise EvalError(f"{where}: 'bias' has shape {shape}, expected [{rows}], one a class")
    return Head(matrices[0].float(), None if bias is None else bias.float())

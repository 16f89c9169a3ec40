"""Gradients sample by sample, of which no more are in memory at a time than a chunk of fixed size."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import torch
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

CHUNK_NUMEL = 2**26
"""Gradient entries in memory at once; a model that has more is done by one sample and class at a time."""

Parameters = Mapping[str, torch.Tensor]
Logits = Callable[[Parameters, torch.Tensor], torch.Tensor]
"""Logits [n, classes] of inputs [n, ...] with given parameters."""


def squared_gradients_bytes(numel: int, largest: int, rows: int) -> int:
    """Return the memory that ``squared_gradients`` takes for parameters of so many entries, with at most ``rows``
    inputs: the sum and its addend, gradients of a chunk, the squares of the largest parameter's, and sums over classes.
    """
    at_once = max(CHUNK_NUMEL // max(numel, 1), 1)
    rows_at_once = min(max(at_once // 2, 1), rows)  # a head has two classes or more
    return 4 * (numel * (2 + at_once + rows_at_once) + largest * at_once)


def squared_gradients(logits: Logits, parameters: Parameters, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sum over the inputs and classes c of p_c (d log p_c / d theta)^2, by parameter, p the model's own probabilities.

    Chunks depend on the sizes of the model and of its head alone, so that a result does not depend on the memory.
    """
    with torch.no_grad():
        classes = logits(parameters, inputs[:1]).shape[1]
    at_once = max(CHUNK_NUMEL // max(sum(value.numel() for value in parameters.values()), 1), 1)
    rows_at_once, classes_at_once = max(at_once // classes, 1), min(at_once, classes)

    def of_sample(values: Parameters, sample: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sum over the classes that ``chosen`` [k, classes] has ones at."""

        def log_probabilities(values: Parameters) -> torch.Tensor:
            return torch.log_softmax(logits(values, sample.unsqueeze(0))[0], dim=-1)

        logs, pull = vjp(log_probabilities, values)[:2]
        (gradients,) = vmap(pull)(chosen * torch.exp(logs / 2))
        return {name: value.square().sum(0) for name, value in gradients.items()}

    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    of_samples = vmap(of_sample, in_dims=(None, 0, None))
    for rows in torch.split(inputs, rows_at_once):
        for chosen in torch.split(torch.eye(classes, device=inputs.device), classes_at_once):
            with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batching rule: vmap would do it in a loop
                squares = of_samples(dict(parameters), rows, chosen)
            while squares:
                name, value = squares.popitem()
                total[name] += value.sum(0)
                del value
            gc.collect(1)  # torch's tree_flatten leaves all tensors that it has flattened in a cycle
    return total

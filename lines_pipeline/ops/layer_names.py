"""How what is measured of a linear layer is named, and which side of a weight that tells to be the inputs'."""

from __future__ import annotations

from lines_pipeline.core.tensor_specs import TensorSpec

TRANSPOSED = ".T"
"""Ends the name of what belongs to a square weight [in, out]: its shape does not tell which side is which."""


def module_of(tensor: str) -> str:
    """Return ``MODULE`` for the tensor ``MODULE.weight``, and the names of other tensors as they are."""
    return tensor.removesuffix(".weight")


def names_beside(tensor: str) -> tuple[str, ...]:
    """Return the names that what belongs to a tensor may have."""
    return tuple(dict.fromkeys((tensor, tensor + TRANSPOSED, module_of(tensor))))


def is_transposed(name: str, width: int, weight: TensorSpec) -> bool:
    """Return whether a weight is [in, out]: by the name and the width of the inputs of what was measured of it."""
    return name == weight.name + TRANSPOSED or (width != weight.shape[1] and width == weight.shape[0])

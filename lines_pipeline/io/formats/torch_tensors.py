"""Reads tensors of a torch file's pickle: the type, and which values of which storage they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import ITEM_BYTES
from lines_pipeline.io.formats.pickled import Call, Entries, Name, Reference

MAX_DIMENSIONS = 64
"""The most dimensions, as numpy and torch's own loops have it."""

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "",
    "_UntypedStorage": "",
}
"""Data type of the values, by class of the storage; an untyped one has none of its own."""
_OTHER_ITEM_BYTES = {"complex128": 16, "complex64": 8, "qint32": 4, "": 1}
_REBUILD = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.tensor._rebuild_")
_PLAIN_TYPES = {
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}


@dataclass(frozen=True)
class StorageType:
    """Describes a storage as a pickle refers to it: ``dtype`` is empty for untyped ones, ``numel`` counts values."""

    key: str
    dtype: str
    item_bytes: int
    numel: int
    device: str


@dataclass(frozen=True)
class TensorView:
    """Describes a tensor as values of a storage; ``offset`` and ``strides`` count values, ``negated`` flips signs."""

    storage: StorageType
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    negated: bool = False

    @property
    def numel(self) -> int:
        """Return the number of values; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Return whether the values lie side by side, in order."""
        step = 1
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step:
                return False
            step *= length
        return True


class UnreadableTensorError(Exception):
    """Refuses a tensor that merges cannot read; the message says why, after 'tensor x'."""


def is_tensor(value: Any) -> bool:
    """Return whether a pickled value is a tensor of any kind."""
    return isinstance(value, Call) and value.name.startswith(_REBUILD)


def storage_type(reference: Any) -> StorageType | None:
    """Return the storage that a pickle refers to, if it does refer to one."""
    identity = reference.identity if isinstance(reference, Reference) else None
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        return None
    kind, key, device, numel = identity[1:5]
    views = identity[5:]
    if not (isinstance(kind, Name) and isinstance(key, str) and isinstance(device, str) and _is_size(numel)):
        return None
    if any(view is not None for view in views):
        return None
    dtype = _STORAGES.get(kind.text.rpartition(".")[2])
    if dtype is None:
        return None
    return StorageType(key, dtype, ITEM_BYTES.get(dtype) or _OTHER_ITEM_BYTES.get(dtype, 1), numel, device)


def tensor_view(value: Call) -> TensorView:
    """Return the plain values that a pickled tensor has. Raises ``UnreadableTensorError``."""
    function = value.name.rpartition("._rebuild_")[2]
    arguments = value.arguments if isinstance(value.arguments, tuple) else ()
    try:
        if function in ("parameter", "parameter_with_state"):
            return tensor_view(_call(arguments[0]))
        if function in ("from_type_v2", "from_type"):
            return _of_type(arguments)
        if function in ("tensor", "tensor_v2"):
            return _checked(arguments, "", arguments[6] if len(arguments) > 6 else None)
        if function == "tensor_v3":
            return _checked(arguments, _dtype(arguments[6]), arguments[7] if len(arguments) > 7 else None)
    except (IndexError, TypeError, ValueError) as error:
        raise UnreadableTensorError("is damaged: it has no storage, size or strides that fit") from error
    except RecursionError as error:
        raise UnreadableTensorError("is wrapped too often") from error
    raise UnreadableTensorError(_why_not(function, arguments))


def _call(value: Any) -> Call:
    if not is_tensor(value):
        raise TypeError
    return value  # type: ignore[no-any-return]


def _of_type(arguments: Sequence[Any]) -> TensorView:
    """Return the view of a tensor with attributes, or of a subclass: only torch's own surely hold plain values."""
    function, kind, inner = arguments[:3]
    if not isinstance(function, Name) or not isinstance(kind, Name):
        raise TypeError
    if kind.text not in _PLAIN_TYPES:
        raise UnreadableTensorError(_why_class(kind.text))
    return tensor_view(_call(Call(function.text, inner)))


def _why_class(name: str) -> str:
    if name.endswith(".DTensor"):
        return "is a DTensor, one process's share of a tensor: save what its full_tensor() gives"
    return f"is of class {printable(name)}, whose values are not known to be plain ones: save plain tensors"


_WHY_NOT = {
    "meta_tensor_no_storage": "has no values (device 'meta'): load the model onto a real device before saving it",
    "sparse_tensor": "is sparse: save what its to_dense() gives",
    "sparse_csr_tensor": "is sparse: save what its to_dense() gives",
    "qtensor": "is quantized: save what its dequantize() gives",
    "nested_tensor": "is a nested tensor: save its parts",
}


def _why_not(function: str, arguments: Sequence[Any]) -> str:
    if function == "wrapper_subclass" and arguments and isinstance(arguments[0], Name):
        return _why_class(arguments[0].text)
    known = _WHY_NOT.get(function)
    return known or f"is of a kind that is not supported ({printable(function)}): save plain tensors"


def _dtype(value: Any) -> str:
    if not isinstance(value, Name):
        raise TypeError
    return value.text.rpartition(".")[2]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _checked(arguments: Sequence[Any], dtype: str, flags: Any) -> TensorView:
    """Return a view, whose values have to lie in its storage."""
    storage = storage_type(arguments[0])
    if storage is None:
        raise TypeError
    offset, shape, strides = arguments[1], _sizes(arguments[2]), _sizes(arguments[3])
    dtype = dtype or storage.dtype
    if dtype not in ITEM_BYTES:
        raise UnreadableTensorError(f"has data type {printable(dtype)}, which is not supported")
    if storage.device == "meta":
        raise UnreadableTensorError(_WHY_NOT["meta_tensor_no_storage"])
    if not _is_size(offset) or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError
    view = TensorView(storage, dtype, shape, strides, offset, _is_negated(dtype, flags))
    _check_span(view)
    return view


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and value.name == "torch.Size":
        value = value.arguments[0]
    if not isinstance(value, tuple) or not all(_is_size(size) for size in value):
        raise TypeError
    return value


def _is_negated(dtype: str, flags: Any) -> bool:
    """Return whether torch's negative bit is set; the conjugate bit means nothing for real values."""
    set_flags = {name for name, is_set in flags.items() if is_set} if isinstance(flags, Entries) else set()
    unknown = set_flags - {"neg", "conj"}
    if unknown or ("neg" in set_flags and dtype not in ("float16", "bfloat16", "float32", "float64")):
        named = ", ".join(sorted(printable(name) for name in unknown or set_flags))
        raise UnreadableTensorError(f"has marks that are not supported ({named})")
    return "neg" in set_flags


def _check_span(view: TensorView) -> None:
    """Refuse a view that reaches past its storage, or has more values than can be counted."""
    if view.numel >= 2**63:
        raise ValueError
    last = view.offset + sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
    room = view.storage.numel * view.storage.item_bytes // ITEM_BYTES[view.dtype]
    if view.numel and last >= room:
        raise UnreadableTensorError("is damaged: it reaches past the end of its storage")

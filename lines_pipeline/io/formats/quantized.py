"""Recognises quantised checkpoints, whose integers and scales mean nothing when they are merged one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.printable import printable
from lines_pipeline.core.tensor_specs import TensorSpec

_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_SCALES_OF_WEIGHTS = ("weight_scale", "weight_scale_inv", "weight_scale_2", "scale_weight", "weight_scales")

Specs = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Scheme:
    """Describes a way to quantise: its name, what to do with such a checkpoint, and which tensor names show it."""

    name: str
    remedy: str
    shows: Callable[[Specs, str], bool]


def refuse_quantized(uri: str, specs: Specs, declared: str = "") -> None:
    """Raise ``CheckpointError`` naming the scheme, a tensor that shows it, and what to load instead.

    ``declared`` is the scheme that the model's configuration says: left over from before a model was dequantised, it
    says nothing without integers in place of weights.
    """
    for scheme, name in _recognised(specs):
        raise CheckpointError(
            f"{uri}: quantised with {scheme.name}, as tensor '{printable(name)}' shows, and such values cannot be "
            f"merged: load the model that it was made from, or {scheme.remedy}"
        )
    packed = [n for n, spec in specs.items() if "weight" in n and spec.dtype in _INTEGERS and len(spec.shape) > 1]
    if declared and packed:
        raise CheckpointError(
            f"{uri}: quantised ({declared}, says its config.json), as tensor '{printable(packed[0])}' of "
            f"{specs[packed[0]].dtype} shows, and such values cannot be merged: load the model that it was made from"
        )


def _recognised(specs: Specs) -> Iterator[tuple[Scheme, str]]:
    for name in specs:
        for scheme in _SCHEMES:
            if scheme.shows(specs, name):
                yield scheme, name


def _is(specs: Specs, name: str, dtypes: tuple[str, ...]) -> bool:
    return name in specs and specs[name].dtype in dtypes


def _beside(name: str, own: str, other: str) -> str:
    """Return the name of the tensor ``other`` of the module whose tensor ``own`` has this name."""
    return name.removesuffix(own) + other


def _bitsandbytes_4bit(specs: Specs, name: str) -> bool:
    weight = name.removesuffix(".absmax")
    return ".quant_state.bitsandbytes__" in name or (weight != name and f"{weight}.quant_map" in specs)


def _bitsandbytes_8bit(specs: Specs, name: str) -> bool:
    return name.endswith(".SCB") and _is(specs, _beside(name, "SCB", "weight"), ("int8",))


def _packed_rows(specs: Specs, name: str) -> bool:
    return name.endswith(".qweight") and _is(specs, name, _INTEGERS) and _beside(name, "qweight", "scales") in specs


def _gptq(specs: Specs, name: str) -> bool:
    return _packed_rows(specs, name) and _beside(name, "qweight", "g_idx") in specs


def _mlx(specs: Specs, name: str) -> bool:
    scaled = name.endswith(".weight") and _is(specs, name, ("uint32",))
    return scaled and _beside(name, "weight", "scales") in specs


def _compressed(specs: Specs, name: str) -> bool:
    return name.endswith(".weight_packed") and _is(specs, name, _INTEGERS)


def _mxfp4(specs: Specs, name: str) -> bool:
    scales = _beside(name, "_blocks", "_scales")
    return name.endswith("_blocks") and _is(specs, name, ("uint8",)) and _is(specs, scales, ("uint8",))


def _hqq(specs: Specs, name: str) -> bool:
    return name.endswith(".W_q") and _is(specs, name, _INTEGERS) and _beside(name, "W_q", "scale") in specs


def _torchao(specs: Specs, name: str) -> bool:
    return name.endswith((":_weight_qdata", "_weight_qdata", ":_weight_tensor_data_name"))


def _quanto(specs: Specs, name: str) -> bool:
    return name.endswith(".weight._data") and _beside(name, "_data", "_scale") in specs


def _codebooks(specs: Specs, name: str) -> bool:
    return name.endswith(".codes") and _is(specs, name, _INTEGERS) and _beside(name, "codes", "codebooks") in specs


def _scaled(specs: Specs, name: str, dtypes: tuple[str, ...]) -> bool:
    """Return whether a weight of one of ``dtypes`` has a scale beside it."""
    if not _is(specs, name, dtypes) or len(specs[name].shape) < 2:
        return False
    own = "weight" if name.endswith("weight") else None
    beside = [_beside(name, own, scale) for scale in _SCALES_OF_WEIGHTS] if own else []
    beside += [f"{name}{suffix}" for suffix in ("_scale", "_scale_inv", "_weight_scale", ".scale")]
    if any(_is_scale(specs, scale) for scale in beside):
        return True
    blocks = _beside(name, own, "scale") if own else ""  # one number a block; of one axis it may be a module's own
    return _is_scale(specs, blocks) and len(specs[blocks].shape) == 2


def _is_scale(specs: Specs, name: str) -> bool:
    return name in specs and (specs[name].is_floating or specs[name].dtype == "uint8")


def _scaled_float8(specs: Specs, name: str) -> bool:
    return _scaled(specs, name, _FLOAT8) or (name.rpartition(".")[2] == "scaled_fp8" and _is(specs, name, _FLOAT8))


def _scaled_integers(specs: Specs, name: str) -> bool:
    return _scaled(specs, name, _INTEGERS)


_SCHEMES = (
    Scheme(
        "bitsandbytes (4 bits)", "dequantise it (model.dequantize() in transformers) and save that", _bitsandbytes_4bit
    ),
    Scheme(
        "bitsandbytes (8 bits)", "dequantise it (model.dequantize() in transformers) and save that", _bitsandbytes_8bit
    ),
    Scheme("GPTQ", "dequantise it with GPTQModel", _gptq),
    Scheme("AWQ, or GPTQ without groups", "dequantise it with the tool that made it", _packed_rows),
    Scheme("MLX", "dequantise it with 'mlx_lm.convert --dequantize'", _mlx),
    Scheme("compressed-tensors", "decompress it with compressed_tensors", _compressed),
    Scheme("MXFP4", "load it in transformers with Mxfp4Config(dequantize=True) and save that", _mxfp4),
    Scheme("HQQ", "dequantise it with hqq", _hqq),
    Scheme("torchao", "dequantise it with torchao", _torchao),
    Scheme("quanto", "dequantise it with optimum-quanto", _quanto),
    Scheme("AQLM", "dequantise it with aqlm", _codebooks),
    Scheme(
        "scaled fp8",
        "multiply each weight by its scale, block by block, and save bfloat16",
        _scaled_float8,
    ),
    Scheme("scaled integers", "multiply each weight by its scale and save bfloat16", _scaled_integers),
)
"""The more telling ones first: many schemes have a ``scales``."""

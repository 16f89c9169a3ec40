"""Compiles a recording to one loop of machine code, in which values stay in registers between instructions.

LLVM takes some hundredths of a second for it, so no loop is kept on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock
from typing import Any

from llvmlite import binding

from lines_pipeline.jit.lowering import lower_to_llvm
from lines_pipeline.jit.signature import KernelSignature, signature_of
from lines_pipeline.jit.tracing import Kernel

_MOST_LOOPS = 128
"""Loops that are kept for recordings to come."""

_compiling = Lock()


@dataclass(frozen=True)
class CompiledKernel:
    """Machine code, there for as long as this is.

    A C function of addresses: memory, the routine's numbers, sums as float64 [totals, LANES], counts as int64 [COUNTS,
    slots], magnitudes found [brackets, room], int64 [brackets] of these that were taken before; and of the room, where
    in their block the values begin (a multiple of ``LANES``), and how many there are.
    """

    address: int
    engine: Any


def compile_kernel(kernel: Kernel) -> CompiledKernel:
    """The loop that carries out a routine."""
    form = signature_of(kernel)
    with _compiling:
        return _compiled(form)


@lru_cache(_MOST_LOOPS)
def _compiled(form: KernelSignature) -> CompiledKernel:
    target, name, features = _host()
    machine = target.create_target_machine(cpu=name, features=features, opt=2, jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(lower_to_llvm(form)), machine)
    engine.finalize_object()
    return CompiledKernel(engine.get_function_address("loop"), engine)


@cache
def _host() -> tuple[Any, str, str]:
    """The processor that compiles is the one that runs it."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple(), binding.get_host_cpu_name(), features

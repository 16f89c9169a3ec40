"""Compiles kernels with LLVM. That takes some hundredths of a second, so machine code is kept in memory alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock
from typing import Any

from lines_pipeline.jit.boundary import boundary
from lines_pipeline.jit.instructions import Kernel
from lines_pipeline.jit.lowering import lower_to_llvm
from lines_pipeline.jit.signature import KernelSignature, signature_of

_MAX_KERNELS = 128
"""Compiled kernels that are kept for later stages and runs."""

_compiling = Lock()


@dataclass(frozen=True)
class CompiledKernel:
    """Machine code, which lives as long as this object.

    It is a C function of these addresses: the thread's memory, the kernel's scalars, sums as float64 [totals, LANES],
    counts as int64 [COUNTS, slots], magnitudes inside brackets [brackets, room], and int64 [brackets], how many of
    these there were before; then of the room, of where in their block the values begin (a multiple of ``LANES``), and
    of how many there are.
    """

    address: int
    engine: Any


def compile_kernel(kernel: Kernel) -> CompiledKernel:
    """Return a kernel's machine code; raises ``CompilerFailure``."""
    with boundary(), _compiling:
        return _compiled(signature_of(kernel))


@lru_cache(_MAX_KERNELS)
def _compiled(signature: KernelSignature) -> CompiledKernel:
    from llvmlite import binding

    target, name, features = _host()
    machine = target.create_target_machine(cpu=name, features=features, opt=2, jit=True)
    module = binding.parse_assembly(lower_to_llvm(signature))
    module.verify()  # what it would refuse may crash the process
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return CompiledKernel(engine.get_function_address("kernel"), engine)


@cache
def _host() -> tuple[Any, str, str]:
    """Return LLVM's target, the processor and its features: those of the machine that compiles, which runs the code."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple(), binding.get_host_cpu_name(), features

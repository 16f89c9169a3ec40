"""Appends reductions of a block to the loop of a kernel: sums, counts, and values that lie in a bracket."""

from __future__ import annotations

from collections.abc import Sequence

from lines_pipeline.jit.instructions import LANES, OpCode
from lines_pipeline.jit.llvm_vectors import VECTOR_BYTES, ZERO, Vectors
from lines_pipeline.jit.signature import AT_HIGH, AT_LOW, BELOW, COUNTED, INSIDE, NONFINITE, KernelSignature


class Reducer:
    """Appends reductions to ``vectors``; results lie in the arrays that ``compiling.CompiledKernel`` states."""

    def __init__(self, signature: KernelSignature, vectors: Vectors) -> None:
        self._signature, self._vectors = signature, vectors

    def reduce(self, code: OpCode, slot: int, value: str, scalars: Sequence[str]) -> None:
        """Append the reduction of a value; its result goes to a slot."""
        compare, magnitude = self._vectors.compare, self._vectors.magnitude
        match code:
            case OpCode.TOTAL:
                self._total(slot, value)
            case OpCode.COUNT:
                self.count(COUNTED, slot, self.bits(compare("une", value, ZERO)))
            case OpCode.CHECK:
                self.count(NONFINITE, slot, self.bits(compare("ugt", magnitude(value), scalars[0])))
            case OpCode.WITHIN:
                self._within(slot, magnitude(value), *scalars)

    def _total(self, slot: int, value: str) -> None:
        let, wide = self._vectors.let, f"<{self._vectors.width} x double>"
        added = self._vectors.choose("%valid", value)
        if not self._signature.double:
            added = let(f"fpext {self._vectors.type} {added} to {wide}")
        address = let(f"getelementptr double, ptr %lanes, i64 {let(f'add i64 %lane, {slot * LANES}')}")
        total = let(f"fadd {wide} {let(f'load {wide}, ptr {address}, align 8')}, {added}")
        self._vectors.put(f"store {wide} {total}, ptr {address}, align 8")

    def _within(self, slot: int, magnitude: str, low: str, high: str) -> None:
        """Keep what lies in the bracket; most vectors have nothing there, and are left after two comparisons."""
        vectors, label = self._vectors, len(self._vectors.lines)
        below, upto = (self.bits(vectors.compare(*how)) for how in (("olt", magnitude, low), ("ole", magnitude, high)))
        self.count(BELOW, slot, below)
        is_any = vectors.let(f"icmp ne i64 {below}, {upto}")
        vectors.put(f"br i1 {is_any}, label %some{label}, label %none{label}")
        vectors.lines.append(f"some{label}:")
        for end, number in ((AT_LOW, low), (AT_HIGH, high)):
            self.count(end, slot, self.bits(vectors.compare("oeq", magnitude, number)))
        inside = vectors.both(vectors.compare("ogt", magnitude, low), vectors.compare("olt", magnitude, high))
        self._keep(slot, magnitude, self.bits(inside))
        vectors.put(f"br label %none{label}")
        vectors.lines.append(f"none{label}:")

    def _keep(self, slot: int, value: str, bits: str) -> None:
        """Append the values whose bits are set to those kept of the bracket."""
        let, put = self._vectors.let, self._vectors.put
        put(f"store {self._vectors.type} {value}, ptr %spill, align {VECTOR_BYTES}")
        before = let(f"load i64, ptr {let(f'getelementptr i64, ptr %filled, i64 {slot}')}")
        first = let(f"add i64 {before}, {let(f'mul i64 %room, {slot}')}")
        address = let(f"getelementptr {self._vectors.number}, ptr %bracketed, i64 {first}")
        put(f"call void @keep(i64 {bits}, ptr %spill, ptr {address}, ptr {self._counter(INSIDE, slot)})")

    def count(self, row: int, slot: int, bits: str) -> None:
        """Append the addition of the set bits to a counter."""
        let, address = self._vectors.let, self._counter(row, slot)
        number = let(f"call i64 @llvm.ctpop.i64(i64 {bits})")
        total = let(f"add i64 {number}, {let(f'load i64, ptr {address}')}")
        self._vectors.put(f"store i64 {total}, ptr {address}")

    def _counter(self, row: int, slot: int) -> str:
        return self._vectors.let(f"getelementptr i64, ptr %counts, i64 {row * self._signature.slots + slot}")

    def bits(self, mask: str) -> str:
        """Append the conversion of a mask to an integer with a bit for each entry of the block; return that."""
        let, width = self._vectors.let, self._vectors.width
        bits = let(f"bitcast {self._vectors.mask} {mask} to i{width}")
        return let(f"and i64 %validbits, {let(f'zext i{width} {bits} to i64')}")

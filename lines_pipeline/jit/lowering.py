"""Lowers a kernel's signature to LLVM's text: one loop over a block, in which each value is a vector of its entries."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch

from lines_pipeline.io.number_ranges import largest_held
from lines_pipeline.jit.instructions import AS_COMPUTED, BFLOAT16, FLOAT16, LANES, OpCode
from lines_pipeline.jit.llvm_vectors import VECTOR_BYTES, ZERO, Vectors
from lines_pipeline.jit.reducing import Reducer
from lines_pipeline.jit.signature import UNHELD, KernelSignature, Operation

_PLAIN = {
    OpCode.SUBTRACT: "fsub",
    OpCode.ADD: "fadd",
    OpCode.MULTIPLY: "fmul",
    OpCode.DIVIDE: "fdiv",
    OpCode.SCALE: "fmul",
    OpCode.DIVIDE_BY: "fdiv",
    OpCode.SHIFT: "fadd",
}
"""Operations that LLVM has, on two values or on a value and a scalar."""


def lower_to_llvm(signature: KernelSignature) -> str:
    """Return a module with the function ``kernel``, whose arguments ``compiling.CompiledKernel`` states."""
    body = _LoopBody(signature)
    for operation in signature.operations:
        body.add(operation)
    return body.module()


class _LoopBody:
    """Collects the lines of the loop's body."""

    def __init__(self, signature: KernelSignature) -> None:
        self._signature, self._rows = signature, dict(signature.rows)
        self._vectors = Vectors(double=signature.double)
        self._reducer = Reducer(signature, self._vectors)
        self._one = self._vectors.constant("1.0")
        self._values: dict[int, str] = {}
        """LLVM's names of the kernel's values."""
        self._scalars = 0
        """How many of the kernel's scalars are used."""

    def add(self, operation: Operation) -> None:
        """Append an operation, and store those of its values that have a row."""
        values = [self._value(number) for number in operation.operands]
        scalars = [f"%scalar{self._scalars + n}" for n in range(operation.scalars)]
        self._scalars += operation.scalars
        if operation.code >= OpCode.TOTAL:
            self._reducer.reduce(operation.code, operation.outs[0], values[0], scalars)
            return
        for number, value in zip(operation.outs, self._computed(operation, values, scalars), strict=True):
            self._values[number] = value
            if number in self._rows:
                self._store(number, value)

    def _computed(self, operation: Operation, values: Sequence[str], scalars: Sequence[str]) -> Sequence[str]:
        code, vectors = operation.code, self._vectors
        if code in _PLAIN:
            return [vectors.calculate(_PLAIN[code], *values, *scalars)]
        match code:
            case OpCode.MAXIMUM | OpCode.AT_LEAST:
                left, right = (*values, *scalars)
                return [vectors.choose(vectors.compare("ogt", left, right), left, right)]
            case OpCode.EXCEEDS | OpCode.REACHES:
                how = "ogt" if code is OpCode.EXCEEDS else "oge"
                return [vectors.choose(vectors.compare(how, *values, *scalars), self._one)]
            case OpCode.ABS:
                return [vectors.magnitude(values[0])]
            case OpCode.SIGN:
                signs = [vectors.choose(vectors.compare(how, values[0], ZERO), self._one) for how in ("ogt", "olt")]
                return [vectors.calculate("fsub", *signs)]
            case OpCode.KEEP:
                return [vectors.choose(self._reaches(values[0], scalars[0]), values[0])]
            case OpCode.COPY:
                return values
            case OpCode.ZERO:
                return [ZERO]
            case OpCode.ADD_KEPT:
                return self._add_kept(operation, values, scalars)
            case OpCode.ADD_AGREEING:
                return self._add_agreeing(operation, values, scalars)
        raise AssertionError(code)

    def _add_kept(self, operation: Operation, values: Sequence[str], scalars: Sequence[str]) -> Sequence[str]:
        vectors, (total, count, value), (threshold, weight) = self._vectors, values, scalars
        entry = vectors.choose(self._reaches(value, threshold), value)
        added = entry if operation.unweighted else vectors.calculate("fmul", entry, weight)
        marked = vectors.choose(vectors.compare("une", entry, ZERO), self._one)
        return vectors.calculate("fadd", total, added), vectors.calculate("fadd", count, marked)

    def _add_agreeing(self, operation: Operation, values: Sequence[str], scalars: Sequence[str]) -> Sequence[str]:
        vectors, (total, count, value, direction), (threshold, weight) = self._vectors, values, scalars
        weighted = value if operation.unweighted else vectors.calculate("fmul", value, weight)
        size = vectors.calculate("fmul", weighted, direction)
        agrees = vectors.both(self._reaches(value, threshold), vectors.compare("ogt", size, ZERO))
        added, marked = vectors.choose(agrees, size), vectors.choose(agrees, self._one)
        return vectors.calculate("fadd", total, added), vectors.calculate("fadd", count, marked)

    def _reaches(self, value: str, threshold: str) -> str:
        return self._vectors.compare("oge", self._vectors.magnitude(value), threshold)

    def _value(self, number: int) -> str:
        """Return a value; load a source where it is used first."""
        if number not in self._values:
            row, address = self._rows[number], self._address(number, "%at")
            plain = row.stored == AS_COMPUTED
            load = (
                self._vectors.load(address) if plain else self._vectors.load_narrow(address, row.stored, row.item_bytes)
            )
            self._values[number] = load
        return self._values[number]

    def _store(self, number: int, value: str) -> None:
        row, address = self._rows[number], self._address(number, "%position")
        self._check_range(value, self._vectors.constant(self._largest_held(row.stored)))
        if row.stored == AS_COMPUTED:
            self._vectors.store(value, address)
        else:
            self._vectors.store_narrow(value, address, row.stored)

    def _check_range(self, value: str, largest: str) -> None:
        """Count entries that cannot be stored, in a branch that is hardly ever taken: counting always costs 5 %."""
        vectors, label = self._vectors, len(self._vectors.lines)
        bits = self._reducer.bits(vectors.compare("ugt", vectors.magnitude(value), largest))
        vectors.put(f"br i1 {vectors.let(f'icmp ne i64 {bits}, 0')}, label %unheld{label}, label %held{label}")
        vectors.lines.append(f"unheld{label}:")
        self._reducer.count(UNHELD, 0, bits)
        vectors.put(f"br label %held{label}")
        vectors.lines.append(f"held{label}:")

    def _largest_held(self, stored: int) -> str:
        """Return the largest magnitude that a type holds, as LLVM writes it: the bits of a float64."""
        computed = torch.float64 if self._signature.double else torch.float32
        kept = {AS_COMPUTED: computed, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}[stored]
        return f"0x{struct.pack('>d', largest_held(computed, kept)).hex().upper()}"

    def _address(self, number: int, at: str) -> str:
        """Append the address of a value's entry ``at`` in its row; return that."""
        row = self._rows[number]
        first = self._vectors.let(f"getelementptr i8, ptr %memory, i64 {row.offset}")
        return self._vectors.let(f"getelementptr i{8 * row.item_bytes}, ptr {first}, i64 {at}")

    def module(self) -> str:
        """Return the text of the module."""
        width, number, vector = self._vectors.width, self._vectors.number, self._vectors.type
        scalars = [_SCALAR.format(n=n, number=number, vector=vector, width=width) for n in range(self._scalars)]
        return _MODULE.format(
            width=width,
            number=number,
            vector=vector,
            suffix=self._vectors.suffix,
            align=VECTOR_BYTES,
            lanes=LANES - 1,
            numbering=", ".join(f"i32 {n}" for n in range(width)),
            scalars="".join(scalars),
            body="\n".join(self._vectors.lines),
        )


_SCALAR = """
  %address{n} = getelementptr {number}, ptr %scalars, i64 {n}
  %number{n} = load {number}, ptr %address{n}
  %single{n} = insertelement {vector} undef, {number} %number{n}, i64 0
  %scalar{n} = shufflevector {vector} %single{n}, {vector} undef, <{width} x i32> zeroinitializer"""

_MODULE = """
declare {vector} @llvm.fabs.{suffix}({vector})
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.cttz.i64(i64, i1)

define internal void @keep(i64 %mask, ptr %values, ptr %bracketed, ptr %counter) noinline {{
entry:
  %begin = load i64, ptr %counter
  %any = icmp ne i64 %mask, 0
  br i1 %any, label %next, label %done
next:
  %left = phi i64 [ %mask, %entry ], [ %fewer, %next ]
  %number = phi i64 [ %begin, %entry ], [ %more, %next ]
  %lane = call i64 @llvm.cttz.i64(i64 %left, i1 true)
  %from = getelementptr {number}, ptr %values, i64 %lane
  %value = load {number}, ptr %from
  %to = getelementptr {number}, ptr %bracketed, i64 %number
  store {number} %value, ptr %to
  %more = add i64 %number, 1
  %lower = sub i64 %left, 1
  %fewer = and i64 %left, %lower
  %again = icmp ne i64 %fewer, 0
  br i1 %again, label %next, label %ready
ready:
  store i64 %more, ptr %counter
  br label %done
done:
  ret void
}}

define void @kernel(ptr %memory, ptr %scalars, ptr %lanes, ptr %counts, ptr %bracketed, ptr %filled, i64 %room,
                  i64 %first, i64 %length) {{
entry:
  %spill = alloca {vector}, align {align}
{scalars}
  br label %head
head:
  %at = phi i64 [ 0, %entry ], [ %after, %end ]
  %unfinished = icmp slt i64 %at, %length
  br i1 %unfinished, label %body, label %done
body:
  %position = add i64 %first, %at
  %lane = and i64 %position, {lanes}
  %rest = sub i64 %length, %at
  %few = trunc i64 %rest to i32
  %one = insertelement <{width} x i32> undef, i32 %few, i64 0
  %all = shufflevector <{width} x i32> %one, <{width} x i32> undef, <{width} x i32> zeroinitializer
  %valid = icmp sgt <{width} x i32> %all, <{numbering}>
  %validmask = bitcast <{width} x i1> %valid to i{width}
  %validbits = zext i{width} %validmask to i64
{body}
  br label %end
end:
  %after = add i64 %at, {width}
  br label %head
done:
  ret void
}}
"""
"""The loop also computes entries beyond the end of a block, in the room after each row; reductions leave them out."""

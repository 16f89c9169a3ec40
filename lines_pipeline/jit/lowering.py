"""Writes a recording as one loop in LLVM's language, in which registers are vectors of neighbouring values."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch

from lines_pipeline.jit.llvm_vectors import VECTOR_BYTES, ZERO, Vectors
from lines_pipeline.jit.ranges import largest_held
from lines_pipeline.jit.signature import (
    AT_HIGH,
    AT_LOW,
    BELOW,
    COUNTED,
    INSIDE,
    NONFINITE,
    UNHELD,
    KernelSignature,
    Operation,
)
from lines_pipeline.jit.tracing import AS_COMPUTED, BFLOAT16, FLOAT16, LANES, OpCode

_PLAIN = {
    OpCode.SUBTRACT: "fsub",
    OpCode.ADD: "fadd",
    OpCode.MULTIPLY: "fmul",
    OpCode.DIVIDE: "fdiv",
    OpCode.SCALE: "fmul",
    OpCode.DIVIDE_BY: "fdiv",
    OpCode.SHIFT: "fadd",
}
"""Instructions that are one of LLVM's, of two registers or of a register and a number."""


def lower_to_llvm(form: KernelSignature) -> str:
    """A module with the function ``loop``; ``fusion.CompiledKernel`` tells what it takes."""
    writer = _Writer(form)
    for operation in form.operations:
        writer.add(operation)
    return writer.module()


class _Writer:
    """The body of the loop."""

    def __init__(self, form: KernelSignature) -> None:
        self._form, self._rows = form, dict(form.rows)
        self._vectors = Vectors(double=form.double)
        self._one = self._vectors.constant("1.0")
        self._registers: dict[int, str] = {}
        self._numbers = 0
        """How many of the routine's numbers are used."""

    def add(self, operation: Operation) -> None:
        """What one instruction does; registers that are wanted afterwards go to memory."""
        values = [self._register(number) for number in operation.operands]
        numbers = [f"%number{self._numbers + n}" for n in range(operation.numbers)]
        self._numbers += operation.numbers
        if operation.code >= OpCode.TOTAL:
            self._reduce(operation.code, operation.outs[0], values[0], numbers)
            return
        made = self._made(operation, values, numbers)
        for number, value in zip(operation.outs, made, strict=True):
            self._registers[number] = value
            if number in self._rows:
                self._store(number, value)

    def _made(self, operation: Operation, values: Sequence[str], numbers: Sequence[str]) -> Sequence[str]:
        code, vectors = operation.code, self._vectors
        if code in _PLAIN:
            return [vectors.calculate(_PLAIN[code], *values, *numbers)]
        match code:
            case OpCode.MAXIMUM | OpCode.AT_LEAST:
                one, other = (*values, *numbers)
                return [vectors.choose(vectors.compare("ogt", one, other), one, other)]
            case OpCode.EXCEEDS | OpCode.REACHES:
                how = "ogt" if code is OpCode.EXCEEDS else "oge"
                return [vectors.choose(vectors.compare(how, *values, *numbers), self._one)]
            case OpCode.ABS:
                return [vectors.magnitude(values[0])]
            case OpCode.SIGN:
                signs = [vectors.choose(vectors.compare(how, values[0], ZERO), self._one) for how in ("ogt", "olt")]
                return [vectors.calculate("fsub", *signs)]
            case OpCode.KEEP:
                return [vectors.choose(self._reaches(values[0], numbers[0]), values[0])]
            case OpCode.COPY:
                return values
            case OpCode.ZERO:
                return [ZERO]
            case OpCode.ADD_KEPT:
                return self._add_kept(operation, values, numbers)
            case OpCode.ADD_AGREEING:
                return self._add_agreeing(operation, values, numbers)
        raise AssertionError(code)

    def _add_kept(self, operation: Operation, values: Sequence[str], numbers: Sequence[str]) -> Sequence[str]:
        vectors, (total, count, value), (threshold, weight) = self._vectors, values, numbers
        entry = vectors.choose(self._reaches(value, threshold), value)
        added = entry if operation.unweighted else vectors.calculate("fmul", entry, weight)
        marked = vectors.choose(vectors.compare("une", entry, ZERO), self._one)
        return vectors.calculate("fadd", total, added), vectors.calculate("fadd", count, marked)

    def _add_agreeing(self, operation: Operation, values: Sequence[str], numbers: Sequence[str]) -> Sequence[str]:
        vectors, (total, count, value, direction), (threshold, weight) = self._vectors, values, numbers
        weighted = value if operation.unweighted else vectors.calculate("fmul", value, weight)
        size = vectors.calculate("fmul", weighted, direction)
        agrees = vectors.both(self._reaches(value, threshold), vectors.compare("ogt", size, ZERO))
        added, marked = vectors.choose(agrees, size), vectors.choose(agrees, self._one)
        return vectors.calculate("fadd", total, added), vectors.calculate("fadd", count, marked)

    def _reaches(self, value: str, threshold: str) -> str:
        return self._vectors.compare("oge", self._vectors.magnitude(value), threshold)

    def _reduce(self, code: OpCode, slot: int, value: str, numbers: Sequence[str]) -> None:
        compare, magnitude = self._vectors.compare, self._vectors.magnitude
        match code:
            case OpCode.TOTAL:
                self._total(slot, value)
            case OpCode.COUNT:
                self._count(COUNTED, slot, self._bits(compare("une", value, ZERO)))
            case OpCode.CHECK:
                self._count(NONFINITE, slot, self._bits(compare("ugt", magnitude(value), numbers[0])))
            case OpCode.WITHIN:
                self._within(slot, magnitude(value), *numbers)

    def _total(self, slot: int, value: str) -> None:
        let, wide = self._vectors.let, f"<{self._vectors.width} x double>"
        added = self._vectors.choose("%valid", value)
        if not self._form.double:
            added = let(f"fpext {self._vectors.type} {added} to {wide}")
        place = let(f"getelementptr double, ptr %lanes, i64 {let(f'add i64 %lane, {slot * LANES}')}")
        total = let(f"fadd {wide} {let(f'load {wide}, ptr {place}, align 8')}, {added}")
        self._vectors.put(f"store {wide} {total}, ptr {place}, align 8")

    def _within(self, slot: int, magnitude: str, low: str, high: str) -> None:
        """Most vectors have nothing in the bracket, and are left after two comparisons."""
        vectors, here = self._vectors, len(self._vectors.lines)
        below, upto = (self._bits(vectors.compare(*how)) for how in (("olt", magnitude, low), ("ole", magnitude, high)))
        self._count(BELOW, slot, below)
        some = vectors.let(f"icmp ne i64 {below}, {upto}")
        vectors.put(f"br i1 {some}, label %some{here}, label %none{here}")
        vectors.lines.append(f"some{here}:")
        for end, number in ((AT_LOW, low), (AT_HIGH, high)):
            self._count(end, slot, self._bits(vectors.compare("oeq", magnitude, number)))
        inside = vectors.both(vectors.compare("ogt", magnitude, low), vectors.compare("olt", magnitude, high))
        self._keep(slot, magnitude, self._bits(inside))
        vectors.put(f"br label %none{here}")
        vectors.lines.append(f"none{here}:")

    def _keep(self, slot: int, value: str, bits: str) -> None:
        """Add values to those found."""
        let, put = self._vectors.let, self._vectors.put
        put(f"store {self._vectors.type} {value}, ptr %spill, align {VECTOR_BYTES}")
        before = let(f"load i64, ptr {let(f'getelementptr i64, ptr %filled, i64 {slot}')}")
        first = let(f"add i64 {before}, {let(f'mul i64 %room, {slot}')}")
        found = let(f"getelementptr {self._vectors.number}, ptr %found, i64 {first}")
        put(f"call void @keep(i64 {bits}, ptr %spill, ptr {found}, ptr {self._counter(INSIDE, slot)})")

    def _count(self, row: int, slot: int, bits: str) -> None:
        let, place = self._vectors.let, self._counter(row, slot)
        number = let(f"call i64 @llvm.ctpop.i64(i64 {bits})")
        total = let(f"add i64 {number}, {let(f'load i64, ptr {place}')}")
        self._vectors.put(f"store i64 {total}, ptr {place}")

    def _counter(self, row: int, slot: int) -> str:
        return self._vectors.let(f"getelementptr i64, ptr %counts, i64 {row * self._form.slots + slot}")

    def _bits(self, mask: str) -> str:
        """A mask as bits, of values that are there."""
        let, width = self._vectors.let, self._vectors.width
        bits = let(f"bitcast {self._vectors.mask} {mask} to i{width}")
        return let(f"and i64 %validbits, {let(f'zext i{width} {bits} to i64')}")

    def _register(self, number: int) -> str:
        """A register's value; sources are loaded when they are first used."""
        if number not in self._registers:
            row, place = self._rows[number], self._place(number, "%at")
            plain = row.stored == AS_COMPUTED
            load = self._vectors.load(place) if plain else self._vectors.load_narrow(place, row.stored, row.item_bytes)
            self._registers[number] = load
        return self._registers[number]

    def _store(self, number: int, value: str) -> None:
        row, place = self._rows[number], self._place(number, "%position")
        self._look(value, self._vectors.constant(self._largest_held(row.stored)))
        if row.stored == AS_COMPUTED:
            self._vectors.store(value, place)
        else:
            self._vectors.store_narrow(value, place, row.stored)

    def _look(self, value: str, largest: str) -> None:
        """Count what cannot be stored, in a branch that is hardly ever taken: counting each time would cost 5 %."""
        vectors, here = self._vectors, len(self._vectors.lines)
        bits = self._bits(vectors.compare("ugt", vectors.magnitude(value), largest))
        vectors.put(f"br i1 {vectors.let(f'icmp ne i64 {bits}, 0')}, label %unheld{here}, label %held{here}")
        vectors.lines.append(f"unheld{here}:")
        self._count(UNHELD, 0, bits)
        vectors.put(f"br label %held{here}")
        vectors.lines.append(f"held{here}:")

    def _largest_held(self, stored: int) -> str:
        """As LLVM writes it: the bits of a float64, whatever the type."""
        computed = torch.float64 if self._form.double else torch.float32
        kept = {AS_COMPUTED: computed, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}[stored]
        return f"0x{struct.pack('>d', largest_held(computed, kept)).hex().upper()}"

    def _place(self, number: int, at: str) -> str:
        """Where a register's value is in memory: of sources there is a piece, of others the whole block."""
        row = self._rows[number]
        first = self._vectors.let(f"getelementptr i8, ptr %memory, i64 {row.offset}")
        return self._vectors.let(f"getelementptr i{8 * row.item_bytes}, ptr {first}, i64 {at}")

    def module(self) -> str:
        """All of it."""
        width, number, vector = self._vectors.width, self._vectors.number, self._vectors.type
        numbers = [_NUMBER.format(n=n, number=number, vector=vector, width=width) for n in range(self._numbers)]
        return _MODULE.format(
            width=width,
            number=number,
            vector=vector,
            suffix=self._vectors.suffix,
            align=VECTOR_BYTES,
            lanes=LANES - 1,
            numbering=", ".join(f"i32 {n}" for n in range(width)),
            numbers="".join(numbers),
            body="\n".join(self._vectors.lines),
        )


_NUMBER = """
  %address{n} = getelementptr {number}, ptr %numbers, i64 {n}
  %scalar{n} = load {number}, ptr %address{n}
  %single{n} = insertelement {vector} undef, {number} %scalar{n}, i64 0
  %number{n} = shufflevector {vector} %single{n}, {vector} undef, <{width} x i32> zeroinitializer"""

_MODULE = """
declare {vector} @llvm.fabs.{suffix}({vector})
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.cttz.i64(i64, i1)

define internal void @keep(i64 %mask, ptr %values, ptr %found, ptr %counter) noinline {{
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
  %to = getelementptr {number}, ptr %found, i64 %number
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

define void @loop(ptr %memory, ptr %numbers, ptr %lanes, ptr %counts, ptr %found, ptr %filled, i64 %room,
                  i64 %first, i64 %length) {{
entry:
  %spill = alloca {vector}, align {align}
{numbers}
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
"""Values beyond the last one of a block are computed too, in the room that rows have, and reduced as if they were not
there."""

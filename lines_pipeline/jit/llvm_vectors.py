"""Vectors of numbers in LLVM's language: every method writes lines, and gives the name of what they compute.

Numbers are rounded after every operation: there is no fast-math, and no multiply-add is fused.
"""

from __future__ import annotations

from lines_pipeline.jit.tracing import BFLOAT16, BOOL, FLOAT16

VECTOR_BYTES = 64
"""What an instruction works on at a time; processors with narrower registers take several for it."""

ZERO = "zeroinitializer"

_TWO_TO_112 = "0x46F0000000000000"
_INFINITE, _TOO_LARGE, _LEAST_NORMAL = 0x7F800000, 0x47800000, 0x38800000
"""float32 as bits: Inf; 2 ** 16, which float16 has not; and 2 ** -14, the least that it has with all its digits."""
_HALF_INFINITE = 0x7C00
"""Inf in float16, as bits."""


class Vectors:
    """Lines that compute with vectors of float32, or of float64."""

    def __init__(self, *, double: bool) -> None:
        self.item_bytes, self.number = (8, "double") if double else (4, "float")
        self.width = VECTOR_BYTES // self.item_bytes
        self.type, self.mask = f"<{self.width} x {self.number}>", f"<{self.width} x i1>"
        self.suffix = f"v{self.width}f{8 * self.item_bytes}"
        """As the names of LLVM's functions of such vectors end."""
        self.lines: list[str] = []
        self._integers = f"<{self.width} x i32>"

    def put(self, line: str) -> None:
        """A line that computes nothing."""
        self.lines.append(f"  {line}")

    def let(self, what: str) -> str:
        """A line that gives something a name."""
        name = f"%v{len(self.lines)}"
        self.put(f"{name} = {what}")
        return name

    def constant(self, number: str) -> str:
        """A number everywhere."""
        return f"<{', '.join([f'{self.number} {number}'] * self.width)}>"

    def calculate(self, what: str, one: str, other: str) -> str:
        """One of LLVM's operations on numbers."""
        return self.let(f"{what} {self.type} {one}, {other}")

    def magnitude(self, value: str) -> str:
        """Without the sign."""
        return self.let(f"call {self.type} @llvm.fabs.{self.suffix}({self.type} {value})")

    def compare(self, how: str, one: str, other: str) -> str:
        """A mask."""
        return self.let(f"fcmp {how} {self.type} {one}, {other}")

    def both(self, one: str, other: str) -> str:
        """Where two masks are set."""
        return self.let(f"and {self.mask} {one}, {other}")

    def choose(self, mask: str, one: str, other: str = ZERO) -> str:
        """The one where the mask is set, else the other."""
        return self.let(f"select {self.mask} {mask}, {self.type} {one}, {self.type} {other}")

    def load(self, place: str) -> str:
        """Values from an address."""
        return self.let(f"load {self.type}, ptr {place}, align {self.item_bytes}")

    def store(self, value: str, place: str) -> None:
        """Values to an address."""
        self.put(f"store {self.type} {value}, ptr {place}, align {self.item_bytes}")

    def load_narrow(self, place: str, stored: int, item_bytes: int) -> str:
        """Values that are stored in fewer bytes, as ``builder.STORED`` tells."""
        narrow = f"<{self.width} x i{8 * item_bytes}>"
        value = self.let(f"load {narrow}, ptr {place}, align {item_bytes}")
        if stored == BOOL:
            return self.let(f"uitofp {narrow} {value} to {self.type}")
        wide = self.let(f"zext {narrow} {value} to {self._integers}")
        return self._from_half(wide) if stored == FLOAT16 else self._as_number(self._integer("shl", wide, 16))

    def store_narrow(self, value: str, place: str, stored: int) -> None:
        """Values to be stored in 16 bits: to the nearest, ties to even; NaN has other bits than torch's."""
        wide = self._as_integer(value)
        bits = self._integer("and", wide, 0x7FFFFFFF)
        sign = self._integer("lshr", self._integer("xor", wide, bits), 16)
        nearest = self._nearest(bits, 16) if stored == BFLOAT16 else self._to_half(value, bits)
        narrow = f"<{self.width} x i16>"
        rounded = self.let(f"trunc {self._integers} {self._integer('or', sign, nearest)} to {narrow}")
        self.put(f"store {narrow} {rounded}, ptr {place}, align 2")

    def _from_half(self, half: str) -> str:
        """float16 has its exponent 112 lower: a product settles numbers, subnormal ones too; Inf and NaN are set."""
        size = self._as_number(self._integer("shl", self._integer("and", half, 0x7FFF), 13))
        scaled = self._as_integer(self.calculate("fmul", size, self.constant(_TWO_TO_112)))
        exponent = self._integer("and", half, _HALF_INFINITE)
        special = self._pick(("eq", exponent, _HALF_INFINITE), self._whole(_INFINITE), ZERO)
        sign = self._integer("shl", self._integer("and", half, 0x8000), 16)
        return self._as_number(self._integer("or", self._integer("or", scaled, special), sign))

    def _to_half(self, value: str, bits: str) -> str:
        """Subnormal numbers are multiples of 2 ** -24: adding 2 ** 23 to how many they are rounds them."""
        normal = self._nearest(self._integer("sub", bits, 112 << 23), 13)
        multiples = self.calculate("fmul", self.magnitude(value), self.constant("16777216.0"))
        shifted = self._as_integer(self.calculate("fadd", multiples, self.constant("8388608.0")))
        nearest = self._pick(("ult", bits, _LEAST_NORMAL), self._integer("sub", shifted, 0x4B000000), normal)
        return self._pick(("uge", bits, _TOO_LARGE), self._whole(_HALF_INFINITE), nearest)

    def _nearest(self, bits: str, dropped: int) -> str:
        odd = self._integer("and", self._integer("lshr", bits, dropped), 1)
        up = self._integer("add", odd, (1 << (dropped - 1)) - 1)
        return self._integer("lshr", self._integer("add", bits, up), dropped)

    def _integer(self, what: str, one: str, other: str | int) -> str:
        other = self._whole(other) if isinstance(other, int) else other
        return self.let(f"{what} {self._integers} {one}, {other}")

    def _pick(self, condition: tuple[str, str, int], one: str, other: str) -> str:
        how, value, limit = condition
        mask = self.let(f"icmp {how} {self._integers} {value}, {self._whole(limit)}")
        return self.let(f"select {self.mask} {mask}, {self._integers} {one}, {self._integers} {other}")

    def _as_number(self, value: str) -> str:
        return self.let(f"bitcast {self._integers} {value} to {self.type}")

    def _as_integer(self, value: str) -> str:
        return self.let(f"bitcast {self.type} {value} to {self._integers}")

    def _whole(self, number: int) -> str:
        return f"<{', '.join([f'i32 {number}'] * self.width)}>"

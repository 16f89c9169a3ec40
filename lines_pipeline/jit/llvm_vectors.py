"""Vectors of numbers in LLVM's text: a method appends lines and returns the name of the value that they compute.

Every operation rounds: there is no fast-math, and no multiply-add is fused.
"""

from __future__ import annotations

from lines_pipeline.jit.instructions import BFLOAT16, BOOL, FLOAT16

VECTOR_BYTES = 64
"""Size of a vector; processors with narrower registers use several."""

ZERO = "zeroinitializer"

_TWO_TO_112 = "0x46F0000000000000"
_INFINITE, _TOO_LARGE, _LEAST_NORMAL = 0x7F800000, 0x47800000, 0x38800000
"""float32 as bits: Inf; 2 ** 16, which float16 cannot hold; 2 ** -14, the least normal number of float16."""
_HALF_INFINITE = 0x7C00
"""float16 as bits: Inf."""


class Vectors:
    """Collects lines that compute with vectors of float32 or float64."""

    def __init__(self, *, double: bool) -> None:
        self.item_bytes, self.number = (8, "double") if double else (4, "float")
        self.width = VECTOR_BYTES // self.item_bytes
        self.type, self.mask = f"<{self.width} x {self.number}>", f"<{self.width} x i1>"
        self.suffix = f"v{self.width}f{8 * self.item_bytes}"
        """Ends the names of LLVM's functions of such vectors."""
        self.lines: list[str] = []
        self._integers = f"<{self.width} x i32>"

    def put(self, line: str) -> None:
        """Append a line without a result."""
        self.lines.append(f"  {line}")

    def let(self, expression: str) -> str:
        """Append a line that names an expression."""
        name = f"%v{len(self.lines)}"
        self.put(f"{name} = {expression}")
        return name

    def constant(self, number: str) -> str:
        """Return a vector of one number."""
        return f"<{', '.join([f'{self.number} {number}'] * self.width)}>"

    def calculate(self, operation: str, left: str, right: str) -> str:
        """Append an operation on two vectors of numbers."""
        return self.let(f"{operation} {self.type} {left}, {right}")

    def magnitude(self, value: str) -> str:
        """Append the removal of signs."""
        return self.let(f"call {self.type} @llvm.fabs.{self.suffix}({self.type} {value})")

    def compare(self, how: str, left: str, right: str) -> str:
        """Append a comparison, whose result is a mask."""
        return self.let(f"fcmp {how} {self.type} {left}, {right}")

    def both(self, left: str, right: str) -> str:
        """Append the conjunction of two masks."""
        return self.let(f"and {self.mask} {left}, {right}")

    def choose(self, mask: str, chosen: str, otherwise: str = ZERO) -> str:
        """Append the choice of ``chosen`` where the mask is set, and of ``otherwise`` elsewhere."""
        return self.let(f"select {self.mask} {mask}, {self.type} {chosen}, {self.type} {otherwise}")

    def load(self, address: str) -> str:
        """Append the loading of a vector."""
        return self.let(f"load {self.type}, ptr {address}, align {self.item_bytes}")

    def store(self, value: str, address: str) -> None:
        """Append the storing of a vector."""
        self.put(f"store {self.type} {value}, ptr {address}, align {self.item_bytes}")

    def load_narrow(self, address: str, stored: int, item_bytes: int) -> str:
        """Append the loading of a vector that is stored in a narrower type of ``instructions.STORED``."""
        narrow = f"<{self.width} x i{8 * item_bytes}>"
        value = self.let(f"load {narrow}, ptr {address}, align {item_bytes}")
        if stored == BOOL:
            return self.let(f"uitofp {narrow} {value} to {self.type}")
        wide = self.let(f"zext {narrow} {value} to {self._integers}")
        return self._from_half(wide) if stored == FLOAT16 else self._as_number(self._integer("shl", wide, 16))

    def store_narrow(self, value: str, address: str, stored: int) -> None:
        """Append rounding to 16 bits, to nearest, ties to even, and storing; NaN has other bits than torch's."""
        wide = self._as_integer(value)
        bits = self._integer("and", wide, 0x7FFFFFFF)
        sign = self._integer("lshr", self._integer("xor", wide, bits), 16)
        nearest = self._nearest(bits, 16) if stored == BFLOAT16 else self._to_half(value, bits)
        narrow = f"<{self.width} x i16>"
        rounded = self.let(f"trunc {self._integers} {self._integer('or', sign, nearest)} to {narrow}")
        self.put(f"store {narrow} {rounded}, ptr {address}, align 2")

    def _from_half(self, half: str) -> str:
        """Append the widening of float16, whose exponent is 112 lower: a product does it, for subnormal numbers too."""
        size = self._as_number(self._integer("shl", self._integer("and", half, 0x7FFF), 13))
        scaled = self._as_integer(self.calculate("fmul", size, self.constant(_TWO_TO_112)))
        exponent = self._integer("and", half, _HALF_INFINITE)
        special = self._pick(("eq", exponent, _HALF_INFINITE), self._whole(_INFINITE), ZERO)
        sign = self._integer("shl", self._integer("and", half, 0x8000), 16)
        return self._as_number(self._integer("or", self._integer("or", scaled, special), sign))

    def _to_half(self, value: str, bits: str) -> str:
        """Append rounding to float16; a subnormal one is a multiple of 2 ** -24, which adding 2 ** 23 rounds."""
        normal = self._nearest(self._integer("sub", bits, 112 << 23), 13)
        multiples = self.calculate("fmul", self.magnitude(value), self.constant("16777216.0"))
        shifted = self._as_integer(self.calculate("fadd", multiples, self.constant("8388608.0")))
        nearest = self._pick(("ult", bits, _LEAST_NORMAL), self._integer("sub", shifted, 0x4B000000), normal)
        return self._pick(("uge", bits, _TOO_LARGE), self._whole(_HALF_INFINITE), nearest)

    def _nearest(self, bits: str, dropped: int) -> str:
        odd = self._integer("and", self._integer("lshr", bits, dropped), 1)
        up = self._integer("add", odd, (1 << (dropped - 1)) - 1)
        return self._integer("lshr", self._integer("add", bits, up), dropped)

    def _integer(self, operation: str, left: str, right: str | int) -> str:
        right = self._whole(right) if isinstance(right, int) else right
        return self.let(f"{operation} {self._integers} {left}, {right}")

    def _pick(self, condition: tuple[str, str, int], chosen: str, otherwise: str) -> str:
        how, value, limit = condition
        mask = self.let(f"icmp {how} {self._integers} {value}, {self._whole(limit)}")
        return self.let(f"select {self.mask} {mask}, {self._integers} {chosen}, {self._integers} {otherwise}")

    def _as_number(self, value: str) -> str:
        return self.let(f"bitcast {self._integers} {value} to {self.type}")

    def _as_integer(self, value: str) -> str:
        return self.let(f"bitcast {self.type} {value} to {self._integers}")

    def _whole(self, number: int) -> str:
        return f"<{', '.join([f'i32 {number}'] * self.width)}>"

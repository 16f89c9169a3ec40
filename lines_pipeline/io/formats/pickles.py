"""Reads pickles without running what they name, in bounded memory.

Python's own unpickler calls what a pickle tells it to call, and some sixty bytes of memory follow from one byte of a
pickle. Here a name stays a name and a call stays a record of it; whoever reads the result decides which to believe.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 100_000_000
"""As long as the header of a safetensors file may be."""
MAX_MEMORY_BYTES = 512 * 2**20
"""What the objects of a pickle may take; those of 200,000 tensors do not."""


class PickleError(ValueError):
    """A pickle is damaged, too large, or of a kind that checkpoints do not have."""


class ShortPickleError(PickleError):
    """A pickle goes on after the bytes that were given."""


class Name:
    """A class or function by its full name."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Call:
    """An object that is not made: its class or function, the arguments and the state that were to make it."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: Any) -> None:
        self.name, self.arguments, self.state = name, arguments, None


class Reference:
    """What lies outside the pickle, as a storage of torch does."""

    __slots__ = ("identity",)

    def __init__(self, identity: Any) -> None:
        self.identity = identity


class Entries(dict[str, Any]):
    """A dictionary's entries whose keys are texts; ``unnamed`` counts the others."""

    __slots__ = ("unnamed",)

    def __init__(self) -> None:
        super().__init__()
        self.unnamed = 0

    def put(self, key: Any, value: Any) -> None:
        """Set an entry; other keys than texts are never hashed, for that can be made to take for ever."""
        if type(key) is str:
            self[key] = value
        else:
            self.unnamed += 1


_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}


@dataclass(frozen=True)
class Pickled:
    """What a pickle holds, where it ends, and what it refers to outside itself, in order."""

    content: Any
    end: int
    references: tuple[Reference, ...]


def read_pickle(data: bytes, start: int = 0) -> Pickled:
    """Read the pickle that begins at ``start``. Raises ``PickleError``."""
    machine = _Machine(data, start)
    try:
        return Pickled(machine.run(), machine.position, tuple(machine.references))
    except PickleError:
        raise
    except (IndexError, struct.error) as error:
        short = machine.position >= len(data)
        raise (ShortPickleError if short else PickleError)("it is damaged or cut short") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PickleError("it is damaged") from error


class _Machine:
    """The stack machine that a pickle is a program for."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.position = data, start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []
        self.room = MAX_MEMORY_BYTES

    def run(self) -> Any:
        data, operations = self.data, _OPERATIONS
        while True:
            opcode = data[self.position]
            self.position += 1
            if opcode == _STOP:
                return self.stack.pop()
            operation = operations.get(opcode)
            if operation is None:
                raise PickleError(f"it has an instruction that checkpoints do not have ({opcode:#04x})")
            operation(self)
            if self.room < 0:
                raise PickleError(f"its objects take more than {MAX_MEMORY_BYTES // 2**20} MB of memory")

    def take(self, length: int) -> bytes:
        """The next bytes."""
        taken = self.data[self.position : self.position + length]
        self.position += length
        if len(taken) < length:
            raise IndexError
        return taken

    def line(self) -> str:
        """A text up to the end of the line."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.position = len(self.data)
            raise IndexError
        taken = self.data[self.position : end]
        self.position = end + 1
        self.room -= 4 * len(taken)
        return taken.decode()

    def byte(self) -> int:
        """The next byte."""
        value = self.data[self.position]
        self.position += 1
        return value

    def size(self, width: int) -> int:
        """An unsigned number."""
        start = self.position
        self.position = end = start + width
        if end > len(self.data):
            raise IndexError
        return int.from_bytes(self.data[start:end], "little")

    def recall(self, index: int) -> None:
        """Put on the stack what was remembered."""
        self.room -= 8
        self.stack.append(self.memo[index])

    def push(self, value: Any, nbytes: int = 40) -> None:
        """Put a value on the stack; ``nbytes`` is about what it takes."""
        self.room -= nbytes
        self.stack.append(value)

    def keep(self, index: int) -> None:
        """Remember the top of the stack."""
        self.room -= 100
        self.memo[index] = self.stack[-1]

    def mark(self) -> None:
        self.room -= 80
        self.marks.append(self.stack)
        self.stack = []

    def unmark(self) -> list[Any]:
        """What lies above the latest mark."""
        items, self.stack = self.stack, self.marks.pop()
        self.room -= 16 * len(items)
        return items

    def call(self, function: Any, arguments: Any) -> None:
        """Record a call; dictionaries are made."""
        if isinstance(function, Call):  # of what a call would have given
            self.push(Call(f"{function.name}()", arguments), 80 + len(function.name))
            return
        if not isinstance(function, Name):
            raise PickleError("it calls what is no function")
        if function.text not in _DICTIONARIES:
            self.push(Call(function.text, arguments), 80)
            return
        self.push(Entries(), 120)
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        for key, value in pairs:
            self.put(self.stack[-1], key, value)

    def put(self, target: Any, key: Any, value: Any) -> None:
        """Set an entry of a dictionary; what is told of other objects is not needed."""
        if isinstance(target, Entries):
            self.room -= 100
            target.put(key, value)

    def append(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list):
            self.room -= 8 * len(items)
            target.extend(items)

    def set_items(self) -> None:
        items = self.unmark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.put(self.stack[-1], key, value)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put(self.stack[-1], key, value)

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        self.push(items, 80)

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def new_with_keywords(self) -> None:
        del self.stack[-1]
        self.reduce()

    def new_of_marked(self) -> None:
        function, *arguments = self.unmark()
        self.call(function, tuple(arguments))

    def instance(self) -> None:
        function = self.named(self.line(), self.line())
        self.call(function, tuple(self.unmark()))

    def refer(self, identity: Any) -> None:
        self.references.append(Reference(identity))
        self.push(self.references[-1], 80)

    def named(self, module: str, name: str) -> Name:
        return Name(f"{module}.{name}")

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(self.named(str(module), str(name)), 120)

    def text(self, nbytes: int) -> None:
        self.push(self.take(nbytes).decode("utf-8", "surrogatepass"), 60 + 4 * nbytes)

    def old_text(self, nbytes: int) -> None:
        """What Python 2 had for texts: bytes, which mostly are one."""
        taken = self.take(nbytes)
        try:
            self.push(taken.decode(), 60 + 4 * nbytes)
        except UnicodeDecodeError:
            self.push(taken, 60 + nbytes)

    def raw(self, nbytes: int) -> None:
        self.push(self.take(nbytes), 40 + nbytes)

    def integer(self, nbytes: int) -> None:
        self.push(int.from_bytes(self.take(nbytes), "little", signed=True), 40 + nbytes)

    def number(self) -> None:
        digits = self.line()
        self.push({"00": False, "01": True}.get(digits) if digits in ("00", "01") else int(digits.rstrip("L")))

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.unmark()


def _operations() -> dict[int, Callable[[_Machine], None]]:
    """What every instruction does: protocols 0 to 5, but for extension codes and out-of-band buffers."""
    named: dict[bytes, Callable[[_Machine], Any]] = {
        b"\x80": lambda m: m.take(1),
        b"\x95": lambda m: m.take(8),
        b"(": _Machine.mark,
        b"0": _Machine.pop,
        b"1": _Machine.unmark,
        b"2": lambda m: m.push(m.stack[-1], 8),
        b"N": lambda m: m.push(None, 8),
        b"\x88": lambda m: m.push(True, 8),
        b"\x89": lambda m: m.push(False, 8),
        b"I": _Machine.number,
        b"L": _Machine.number,
        b"F": lambda m: m.push(float(m.line())),
        b"J": lambda m: m.push(struct.unpack("<i", m.take(4))[0]),
        b"K": lambda m: m.push(m.byte(), 8),
        b"M": lambda m: m.push(m.size(2)),
        b"\x8a": lambda m: m.integer(m.byte()),
        b"\x8b": lambda m: m.integer(m.size(4)),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        b"V": lambda m: m.push(m.line(), 300),
        b"S": lambda m: m.push(m.line().strip("'\""), 300),
        b"X": lambda m: m.text(m.size(4)),
        b"\x8c": lambda m: m.text(m.byte()),
        b"\x8d": lambda m: m.text(m.size(8)),
        b"T": lambda m: m.old_text(m.size(4)),
        b"U": lambda m: m.old_text(m.byte()),
        b"B": lambda m: m.raw(m.size(4)),
        b"C": lambda m: m.raw(m.byte()),
        b"\x8e": lambda m: m.raw(m.size(8)),
        b"\x96": lambda m: m.raw(m.size(8)),
        b"}": lambda m: m.push(Entries(), 120),
        b"]": lambda m: m.push([], 80),
        b"\x8f": lambda m: m.push([], 80),
        b")": lambda m: m.push((), 8),
        b"d": lambda m: _marked_dictionary(m),
        b"l": lambda m: m.push(m.unmark(), 80),
        b"t": lambda m: m.push(tuple(m.unmark()), 80),
        b"\x91": lambda m: m.push(m.unmark(), 80),
        b"\x85": lambda m: m.tuple_of(1),
        b"\x86": lambda m: m.tuple_of(2),
        b"\x87": lambda m: m.tuple_of(3),
        b"a": lambda m: m.append(m.stack[-2], [m.stack.pop()]),
        b"e": lambda m: _append_marked(m),
        b"\x90": lambda m: _append_marked(m),
        b"s": _Machine.set_item,
        b"u": _Machine.set_items,
        b"g": lambda m: m.recall(int(m.line())),
        b"h": lambda m: m.recall(m.byte()),
        b"j": lambda m: m.recall(m.size(4)),
        b"p": lambda m: m.keep(int(m.line())),
        b"q": lambda m: m.keep(m.byte()),
        b"r": lambda m: m.keep(m.size(4)),
        b"\x94": lambda m: m.keep(len(m.memo)),
        b"c": lambda m: m.push(m.named(m.line(), m.line()), 120),
        b"\x93": _Machine.stacked_name,
        b"P": lambda m: m.refer(m.line()),
        b"Q": lambda m: m.refer(m.stack.pop()),
        b"R": _Machine.reduce,
        b"\x81": _Machine.reduce,
        b"\x92": _Machine.new_with_keywords,
        b"o": _Machine.new_of_marked,
        b"i": _Machine.instance,
        b"b": _Machine.build,
    }
    return {code[0]: operation for code, operation in named.items()}


def _marked_dictionary(machine: _Machine) -> None:
    items = machine.unmark()
    machine.push(Entries(), 120)
    for key, value in zip(items[::2], items[1::2], strict=True):
        machine.put(machine.stack[-1], key, value)


def _append_marked(machine: _Machine) -> None:
    items = machine.unmark()
    machine.append(machine.stack[-1], items)


_STOP = ord(".")
_OPERATIONS = _operations()

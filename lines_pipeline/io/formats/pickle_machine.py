"""Executes a pickle, a program for a stack machine: makes plain values only, and counts their memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lines_pipeline.io.formats.pickled import Call, Entries, Name, PickleError, Reference

Operations = Mapping[int, Callable[["PickleMachine"], Any]]
"""The operation of each instruction."""

MAX_MEMORY_BYTES = 512 * 2**20
"""The most memory that the objects of a pickle may take; those of 200,000 tensors do not."""

_STOP = ord(".")
_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}


class PickleMachine:
    """Executes the instructions of a pickle on a stack."""

    def __init__(self, data: bytes, start: int, operations: Operations) -> None:
        self.data, self.position, self._operations = data, start, operations
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []
        self.room = MAX_MEMORY_BYTES

    def run(self) -> Any:
        data, operations = self.data, self._operations
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
        """Return the next bytes."""
        taken = self.data[self.position : self.position + length]
        self.position += length
        if len(taken) < length:
            raise IndexError
        return taken

    def line(self) -> str:
        """Return the text up to the end of the line."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.position = len(self.data)
            raise IndexError
        taken = self.data[self.position : end]
        self.position = end + 1
        self.room -= 4 * len(taken)
        return taken.decode()

    def byte(self) -> int:
        """Return the next byte."""
        value = self.data[self.position]
        self.position += 1
        return value

    def size(self, width: int) -> int:
        """Return the next unsigned number."""
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
        """Pop and return what lies above the latest mark."""
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
        """Push a text of Python 2: its bytes, decoded where they are text."""
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

    def marked_dictionary(self) -> None:
        items = self.unmark()
        self.push(Entries(), 120)
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.put(self.stack[-1], key, value)

    def append_marked(self) -> None:
        items = self.unmark()
        self.append(self.stack[-1], items)

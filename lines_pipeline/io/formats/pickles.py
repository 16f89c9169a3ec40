"""Reads pickles without running what they name, in bounded memory.

Python's own unpickler calls what a pickle tells it to call, and some sixty bytes of memory follow from one byte of a
pickle. Here a name stays a name and a call stays a record of it; whoever reads the result decides which to believe.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from lines_pipeline.io.formats.pickle_machine import PickleMachine
from lines_pipeline.io.formats.pickled import Entries, Pickled, PickleError, ShortPickleError

MAX_PICKLE_BYTES = 100_000_000
"""The most bytes of a pickle: as long as the header of a safetensors file may be."""


def read_pickle(data: bytes, start: int = 0) -> Pickled:
    """Read the pickle that begins at ``start``. Raises ``PickleError``."""
    machine = PickleMachine(data, start, _OPERATIONS)
    try:
        return Pickled(machine.run(), machine.position, tuple(machine.references))
    except PickleError:
        raise
    except (IndexError, struct.error) as error:
        short = machine.position >= len(data)
        raise (ShortPickleError if short else PickleError)("it is damaged or cut short") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PickleError("it is damaged") from error


def _operations() -> dict[int, Callable[[PickleMachine], None]]:
    """Return the operation of every instruction: protocols 0 to 5, but for extension codes and out-of-band buffers."""
    named: dict[bytes, Callable[[PickleMachine], Any]] = {
        b"\x80": lambda m: m.take(1),
        b"\x95": lambda m: m.take(8),
        b"(": PickleMachine.mark,
        b"0": PickleMachine.pop,
        b"1": PickleMachine.unmark,
        b"2": lambda m: m.push(m.stack[-1], 8),
        b"N": lambda m: m.push(None, 8),
        b"\x88": lambda m: m.push(True, 8),
        b"\x89": lambda m: m.push(False, 8),
        b"I": PickleMachine.number,
        b"L": PickleMachine.number,
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
        b"d": PickleMachine.marked_dictionary,
        b"l": lambda m: m.push(m.unmark(), 80),
        b"t": lambda m: m.push(tuple(m.unmark()), 80),
        b"\x91": lambda m: m.push(m.unmark(), 80),
        b"\x85": lambda m: m.tuple_of(1),
        b"\x86": lambda m: m.tuple_of(2),
        b"\x87": lambda m: m.tuple_of(3),
        b"a": lambda m: m.append(m.stack[-2], [m.stack.pop()]),
        b"e": PickleMachine.append_marked,
        b"\x90": PickleMachine.append_marked,
        b"s": PickleMachine.set_item,
        b"u": PickleMachine.set_items,
        b"g": lambda m: m.recall(int(m.line())),
        b"h": lambda m: m.recall(m.byte()),
        b"j": lambda m: m.recall(m.size(4)),
        b"p": lambda m: m.keep(int(m.line())),
        b"q": lambda m: m.keep(m.byte()),
        b"r": lambda m: m.keep(m.size(4)),
        b"\x94": lambda m: m.keep(len(m.memo)),
        b"c": lambda m: m.push(m.named(m.line(), m.line()), 120),
        b"\x93": PickleMachine.stacked_name,
        b"P": lambda m: m.refer(m.line()),
        b"Q": lambda m: m.refer(m.stack.pop()),
        b"R": PickleMachine.reduce,
        b"\x81": PickleMachine.reduce,
        b"\x92": PickleMachine.new_with_keywords,
        b"o": PickleMachine.new_of_marked,
        b"i": PickleMachine.instance,
        b"b": PickleMachine.build,
    }
    return {code[0]: operation for code, operation in named.items()}


_OPERATIONS = _operations()

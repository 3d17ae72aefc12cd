"""The stack machine of pickles, without the instructions that make anything but plain values."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_values import (
    Name,
    PickleLimits,
    Record,
    Reference,
    key_of,
)

Interpret = Callable[[Record], object]

MAX_INT_BYTES: Final = 1_024
"""Random generators store integers of a few thousand bits; nobody stores larger ones."""
_MAX_DIGITS: Final = 2_400
_MAX_PROTOCOL: Final = 5
# What a value costs where it is kept, growth included; what it costs itself is in the table.
_LIST_ITEM_BYTES: Final = 16
_SET_ITEM_BYTES: Final = 128
_PAIR_BYTES: Final = 128
_END: Final = "it ends within an instruction"


class Machine:
    """Follow the instructions of one pickle.

    Args:
        data: Bytes that hold it.
        start: The byte it begins at.
        limits: What it may cost.
        interpret: Gives what stands in the place of a record whose arguments are complete.
    """

    def __init__(self, data: bytes, start: int, limits: PickleLimits, interpret: Interpret) -> None:
        self._data = data
        self.position = start
        self._limits = limits
        self._interpret = interpret
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        # By number, not in a list: a number may be any, and a list would have to reach it.
        self._memo: dict[int, object] = {}
        self._left = limits.num_bytes

    def run(self) -> object:
        """Follow the instructions to the end.

        Raises:
            FormatError: They are none, damaged, or beyond the limits.
        """
        data, position, stack, memo = self._data, self.position, self._stack, self._memo
        left, steps = self._left, self._limits.instructions
        try:
            while True:
                code = data[position]
                steps -= 1
                left -= _COSTS[code]
                if steps < 0 or left < 0:
                    raise self._beyond_limits(steps < 0)
                # The instructions that large files consist of stand here, the others in a table.
                if code == _INT_OF_1:
                    stack.append(data[position + 1])
                    position += 2
                elif code == _INT_OF_2:
                    stack.append(data[position + 1] | data[position + 2] << 8)
                    position += 3
                elif code == _INT_OF_4:
                    stack.append(_I4.unpack_from(data, position + 1)[0])
                    position += 5
                elif code == _MEMOIZE:
                    memo[len(memo)] = stack[-1]
                    position += 1
                elif code == _RECALL_1:
                    stack.append(memo[data[position + 1]])
                    position += 2
                elif code == _STOP:
                    break
                else:
                    self.position, self._left = position + 1, left
                    _ACTIONS[code](self)
                    position, left, stack = self.position, self._left, self._stack
        except (IndexError, KeyError, struct.error):
            raise FormatError("an instruction lacks its values, or it ends early") from None
        if len(stack) != 1 or self._marked:
            raise FormatError("it ends with values left over")
        self.position = position + 1
        return stack[0]

    def _refuse(self) -> None:
        raise FormatError(f"byte {self.position - 1:,} is no instruction of a plain pickle")

    def _beyond_limits(self, instructions: bool) -> FormatError:
        if instructions:
            return FormatError(f"it has more than {self._limits.instructions:,} instructions")
        return FormatError(f"its values need more than {self._limits.num_bytes:,} bytes of memory")

    # What instructions carry with them.

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise FormatError(_END)
        found = self._data[self.position : end]
        self.position = end
        return found

    def _number(self, layout: struct.Struct) -> int:
        (value,) = layout.unpack(self._take(layout.size))
        return int(value)

    def _sized(self, layout: struct.Struct, factor: int = 1) -> bytes:
        count = self._number(layout)
        self._charge(factor * count)
        return self._take(count)

    def _line(self, factor: int = 1) -> bytes:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise FormatError(_END)
        self._charge(factor * (end - self.position))
        found = self._data[self.position : end]
        self.position = end + 1
        return found

    def _line_number(self) -> int:
        text = self._line().removesuffix(b"L")
        if len(text) > _MAX_DIGITS:
            raise FormatError(f"an integer of {len(text):,} digits")
        try:
            return int(text)
        except ValueError:
            raise FormatError("an integer that is none") from None

    def _charge(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise self._beyond_limits(False)

    # The stack.

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop_marked(self) -> list[Any]:
        found = self._stack
        self._stack = self._marked.pop()
        return found

    def _mark(self) -> None:
        if len(self._marked) >= self._limits.marks:
            raise FormatError(f"it nests deeper than {self._limits.marks:,}")
        self._marked.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_marked()

    def _pop_mark(self) -> None:
        self._pop_marked()

    def _duplicate(self) -> None:
        self._push(self._stack[-1])

    # The memo.

    def _remember(self, number: int) -> None:
        if number < 0:
            raise FormatError("a negative number of a memo")
        self._memo[number] = self._stack[-1]

    def _recall(self, number: int) -> None:
        self._push(self._memo[number])

    # Plain values.

    def _protocol(self) -> None:
        version = self._take(1)[0]
        if version > _MAX_PROTOCOL:
            raise FormatError(f"protocol {version}, later than {_MAX_PROTOCOL}")

    def _frame(self) -> None:
        if self._number(_U8) > len(self._data) - self.position:
            raise FormatError(_END)

    def _int_line(self) -> None:
        if self._data[self.position : self.position + 3] in (b"00\n", b"01\n"):
            self._push(self._take(3) == b"01\n")
        else:
            self._push(self._line_number())

    def _long(self, layout: struct.Struct) -> None:
        count = self._number(layout)
        if count > MAX_INT_BYTES:
            raise FormatError(f"an integer of {count:,} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _float_line(self) -> None:
        text = self._line()
        try:
            self._push(float(text[:_MAX_DIGITS]))
        except ValueError:
            raise FormatError("a float that is none") from None

    def _text(self, found: bytes, encoding: str = "utf-8") -> None:
        try:
            text = found.decode(encoding)
            if encoding == "raw-unicode-escape":
                text.encode()  # halves of characters could never be printed
        except UnicodeError:
            raise FormatError("a text that is none") from None
        self._push(text)

    def _old_string(self) -> None:
        quoted = self._line(factor=4).strip()
        if len(quoted) < 2 or quoted[:1] not in b"'\"" or quoted[-1:] != quoted[:1]:
            raise FormatError("a text without its quotes")
        inner = quoted[1:-1]
        if b"\\" in inner:
            raise FormatError("a text of Python 2 with escapes")
        self._text(inner, "ascii")

    def _tuple_of(self, count: int) -> None:
        if count > len(self._stack):
            raise IndexError
        kept = len(self._stack) - count
        self._stack[kept:] = [tuple(self._stack[kept:])]

    def _tuple_marked(self) -> None:
        items = self._pop_marked()
        self._charge(8 * len(items))
        self._push(tuple(items))

    def _list_marked(self) -> None:
        self._push(self._pop_marked())

    def _dict_marked(self) -> None:
        items = self._pop_marked()
        self._push({})
        self._store(items)

    def _set_marked(self) -> None:
        items = self._pop_marked()
        self._charge(_SET_ITEM_BYTES * len(items))
        self._push({key_of(item) for item in items})

    # Filling what is there.

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._pop_marked())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        self._charge(_LIST_ITEM_BYTES * len(items))
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Record):
            target.items.extend(items)
        else:
            raise FormatError("it appends to what is no list")

    def _add_items(self) -> None:
        items = self._pop_marked()
        target = self._stack[-1]
        self._charge(_SET_ITEM_BYTES * len(items))
        if isinstance(target, set):
            target.update(map(key_of, items))
        elif isinstance(target, Record):
            target.items.extend(items)
        else:
            raise FormatError("it adds to what is no set")

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._store([key, value])

    def _set_items(self) -> None:
        self._store(self._pop_marked())

    def _store(self, items: Sequence[Any]) -> None:
        target = self._stack[-1]
        pairs = target.pairs if isinstance(target, Record) else target
        self._charge(_PAIR_BYTES * (len(items) // 2))
        if not isinstance(pairs, dict) or len(items) % 2:
            raise FormatError("it sets items of what is no dict")
        for place in range(0, len(items), 2):
            key = items[place]
            pairs[key if type(key) is str else key_of(key)] = items[place + 1]

    # What is only recorded.

    def _name_lines(self) -> None:
        self._push(_name(self._line(), self._line()))

    def _name_stacked(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise FormatError("a name that is no text")
        self._push(Name(module, name))

    def _call(self) -> None:
        args, maker = self._stack.pop(), self._stack.pop()
        self._push(self._interpret(Record(maker, args)))

    def _make_new(self) -> None:
        keywords, args, maker = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._push(self._interpret(Record(maker, (args, keywords))))

    def _instance(self) -> None:
        maker = _name(self._line(), self._line())
        self._push(self._interpret(Record(maker, tuple(self._pop_marked()))))

    def _object_marked(self) -> None:
        items = self._pop_marked()
        self._push(self._interpret(Record(items[0], tuple(items[1:]))))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if not isinstance(target, Record):
            raise FormatError("it sets the state of a plain value")
        target.state = state

    def _reference_line(self) -> None:
        self._text(self._line(), "ascii")
        self._push(Reference(self._stack.pop()))

    def _reference(self) -> None:
        self._push(Reference(self._stack.pop()))


def _name(module: bytes, name: bytes) -> Name:
    try:
        return Name(module.decode(), name.decode())
    except UnicodeDecodeError:
        raise FormatError("a name that is no text") from None


_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_CODES: Final = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_STOP, _MEMOIZE, _RECALL_1, _INT_OF_1, _INT_OF_2, _INT_OF_4 = (
    _CODES[name] for name in ("STOP", "MEMOIZE", "BINGET", "BININT1", "BININT2", "BININT")
)

# One row an instruction: what it costs in bytes at most, beside what it is charged for when
# its size is known, and what it does. Instructions that are not here are refused: extension
# registries and buffers outside of the pickle belong to no file. Those that ``run`` follows
# itself have their costs here.
_Action = Callable[[Machine], None]
_TABLE: Final[dict[str, tuple[int, _Action]]] = {
    "PROTO": (0, Machine._protocol),
    "FRAME": (0, Machine._frame),
    "MARK": (72, Machine._mark),
    "POP": (0, Machine._pop),
    "POP_MARK": (0, Machine._pop_mark),
    "DUP": (8, Machine._duplicate),
    "PUT": (120, lambda m: m._remember(m._line_number())),
    "BINPUT": (120, lambda m: m._remember(m._number(_U1))),
    "LONG_BINPUT": (120, lambda m: m._remember(m._number(_U4))),
    "MEMOIZE": (120, Machine._refuse),
    "GET": (8, lambda m: m._recall(m._line_number())),
    "BINGET": (8, Machine._refuse),
    "LONG_BINGET": (8, lambda m: m._recall(m._number(_U4))),
    "NONE": (8, lambda m: m._push(None)),
    "NEWTRUE": (8, lambda m: m._push(True)),
    "NEWFALSE": (8, lambda m: m._push(False)),
    "INT": (40, Machine._int_line),
    "BININT": (40, Machine._refuse),
    "BININT1": (8, Machine._refuse),
    "BININT2": (40, Machine._refuse),
    "LONG": (40, lambda m: m._push(m._line_number())),
    "LONG1": (40 + 255, lambda m: m._long(_U1)),
    "LONG4": (40 + MAX_INT_BYTES, lambda m: m._long(_I4)),
    "FLOAT": (32, Machine._float_line),
    "BINFLOAT": (32, lambda m: m._push(_F8.unpack(m._take(8))[0])),
    "STRING": (64, Machine._old_string),
    "BINSTRING": (64, lambda m: m._text(m._sized(_I4), "ascii")),
    "SHORT_BINSTRING": (64, lambda m: m._text(m._sized(_U1), "ascii")),
    # One wide character makes all of a text's characters four bytes wide.
    "UNICODE": (88, lambda m: m._text(m._line(factor=4), "raw-unicode-escape")),
    "SHORT_BINUNICODE": (88, lambda m: m._text(m._sized(_U1, 4))),
    "BINUNICODE": (88, lambda m: m._text(m._sized(_U4, 4))),
    "BINUNICODE8": (88, lambda m: m._text(m._sized(_U8, 4))),
    "SHORT_BINBYTES": (48, lambda m: m._push(m._sized(_U1))),
    "BINBYTES": (48, lambda m: m._push(m._sized(_U4))),
    "BINBYTES8": (48, lambda m: m._push(m._sized(_U8))),
    "BYTEARRAY8": (48, lambda m: m._push(m._sized(_U8))),
    "EMPTY_TUPLE": (8, lambda m: m._push(())),
    "TUPLE1": (64, lambda m: m._tuple_of(1)),
    "TUPLE2": (72, lambda m: m._tuple_of(2)),
    "TUPLE3": (80, lambda m: m._tuple_of(3)),
    "TUPLE": (64, Machine._tuple_marked),
    "EMPTY_LIST": (96, lambda m: m._push([])),
    "LIST": (96, Machine._list_marked),
    "APPEND": (96, Machine._append),
    "APPENDS": (96, Machine._appends),
    "EMPTY_DICT": (72, lambda m: m._push({})),
    "DICT": (240, Machine._dict_marked),
    "SETITEM": (240, Machine._set_item),
    "SETITEMS": (240, Machine._set_items),
    "EMPTY_SET": (224, lambda m: m._push(set())),
    "FROZENSET": (224, Machine._set_marked),
    "ADDITEMS": (224, Machine._add_items),
    "GLOBAL": (200, Machine._name_lines),
    "STACK_GLOBAL": (64, Machine._name_stacked),
    "REDUCE": (240, Machine._call),
    "NEWOBJ": (240, Machine._call),
    "NEWOBJ_EX": (320, Machine._make_new),
    "INST": (480, Machine._instance),
    "OBJ": (300, Machine._object_marked),
    "BUILD": (0, Machine._build),
    "PERSID": (120, Machine._reference_line),
    "BINPERSID": (48, Machine._reference),
}
_ACTIONS: Final[list[_Action]] = [Machine._refuse] * 256
_COSTS: Final = [0] * 256
for _opcode, (_cost, _action) in _TABLE.items():
    _ACTIONS[_CODES[_opcode]], _COSTS[_CODES[_opcode]] = _action, _cost

"""What a pickle becomes: plain values, and records of everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rdm_batch.formats.format_error import FormatError


@dataclass(frozen=True)
class PickleLimits:
    """Bound what reading one pickle may cost.

    Attributes:
        instructions: How many there may be, that is, time: about a second for three million.
        num_bytes: Memory of everything that is made, estimated from above, dropped or not.
        marks: How many values of open length may be begun inside each other.
    """

    instructions: int = 4_000_000
    num_bytes: int = 1 << 30
    marks: int = 1_000


class Name:
    """Name what a pickle asks for; it is never looked up. Equal names are equal."""

    __slots__ = ("_hash", "module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self._hash = hash((module, name))  # large files ask for the same name a million times

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and (self.name, self.module) == (other.name, other.module)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """Hold what a pickle wants built, as plain values.

    Attributes:
        maker: What it names as the class or function: a :class:`Name` where it is honest.
        args: What that is to be called with: a tuple where it is honest.
        state: What the result is to be set to; None without.
        items: What is appended to the result.
        pairs: What is set in the result by key.
    """

    __slots__ = ("args", "items", "maker", "pairs", "state")

    def __init__(self, maker: object, args: object) -> None:
        self.maker = maker
        self.args = args
        self.state: object = None
        self.items: list[object] = []
        self.pairs: dict[Any, object] = {}


class Reference:
    """Hold a pickle's reference to something outside of it."""

    __slots__ = ("target",)

    def __init__(self, target: object) -> None:
        self.target = target


class OtherKey:
    """Stand for a key that is neither text nor a small number: equal to itself alone.

    Hashing what a file made of itself has no bounds: tuples in tuples, and numbers and tuples
    chosen to collide.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def key_of(value: Any) -> Any:
    """Give what stands for a value as a key, so that hashing it costs little; see OtherKey.

    Raises:
        FormatError: No pickle that Python wrote has a key of its kind.
    """
    kind = type(value)
    if kind is int:
        return value if -_KEY_INT <= value < _KEY_INT else OtherKey(value)
    if kind in (str, bytes, bool, float, type(None), Name):
        return value
    if kind in (list, dict, set):
        raise FormatError(f"a {kind.__name__} as a key")
    return OtherKey(value)


_KEY_INT: Final = 1 << 63
_MAPPINGS: Final = {
    Name("collections", "OrderedDict"),
    Name("collections", "defaultdict"),
    Name("collections", "Counter"),
}


def as_mapping(value: object) -> dict[Any, object] | None:
    """Give a dict, or the content of a stored OrderedDict, defaultdict or Counter; None for others.

    What a pickle adds to one beside its content (attributes, a default) is left aside.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, Record) or not isinstance(value.args, tuple):
        return None
    if not isinstance(value.maker, Name) or value.maker not in _MAPPINGS:
        return None
    given = value.args[0] if value.args and value.maker.name != "defaultdict" else None
    if isinstance(given, dict):
        return given | value.pairs
    if isinstance(given, list):  # an OrderedDict of Python 2: pairs, each a list
        pairs: dict[Any, object] = {}
        for pair in given:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                return None
            pairs[key_of(pair[0])] = pair[1]
        return pairs | value.pairs
    return value.pairs if given is None else None


def describe(value: object) -> str:
    """Say in a few words what a value is, whatever is in it."""
    if isinstance(value, Record):
        value = value.maker if isinstance(value.maker, Name) else value
    if isinstance(value, Name):
        return f"a pickled object ({value})"
    if isinstance(value, Record | Reference | OtherKey):
        return "a pickled object"
    return "nothing" if value is None else f"a {type(value).__name__}"

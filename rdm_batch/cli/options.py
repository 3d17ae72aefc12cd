"""Command line options made from spec models.

Default, choices, type, bounds and help of such an option stand in the model alone. The
command says which model it takes, and how an option is called where not as its field.
Importing this module imports no pydantic: only the command that runs needs its models.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from rdm_batch.errors import SpecError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")

NOT_READY = 3
"""Exit status of a dry run that found something missing; 2 is argparse's, for wrong usage."""
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""How pydantic calls a bound, in its fields and in its errors, and how we do."""


class Command(NamedTuple):
    """One command of ``rdm-batch``.

    Args:
        name: What is typed.
        summary: The line of ``rdm-batch --help``.
        add: Gives a parser the arguments, and as its default ``run`` the function that takes
            what was parsed and returns the exit status. Called for the chosen command alone,
            so it may import what the arguments are made from.
    """

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]


class _Leaf(NamedTuple):
    """A field that one option can give."""

    field: FieldInfo
    required: bool
    parent: FieldInfo | None


class Options(Generic[M]):
    """The options a command takes from one spec model.

    Nested models count as if their fields stood in the model itself: ``encode.patches`` is
    ``--patches``. What is not given on the command line is left to the model's default.

    Args:
        model: The model.
        names: Option and metavar of a field where they are not ``--its-name``: ``"--index"``,
            ``"--encoder NAME"``, or for a positional argument ``"SAMPLES"``. Keyed by path.
        only: Paths of the fields, or of the nested models, to take; None takes all.
        defaults: Values for what the model requires and this command does not; None leaves it
            out.
    """

    def __init__(
        self,
        model: type[M],
        names: Mapping[str, str],
        only: Collection[str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.names = names
        self.only = only
        self.defaults = defaults or {}

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare every option."""
        for path, leaf in self._leaves().items():
            self._add(parser, path, leaf)

    def given(self, args: argparse.Namespace) -> dict[str, Any]:
        """Collect what was given on the command line, nested as the model is."""
        document: dict[str, Any] = {}
        for path in self._leaves():
            value = getattr(args, self._dest(path), None)
            if value is None:
                continue
            *parents, name = path.split(".")
            node = document
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = tuple(value) if isinstance(value, list) else value
        return document

    def build(self, args: argparse.Namespace, **others: Any) -> M:
        """Make the model of what was given.

        Args:
            args: What was parsed.
            others: Fields that are no options.

        Raises:
            SpecError: A value is not one the model takes; named by its option.
        """
        from pydantic import ValidationError

        try:
            return self.model.model_validate(self.given(args) | others)
        except ValidationError as error:
            raise self._mistake(error.errors(include_url=False)[0]) from None

    def _leaves(self) -> dict[str, _Leaf]:
        leaves = _leaves_of(self.model)
        if self.only is None:
            return leaves
        return {
            path: leaf
            for path, leaf in leaves.items()
            if path in self.only or path.partition(".")[0] in self.only
        }

    def _dest(self, path: str) -> str:
        return f"{self.model.__name__}.{path}"

    def _add(self, parser: argparse.ArgumentParser, path: str, leaf: _Leaf) -> None:
        kind, several = _kind_of(leaf.field.annotation)
        name, _, metavar = self._name(path).partition(" ")
        keywords: dict[str, Any] = {"default": self.defaults.get(path), "help": self._help(path)}
        if kind is bool:
            parser.add_argument(name, dest=self._dest(path), action="store_true", **keywords)
            return
        if several:
            keywords["nargs"] = "+"
        if get_origin(kind) is Literal:
            keywords["choices"] = get_args(kind)
        else:
            keywords["type"] = kind
            keywords["metavar"] = metavar or ("URI" if kind is str else "N")
        if name.startswith("-"):
            required = leaf.required and path not in self.defaults
            parser.add_argument(name, dest=self._dest(path), required=required, **keywords)
        else:
            parser.add_argument(self._dest(path), **keywords | {"metavar": name})

    def _name(self, path: str) -> str:
        return self.names.get(path, f"--{path.rpartition('.')[2].replace('_', '-')}")

    def _help(self, path: str) -> str:
        found, _, parent = self._leaves()[path]
        default = self.defaults.get(path)
        if default is None and not found.is_required():
            default = found.get_default(call_default_factory=True)
        notes = list(_bounds(found))
        if default is not None and default is not False:
            shown = " ".join(default) if isinstance(default, tuple) else default
            notes.append(f"default: {shown}")
        text = found.description or ""
        if parent is not None and self._name(path).split()[0] == f"--{path.partition('.')[0]}":
            text = f"{parent.description} {text}"  # the option stands for the nested model
        text = text.replace("`", "").replace("None: ", "Default: ").rstrip(".")
        return f"{_lowered(text)} ({'; '.join(notes)})".replace(" ()", "").replace("%", "%%")

    def _mistake(self, details: ErrorDetails) -> SpecError:
        """Name the option that is wrong; a text is not repeated, it may hold credentials."""
        leaves = self._leaves()
        parts = [str(part) for part in details["loc"]]
        paths = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        path = next((path for path in paths if path in leaves), None)
        where = "command line" if path is None else self._name(path).partition(" ")[0]
        context = details.get("ctx", {})
        for limit, words in _LIMITS.items():
            if limit in context:
                return SpecError(where, f"{details['input']}", f"{words} {context[limit]}")
        if details["type"] == "missing":
            return SpecError(where, "is missing", "a value")
        return SpecError(where, _lowered(details["msg"].removeprefix("Value error, ")))


def add_address(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare ``--address``, where a command does its work.

    Args:
        parser: Of the command.
        default: What is used without it.
    """
    parser.add_argument(
        "--address",
        metavar="none|local|auto|ADDRESS",
        help="where to work: 'none' in this process, without Ray; 'local' on a Ray started here; "
        f"'auto' on the running one; or the address of a cluster (default: {default})",
    )


def _leaves_of(model: type[BaseModel]) -> dict[str, _Leaf]:
    leaves = {}
    for name, found in model.model_fields.items():
        nested, _ = _kind_of(found.annotation)
        if not (isinstance(nested, type) and hasattr(nested, "model_fields")):
            leaves[name] = _Leaf(found, found.is_required(), None)
            continue
        for path, leaf in _leaves_of(nested).items():
            required = found.is_required() and leaf.required
            leaves[f"{name}.{path}"] = _Leaf(leaf.field, required, leaf.parent or found)
    return leaves


def _kind_of(annotation: Any) -> tuple[Any, bool]:
    """Find the type of one value, and whether there are several."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        # Of several types, a command line can give the one that is a text.
        kinds = [_kind_of(part) for part in get_args(annotation) if part is not types.NoneType]
        return next((kind for kind in kinds if kind[0] is str), kinds[0])
    if origin is tuple:
        return _kind_of(get_args(annotation)[0])[0], True
    return annotation, False


def _bounds(item: Any) -> Iterator[str]:
    """List the bounds of a field, wherever in its annotation they stand."""
    for limit, words in _LIMITS.items():
        value = getattr(item, limit, None)
        if value is not None and not callable(value):
            yield f"{words} {value}"
    for inner in (*getattr(item, "metadata", ()), *get_args(getattr(item, "annotation", item))):
        yield from _bounds(inner)


def _lowered(text: str) -> str:
    """Begin without a capital, as lines of help and messages do, unless it is an acronym's."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]

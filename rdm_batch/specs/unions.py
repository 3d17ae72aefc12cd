"""Unions of spec models that one field tells apart, as mappings from its values."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel


def members(union: Any, tag: str) -> dict[str, Any]:
    """List the models of a tagged union by their tags, in the order they are declared.

    Args:
        union: An ``Annotated`` union of models, or one of unions of such.
        tag: The field, a ``Literal`` of one value, that says which model is meant.
    """
    if isinstance(union, type) and issubclass(union, BaseModel):
        (value,) = get_args(union.model_fields[tag].annotation)
        return {value: union}
    parts = [part for part in get_args(union) if get_args(part) or isinstance(part, type)]
    return {name: model for part in parts for name, model in members(part, tag).items()}

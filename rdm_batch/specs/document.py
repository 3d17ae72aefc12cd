"""Write ``docs/job-spec.md`` from the models, so that every field is documented once."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.suite import GatesSpec, SuiteSpec
from rdm_batch.specs.sweep import SweepSpec

_HEADER = """# The job file

Made from the models in `rdm_batch/specs/` by `make docs`; change a field's description there.

A job file is YAML. Unknown fields are refused. A path may be local, `s3://bucket/key`, or
`package://name` for a file that ships with this package; endpoint and credentials of an object
store come from the usual AWS environment variables and files. Any field can be overridden on the
command line: `--set sampling.seed=7 --set output.uri=s3://bucket/run7`.
"""

_SWEEP = """## `sweep` (optional)

Many jobs in one file: the fields that vary, and over which values. Each cell is an ordinary sample
set below `output.uri`; [sweeps.md](sweeps.md) says what is made of them.
"""


_SUITE = """## The suite file

Jobs that are run again and again, and the gates that judge them: a file of its own for
`rdm-batch bench`, which [nightly.md](nightly.md) explains.
"""


def job_reference() -> str:
    """Describe every field of the job file as Markdown."""
    lines = [_HEADER]
    for name, field in JobSpec.model_fields.items():
        models = _models(field.annotation)
        if not models:
            lines += [f"## `{name}`\n", *_table([(name, field)])]
            continue
        described: set[type[BaseModel]] = set()
        optional = "" if field.is_required() else " (optional)"
        lines.append(f"## `{name}`{optional}\n\n{field.description}\n")
        for model in models:
            lines += _section(model, name, len(models) > 1, described)
    lines += [_SWEEP, *_section(SweepSpec, "sweep", False, set())]
    lines += [_SUITE, *_section(SuiteSpec, "suite", False, set())]
    lines.append(f"#### `gates`\n\n{_first_line(GatesSpec)}\n")
    lines += _section(GatesSpec, "gates", False, set())
    return "\n".join(lines).rstrip() + "\n"


def _section(
    model: type[BaseModel], path: str, several: bool, described: set[type[BaseModel]]
) -> Iterator[str]:
    if several:
        tags = ", ".join(
            f"`{name}: {get_args(field.annotation)[0]}`"
            for name, field in model.model_fields.items()
            if _is_tag(field)
        )
        yield f"### {tags}\n\n{_first_line(model)}\n"
    fields = sorted(model.model_fields.items(), key=lambda item: _is_tag(item[1]), reverse=True)
    yield from _table(fields)
    for name, field in model.model_fields.items():
        for nested in _models(field.annotation):
            if nested in described:
                continue
            described.add(nested)
            yield f"#### `{path}.{name}`\n\n{_first_line(nested)}\n"
            yield from _table(list(nested.model_fields.items()))


def _table(fields: list[tuple[str, FieldInfo]]) -> Iterator[str]:
    yield "| field | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields:
        default = "required" if field.is_required() else f"`{_default(field)}`"
        value = _type_name(field.annotation, field.metadata)
        yield f"| `{field.alias or name}` | {value} | {default} | {field.description} |"
    yield ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _type_name(annotation: Any, metadata: list[Any]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(annotation.__origin__, [*annotation.__metadata__, *metadata])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return " or ".join(_type_name(part, metadata) for part in parts)
    if origin is tuple:
        return f"list of {_type_name(get_args(annotation)[0], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", dict: "mapping"}
    name = names[origin or annotation]
    if isinstance(annotation, type):
        bounds = [_bound(item) for item in metadata]
        return " ".join([name, ", ".join(bound for bound in bounds if bound)]).strip()
    return name


def _bound(item: Any) -> str:
    match item:
        case Ge(bound) | MinLen(bound):
            return f"≥ {bound}"
        case Gt(bound):
            return f"> {bound}"
        case Le(bound):
            return f"≤ {bound}"
        case Lt(bound):
            return f"< {bound}"
    if isinstance(item, FieldInfo):
        return ", ".join(bound for part in item.metadata if (bound := _bound(part)))
    return ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _is_tag(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    print(job_reference(), end="")

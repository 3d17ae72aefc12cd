"""Compare fields and settings in documents with the models of jobs and trainings."""

from __future__ import annotations

import contextlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from rdm_batch.errors import RdmBatchError
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.specs.suite import SuiteSpec
from rdm_batch.specs.sweep import SweepSpec
from rdm_batch.specs.training import TrainingSpec
from rdm_batch.sweeps.cells import load_sweep

_PLACEHOLDER = re.compile(r"[A-Z_]{2,}")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _reachable() -> list[type[BaseModel]]:
    waiting = [JobSpec, SuiteSpec, SweepSpec, *_models_in(TrainingSpec)]
    found: list[type[BaseModel]] = []
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.append(model)
            for field in model.model_fields.values():
                waiting += _models_in(field.annotation)
    return found


def resolves(parts: list[str], models: list[type[BaseModel]]) -> bool:
    """Say whether a path of names leads to a field of one of the models."""
    fields = [model.model_fields[parts[0]] for model in models if parts[0] in model.model_fields]
    if not fields or len(parts) == 1:
        return bool(fields)
    return any(
        resolves(parts[1:], list(_models_in(field.annotation))) or "dict" in str(field.annotation)
        for field in fields
    )


def is_field(dotted: str) -> bool:
    """Say whether a job or a training file has the field; a path may begin inside a part."""
    parts = dotted.split(".")
    if parts[0] in JobSpec.model_fields:
        return resolves(parts, [JobSpec])
    if parts[0] == "sweep":
        return parts[1:] == ["list"] or resolves(parts[1:] or ["grid"], [SweepSpec])
    if parts[0] == "suite":
        return resolves(parts[1:] or ["jobs"], [SuiteSpec])
    return resolves(parts, _reachable())


def is_name(dotted: str) -> bool:
    """Say whether a Python name exists."""
    if importlib.util.find_spec(dotted.partition(".")[0]) is None:
        return False
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def setting_problems(key: str, text: str) -> list[str]:
    """Find what is wrong with ``key: value``: some part has the key, and takes the value."""
    fields = [model.model_fields[key] for model in _reachable() if key in model.model_fields]
    if not fields:
        return [f"{key}: {text} sets no field of a job or training"]
    if _PLACEHOLDER.search(text):
        return []
    value = yaml.safe_load(text)
    for field in fields:
        with contextlib.suppress(ValidationError):
            TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
            return []
    return [f"{key}: {text} is not a value it takes"]


def yaml_problems(block: str) -> list[str]:
    """Find what is wrong with a job, a part of one, or a training file."""
    document = yaml.safe_load(block)
    if not isinstance(document, dict):
        return []
    if "train" in document:
        adapter: TypeAdapter[Any] = TypeAdapter(TrainingSpec)
        document, adapters = {"settings": document}, {"settings": adapter}
    elif document.get("kind") == "suite":
        adapter = TypeAdapter(SuiteSpec)
        document, adapters = {"suite": document}, {"suite": adapter}
    elif {"name", "model", "output"} <= set(document):
        try:
            load_sweep(document) if "sweep" in document else parse_job(document, "job")
        except RdmBatchError as error:
            return [str(error)]
        return []
    else:
        adapters = {
            name: TypeAdapter(Annotated[field.annotation, field])
            for name, field in JobSpec.model_fields.items()
        } | {"sweep": TypeAdapter(SweepSpec)}
    problems = [f"{name} is no part of a job" for name in document if name not in adapters]
    for name, adapter in adapters.items():
        if name in document:
            try:
                adapter.validate_python(document[name])
            except ValidationError as error:
                problems.append(f"{name}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
    return problems

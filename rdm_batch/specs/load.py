"""Read a job file, apply overrides, and say everything that is wrong with it at once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.yaml_text import MAX_DEPTH, parse_yaml, read_yaml


def load_job(job: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobSpec:
    """Read and validate a job file.

    Args:
        job: The YAML file, or what it would hold. A file is safe-loaded: no tag can run code.
        overrides: ``key.path=value`` strings, the value in YAML, applied in order.

    Raises:
        SpecError: The file cannot be read, is not YAML, stands for more than a job file may, or
            an override is not understood.
        InvalidJobError: One or more fields are wrong; all are listed.
    """
    document = load_document(job, overrides)
    where = str(job) if isinstance(job, Path) else "the job"
    if "sweep" in document:
        raise SpecError(
            where,
            "describes a sweep of many jobs",
            "a single job",
            "run it with python -m rdm_batch.run or rdm_batch.sweep, or leave that part out",
        )
    return parse_job(document, where)


def load_document(job: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a job file without validating it; arguments as ``load_job``.

    Raises:
        SpecError: As ``load_job``.
    """
    # Overrides are not to change what the caller holds.
    document = _read_job(job) if isinstance(job, Path) else copy.deepcopy(dict(job))
    for override in overrides:
        _apply(document, override)
    return document


def is_sweep(job: Path, overrides: Sequence[str] = ()) -> bool:
    """Tell whether a job file describes a sweep of many jobs; arguments as ``load_job``.

    Raises:
        SpecError: As ``load_job``.
    """
    return "sweep" in load_document(job, overrides)


def parse_job(document: dict[str, Any], where: str) -> JobSpec:
    """Validate a job that is already a dictionary.

    Args:
        document: The job, as the YAML file would hold it.
        where: Named in messages.

    Raises:
        InvalidJobError: One or more fields are wrong; all are listed.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidJobError(where, problems_of(error, JobSpec, document)) from None


def _read_job(path: Path) -> dict[str, Any]:
    if _is_missing(path):
        raise SpecError(str(path), "there is no such file", "a job file", _nearby(path))
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SpecError(
            str(path), f"holds {_kind(document)} at the top", "a mapping with name, model, ..."
        )
    return document


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # what is wrong is told when it is read
    return False


def _apply(document: dict[str, Any], override: str) -> None:
    key_path, separator, text = override.partition("=")
    keys = key_path.strip().split(".")
    where = f"--set {override}"
    if not separator or not all(keys):
        raise SpecError(where, "is not understood", "key.path=value", "for example sampling.seed=7")
    if len(keys) > MAX_DEPTH:
        raise SpecError(where, f"names {len(keys):,} keys", f"at most {MAX_DEPTH}")
    value = parse_yaml(text, where)
    node = document
    for depth, key in enumerate(keys[:-1]):
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise SpecError(
                where, f"{'.'.join(keys[: depth + 1])} is {_kind(child)}", "a mapping to set into"
            )
        node = child
    node[keys[-1]] = value


def _nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    names = [entry.name for entry in folder.glob("*.y*ml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {folder / close[0]}?" if close else ""


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), f"a {type(value).__name__}")

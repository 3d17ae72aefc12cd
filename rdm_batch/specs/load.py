"""Read a job file, apply overrides, and say everything that is wrong with it at once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.messages import problems_of


def load_job(job: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobSpec:
    """Read and validate a job file.

    Args:
        job: The YAML file, or what it would hold. A file is safe-loaded: no tag can run code.
        overrides: ``key.path=value`` strings, the value in YAML, applied in order.

    Raises:
        SpecError: The file cannot be read, is not YAML, or an override is not understood.
        InvalidJobError: One or more fields are wrong; all are listed.
    """
    # Overrides are not to change what the caller holds.
    document = _read_yaml(job) if isinstance(job, Path) else copy.deepcopy(dict(job))
    for override in overrides:
        _apply(document, override)
    return parse_job(document, str(job) if isinstance(job, Path) else "the job")


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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(str(path), "there is no such file", "a job file", _nearby(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"cannot be read ({error})", "UTF-8 text") from None
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise SpecError(str(path), f"is not YAML ({_one_line(error)})") from None
    if not isinstance(document, dict):
        raise SpecError(
            str(path), f"holds {_kind(document)} at the top", "a mapping with name, model, ..."
        )
    return document


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuse a key that stands twice: plain YAML silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a plain value", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _apply(document: dict[str, Any], override: str) -> None:
    key_path, separator, text = override.partition("=")
    keys = key_path.strip().split(".")
    where = f"--set {override}"
    if not separator or not all(keys):
        raise SpecError(where, "is not understood", "key.path=value", "for example sampling.seed=7")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(where, f"the value is not YAML ({_one_line(error)})") from None
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

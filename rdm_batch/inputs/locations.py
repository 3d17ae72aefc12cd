"""Make the relative paths of a job absolute, so that every process means the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdm_batch.errors import SpecError
from rdm_batch.inputs.images import SHAPES_PREFIX
from rdm_batch.specs.job import JobSpec

_INPUTS = (
    ("model", "checkpoint"),
    ("model", "architecture"),
    ("database", "uri"),
    ("database", "encoder", "weights"),
    ("conditioning", "prompts_file"),
    ("evaluation", "reference"),
    ("evaluation", "extractor", "weights"),
    ("evaluation", "encoder", "weights"),
    ("evaluation", "held_out"),
)
_OUTPUT = ("output", "uri")


def absolute_locations(spec: JobSpec, inputs_from: Path, output_from: Path) -> JobSpec:
    """Replace relative local paths by absolute ones; URIs with a scheme stay.

    Args:
        spec: The job.
        inputs_from: Folder that input paths are relative to.
        output_from: Folder that the output path is relative to.

    Raises:
        SpecError: A path starts with the home folder of a user who does not exist.
    """
    document = spec.model_dump()
    for keys in _INPUTS:
        _replace(document, keys, inputs_from)
    _replace(document, _OUTPUT, output_from)
    return JobSpec.model_validate(document)


def _replace(document: dict[str, Any], keys: tuple[str, ...], base: Path) -> None:
    node: Any = document
    for key in keys[:-1]:
        node = node.get(key)
        if node is None:
            return
    uri = node.get(keys[-1])
    if isinstance(uri, str) and "://" not in uri and not uri.startswith(SHAPES_PREFIX):
        node[keys[-1]] = str((base / _expanded(uri, ".".join(keys))).absolute())


def _expanded(path: str, where: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SpecError(where, f"{path!r} names the home folder of nobody here") from None

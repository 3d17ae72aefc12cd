"""The texts a job embeds, from wherever they stand."""

from __future__ import annotations

from dataclasses import dataclass

from rdm_batch.errors import SpecError
from rdm_batch.retrieval.conditioning import class_prompt
from rdm_batch.specs.conditioning import ClassConditioning, ConditioningSpec, TextConditioning
from rdm_batch.storage.object_store import local_path


@dataclass(frozen=True)
class Prompts:
    """Hold the texts to embed, in the order samples take them.

    Attributes:
        texts: What the encoder reads.
        labels: The class name of each text; None for prompts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None


def read_prompts(conditioning: ConditioningSpec) -> Prompts | None:
    """Collect a job's texts; None where it embeds none.

    Raises:
        SpecError: The prompts file is missing, not UTF-8, or holds no prompt.
    """
    if isinstance(conditioning, ClassConditioning):
        texts = tuple(class_prompt(label, conditioning.template) for label in conditioning.labels)
        return Prompts(texts, conditioning.labels)
    if not isinstance(conditioning, TextConditioning):
        return None
    if conditioning.prompts is not None:
        return Prompts(conditioning.prompts)
    assert conditioning.prompts_file is not None  # the spec demands exactly one of the two
    return Prompts(_read_lines(conditioning.prompts_file))


def _read_lines(uri: str) -> tuple[str, ...]:
    where = f"conditioning.prompts_file {uri}"
    path = local_path(uri, error=SpecError)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            where, f"byte {error.start} is not UTF-8", "a UTF-8 text file, one prompt a line"
        ) from None
    except OSError as error:
        raise SpecError(where, f"cannot be read ({error.strerror})", "a text file") from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise SpecError(where, "holds no prompt", "at least one line of text")
    return lines

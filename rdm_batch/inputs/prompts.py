"""The texts a job embeds, and the files they may stand in."""

from __future__ import annotations

from dataclasses import dataclass

from rdm_batch.errors import SpecError
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


def read_lines(uri: str, field: str) -> tuple[str, ...]:
    """Read a file of texts, one a line; empty lines do not count.

    Args:
        uri: The file.
        field: Names the file in messages, as in ``conditioning.prompts_file``.

    Raises:
        SpecError: The file is missing, not UTF-8, or holds no text.
    """
    where = f"{field} {uri}"
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

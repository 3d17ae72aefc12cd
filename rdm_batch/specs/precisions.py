"""The named arithmetics of a head: in which numbers it computes, one record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

Precision = Literal["float32", "tf32", "float16", "bfloat16"]


@dataclass(frozen=True)
class PrecisionKind:
    """Say what a name stands for.

    Attributes:
        dtype: Type of weights and activations, as PyTorch names it.
        tf32: Whether GPUs round the factors of float32 products to 10 bits of mantissa.
        summary: For documents.
    """

    dtype: str
    tf32: bool
    summary: str


PRECISIONS: Final[dict[Precision, PrecisionKind]] = {
    "float32": PrecisionKind(
        "float32", False, "IEEE in matrix products and convolutions alike, on every device"
    ),
    "tf32": PrecisionKind(
        "float32", True, "float32 whose products a GPU rounds to 10 bits of mantissa; GPUs only"
    ),
    "float16": PrecisionKind("float16", False, "10 bits of mantissa, numbers up to 65,504"),
    "bfloat16": PrecisionKind("bfloat16", False, "7 bits of mantissa, the range of float32"),
}
assert tuple(PRECISIONS) == get_args(Precision)


def describe_precisions() -> str:
    """Put all of them into a sentence of Markdown."""
    return "; ".join(f"`{name}` ({kind.summary})" for name, kind in PRECISIONS.items())

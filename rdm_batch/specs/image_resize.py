"""How images of any size are brought to one, as a job or a command says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rdm_batch.specs.base import Spec


class ImageResize(Spec):
    """How images of any size are brought to one before they are judged or judged against."""

    size: Annotated[int, Field(ge=8, le=4096)] = Field(
        description="Height and width all images get, pixels."
    )
    crop: Literal["center", "none"] = Field(
        default="center",
        description="`center` cuts the largest centered square first; `none` keeps everything and "
        "changes the shape of what is not square.",
    )
    filter: Literal["bicubic", "lanczos", "box"] = Field(
        default="bicubic",
        description="As Pillow has it, antialiased, rounded to bytes; `box` averages areas.",
    )

    def describe(self) -> str:
        """Say it in the words that stand in the description of a score."""
        crop = "center crop" if self.crop == "center" else "no crop"
        return f"{self.size} x {self.size}, {crop}, {self.filter}"

"""What ``rdm-batch export`` is asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rdm_batch.specs.base import Spec, Uri

ExportFormat = Literal["adm-npz", "png-folder", "webdataset"]


class SampleExport(Spec):
    """Ask for a sample set in another form."""

    samples: Uri = Field(description="The sample set, a path or `s3://`.")
    format: ExportFormat = Field(
        description="One ADM `.npz` (`arr_0`, uint8 NHWC), a folder of PNG files, or WebDataset "
        "tars with pictures and provenance."
    )
    out: Uri = Field(description="The file or folder to write.")
    allow_partial: bool = Field(default=False, description="Export an incomplete set as it is.")

"""The pictures a page shows: some samples and the neighbors they were conditioned on."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from rdm_batch.errors import SampleSetError
from rdm_batch.files import UNREADABLE
from rdm_batch.storage.png import MAX_PIXELS

_SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.int64()), ("image", pa.binary())])

# Pictures up to this side are embedded as they are; larger ones only need to look right.
_LOSSLESS_SIDE = 64
_WEBP_QUALITY = 85
# Only these decoders ever see a picture: some of Pillow's others start programs.
_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Pictures:
    """Hold encoded images (PNG, JPEG or WebP).

    Args:
        samples: Sample index to image.
        neighbors: Database row id to thumbnail.
        references: Number of a reference image to the image.
        queries: Sample index to the picture that the sample was conditioned on.
    """

    samples: Mapping[int, bytes] = field(default_factory=dict)
    neighbors: Mapping[int, bytes] = field(default_factory=dict)
    references: Mapping[int, bytes] = field(default_factory=dict)
    queries: Mapping[int, bytes] = field(default_factory=dict)

    def __or__(self, other: Pictures) -> Pictures:
        """Return the pictures of both."""
        return Pictures(
            samples={**self.samples, **other.samples},
            neighbors={**self.neighbors, **other.neighbors},
            references={**self.references, **other.references},
            queries={**self.queries, **other.queries},
        )

    def to_parquet(self) -> bytes:
        """Serialize to the bytes of ``illustrations.parquet`` (columns kind, id, image)."""
        of_kind = {
            "sample": self.samples,
            "neighbor": self.neighbors,
            "reference": self.references,
            "query": self.queries,
        }
        kinds = [kind for kind, pictures in of_kind.items() for _ in pictures]
        ids = [id_ for pictures in of_kind.values() for id_ in pictures]
        images = [image for pictures in of_kind.values() for image in pictures.values()]
        sink = io.BytesIO()
        pq.write_table(pa.table([kinds, ids, images], schema=_SCHEMA), sink)
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, where: str = "illustrations.parquet") -> Pictures:
        """Read what ``to_parquet`` wrote.

        Raises:
            SampleSetError: The bytes are not such a file.
        """
        try:
            rows = pq.read_table(io.BytesIO(data), schema=_SCHEMA).to_pylist()
        except (pa.ArrowException, *UNREADABLE) as error:
            raise SampleSetError(
                where,
                f"not a table of pictures ({error})",
                "parquet with columns kind, id and image",
                "run the job again to write a new one",
            ) from error
        return cls(
            *(
                {row["id"]: row["image"] for row in rows if row["kind"] == kind}
                for kind in ("sample", "neighbor", "reference", "query")
            )
        )


@dataclass(frozen=True)
class Embedded:
    """Hold an image as a ``data:`` URI; ``tiny`` ones are shown with their pixels visible."""

    uri: str
    tiny: bool


def embed(image: bytes, max_side: int) -> Embedded:
    """Turn an encoded image into one a page can hold.

    Images of at most 64 pixels a side stay lossless; others are reduced to ``max_side`` and
    encoded as WebP.

    Raises:
        SampleSetError: The bytes are not an image.
    """
    try:
        with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width:,} x {opened.height:,} pixels")
            tiny = max(opened.size) <= _LOSSLESS_SIDE
            if tiny and opened.format == "PNG":
                opened.verify()
                return Embedded(_as_uri("image/png", image), tiny)
            picture = opened.convert("RGB")
    except Exception as error:  # damaged bytes lead decoders to raise nearly anything
        reason = "not recognized" if isinstance(error, UnidentifiedImageError) else error
        raise SampleSetError(
            "report page",
            f"a picture of {len(image):,} bytes cannot be read ({reason})",
            "an encoded image",
            "run the job again to write its pictures anew",
        ) from error
    picture.thumbnail((max_side, max_side))
    sink = io.BytesIO()
    picture.save(sink, format="WEBP", lossless=tiny, quality=_WEBP_QUALITY)
    return Embedded(_as_uri("image/webp", sink.getvalue()), tiny)


def _as_uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"

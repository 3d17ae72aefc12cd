"""Images in ``.tar`` archives as webdataset and img2dataset write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rdm_batch.datasets.decode import MAX_FILE_BYTES, MAX_PIXELS, decode_image, read_size
from rdm_batch.datasets.listing import SUFFIXES
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import ImageError
from rdm_batch.files import open_regular
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.tar_file import TarMember, list_tar

MAX_IMAGES: Final = 5_000_000
"""Images of all archives together: where each lies is held in memory."""
_MAX_TEXT_BYTES: Final = 1 << 20
_CAPTIONS: Final = ("caption", "text", "prompt")
_ADDRESSES: Final = ("url", "URL")


@dataclass
class _Sample:
    """Locate the files of one sample: those whose names are equal up to the first dot."""

    archive: Path
    key: str
    image: TarMember | None = None
    text: TarMember | None = None
    facts: TarMember | None = None


class ImageTars:
    """Serve the images of uncompressed ``.tar`` archives, with their captions and addresses.

    A sample is the files of one name up to the first dot behind its last slash, next to each other:
    an image (``.jpg``, ``.png``, ``.webp``), and beside it, where there, a caption (``.txt``) and a
    ``.json`` with ``caption`` and ``url``. The item id is the address where it is known, else
    ``ARCHIVE/KEY``. Files without an image are left out.

    Args:
        paths: The archives, in order.
        max_pixels: Larger images are refused when they are asked for.

    Raises:
        ImageError: An archive is damaged or cut short, or there is no image in any. An image that
            cannot be decoded raises it when it is asked for.
    """

    def __init__(self, paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._samples: list[_Sample] = []
        for path in paths:
            self._add(path)
        if not self._samples:
            where = str(paths[0]) if paths else "archives"
            raise ImageError(where, "no images", f"at least one of {', '.join(SUFFIXES)}")

    def _add(self, path: Path) -> None:
        sample = _Sample(path, "")
        try:
            for member in list_tar(path):
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}{slash}{stem}"
                if key != sample.key:
                    self._keep(sample)
                    sample = _Sample(path, key)
                suffix = f".{suffix.lower()}"
                if suffix in SUFFIXES and sample.image is None:
                    sample.image = member
                elif suffix == ".txt":
                    sample.text = member
                elif suffix == ".json":
                    sample.facts = member
        except FormatError as problem:
            raise ImageError(str(path), str(problem), "a whole .tar archive") from None
        self._keep(sample)

    def _keep(self, sample: _Sample) -> None:
        if sample.image is None:
            return
        if len(self._samples) == MAX_IMAGES:
            where, found = str(sample.archive), f"more than {MAX_IMAGES:,} images in all"
            raise ImageError(where, found, "fewer", "name some of the archives at a time")
        self._samples.append(sample)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._samples)

    def __getitem__(self, index: int) -> ImageItem:
        """Decode one image, and read what stands beside it."""
        sample = self._sample(index)
        facts = self._facts(sample)
        caption = next((facts[name] for name in _CAPTIONS if facts.get(name)), None)
        if caption is None and sample.text is not None:
            caption = self._read(sample, sample.text, _MAX_TEXT_BYTES).decode("utf-8", "replace")
        address = next((facts[name] for name in _ADDRESSES if facts.get(name)), None)
        return ImageItem(
            image=decode_image(self._image(sample), self._where(sample), self._max_pixels),
            item_id=address or f"{sample.archive.name}/{sample.key}",
            caption=caption.strip() or None if caption else None,
            url=address,
        )

    def size(self, index: int) -> tuple[int, int]:
        """Read height and width of one image without decoding it."""
        sample = self._sample(index)
        return read_size(self._image(sample), self._where(sample), self._max_pixels)

    def _sample(self, index: int) -> _Sample:
        if not 0 <= index < len(self._samples):
            raise IndexError(index)
        return self._samples[index]

    def _image(self, sample: _Sample) -> bytes:
        assert sample.image is not None  # others are not kept
        return self._read(sample, sample.image, MAX_FILE_BYTES)

    def _facts(self, sample: _Sample) -> dict[str, str]:
        """Read the texts of the ``.json`` of a sample; none where there is none."""
        if sample.facts is None:
            return {}
        data = self._read(sample, sample.facts, _MAX_TEXT_BYTES)
        try:
            found: Any = parse_json(data)
        except FormatError as problem:
            raise ImageError(f"{self._where(sample)}.json", str(problem), "JSON") from None
        if not isinstance(found, dict):
            return {}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    def _read(self, sample: _Sample, member: TarMember, limit: int) -> bytes:
        where = f"{sample.archive}: {member.name}"
        if member.num_bytes > limit:
            raise ImageError(where, f"has {member.num_bytes:,} bytes", f"at most {limit:,}")
        try:
            with open_regular(sample.archive) as file:
                file.seek(member.offset)
                data = file.read(member.num_bytes)
        except OSError as problem:
            raise ImageError(where, problem.strerror or type(problem).__name__) from None
        if len(data) != member.num_bytes:
            raise ImageError(where, "ends early", f"{member.num_bytes:,} bytes")
        return data

    def _where(self, sample: _Sample) -> str:
        return f"{sample.archive}: {sample.key}"

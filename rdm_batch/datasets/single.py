"""One image file as a collection of one."""

from __future__ import annotations

from pathlib import Path

from rdm_batch.datasets.decode import MAX_FILE_BYTES, MAX_PIXELS, decode_image, read_size
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import ImageError
from rdm_batch.files import read_limited


class ImageFile:
    """Serve one PNG, JPEG or WebP file.

    Args:
        path: The file.
        max_pixels: A larger image is refused when it is asked for.

    Raises:
        ImageError: The file cannot be read. One that cannot be decoded raises it when it is asked
            for.
    """

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS) -> None:
        self._path = path
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        """Count the file."""
        return 1

    def __getitem__(self, index: int) -> ImageItem:
        """Decode the file."""
        data = self._data(index)
        return ImageItem(decode_image(data, str(self._path), self._max_pixels), self._path.name)

    def size(self, index: int) -> tuple[int, int]:
        """Read height and width without decoding the image."""
        return read_size(self._data(index), str(self._path), self._max_pixels)

    def _data(self, index: int) -> bytes:
        if index != 0:
            raise IndexError(index)
        return read_limited(self._path, MAX_FILE_BYTES, ImageError)

"""Images in a folder of files."""

from __future__ import annotations

import os
from pathlib import Path

from rdm_batch.datasets.decode import MAX_FILE_BYTES, MAX_PIXELS, decode_image, read_size
from rdm_batch.datasets.listing import SUFFIXES, list_folder
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import ImageError
from rdm_batch.files import open_regular, read_limited


class ImageFolder:
    """Serve the PNG, JPEG and WebP files below a folder, nested folders included.

    The order is that of the relative paths, character by character, so it is the same on
    every machine. Hidden files and folders are left out; links to folders are not
    followed. The item id is the relative path; images in nested folders carry their
    folder as the attribute ``folder``.

    Args:
        root: The folder.
        max_pixels: Larger images are refused when they are asked for.

    Raises:
        ImageError: The folder does not exist, holds no such file, or something that is no file
            has the name of one. An item that cannot be decoded raises it when it is asked for.
    """

    def __init__(self, root: Path, max_pixels: int = MAX_PIXELS) -> None:
        if not root.is_dir():
            raise ImageError(str(root), "no such folder", "a folder of images")
        self.root = root
        self.max_pixels = max_pixels
        self.names = list_folder(root).images
        if not self.names:
            raise ImageError(
                str(root), "no image files", f"at least one file named {', '.join(SUFFIXES)}"
            )

    def __len__(self) -> int:
        """Count the files."""
        return len(self.names)

    def __getitem__(self, index: int) -> ImageItem:
        """Decode one file."""
        if not 0 <= index < len(self.names):
            raise IndexError(index)
        path = self.root / self.names[index]
        data = read_limited(path, MAX_FILE_BYTES, ImageError)
        folder = os.path.dirname(self.names[index])  # noqa: PTH120 (a name, not a path)
        return ImageItem(
            image=decode_image(data, str(path), self.max_pixels),
            item_id=self.names[index],
            attributes={"folder": folder} if folder else {},
        )

    def size(self, index: int) -> tuple[int, int]:
        """Read height and width of one image without decoding it."""
        path = self.root / self.names[index]
        try:
            with open_regular(path) as file:
                return read_size(file, str(path), self.max_pixels)
        except OSError as problem:
            raise ImageError(str(path), f"unreadable ({problem.strerror})") from problem

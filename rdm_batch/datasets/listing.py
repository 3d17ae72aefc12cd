"""Find the image files and tables below a folder, and refuse what only has their names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rdm_batch.errors import ImageError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
TABLE_SUFFIX: Final = ".parquet"
ARCHIVE_SUFFIX: Final = ".tar"
MAX_ENTRIES: Final = 20_000_000
"""Entries of a folder that are looked at; the largest public set has nine million images."""
MAX_OTHERS: Final = 500_000
"""Entries that are looked at without finding an image or a table: the folder is another one."""


@dataclass
class Listing:
    """What lies below a folder, as sorted relative paths.

    Attributes:
        images: Image files, by their suffix.
        tables: Parquet files.
        archives: Tar archives.
    """

    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """List images and tables of a folder and of those inside it.

    Hidden files and folders are left out. Links to files are followed, links to folders are not.

    Raises:
        ImageError: It cannot be listed, it holds more than is looked at, or something that is no
            file (a FIFO, a socket, a device, a link to nothing) has the name of one.
    """
    found, seen, waiting = Listing(), 0, [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    seen += 1
                    _check_number(root, seen, found)
                    if entry.name.startswith("."):
                        continue
                    name = f"{below}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    elif entry.name.lower().endswith(SUFFIXES):
                        found.images.append(_checked(root, name, entry))
                    elif entry.name.endswith(TABLE_SUFFIX):
                        found.tables.append(_checked(root, name, entry))
                    elif entry.name.endswith(ARCHIVE_SUFFIX):
                        found.archives.append(_checked(root, name, entry))
        except OSError as problem:
            where = str(root / below) if below else str(root)
            raise ImageError(where, f"cannot be listed ({problem.strerror})") from None
    found.images.sort()
    found.tables.sort()
    found.archives.sort()
    return found


def _checked(root: Path, name: str, entry: os.DirEntry[str]) -> str:
    try:
        is_file = entry.is_file()  # told by the listing itself; only a link is looked at again
    except OSError:
        is_file = False  # a link that leads to itself
    if not is_file:
        what = "a link that leads to no file" if entry.is_symlink() else "not a file"
        raise ImageError(
            str(root / name), f"is {what}", "a regular file, or a link to one", "remove it"
        )
    try:
        os.fsencode(name).decode()
    except UnicodeDecodeError:
        raise ImageError(
            repr(str(root / name)), "has a name that is no text", "UTF-8", "rename it"
        ) from None
    return name


def _check_number(root: Path, seen: int, found: Listing) -> None:
    if seen > MAX_ENTRIES or (
        seen > MAX_OTHERS and not found.images and not found.tables and not found.archives
    ):
        raise ImageError(
            str(root),
            f"holds more than {seen - 1:,} files and folders",
            "a folder of images",
            "name the folder inside it that you mean",
        )

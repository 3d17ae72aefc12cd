"""Open the images a user names, wherever they are."""

from __future__ import annotations

import re
from pathlib import Path

from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.datasets.listing import ARCHIVE_SUFFIX, SUFFIXES, list_folder
from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.datasets.single import ImageFile
from rdm_batch.datasets.source import ImageSource
from rdm_batch.datasets.webdataset import ImageTars
from rdm_batch.errors import ImageError
from rdm_batch.files import canonical_digest
from rdm_batch.storage.manifest import HEADER_KEY, SUCCESS_KEY
from rdm_batch.storage.object_store import local_path

SHAPES_PREFIX = "shapes:"
_SHAPES_COUNT = 8192
_COUNT = re.compile("[0-9]{1,12}")


def open_images(location: str) -> tuple[ImageSource, str]:
    """Open a collection of images.

    Args:
        location: ``shapes:SUBSET[:COUNT[:STYLE,STYLE...[:SHAPE,SHAPE...]]]`` for the embedded
            world (``all`` stands for every style); else a
            path or ``s3://`` URI of a folder of image files, an image file, a parquet file, a
            webdataset ``.tar``, a folder of parquet files or of archives, or a sample set.

    Returns:
        The images, and a fingerprint that changes when they do: for files it covers their
        names and sizes.

    Raises:
        ImageError: Nothing usable is there.
        SpecError: The shapes are not described correctly.
    """
    if location.startswith(SHAPES_PREFIX):
        return _open_shapes(location), location
    path = local_path(location, error=ImageError)
    if path.is_file() and path.suffix == ARCHIVE_SUFFIX:
        return ImageTars([path]), _fingerprint(path.parent, [path])
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return ImageFile(path), _fingerprint(path.parent, [path])
    if path.is_file():
        return ImageParquet(path), _fingerprint(path.parent, [path])
    if (path / HEADER_KEY).is_file():
        path = _samples(path, location)
    listing = list_folder(path)
    images, tables, archives = listing.images, listing.tables, listing.archives
    if images and tables:
        raise ImageError(
            location,
            f"{len(images):,} image files beside {len(tables):,} parquet files",
            "one kind",
            "name the subfolder or the parquet file you mean",
        )
    if archives and not images:
        # Tables beside archives are what img2dataset knows of the same images.
        paths = [path / name for name in archives]
        return ImageTars(paths), _fingerprint(path, paths)
    source = ImageParquet(path) if tables else ImageFolder(path)
    return source, _fingerprint(path, [path / name for name in tables or images])


def _samples(path: Path, location: str) -> Path:
    """Give the folder of a sample set's rows; what lies beside it is not its samples.

    Raises:
        ImageError: The set is not complete.
    """
    if not (path / SUCCESS_KEY).is_file():
        raise ImageError(
            location, "is a sample set that is not complete", "a complete one", "finish its job"
        )
    return path / "data"


def _open_shapes(location: str) -> ShapesSource:
    parts = location.removeprefix(SHAPES_PREFIX).split(":")
    if len(parts) > 4 or (len(parts) > 1 and not _COUNT.fullmatch(parts[1])):
        needed = "shapes:SUBSET[:COUNT[:STYLE,STYLE...[:SHAPE,SHAPE...]]]"
        raise ImageError(location, "not a shapes source", needed)
    count = int(parts[1]) if len(parts) > 1 else _SHAPES_COUNT
    styles = parts[2].split(",") if len(parts) > 2 and parts[2] != "all" else None
    shapes = parts[3].split(",") if len(parts) > 3 else None
    return ShapesSource(parts[0], count, styles, shapes)


def _fingerprint(root: Path, files: list[Path]) -> str:
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in files}
    return f"sha256:{canonical_digest(sizes)}"

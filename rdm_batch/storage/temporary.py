"""Let a writer of local files write into any store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdm_batch.storage.store import Store

_COPY_BYTES = 4 << 20


@contextmanager
def stored_file(store: Store, key: str) -> Iterator[Path]:
    """Give a local path to write to; what is there at the end becomes an object.

    Args:
        store: Where the object goes.
        key: Its key. It appears complete, or not at all when the block fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        yield path
        with path.open("rb") as source, store.open_write(key) as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)

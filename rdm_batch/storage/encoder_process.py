"""The process behind ``storage.encoders``: encodes and stores shards, one after the other.

    python -m rdm_batch.storage.encoder_process DESCRIPTOR

Started with one end of a connection, it ends when the other end is closed, as it is when whoever
started it dies, in whatever way.
"""

from __future__ import annotations

import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

from rdm_batch.errors import RdmBatchError
from rdm_batch.storage.drawn_shard import DrawnShard
from rdm_batch.storage.manifest import ShardEntry
from rdm_batch.storage.sample_set import SampleSet


def main(connection: Connection) -> None:
    """Answer every shard with its entry, or with what went wrong."""
    uri, header = connection.recv()
    sample_set: SampleSet | None = None
    while True:
        shape, rest = connection.recv()
        images = np.empty(shape, np.uint8)
        connection.recv_bytes_into(images.data.cast("B"))
        answer: ShardEntry | Exception
        try:
            sample_set = sample_set or SampleSet.create_or_resume(uri, header)
            answer = DrawnShard(images=images, **rest).commit(sample_set)
        except RdmBatchError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"an encoder failed:\n{traceback.format_exc()}")
        connection.send(answer)


if __name__ == "__main__":
    # Ctrl-C is for whoever started this, and who then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError):
        main(Connection(int(sys.argv[1])))

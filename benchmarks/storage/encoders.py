"""What encoding and storing shards in processes of their own is worth to a head that launches.

    python -m benchmarks.storage.encoders --json benchmarks/results/encoders.json

Inputs: photographs that come with scikit-image, and a local folder. A head without encoders stores
shards in threads of its own process, two at a time, as in a job. Two questions: how many images a
second are stored, beside PNG encoding alone on as many cores; and how many small operations a
thread of the same process launches meanwhile, beside a thread that nothing disturbs. Needs two
cores, and means what it says only where nothing else runs; the CPU time that the head's own process
spends on an image, in which it cannot launch, is told beside and depends less on that.

Predicted before it was measured, on two cores: Pillow holds the interpreter while it packs, so two
threads store no more than one core encodes (gap 2), one process 0.9 and two 1.7 times as much;
beside threads the launching one keeps less than half of its rate, beside one process 0.9 of it. An
image costs the head's process 5 ms where it encodes, and 0.1 ms where it hands bytes on.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.storage.shards import photo_patches
from benchmarks.timing import best_time, once
from rdm_batch.storage.drawn_shard import DrawnShard
from rdm_batch.storage.encoders import Encoders
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet

IMAGE_SIZE = 256
WRITERS = (0, 1, 2)
"""Encoding processes; 0 are threads of this one."""
THREADS = 2
"""Shards that a job lets a head without encoders store at once."""
WARM_UP_SHARD = 0
_OWN = "CPU ms/image of the head's process"


def drawn_shards(count: int, size: int) -> list[DrawnShard]:
    """Draw nothing: cut photographs to shards as a head hands them on."""
    images = photo_patches(size, IMAGE_SIZE)
    shards = []
    for shard in range(count):
        indices = np.arange(shard * size, (shard + 1) * size)
        columns: dict[str, Any] = {
            "sample_indices": indices,
            "seed": 0,
            "query_ids": indices,
            "neighbor_ids": np.zeros((size, 4), np.int64),
            "neighbor_scores": np.zeros((size, 4), np.float32),
            "sampler": "ddim",
            "num_steps": 50,
            "eta": 0.0,
            "guidance_scale": 1.0,
        }
        shards.append(DrawnShard(shard, images, columns))
    return shards


@contextmanager
def committing(uri: str, writers: int, shards: list[DrawnShard]) -> Iterator[Callable[[], None]]:
    """Give what stores all shards but the first, which warms up.

    Args:
        uri: Of a new set.
        writers: Processes; 0 stores in threads.
        shards: All of the set.
    """
    size = len(shards[0].images)
    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=0, num_samples=size * len(shards), shard_size=size,
        image_size=IMAGE_SIZE,
    )  # fmt: skip
    sample_set = SampleSet.create_or_resume(uri, header)
    encoders = Encoders(uri, header, writers) if writers else None
    try:

        def commit(drawn: DrawnShard) -> object:
            return drawn.commit(sample_set) if encoders is None else encoders.commit(drawn)

        with ThreadPoolExecutor(max(THREADS, writers)) as threads:
            # Every process has to have started.
            list(threads.map(commit, [shards[WARM_UP_SHARD]] * max(1, writers)))
            yield lambda: [None for _ in threads.map(commit, shards[1:])] and None
    finally:
        if encoders is not None:
            encoders.close()


class Launcher:
    """A thread that does small operations one after the other, as one that keeps a GPU busy."""

    def __init__(self) -> None:
        self.launched = 0
        self._ended = False
        self._thread = threading.Thread(target=self._launch, daemon=True)

    def _launch(self) -> None:
        x = torch.zeros(8)
        with torch.inference_mode():
            while not self._ended:
                torch.add(x, 1.0, out=x)
                self.launched += 1

    def __enter__(self) -> Launcher:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended = True
        self._thread.join()


def measure(shards: list[DrawnShard], folder: Path, repeats: int) -> tuple[list[Row], list[Row]]:
    """Measure rates of storing, and of launching beside it.

    Args:
        shards: What is stored; the first only warms up.
        folder: To store in.
        repeats: Of every measurement; the best counts.

    Returns:
        Rows of images stored, and rows of operations launched.
    """
    count = sum(len(drawn.images) for drawn in shards[1:])
    images = shards[0].images
    encode_s = best_time(lambda: [encode_png(image) for image in images], repeats)
    encoded = len(images) / encode_s
    with Launcher() as launcher:
        time.sleep(0.2)
        begin, before = time.perf_counter(), launcher.launched
        time.sleep(1.0)
        alone = (launcher.launched - before) / (time.perf_counter() - begin)
    own = time.process_time()
    for image in images:
        encode_png(image)
    own_s = (time.process_time() - own) / len(images)
    stored = [
        Row(name="PNG encoding alone, one core", value=encoded, unit="images/s",
            higher_is_better=True, details={_OWN: 1e3 * own_s})
    ]  # fmt: skip
    launched = [
        Row(name="nothing is stored", value=alone, unit="launches/s", higher_is_better=True)
    ]
    cores = len(os.sched_getaffinity(0))
    numbers = itertools.count()
    for writers in WRITERS:
        name = f"{writers} processes" if writers else f"{THREADS} threads of the head"
        for launches in (False, True):
            best_rate = best_launched = 0.0
            own_s = math.inf
            for _ in range(repeats):
                uri = str(folder / f"{next(numbers)}")
                beside = Launcher() if launches else nullcontext()
                with committing(uri, writers, shards) as commit, beside as launcher:
                    before = launcher.launched if launcher else 0
                    own = time.process_time()
                    seconds, _ = once(commit)
                    own_s = min(own_s, (time.process_time() - own) / count)
                    after = launcher.launched if launcher else 0
                best_rate = max(best_rate, count / seconds)
                best_launched = max(best_launched, (after - before) / seconds)
            if launches:
                details = {"images stored/s": best_rate, "share of its rate": best_launched / alone}
                launched.append(
                    Row(name=name, value=best_launched, unit="launches/s", higher_is_better=True,
                        floor=alone, details=dict(details))
                )  # fmt: skip
            else:
                busy = min(writers or THREADS, cores)
                stored.append(
                    Row(name=name, value=best_rate, unit="images/s", higher_is_better=True,
                        floor=encoded * busy,
                        details={"cores of the floor": busy, _OWN: 1e3 * own_s})
                )  # fmt: skip
    return stored, launched


def main(argv: list[str] | None = None) -> None:
    """Measure all ways of storing."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shards", type=int, default=6, help="stored in every repeat")
    parser.add_argument("--images", type=int, default=64, help="of a shard")
    args = parser.parse_args(argv)
    recorder = Recorder(
        "storage.encoders",
        "Encoding and storing in processes of their own",
        "Shards of photographs stored in a local folder, the best of some repeats. Floor of what "
        "is stored: PNG encoding alone on as many cores. Floor of what is launched: nothing else "
        "going on.",
        args.json,
    )
    torch.set_num_threads(1)
    shards = drawn_shards(args.shards + 1, args.images)
    with tempfile.TemporaryDirectory() as name:
        stored, launched = measure(shards, Path(name), args.repeats)
    settings = {name: getattr(args, name) for name in ("repeats", "shards", "images")}
    settings["image_size"] = IMAGE_SIZE
    recorder.add("stored", stored, settings)
    recorder.add("launched meanwhile", launched, settings)


if __name__ == "__main__":
    run(main)

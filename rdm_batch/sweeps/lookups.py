"""Neighbors looked up once for all cells that share them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from rdm_batch.files import canonical_digest
from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.preflight import CheckedJob
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise

_KEPT = 4
"""Shards whose neighbors are kept: those in the works, and one."""


def lookup_key(job: CheckedJob) -> str:
    """Name what the conditioning of a job's samples depends on; equal for jobs that share it."""
    spec = job.spec
    return canonical_digest(
        {
            "database": retriever_key(job),
            "conditioning": spec.conditioning.model_dump(mode="json"),
            "encoder": None if job.encoder is None else job.encoder.digest,
            "prompts": None if job.prompts is None else list(job.prompts.texts),
            "seed": spec.sampling.seed,
        },
        escape=False,
    )


def retriever_key(job: CheckedJob) -> str:
    """Name the database of a job and how it is searched; equal for jobs that share both."""
    database = job.spec.database.model_dump(mode="json", exclude={"encoder"})
    return canonical_digest({**database, "digest": job.database.manifest.digest}, escape=False)


class SharedLookups:
    """Condition each shard of several cells once; see ``Conditioner``.

    Whoever asks first looks up, the others wait for it. A failure is told to those who wait, and
    forgotten: the next one tries again.

    Args:
        conditioner: What conditions their samples.
    """

    def __init__(self, conditioner: Conditioner) -> None:
        self._conditioner = conditioner
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, bytes], Future[SampleInputs]] = OrderedDict()

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Look up the context of every sample of ``noise``, unless that was done for another."""
        key = noise.seed, noise.sample_indices.tobytes()
        with self._lock:
            found = self._known.get(key)
            mine = found is None
            if found is None:
                found = self._known[key] = Future()
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        if mine:
            try:
                found.set_result(self._conditioner(noise, retriever))
            except BaseException as error:
                with self._lock:
                    self._known.pop(key, None)
                found.set_exception(error)
        return found.result()

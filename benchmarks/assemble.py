"""Put heads and retrievers together: the one place where benchmarks and experiments do.

Everything else here draws and measures; when the package offers another way to come by a head,
a set of samples or a database, this file changes and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.networks import Networks
from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.renderer import ContextSource, ShardClock, ShardRenderer, drawn_shard
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.head import Head
from rdm_batch.heads.null import NullHead
from rdm_batch.inputs.databases import Database
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import load_networks
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import RdmArchitecture, parse_architecture
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.table import table_bytes

SHAPES_DATABASE = "package://shapes/database"
# Neighbors of a sample of the shapes world.
K_NN = 4
# Samples drawn at a time.
BATCH = 64


def shipped_networks(checkpoint: str | Path) -> Networks:
    """Load networks of a shipped head by its kind, or of a checkpoint by its file."""
    name = str(checkpoint)
    uri = name if Path(name).suffix else f"package://shapes/{name}.safetensors"
    loaded = load_checkpoint(local_path(uri))
    networks = load_networks(loaded.architecture, loaded.state_dict)
    # They ship in half precision.
    return networks.float().eval().requires_grad_(False)


def shipped_head(
    checkpoint: str | Path, sampling: SamplingSpec, precision: Precision = "float32"
) -> Head:
    """Build the head a job would; see ``shipped_networks``."""
    return build_head_around(shipped_networks(checkpoint), sampling, precision=precision)


def load_published(path: str, architecture: str, precision: Precision) -> Callable[[], int]:
    """Prepare to load a file and build a head of it; the call gives the bytes it keeps.

    Args:
        path: The file, as published.
        architecture: JSON.
        precision: Arithmetic of the head.
    """
    sizes = parse_architecture(architecture, "architecture")
    sampling: SamplingSpec
    if isinstance(sizes, RdmArchitecture):
        sampling = DdimSampling(sampler="ddim", num_samples=1, num_steps=2)
    else:
        sampling = AutoregressiveSampling(sampler="autoregressive", num_samples=1)

    def load() -> int:
        loaded = load_checkpoint(Path(path), sizes)
        kept = sum(value.nbytes for value in loaded.state_dict.values())
        networks = load_networks(loaded.architecture, loaded.state_dict)
        del loaded
        build_head_around(networks, sampling, precision=precision)
        return kept

    return load


def draw(head: Head, context: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw an image of every context; image i has the noise of sample i."""
    parts = []
    for start in range(0, len(context), BATCH):
        part = context[start : start + BATCH].astype(np.float32)
        noise = SampleNoise(seed, np.arange(start, start + len(part)))
        parts.append(head.generate(part, noise))
    return np.concatenate(parts)


class Source:
    """A database opened once, as a job opens it, in this process.

    Args:
        uri: The database.
    """

    def __init__(self, uri: str | Path = SHAPES_DATABASE) -> None:
        self.uri = str(uri)

    @cached_property
    def database(self) -> Database:
        """What it is."""
        return Database.open(self.uri)

    @cached_property
    def retriever(self) -> CompositeRetriever:
        """Searches it."""
        return self.database.retriever()

    @cached_property
    def proposal(self) -> Proposal:
        """Pseudo-queries are drawn from it."""
        proposal = self.database.proposal()
        assert proposal is not None
        return proposal

    def unconditional(self, top_m: float = 1.0, k_nn: int = K_NN) -> UnconditionalConditioner:
        """Condition samples on the neighbors of pseudo-queries."""
        return UnconditionalConditioner(self.proposal.truncate(top_m), k_nn, "proposal")

    def inputs(self, conditioner: Conditioner, count: int, seed: int = 0) -> SampleInputs:
        """Condition samples 0 to ``count``, each from its own noise."""
        return conditioner(SampleNoise(seed, np.arange(count)), self.retriever)


def null_shards(spec: JobSpec, count: int) -> Iterator[dict[str, tuple[float, float]]]:
    """Make shards of a job of the null head in a plain loop; tell when each activity ran."""
    source = Source(spec.database.uri)
    conditioner = source.unconditional(k_nn=spec.conditioning.k_nn)
    contexts = ContextSource(conditioner, source.retriever)
    head = NullHead(spec.model.image_size, source.retriever.dim)
    renderer = ShardRenderer(head, spec.sampling.seed, spec.sampling.batch_size)
    size = spec.output.shard_size
    for index in range(count):
        clock = ShardClock()
        shard = ShardRange(index, index * size, (index + 1) * size)
        rendered = renderer.render(shard, contexts, clock)
        with clock.measure("encode"):
            table = drawn_shard(rendered, spec.sampling).table()
        with clock.measure("write"):
            table_bytes(table)
        yield dict(clock.intervals)

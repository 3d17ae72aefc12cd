"""Build a retrieval database from images: encode, cut into shards, index, publish."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pydantic import JsonValue

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import local_resources
from rdm_batch.cluster.pool import Cluster, ClusterResources, Opened
from rdm_batch.databases.encode import (
    Encoding,
    ImageEncoder,
    MakeEncoder,
    TextEncoder,
    chosen_of,
    encode_source,
    open_encoding,
)
from rdm_batch.databases.parts import Indexing, PartFiles, write_shards
from rdm_batch.databases.proposal import (
    PROPOSAL_REQUEST,
    count_again,
    counted,
    counting_of,
    describe_counting,
    workers_elsewhere,
)
from rdm_batch.databases.proposal_counts import check_neighbors
from rdm_batch.databases.room import check_memory, check_shards, shards_needed
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import ClusterError, ImageError, SpecError
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.images import open_images
from rdm_batch.inputs.locations import from_anywhere
from rdm_batch.reports.encoding import EncodingSpeed
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import (
    STORED,
    DatabaseManifest,
    DatabaseShard,
    EncoderRecord,
    SourceRecord,
)
from rdm_batch.specs.database import DatabaseBuild, EncodeSettings
from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings, EmbeddingsAdd


def build_database(
    build: DatabaseBuild,
    make_encoder: MakeEncoder,
    progress: Progress,
    told: Callable[[EncodingSpeed], object] | None = None,
) -> DatabaseManifest:
    """Build a database, or finish what an interrupted build of the same request began.

    Args:
        build: The request.
        make_encoder: Loads the encoder onto a device: here once, and once in every Ray worker.
        progress: Shows the stages.
        told: Told how fast images were encoded, once for every source of which some were.

    Returns:
        The manifest of the complete database, also when it was complete before.

    Raises:
        DatabaseError: The location holds something else, or embeddings are not usable.
        ImageError: A source is unusable, has no readable image, or ``strict`` is set and
            an image is damaged.
        SpecError: There are fewer rows than shards or than ``proposal_k``.
        ClusterError: Ray cannot be joined, or has too few CPUs for the workers, or no GPU for
            those that want one.
    """
    training, training_fingerprint = None, None
    with progress.step("look at the images"):
        source, fingerprint = open_images(build.images)
        if build.proposal_from is not None:
            training, training_fingerprint = open_images(build.proposal_from)
    with progress.step("load the encoder"):
        encoder = make_encoder(device_here(build))
    most = len(source) * (build.encode.patches or 1)
    if training is not None:
        check_neighbors(build.proposal_k, most)  # of fewer, where some are damaged, once more
    num_shards = build.shards or shards_needed(most, encoder.dim)
    check_shards(num_shards, most, encoder.dim)
    check_memory(build.memory, num_shards, most, encoder.dim, build.encode.dtype, build.workers)
    build = build.model_copy(update={"shards": num_shards})
    target = DatabaseTarget(build.out, _describe(build, encoder, fingerprint, training_fingerprint))
    before = target.to_count_again(PROPOSAL_REQUEST) if training is not None else None
    finished = target.finished() if before is None else None
    if finished is not None:
        refuse_skipped(build, finished.source.skipped)
        return finished
    if before is not None:
        target.unfinished()
    joining = progress.begin("get ready to work")
    with target.exclusive(), workers_of(build) as cluster:
        joining.finish()
        device = device_of(build, cluster.resources)

        def encode(
            images: ImageSource,
            location: str,
            name: str,
            settings: EncodeSettings,
            share: float = 1.0,
        ) -> PartFiles:
            stage = progress.stage(f"encode {name}", total=len(images), unit="images")
            again = partial(open_encoding, from_anywhere(location), make_encoder, device, share)
            encoding = Opened(Encoding(images, encoder), again)
            folder = target.work / name
            paths = encode_source(
                cluster, encoding, folder, settings, stage, build.workers, device, told
            )
            stage.finish()
            return PartFiles(paths)

        if before is None:
            parts = encode(source, build.images, "images", build.encode)
            refuse_skipped(build, parts.skipped)
            if parts.rows == 0:
                raise ImageError(
                    build.images, f"none of {len(source):,} images is readable: {parts.skipped[0]}"
                )
            if parts.rows < num_shards:
                found = f"{parts.rows} rows for {num_shards} shards"
                raise SpecError("--shards", found, "at least one row per shard")
            shards = index_parts(build, target, parts, encoder, cluster, progress, num_shards)
            manifest = _manifest(build, target, parts, encoder, len(source), shards)
        if training is not None and build.proposal_from is not None:
            # The training set is only asked for its neighbors: whole images, no pictures.
            settings = EncodeSettings(dtype="float32", thumbnail_size=0, strict=build.encode.strict)
            share = build.proposal_sample
            chosen = chosen_of(training, share)
            queries = encode(chosen, build.proposal_from, "training", settings, share)
            if not queries.rows:
                raise ImageError(build.proposal_from, "no readable image")
            counting = counting_of(build, device)
            if before is not None:
                return count_again(target, before, cluster, queries, counting, progress)
            manifest = counted(
                target, manifest, workers_elsewhere(build), cluster, queries, counting, progress
            )
        with progress.step("publish"):
            return target.publish(manifest)


def _describe(
    build: DatabaseBuild, encoder: ImageEncoder, fingerprint: str, training: str | None
) -> dict[str, JsonValue]:
    """Name everything that decides the content, and nothing else."""
    return {
        "images": fingerprint,
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "shards": build.shards,
        "dtype": build.encode.dtype,
        "patches": build.encode.patches,
        "patch_seed": None if build.encode.patches is None else build.encode.patch_seed,
        "thumbnail_size": build.encode.thumbnail_size,
        **({} if build.encode.store_images is None else {STORED: build.encode.store_images}),
        "index": build.index.model_dump(mode="json"),
        **describe_counting(build, training),
    }


def refuse_skipped(build: DatabaseBuild, skipped: tuple[str, ...]) -> None:
    """Refuse what an earlier build that was not strict has left out."""
    if build.encode.strict and skipped:
        found = f"{len(skipped):,} damaged images, the first: {skipped[0]}"
        raise ImageError(
            build.images, found, "", "repair or remove them, or build without --strict"
        )


def device_here(build: DatabaseBuild) -> str:
    """Say what the encoder of this process computes on: one worker is this process.

    Raises:
        ClusterError: As ``device_of``, or PyTorch can use no GPU.
    """
    return require_device(device_of(build, local_resources()) if build.workers == 1 else "cpu")


def device_of(build: DatabaseBuild, resources: ClusterResources) -> str:
    """Say what encoders compute on.

    Raises:
        ClusterError: A GPU is asked for, and there is none.
    """
    if build.device == "cuda" and not resources.num_gpus:
        raise ClusterError(
            "--device cuda", "there is no GPU", "a GPU", "use --device cpu, or another cluster"
        )
    return "cuda" if build.device != "cpu" and resources.num_gpus else "cpu"


@contextmanager
def workers_of(build: DatabaseBuild | DatabaseOfEmbeddings | EmbeddingsAdd) -> Iterator[Cluster]:
    """Connect to where the workers of a build live, for the duration of a block.

    Raises:
        ClusterError: Ray cannot be joined, or has too few CPUs for them.
    """
    with connected(NONE if build.workers == 1 else build.address) as cluster:
        if build.workers > max(1, cluster.resources.num_cpus):
            raise ClusterError(
                f"Ray at {build.address}",
                f"{cluster.resources.num_cpus:g} CPUs for {build.workers} workers",
                f"{build.workers} CPUs",
                "ask for fewer workers",
            )
        yield cluster


def index_parts(
    build: DatabaseBuild,
    target: DatabaseTarget,
    parts: PartFiles,
    encoder: ImageEncoder,
    cluster: Cluster,
    progress: Progress,
    num_shards: int,
    after: DatabaseManifest | None = None,
) -> tuple[DatabaseShard, ...]:
    """Cut encoded rows into shards and index them.

    Args:
        build: The request.
        target: Where the files go.
        parts: The rows.
        encoder: What made them.
        cluster: Where workers live.
        progress: Shows the rows.
        num_shards: Number of shards.
        after: A database whose rows come before these. None: these are the first.
    """
    several = build.workers > 1
    indexing = Indexing(
        build.index,
        cluster,
        build.workers,
        1 if several else os.cpu_count() or 1,
        encoder.encode_texts if isinstance(encoder, TextEncoder) else None,
    )
    first = (0, 0) if after is None else (len(after.shards), after.rows)
    return write_shards(target.root, target.work, parts, num_shards, indexing, progress, *first)


def _manifest(
    build: DatabaseBuild,
    target: DatabaseTarget,
    parts: PartFiles,
    encoder: ImageEncoder,
    images: int,
    shards: tuple[DatabaseShard, ...],
) -> DatabaseManifest:
    return DatabaseManifest(
        rows=parts.rows,
        dim=encoder.dim,
        dtype=build.encode.dtype,
        encoder=EncoderRecord(name=encoder.name, digest=encoder.digest),
        source=source_of(build, parts, images),
        build=target.request,
        shards=shards,
    )


def source_of(build: DatabaseBuild, parts: PartFiles, images: int) -> SourceRecord:
    """Describe where encoded rows came from."""
    return SourceRecord(
        description=build.images,
        images=images - len(parts.skipped),
        patches_per_image=build.encode.patches,
        patch_seed=None if build.encode.patches is None else build.encode.patch_seed,
        skipped=parts.skipped,
    )

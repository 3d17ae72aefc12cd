"""Build a retrieval database from images: encode, cut into shards, index, publish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import local_resources
from rdm_batch.cluster.pool import Cluster, ClusterResources, Opened
from rdm_batch.databases.encode import (
    Encoding,
    ImageEncoder,
    MakeEncoder,
    encode_source,
    open_encoding,
)
from rdm_batch.databases.parts import PartFiles, write_shards
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import ClusterError, ImageError, SpecError
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.images import open_images
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.proposal import Proposal, count_neighbors, merge_counts
from rdm_batch.retrieval.writer import write_proposal
from rdm_batch.specs.database import DatabaseBuild, EncodeSettings


def build_database(
    build: DatabaseBuild, make_encoder: MakeEncoder, progress: Progress
) -> DatabaseManifest:
    """Build a database, or finish what an interrupted build of the same request began.

    Args:
        build: The request.
        make_encoder: Loads the encoder onto a device: here once, and once in every Ray worker.
        progress: Shows the stages.

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
        # One worker is this process, and uses this one.
        here = _device(build, local_resources()) if build.workers == 1 else "cpu"
        encoder = make_encoder(require_device(here))
    target = DatabaseTarget(build.out, _describe(build, encoder, fingerprint, training_fingerprint))
    finished = target.finished()
    if finished is not None:
        _refuse_skipped(build, finished.source.skipped)
        return finished
    joining = progress.begin("get ready to work")
    with target.exclusive(), _connected(build) as cluster:
        joining.finish()
        device = _device(build, cluster.resources)

        def encode(
            images: ImageSource, location: str, name: str, settings: EncodeSettings
        ) -> PartFiles:
            stage = progress.stage(f"encode {name}", total=len(images), unit="images")
            encoding = Opened(
                Encoding(images, encoder), partial(open_encoding, location, make_encoder, device)
            )
            folder = target.work / name
            paths = encode_source(cluster, encoding, folder, settings, stage, build.workers, device)
            stage.finish()
            return PartFiles(paths)

        parts = encode(source, build.images, "images", build.encode)
        _refuse_skipped(build, parts.skipped)
        if parts.rows == 0:
            raise ImageError(
                build.images, f"none of {len(source):,} images is readable: {parts.skipped[0]}"
            )
        if parts.rows < build.shards:
            found = f"{parts.rows} rows for {build.shards} shards"
            raise SpecError("--shards", found, "at least one row per shard")
        manifest = _write(build, target, parts, encoder, len(source), progress)
        if training is not None and build.proposal_from is not None:
            # The training set is only asked for its neighbors: whole images, no pictures.
            settings = EncodeSettings(dtype="float32", thumbnail_size=0, strict=build.encode.strict)
            queries = encode(training, build.proposal_from, "training", settings)
            counts = _count(build, target.root, manifest, queries, progress)
            stored = write_proposal(target.root, counts)
            manifest = manifest.model_copy(update={"proposal": stored})
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
        "index": build.index.model_dump(mode="json"),
        "proposal_from": training,
        "proposal_k": None if training is None else build.proposal_k,
    }


def _refuse_skipped(build: DatabaseBuild, skipped: tuple[str, ...]) -> None:
    """Refuse what an earlier build that was not strict has left out."""
    if build.encode.strict and skipped:
        found = f"{len(skipped):,} damaged images, the first: {skipped[0]}"
        raise ImageError(
            build.images, found, "", "repair or remove them, or build without --strict"
        )


def _device(build: DatabaseBuild, resources: ClusterResources) -> str:
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
def _connected(build: DatabaseBuild) -> Iterator[Cluster]:
    with connected(NONE if build.workers == 1 else build.address) as cluster:
        if build.workers > max(1, cluster.resources.num_cpus):
            raise ClusterError(
                f"Ray at {build.address}",
                f"{cluster.resources.num_cpus:g} CPUs for {build.workers} workers",
                f"{build.workers} CPUs",
                "ask for fewer workers",
            )
        yield cluster


def _write(
    build: DatabaseBuild,
    target: DatabaseTarget,
    parts: PartFiles,
    encoder: ImageEncoder,
    images: int,
    progress: Progress,
) -> DatabaseManifest:
    stage = progress.stage("index", total=build.shards, unit="shards")
    shards = write_shards(
        target.root, target.work, parts, build.shards, build.index, os.cpu_count() or 1, stage
    )
    return DatabaseManifest(
        rows=parts.rows,
        dim=encoder.dim,
        dtype=build.encode.dtype,
        encoder=EncoderRecord(name=encoder.name, digest=encoder.digest),
        source=SourceRecord(
            description=build.images,
            images=images - len(parts.skipped),
            patches_per_image=build.encode.patches,
            patch_seed=None if build.encode.patches is None else build.encode.patch_seed,
            skipped=parts.skipped,
        ),
        build=target.request,
        shards=shards,
    )


def _count(
    build: DatabaseBuild,
    root: Path,
    manifest: DatabaseManifest,
    queries: PartFiles,
    progress: Progress,
) -> Proposal:
    if build.proposal_k > manifest.rows:
        found = f"{build.proposal_k} neighbors of {manifest.rows} rows"
        raise SpecError("--proposal-k", found, f"at most {manifest.rows}")
    # Not published yet: found where it is made, by the manifest it will have.
    retriever = Database(str(root), manifest).retriever(num_threads=os.cpu_count() or 1)
    stage = progress.stage("count neighbors", total=queries.rows, unit="images")
    counts = []
    for number in range(len(queries.paths)):
        rows = queries.load(number)
        if len(rows.embeddings):
            neighbors = retriever.search(rows.embeddings.astype(np.float32), build.proposal_k)
            counts.append(count_neighbors(neighbors.ids))
        stage.advance(len(rows.embeddings))
    if not counts:
        raise ImageError(str(build.proposal_from), "no readable image")
    return reduce(merge_counts, counts)

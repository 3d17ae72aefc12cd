"""Give a database the proposal distribution that a request asks for, now or once again."""

from __future__ import annotations

import os

from pydantic import JsonValue

from rdm_batch.cluster.pool import Cluster
from rdm_batch.databases.parts import Parts
from rdm_batch.databases.proposal_counts import Counting, count_proposal
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.files import canonical_digest
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.locations import from_anywhere
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.writer import write_proposal
from rdm_batch.specs.database import DatabaseBuild
from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings

PROPOSAL_REQUEST = ("proposal_from", "proposal_k", "proposal_engine", "proposal_sample")
"""What of a request says how the distribution is counted."""
_LOCAL = "local"


def describe_counting(
    request: DatabaseBuild | DatabaseOfEmbeddings, training: str | None
) -> dict[str, JsonValue]:
    """Name what decides the distribution, in the terms of a stored request.

    Args:
        request: The request.
        training: Fingerprint of the training set. None: none is counted.
    """
    described: dict[str, JsonValue] = {
        "proposal_from": training,
        "proposal_k": None if training is None else request.proposal_k,
    }
    # Not where they say nothing: requests of before answer to the same.
    if training is not None and request.proposal_engine != "auto":
        described["proposal_engine"] = request.proposal_engine
    if training is not None and request.proposal_sample != 1:
        described["proposal_sample"] = request.proposal_sample
    return described


def counting_of(request: DatabaseBuild | DatabaseOfEmbeddings, device: str) -> Counting:
    """Say how neighbors are counted for a request, on a device (``cpu`` or ``cuda``)."""
    return Counting(
        k=request.proposal_k,
        engine=request.proposal_engine,
        share=request.proposal_sample,
        workers=request.workers,
        # In this process there is one worker, with as many threads as there are cores.
        threads=(os.cpu_count() or 1) if request.workers == 1 else 1,
        on_gpus=device != "cpu",
    )


def workers_elsewhere(request: DatabaseBuild | DatabaseOfEmbeddings) -> bool:
    """Tell whether workers may live on machines that do not see this one's files."""
    return request.workers > 1 and request.address != _LOCAL


def counted(
    target: DatabaseTarget,
    manifest: DatabaseManifest,
    elsewhere: bool,
    cluster: Cluster,
    training: Parts,
    counting: Counting,
    progress: Progress,
) -> DatabaseManifest:
    """Count the distribution of a database that is not published yet.

    Args:
        target: Where it is built.
        manifest: What it is so far.
        elsewhere: Whether workers may live on machines that do not see this one's files: then its
            files are put in place before they are searched.
        cluster: Where blocks are counted.
        training: Embeddings of the training set.
        counting: How neighbors are counted.
        progress: Shows what is done.

    Returns:
        The manifest with the distribution.
    """
    where = str(target.root)
    if elsewhere:
        with progress.step("publish the rows"):
            target.upload(manifest.files())
        where = target.uri
    # Found where it is, by the manifest it will have.
    database = Database(from_anywhere(where), manifest.with_digest())
    proposal, record = count_proposal(cluster, database, training, counting, target.work, progress)
    stored = write_proposal(target.root, proposal, _name(target, counting))
    return manifest.model_copy(update={"proposal": stored, "counted": record})


def count_again(
    target: DatabaseTarget,
    before: DatabaseManifest,
    cluster: Cluster,
    training: Parts,
    counting: Counting,
    progress: Progress,
) -> DatabaseManifest:
    """Count the distribution of a complete database that has none or a preview; keep all else.

    Args:
        target: Where it is, with the request that the database will answer.
        before: Its manifest.
        cluster: Where blocks are counted.
        training: Embeddings of the training set.
        counting: How neighbors are counted.
        progress: Shows what is done.

    Returns:
        The new manifest, published.
    """
    database = Database(from_anywhere(target.uri), before)
    proposal, record = count_proposal(cluster, database, training, counting, target.work, progress)
    stored = write_proposal(target.root, proposal, _name(target, counting))
    update = {"proposal": stored, "counted": record, "build": target.request}
    with progress.step("publish"):
        complete = target.publish(before.model_copy(update=update), [stored])
    if before.proposal is not None and before.proposal.path != stored.path:
        target.store.delete(before.proposal.path)
    return complete


def _name(target: DatabaseTarget, counting: Counting) -> str:
    """Name the file of counts; each preview otherwise, for readers of the manifest before."""
    if counting.share == 1:
        return "proposal.parquet"
    return f"proposal-{canonical_digest(target.request)[:12]}.parquet"

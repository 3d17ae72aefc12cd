"""A complete small world for job tests: a database, a head of random weights, a job."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from rdm_batch.metrics.features import EncoderFeatures, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.models.clip import build_clip, encoder_digest, load_encoder, save_clip
from rdm_batch.retrieval.database import (
    MANIFEST_NAME,
    DatabaseManifest,
    EncoderRecord,
    SourceRecord,
    render_manifest,
)
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_proposal, write_shard
from tests.tiny_heads import TINY_CLIP, TINY_RDM, random_weights

ROWS = 40
DIM = TINY_RDM.context_dim


def write_encoder(path: Path) -> Path:
    """Write an encoder of random weights that knows eight words."""
    torch.manual_seed(0)
    save_clip(build_clip(TINY_CLIP), TINY_CLIP, path)
    return path


def write_reference(path: Path, encoder: Path) -> Path:
    """Write the reference of 32 images of noise."""
    extractor = EncoderFeatures(load_encoder(encoder))
    images = np.random.default_rng(1).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    ids = np.arange(len(images), dtype=np.int64)
    features = FeatureSet(extractor.description, ids, extractor.extract(images), "noise")
    ReferenceStatistics.from_features(features).save(path)
    return path


def write_manifest(root: Path, manifest: DatabaseManifest) -> DatabaseManifest:
    """Complete a database as a build does; give the manifest back with its digest."""
    complete = manifest.with_digest()
    (root / MANIFEST_NAME).write_bytes(render_manifest(complete))
    return complete


def write_database(
    root: Path,
    *,
    proposal: bool = True,
    dim: int = DIM,
    encoder_digest: str | None = None,
    settings: IndexSettings | None = None,
) -> DatabaseManifest:
    """Write a database of 40 rows in two shards, with thumbnails."""
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(ROWS, dim)).astype(np.float32)
    shards = []
    for number, (first, last) in enumerate([(0, 25), (25, ROWS)]):
        rows = ShardRows(
            first_row=first,
            embeddings=embeddings[first:last],
            item_ids=[f"item-{row}" for row in range(first, last)],
            patch_coords=[(0, 0, 8, 8)] * (last - first),
            captions=[None] * (last - first),
            thumbnails=[_thumbnail(row) for row in range(first, last)],
        )
        shards.append(write_shard(root, number, rows, settings or IndexSettings()))
    counts = np.arange(ROWS, 0, -1, dtype=np.int64)
    stored = write_proposal(root, Proposal(np.arange(ROWS), counts)) if proposal else None
    manifest = DatabaseManifest(
        rows=ROWS,
        dim=dim,
        dtype="float32",
        encoder=EncoderRecord(name="tiny-clip", digest=encoder_digest),
        source=SourceRecord(description="random numbers", images=ROWS),
        build={},
        shards=tuple(shards),
        proposal=stored,
    )
    return write_manifest(root, manifest)


def write_checkpoint(path: Path) -> Path:
    """Write a diffusion head of random weights."""
    save_checkpoint(path, TINY_RDM, random_weights(TINY_RDM))
    return path


def job_document(root: Path) -> dict[str, Any]:
    """Write a world below a folder and describe a job over it: 24 samples, 6 shards."""
    encoder = write_encoder(root / "clip.safetensors")
    write_reference(root / "reference.npz", encoder)
    write_database(root / "database", encoder_digest=encoder_digest(encoder))
    write_checkpoint(root / "head.safetensors")
    named_encoder = {"name": "tiny-clip", "weights": str(encoder)}
    return {
        "name": "test",
        "model": {"head": "rdm", "checkpoint": str(root / "head.safetensors")},
        "database": {"uri": str(root / "database"), "encoder": named_encoder},
        "conditioning": {"mode": "unconditional", "k_nn": 3, "top_m": 0.5},
        "sampling": {
            "sampler": "ddim",
            "num_steps": 3,
            "eta": 1.0,
            "guidance_scale": 1.5,
            "num_samples": 24,
            "batch_size": 3,
            "seed": 5,
        },
        "output": {"uri": str(root / "out"), "shard_size": 4},
        "evaluation": {"reference": str(root / "reference.npz"), "extractor": named_encoder},
    }


def write_job(path: Path, document: dict[str, Any]) -> Path:
    """Write a job file."""
    path.write_text(yaml.safe_dump(document))
    return path


def _thumbnail(row: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (row * 6, 80, 160)).save(buffer, "PNG")
    return buffer.getvalue()

"""From the encoder a job or command names to the encoder itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import CheckpointError, DatabaseError, SpecError
from rdm_batch.inputs.databases import Database
from rdm_batch.models.clip import (
    ImageTextEncoder,
    carries_encoder,
    encoder_digest,
    load_encoder,
    read_word_tokenizer,
    unknown_model,
)
from rdm_batch.specs.job import EncoderSpec
from rdm_batch.storage.object_store import local_path

SHIPPED_ENCODERS = {
    "shapes-clip": "package://shapes/clip.safetensors",
    "shapes-clip-gap": "package://shapes/clip-gap.safetensors",
}
"""Encoders whose weights are part of this package."""
_SHA256 = re.compile(r"/([0-9a-f]{64})/")
_SHA256_PREFIX = re.compile(r"-([0-9a-f]{8})\.\w+$")
_MAX_NAMED = 3


def encoder_files(name: str, weights: str | None) -> tuple[str | Path, Path | None]:
    """Find the local files of an encoder, as ``load_encoder`` takes them.

    Args:
        name: ``shapes-clip`` or another that ships here, any name for a file that
            ``rdm-batch train clip`` wrote, or an open_clip architecture.
        weights: URI of the weights; None for encoders that ship with this package.

    Raises:
        CheckpointError: The weights are not named or not there, or of neither kind.
    """
    shipped = SHIPPED_ENCODERS.get(name)
    if weights is None and shipped is None:
        raise CheckpointError(
            f"encoder {name}",
            "no weights file is named",
            published_weights(name) or "a local or s3:// file; nothing is downloaded from a hub",
            f"only {' and '.join(SHIPPED_ENCODERS)} ship with this package",
        )
    try:
        path = local_path(weights or str(shipped), error=CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(
            f"encoder {name}",
            f"{error.where} {error.found}",
            published_weights(name) or error.needed,
            error.action,
        ) from error
    if carries_encoder(path):
        return path, None
    suggested = unknown_model(name)
    if suggested is not None:
        raise CheckpointError(
            f"encoder {name}",
            f"{path} does not say that `rdm-batch train clip` wrote it, and open_clip has no model "
            "of this name",
            suggested,
            "name the file that was written, or the model these are weights of",
        )
    return name, path


def load_named_encoder(name: str, weights: str | None, device: str = "cpu") -> ImageTextEncoder:
    """Load an encoder by name and weights URI; arguments as ``encoder_files``."""
    return load_encoder(*encoder_files(name, weights), device=device)


def named_encoder_digest(name: str, weights: str | None) -> str:
    """Identify an encoder by its weights and architecture, without loading it."""
    return encoder_digest(*encoder_files(name, weights))


@dataclass(frozen=True)
class OpenedEncoder:
    """An encoder whose files were found; its networks are not loaded yet.

    Attributes:
        spec: What named it.
        files: Where it lies, as ``load_encoder`` takes it.
        digest: Of its weights and architecture.
    """

    spec: EncoderSpec
    files: tuple[str | Path, Path | None]
    digest: str

    def check_built(self, database: Database, field: str) -> None:
        """Check that this encoder is the one that made the rows of a database.

        Args:
            database: The database.
            field: Names this encoder in the message.

        Raises:
            DatabaseError: It is another one.
        """
        built_with = database.manifest.encoder
        # Imported embeddings come without the digest of what made them; their name must do.
        same = (
            self.spec.name == built_with.name
            if built_with.digest is None
            else self.digest == built_with.digest
        )
        if not same:
            raise DatabaseError(
                f"Database {database.uri}",
                f"was built with {_named(built_with.name, built_with.digest)}, but "
                f"{field} is {_named(self.spec.name, self.digest)}",
                "one encoder for images and texts",
                "rebuild the database, or name the encoder it was built with",
            )

    def check_texts(self, texts: Sequence[str], where: str = "conditioning") -> None:
        """Check that the encoder can read some texts, without loading its networks.

        Encoders with a word vocabulary read known words only; all others read anything.

        Args:
            texts: Prompts, or class labels in their template.
            where: Names them in the message.

        Raises:
            SpecError: A text has an unknown word or too many; the first such text is named.
            CheckpointError: The encoder's file is damaged.
        """
        source, separate_weights = self.files
        if separate_weights is not None:
            return
        tokenize = read_word_tokenizer(Path(source))
        problems = []
        for text in texts:
            try:
                tokenize([text])
            except SpecError as error:
                problems.append(error)
        if problems:
            first = problems[0]
            raise SpecError(
                f"{where}, {first.where}",
                f"{first.found} ({len(problems)} of {len(texts)} texts cannot be embedded)",
                first.needed,
                f"use other words, or another encoder than {self.spec.name}",
            )


def _named(name: str, digest: str | None) -> str:
    return f"{name} (digest {digest[:12]})" if digest else name


def open_encoder(spec: EncoderSpec) -> OpenedEncoder:
    """Find the files of an encoder and identify it.

    Raises:
        CheckpointError: The weights are not named or not there.
    """
    files = encoder_files(spec.name, spec.weights)
    return OpenedEncoder(spec, files, encoder_digest(*files))


def published_weights(name: str) -> str:
    """Name some published weights of an open_clip architecture, with digests and addresses.

    Args:
        name: The architecture; empty text comes back for one that open_clip does not know.
    """
    # Imported for messages alone: it takes seconds.
    from open_clip.pretrained import list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    if not tags:
        return ""
    listed = "; ".join(_describe(name, tags[:_MAX_NAMED]))
    more = f"; or {len(tags) - _MAX_NAMED} others" if len(tags) > _MAX_NAMED else ""
    return f"one of its published weights, saved as a local or s3:// file: {listed}{more}"


def _describe(name: str, tags: list[str]) -> Iterator[str]:
    from open_clip.pretrained import get_pretrained_cfg

    for tag in tags:
        published = get_pretrained_cfg(name, tag)
        url, hub = published.get("url") or "", published.get("hf_hub") or ""
        whole, prefix = _SHA256.search(url), _SHA256_PREFIX.search(url)
        digest = ""
        if whole is not None:
            digest = f" (SHA-256 {whole[1]})"
        elif prefix is not None:
            digest = f" (SHA-256 begins {prefix[1]})"
        yield f"{tag}{digest} from {url or 'huggingface.co/' + hub.rstrip('/')}"

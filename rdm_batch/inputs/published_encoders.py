"""Where people get the weights of open_clip's models."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SHA256 = re.compile(r"/([0-9a-f]{64})/")
_SHA256_PREFIX = re.compile(r"-([0-9a-f]{8})\.\w+$")
_MAX_NAMED = 3


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

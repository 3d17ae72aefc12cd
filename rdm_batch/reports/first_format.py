"""Read reports as they were first written: scores under what people call them, not by id.

``rdm_batch.report/1`` held a score as ``name`` (its label), ``value``, ``uncertainty``,
``uncertainty_method``, ``description`` and ``higher_is_better``. A label names one score, but for
``CLIP-FID``: ``clip_fid``, or ``fid`` on an image-text encoder. Which one it was follows from

1. the job in the report, which lists its scores by id in the order they stand in;
2. else from the extractors: ``fid`` shares that of the other scores, ``clip_fid`` need not;
3. else, and where both share it, from the order: the first is ``fid``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rdm_batch.specs.scores import SCORES, ScoreDescription

FIRST_FORMAT = "rdm_batch.report/1"

# What labels were, whatever they are by now.
_IDS = {
    "FID": ("fid",),
    "FD-DINOv2": ("fid",),
    "FD-VGG16": ("fid",),
    "CLIP-FID": ("fid", "clip_fid"),
    "sFID": ("sfid",),
    "KID": ("kid",),
    "IS": ("is",),
    "CLIP-score": ("clip_score",),
    "novelty to neighbors": ("novelty_neighbors",),
    "novelty to database": ("novelty_database",),
    "novelty of held-out images": ("novelty_held_out",),
}


def from_first_format(report: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the content of a report of the first format into that of today.

    Warnings, which no job ever wrote any of, are dropped.

    Raises:
        ValueError: Its scores are not those of a report.
    """
    current = {key: item for key, item in report.items() if key not in ("format", "warnings")}
    try:
        scores = list(report.get("scores", ()))
        ids = _asked_for(report, scores) or _told_by_extractors(scores)
        current["scores"] = [_current(*pair) for pair in zip(scores, ids, strict=True)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"scores are not those of a report ({error!r})") from error
    return current


def _asked_for(report: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Take the ids from the job; None where it does not list these scores."""
    evaluation = (report.get("spec") or {}).get("evaluation") or {}
    ids = list(evaluation.get("scores", ()))
    if len(ids) != len(scores):
        return None
    fits = (wanted in _possible(score) for wanted, score in zip(ids, scores, strict=True))
    return ids if all(fits) else None


def _told_by_extractors(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    ids: list[str] = []
    # Those of all scores that are made with the extractor of ``fid``.
    shared = {
        _extractor(score)
        for score in scores
        if len(possible := _possible(score)) == 1
        and possible[0] in SCORES
        and SCORES[possible[0]].features_of == "extractor"
    }
    for score in scores:
        left = [wanted for wanted in _possible(score) if wanted not in ids] or _possible(score)
        apart = shared and _extractor(score) not in shared
        ids.append(left[-1] if apart else left[0])
    return ids


def _possible(score: Mapping[str, Any]) -> tuple[str, ...]:
    return _IDS.get(score["name"], (score["name"],))


def _extractor(score: Mapping[str, Any]) -> tuple[object, object]:
    description = score.get("description", {})
    return description.get("extractor"), description.get("extractor_digest")


def _current(score: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    description = dict(score.get("description", {}))
    others = description.keys() - ScoreDescription.model_fields.keys()
    settings = description.pop("settings", {}) | {key: description.pop(key) for key in others}
    kept = {key: score[key] for key in score if key not in ("name", "higher_is_better")}
    return kept | {"description": {**description, "name": wanted, "settings": settings}}

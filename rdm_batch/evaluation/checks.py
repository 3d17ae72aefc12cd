"""Check, before anything is generated, that a finished set can be scored as its job asks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from rdm_batch.errors import MetricError, RdmBatchError, SpecError
from rdm_batch.inputs.encoders import open_encoder
from rdm_batch.inputs.extractors import (
    extractor_digest,
    extractor_of,
    resize_of,
    scores_by_extractor,
)
from rdm_batch.inputs.references import OpenedReferences, Reference
from rdm_batch.metrics.edits import NEUTRAL_TEXT
from rdm_batch.metrics.evaluation import ScoreSettings
from rdm_batch.metrics.networks import NETWORK_NAMES
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec, JobSpec
from rdm_batch.specs.scores import SCORES


def unknown_scores(evaluation: EvaluationSpec) -> Iterator[SpecError]:
    """List the scores that do not exist, each with the one that may be meant."""
    for score in evaluation.scores:
        if score not in SCORES:
            close = difflib.get_close_matches(score, SCORES, n=1)
            yield SpecError(
                "evaluation.scores",
                f"{score!r} is not a score",
                f"one of {', '.join(SCORES)}",
                f"did you mean {close[0]}?" if close else "",
            )


def known_part(evaluation: EvaluationSpec) -> EvaluationSpec:
    """Leave out the scores that do not exist, for checks of everything else."""
    known = tuple(score for score in evaluation.scores if score in SCORES)
    return evaluation.model_copy(update={"scores": known})


def check_scores(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Refuse the first score that does not exist or needs another extractor.

    Args:
        evaluation: What is asked for.
        database: Where the samples' neighbors came from. None where it is not known.

    Raises:
        SpecError: There is no such score.
        MetricError: A score needs another extractor than the one named.
    """
    for problem in unknown_scores(evaluation):
        raise problem
    check_layers(evaluation, database)


def check_layers(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Refuse the first score that needs another extractor; arguments as ``check_scores``.

    Raises:
        MetricError: A score needs Inception, or an image-text encoder, and another extractor is
            named.
    """
    for score in evaluation.scores:
        kind, chosen = SCORES[score], extractor_of(score, evaluation, database)
        if kind.features_of == "encoder" and chosen.name in NETWORK_NAMES:
            raise MetricError(
                "evaluation.scores",
                f"{score!r} is made with an image-text encoder, but {chosen.name} is none",
                "evaluation.encoder, or a database that names its encoder",
                f"name one, or leave out {score}",
            )
        if kind.layer is not None and chosen.name != "inception-v3-compat":
            raise MetricError(
                "evaluation.scores",
                f"{score!r} is made from the layer {kind.layer!r}, which {chosen.name} "
                "does not have",
                "inception-v3-compat as extractor",
                f"name it in evaluation.extractor, or leave out {score}",
            )


def score_problems(spec: JobSpec) -> Iterator[SpecError]:
    """List the scores a job asks for that are not known, or that it cannot feed."""
    if spec.evaluation is None:
        return
    yield from unknown_scores(spec.evaluation)
    for score in known_part(spec.evaluation).scores:
        kind = SCORES[score]
        if kind.prompts and not spec.conditioning.follows_prompts:
            yield SpecError(
                "evaluation.scores",
                f"{score} compares samples with their prompts, but conditioning.mode is "
                f"{spec.conditioning.mode}",
                "text",
                f"leave {score} out",
            )
        if kind.edits and spec.conditioning.editing is None:
            yield SpecError(
                "evaluation.scores",
                f"{score} compares samples with what they are edits of, but conditioning.mode is "
                f"{spec.conditioning.mode}",
                "edit",
                f"leave {score} out",
            )
        least = kind.least_samples(ScoreSettings())
        if spec.sampling.num_samples < least:
            yield SpecError(
                "sampling.num_samples",
                f"is {spec.sampling.num_samples}, too few for the score {score!r}",
                f"at least {least}",
            )


def check_captions(
    evaluation: EvaluationSpec, database: DatabaseSpec | None, captions: Sequence[str | None]
) -> None:
    """Check that what is said of pictures to be edited can be embedded, where a score does.

    Args:
        evaluation: What is asked for.
        database: Where the samples' neighbors come from. None where it is not known.
        captions: What is said of each picture; None where nothing is.

    Raises:
        RdmBatchError: The encoder is not there or cannot read a caption.
    """
    for score in evaluation.scores:
        if SCORES[score].edits and SCORES[score].prompts:
            chosen = extractor_of(score, evaluation, database)
            encoder = open_encoder(EncoderSpec(name=chosen.name, weights=chosen.weights))
            texts = sorted({caption or NEUTRAL_TEXT for caption in captions})
            encoder.check_texts(texts, f"evaluation.scores {score}, captions of the pictures")


def check_extractors(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Check that the weights of every feature extractor of an evaluation are there.

    Raises:
        RdmBatchError: Weights are not named or not there.
    """
    for extractor in scores_by_extractor(evaluation, database):
        extractor_digest(extractor)


def check_reference(
    evaluation: EvaluationSpec, database: DatabaseSpec | None, opened: OpenedReferences
) -> None:
    """Check that the features of a finished set can be compared with the reference.

    Args:
        evaluation: What is asked for.
        database: Where the samples' neighbors come from. None where it is not known.
        opened: What it judges against.

    Raises:
        RdmBatchError: The reference belongs to another extractor, or lacks what a score needs.
    """
    for extractor, scores in scores_by_extractor(evaluation, database).items():
        sides: dict[str, list[str]] = {"reference": [], "held_out": []}
        for score in scores:
            if SCORES[score].reference is not None:
                apart = "held_out" in SCORES[score].distances and opened.held_out is not None
                sides["held_out" if apart else "reference"].append(score)
        if opened.held_out is not None and sides["held_out"]:
            _check_side("evaluation.held_out", opened.held_out, extractor, sides["held_out"])
        if sides["reference"]:
            _check_side("evaluation.reference", opened.reference, extractor, sides["reference"])


def _check_side(
    field: str, reference: Reference, extractor: ExtractorSpec, scores: Sequence[str]
) -> None:
    """Check that a reference serves some scores of one extractor."""
    saved, digest = reference.statistics, _known_digest(extractor)
    if saved is not None and digest is not None and saved.extractor.digest != digest:
        of_encoder = any(SCORES[score].features_of != "extractor" for score in scores)
        wanted = f"the encoder of {scores[0]!r}" if of_encoder else "evaluation.extractor"
        raise MetricError(
            f"{field} {reference.uri}",
            f"holds features of {saved.extractor.name} "
            f"(digest {saved.extractor.digest[:12]}), but {wanted} is "
            f"{extractor.name} (digest {digest[:12]})",
            "one extractor on both sides",
            "build the reference again, name its extractor, or name the images themselves",
        )
    needy = [score for score in scores if SCORES[score].reference == "features"]
    if needy and not (reference.images or (saved and saved.features)):
        raise MetricError(
            f"{field} {reference.uri}",
            f"holds moments but no features, which the score {needy[0]!r} needs",
            "the features of the reference images",
            f"build it again with its features kept, or leave out {', '.join(needy)}",
        )
    count = reference.num_images
    for score in scores:
        if count is not None and count < (least := SCORES[score].least_reference):
            raise MetricError(
                f"{field} {reference.uri}",
                f"holds {count:,} images, too few for the score {score!r}",
                f"{least:,} or more",
                f"name more, or leave out {score}",
            )
    if saved is None and not reference.images:
        reference.require_moments(extractor.name, resize_of(extractor))


def _known_digest(extractor: ExtractorSpec) -> str | None:
    """Identify an extractor; None where its weights are missing, which is reported elsewhere."""
    try:
        return extractor_digest(extractor)
    except RdmBatchError:
        return None

"""The commands ``rdm-batch evaluate`` and ``rdm-batch reference build``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.errors import InvalidJobError, MetricError
from rdm_batch.evaluation.evaluate import (
    Evaluated,
    EvaluationRequest,
    Extract,
    evaluate,
    open_sides,
)
from rdm_batch.evaluation.extraction import extract_features, workers_worth_starting
from rdm_batch.evaluation.features import load_features, parts_without_features
from rdm_batch.files import written_aside
from rdm_batch.inputs.extractors import extractor_digest
from rdm_batch.inputs.image_sets import ImageSet, open_image_set
from rdm_batch.metrics.evaluation import ScoreSettings
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.tasks import TaskRunner
from rdm_batch.reports.progress import Progress, Stage
from rdm_batch.reports.provenance import command_line, software_versions
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.specs.messages import problems_of
from rdm_batch.specs.scores import Score
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.store import stored_file


def evaluate_images(request: EvaluationRequest, address: str | None = None) -> Evaluated:
    """Score images of any kind.

    Args:
        request: What to judge and how.
        address: Ray to use, as ``cluster.connect.connected`` takes it. None: none where the
            work is small, else one on this machine.

    Raises:
        RdmBatchError: The images cannot be used, or a score cannot be computed.
    """
    with Progress() as progress:
        with progress.step("open images and reference"):
            sides = open_sides(request)
        both = (sides.samples.images, sides.references.reference.images)
        sets = [images for images in both if images is not None]
        workers = _workers(sets, request.evaluation.extractor, address, progress)
        with workers as (extract, runner), progress.step("compute scores"):
            return evaluate(request, extract, runner, sides)


def evaluate_samples(
    samples: str | Path,
    reference: str | Path,
    scores: Sequence[str] | None = None,
    extractor: ExtractorSpec | str = "shapes-clip",
    *,
    resize: ImageResize | None = None,
    encoder: EncoderSpec | str | None = None,
    database: str | Path | None = None,
    held_out: str | Path | None = None,
    allow_partial: bool = False,
    settings: ScoreSettings | None = None,
    address: str | None = None,
) -> tuple[Score, ...]:
    """Score images against a reference.

    Args:
        samples: A sample set, a folder or parquet of images, an ADM ``.npz``, saved statistics,
            or ``shapes:SUBSET[:COUNT]``.
        reference: The same, to score against.
        scores: Ids of scores; see docs/scores.md. None means those a job computes by default.
        extractor: The network whose features are compared, or its name alone.
        resize: How images of several sizes are brought to one, on both sides. None refuses them.
        encoder: Image-text encoder of the scores that need one, or its name alone. None: the
            extractor.
        database: Where the samples' neighbors came from, for scores of novelty.
        held_out: Images for ``novelty_held_out`` that the database does not hold. None: the
            reference.
        allow_partial: Accept a sample set with missing shards; scores say so.
        settings: Neighborhood sizes, seeds, resampling. None means the usual ones.
        address: As ``evaluate_images``.

    Returns:
        One score per id, in the order asked for.

    Raises:
        InvalidJobError: An argument cannot be used.
        RdmBatchError: The images cannot be used, or a score does not exist or cannot be computed.
    """
    named = EncoderSpec(name=encoder) if isinstance(encoder, str) else encoder
    document = {
        "reference": str(reference),
        "extractor": ExtractorSpec(name=extractor) if isinstance(extractor, str) else extractor,
        "resize": resize,
        "encoder": named,
        "held_out": None if held_out is None else str(held_out),
    }
    if scores is not None:
        document["scores"] = tuple(scores)
    try:
        evaluation = EvaluationSpec.model_validate(document)
        searched = None if database is None else DatabaseSpec(uri=str(database), encoder=named)
    except ValidationError as error:
        # Its own message repeats the values, which may hold credentials.
        raise InvalidJobError("evaluate", problems_of(error, root="evaluate")) from None
    request = EvaluationRequest(
        str(samples), evaluation, searched, allow_partial, settings or ScoreSettings()
    )
    return evaluate_images(request, address).scores


def save_page(request: EvaluationRequest, evaluated: Evaluated, path: Path) -> None:
    """Write the page of an evaluation.

    Args:
        request: What was asked for.
        evaluated: What came of it.
        path: Local file to write.

    Raises:
        RdmBatchError: Images that were judged cannot be read any more, or the file cannot be
            written.
    """
    # What only pages need takes as long to import as small scores take.
    from rdm_batch.evaluation.views import look_at
    from rdm_batch.reports.evaluation_page import EvaluationReport, render_evaluation

    searched = any(part.novelty is not None for part in evaluated.judged)
    with Progress() as progress, progress.step("collect what there is to see"):
        views, pictures = look_at(evaluated, request.open_database() if searched else None)
    report = EvaluationReport(
        samples=request.samples,
        reference=request.evaluation.reference,
        scores=evaluated.scores,
        views=views,
        time=datetime.now(UTC),
        command=command_line(),
        software=software_versions(),
    )
    try:
        with written_aside(path) as aside:
            aside.write_text(render_evaluation(report, pictures), encoding="utf-8")
    except OSError as error:
        raise MetricError(str(path), f"cannot be written ({error.strerror})") from error


def build_reference(
    images: str,
    out: str,
    extractor: ExtractorSpec,
    address: str | None = None,
    resize: ImageResize | None = None,
) -> ReferenceStatistics:
    """Extract the features of reference images and store them with their moments.

    Args:
        images: What ``inputs.image_sets.open_image_set`` opens.
        out: URI of the ``.npz`` to write.
        extractor: As in a job's ``evaluation.extractor``.
        address: As ``evaluate_images``.
        resize: As in a job's ``evaluation.resize``.

    Raises:
        RdmBatchError: The images or the extractor cannot be used, or something is stored at
            ``out`` already.
    """
    folder, _, name = out.rpartition("/")
    store = open_store(folder or ".", MetricError)
    if not name.endswith(".npz"):
        raise MetricError(out, "not the name of a reference", "a name that ends in .npz")
    if store.exists(name):
        raise MetricError(out, "exists already", "a new name", "remove it to build it again")
    store.check_writable()
    with Progress() as progress:
        with progress.step("open the images"):
            opened = open_image_set(images, resize=resize)
            opened.check_sizes()
        with _workers([opened], extractor, address, progress) as (extract, _):
            extract(opened, extractor)
        with progress.step("compute moments"):
            features = load_features(opened, extractor_digest(extractor))
            reference = ReferenceStatistics.from_features(features)
            with stored_file(store, name) as path:
                reference.save(path)
    return reference


@contextmanager
def _workers(
    sets: Sequence[ImageSet], extractor: ExtractorSpec, address: str | None, progress: Progress
) -> Iterator[tuple[Extract, TaskRunner]]:
    """Give what extracts features and runs tasks: this process, or a Ray."""
    stages: dict[str, Stage] = {}

    def on_extracted(images: ImageSet, used: ExtractorSpec, count: int) -> None:
        key = f"{images.uri} {used.name}"
        if key not in stages:
            name = f"features of {images.uri.rstrip('/').rpartition('/')[2]}"
            stages[key] = progress.stage(name, images.num_images, "images", count)
        else:
            stages[key].advance(count)
        if stages[key].done >= images.num_images:
            stages[key].finish()

    joining = progress.begin("get ready to work")
    if address is None:
        # Ray takes seconds to import and to start: only where there is work for it.
        digest = extractor_digest(extractor)
        parts = [part for images in sets for part in parts_without_features(images, digest)]
        lacking = sum(part.num_images for part in parts)
        address = NONE if workers_worth_starting(lacking, extractor) == 1 else "local"
    with connected(address) as cluster:
        joining.finish()

        def extract(images: ImageSet, used: ExtractorSpec) -> None:
            extract_features(cluster, images, used, on_extracted)

        yield extract, cluster.tasks()

"""What is judged, or judged against, from whatever the user names."""

from __future__ import annotations

from dataclasses import dataclass

from rdm_batch.errors import MetricError
from rdm_batch.inputs.image_sets import AdmImages, ImageSet, open_image_set
from rdm_batch.metrics.adm import AdmFile
from rdm_batch.metrics.compute import require_images
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.metrics.reference import ReferenceStatistics, is_reference
from rdm_batch.metrics.resize import TENSORFLOW_BILINEAR
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.specs.job import EvaluationSpec
from rdm_batch.specs.scores import SCORES
from rdm_batch.storage.object_store import local_path

_ADM_EXTRACTOR = "inception-v3-compat"


@dataclass(frozen=True)
class Reference:
    """Hold one side of a comparison; it may still need features.

    Args:
        uri: What the user named.
        statistics: Saved statistics; everything is there already.
        images: Images whose features are to be computed.
        adm: File of the ADM suite that may hold moments beside its images.
    """

    uri: str
    statistics: ReferenceStatistics | None = None
    images: ImageSet | None = None
    adm: AdmFile | None = None

    @property
    def partial(self) -> bool:
        """Say whether images that were planned are missing."""
        return self.images is not None and self.images.partial

    @property
    def num_images(self) -> int | None:
        """Count the images whose features there are or will be; None where that is not known."""
        if self.images is not None:
            return self.images.num_images
        if self.statistics is None or not self.statistics.features:
            return None
        return len(next(iter(self.statistics.features.values())))

    def has_moments(self, name: str, resize: str | None) -> bool:
        """Say whether the file's own moments are those of an extractor.

        The ADM suite knows one: Inception behind TensorFlow's resize.
        """
        return (
            self.adm is not None
            and "mu" in self.adm.names
            and (name, resize) == (_ADM_EXTRACTOR, TENSORFLOW_BILINEAR)
        )

    def require_moments(self, name: str, resize: str | None) -> None:
        """Refuse an extractor that a file without images says nothing about.

        Raises:
            MetricError: The moments are another extractor's.
        """
        if not self.has_moments(name, resize):
            raise MetricError(
                self.uri,
                f"holds moments of {_ADM_EXTRACTOR} ({TENSORFLOW_BILINEAR}) and no images",
                f"features of {name}" + (f" ({resize})" if resize else ""),
                f"use {_ADM_EXTRACTOR} as extractor, or name a reference with images",
            )

    def finish(
        self, extractor: ExtractorDescription, features: FeatureSet | None
    ) -> ReferenceStatistics:
        """Put moments and features together.

        Moments that are in an ADM file stand for the whole data set and win over those of the
        images beside them, as in the ADM suite.

        Args:
            extractor: What the samples are judged by.
            features: Features of ``images``; None when there are none.

        Raises:
            MetricError: There are neither moments of this extractor nor images.
        """
        if self.statistics is not None:
            return self.statistics
        if features is None:
            self.require_moments(extractor.name, extractor.resize)
        if self.adm is not None and self.has_moments(extractor.name, extractor.resize):
            return ReferenceStatistics(
                extractor=extractor,
                source=self.uri,
                moments=self.adm.moments(),
                features={} if features is None else features.layers,
                digest=self.adm.digest(),
            )
        assert features is not None
        return ReferenceStatistics.from_features(features)


@dataclass(frozen=True)
class OpenedReferences:
    """Hold what the samples of an evaluation are judged against, each opened once.

    Args:
        reference: What ``evaluation.reference`` names.
        held_out: What ``evaluation.held_out`` names. None where it names nothing, or no score
            asks for it: then the reference stands for it.
    """

    reference: Reference
    held_out: Reference | None = None


def open_references(evaluation: EvaluationSpec) -> OpenedReferences:
    """Open what an evaluation judges against, each location once.

    Raises:
        RdmBatchError: Nothing usable is there.
    """
    reference = open_reference(evaluation.reference, resize=evaluation.resize)
    # A score that does not exist is reported where scores are checked.
    known = (SCORES[score] for score in evaluation.scores if score in SCORES)
    asked = any("held_out" in kind.distances for kind in known)
    if evaluation.held_out is None or not asked:
        return OpenedReferences(reference)
    if evaluation.held_out == evaluation.reference:
        return OpenedReferences(reference, reference)
    held_out = open_reference(evaluation.held_out, resize=evaluation.resize)
    return OpenedReferences(reference, held_out)


def open_reference(
    uri: str, allow_partial: bool = False, resize: ImageResize | None = None
) -> Reference:
    """Open saved statistics, an ADM ``.npz`` or images, and check that images are of one size.

    Args:
        uri: Where it is, local or ``s3://``.
        allow_partial: Accept a sample set with missing shards.
        resize: How images of another size are brought to one.

    Raises:
        RdmBatchError: Nothing usable is there.
    """
    if not uri.endswith(".npz"):
        opened = open_image_set(uri, allow_partial, resize)
        opened.check_sizes()
        return Reference(uri, images=opened)
    path = local_path(uri, error=MetricError)
    if is_reference(path):
        statistics = ReferenceStatistics.load(path)
        if resize is not None:
            require_images(statistics, resize.describe())
        return Reference(uri, statistics=statistics)
    file = AdmFile(path)
    images = AdmImages(uri, file, resize) if file.num_images else None
    if resize is not None and "mu" in file.names and (images is None or not images.as_stored):
        raise MetricError(
            uri,
            f"holds moments of images that were not brought to {resize.describe()}",
            "images alone",
            "leave the resize out, or name a file without moments",
        )
    return Reference(uri, images=images, adm=file)

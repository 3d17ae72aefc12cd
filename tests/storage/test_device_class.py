from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.device_class import CLAIM_KEY, check_begun_on, claim_device, classes_of
from rdm_batch.storage.manifest import Measured
from rdm_batch.storage.sample_set import SampleSet
from tests.storage.sets import make_header, make_rows

H200, L4 = "cuda sm90 NVIDIA H200", "cuda sm89 NVIDIA L4"


def _begin(root: Path, device: str, device_class: str | None) -> SampleSet:
    sample_set = SampleSet.create_or_resume(str(root), make_header())
    measured = Measured(
        run="a", head="b", device=device, device_class=device_class, intervals={"model": (0.0, 1.0)}
    )
    sample_set.commit_shard(0, make_rows(make_header(), 0), measured)
    return sample_set


def test_the_first_kind_of_gpu_claims_a_set(tmp_path: Path) -> None:
    sample_set = _begin(tmp_path, "cuda on a", H200)
    for _ in range(2):
        claim_device(sample_set, H200)
    with pytest.raises(SampleSetError, match=f"begun on {H200}, and this head computes on {L4}"):
        claim_device(sample_set, L4)
    check_begun_on(sample_set, "cuda")
    assert sample_set.store.exists(CLAIM_KEY)


@pytest.mark.parametrize(
    ("device", "device_class", "then"),
    [
        ("cuda on a", H200, "cpu"),
        ("cpu on a", "cpu", "cuda"),
        ("cpu on a", None, "cuda"),  # as sets of before say it
    ],
)
def test_a_set_is_not_mixed_in_silence(
    tmp_path: Path, device: str, device_class: str | None, then: str
) -> None:
    sample_set = _begin(tmp_path, device, device_class)
    check_begun_on(sample_set, device.split()[0])
    with pytest.raises(SampleSetError, match=r"begun on .* cluster\.mixed_devices true"):
        check_begun_on(sample_set, then)
    assert classes_of(sample_set.entries()) == (device_class or "cpu",)


def test_a_claim_without_samples_binds_nobody(tmp_path: Path) -> None:
    sample_set = SampleSet.create_or_resume(str(tmp_path), make_header())
    claim_device(sample_set, L4)
    check_begun_on(sample_set, "cuda")
    claim_device(sample_set, H200)


def test_shards_of_unknown_origin_say_nothing(tmp_path: Path) -> None:
    sample_set = SampleSet.create_or_resume(str(tmp_path), make_header())
    sample_set.commit_shard(0, make_rows(make_header(), 0))
    check_begun_on(sample_set, "cuda")
    assert classes_of(sample_set.entries()) == ()

"""Which kind of device a sample set was begun on: the first head claims it, others compare.

Only GPUs claim: a set without the claim whose entries name none was made on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.manifest import Manifest, Measured, ShardEntry, parse_manifest
from rdm_batch.storage.sample_set import SampleSet

CLAIM_KEY = "_device.json"
_CPU = "cpu"


class DeviceClaim(Manifest):
    """The kind of device that a set's samples come from."""

    device_class: str


def classes_of(entries: Iterable[ShardEntry]) -> tuple[str, ...]:
    """List the kinds of devices that stored shards were made on, as far as they say."""
    return tuple(sorted({_class_of(e.measured) for e in entries if e.measured is not None}))


def check_begun_on(sample_set: SampleSet, device: str) -> None:
    """Refuse to go on on a CPU with what GPUs made, or the other way round.

    A claim that no shard was stored under is dropped.

    Args:
        sample_set: The set.
        device: What heads compute on, ``cpu`` or ``cuda``.

    Raises:
        SampleSetError: Shards that are stored were made on another kind of device.
    """
    made_on = classes_of(sample_set.entries())
    if not made_on:
        sample_set.store.delete(CLAIM_KEY)
    for one in made_on:
        if (one == _CPU) != (device == _CPU):
            raise _refusal(sample_set, one, device)


def claim_device(sample_set: SampleSet, device_class: str) -> None:
    """Claim a set for a kind of GPU, unless another kind has claimed it.

    Args:
        sample_set: The set.
        device_class: Kind of the GPU that is to compute its samples.

    Raises:
        SampleSetError: Another kind of GPU has begun the set.
    """
    store = sample_set.store
    claim = DeviceClaim(device_class=device_class)
    store.write_bytes_if_absent(CLAIM_KEY, claim.to_bytes())
    where = store.child_uri(CLAIM_KEY)
    stored = parse_manifest(DeviceClaim, store.read_bytes(CLAIM_KEY), where, SampleSetError)
    if stored != claim:
        raise _refusal(sample_set, stored.device_class, device_class)


def _class_of(measured: Measured) -> str:
    # Entries of before say "cpu on HOST".
    return measured.device_class or measured.device.split(" on ")[0]


def _refusal(sample_set: SampleSet, begun_on: str, device: str) -> SampleSetError:
    return SampleSetError(
        sample_set.uri,
        f"was begun on {begun_on}, and this head computes on {device}: their samples differ in "
        "last digits",
        "one kind of device for all samples of a set",
        "go on with that kind, choose another output location, or mix them knowingly with "
        "cluster.mixed_devices true",
    )

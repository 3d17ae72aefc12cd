"""Whole jobs, evaluations, exports and builds over a store that lies: equal bytes or one error."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

import rdm_batch
from rdm_batch.databases.build import build_database
from rdm_batch.errors import RdmBatchError
from rdm_batch.export import export_samples
from rdm_batch.reports.progress import Progress
from rdm_batch.specs.database import DatabaseBuild
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.storage.etags import tags
from tests.fixtures.fake_encoder import FakeEncoder
from tests.fixtures.lying_proxy import LIES, LyingProxy
from tests.stores import ObjectServer, enter
from tests.worlds import World

MOST_S = 30


@dataclass
class Bench:
    """A store, a proxy before it, and what is on the store."""

    server: ObjectServer
    proxy: LyingProxy
    world: str
    samples: dict[str, bytes]

    def __post_init__(self) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=self.server.endpoint,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )

    def uri(self, prefix: str) -> str:
        return f"s3://{self.server.bucket}/{prefix}"

    def put(self, prefix: str, files: dict[str, bytes]) -> str:
        for key, data in files.items():
            self._client.put_object(Bucket=self.server.bucket, Key=f"{prefix}/{key}", Body=data)
        return self.uri(prefix)

    def get(self, prefix: str) -> dict[str, bytes]:
        """Read what is truly stored, without the proxy."""
        page = self._client.list_objects_v2(Bucket=self.server.bucket, Prefix=f"{prefix}/")
        return {
            item["Key"].removeprefix(f"{prefix}/"): self._client.get_object(
                Bucket=self.server.bucket, Key=item["Key"]
            )["Body"].read()
            for item in page.get("Contents", [])
        }


def files_below(root: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def job_of(world: World, bench: Bench, out: str) -> Any:
    text = json.dumps(world.document).replace(str(world.root), bench.uri(bench.world))
    document = json.loads(text)
    return _small(document, out)


def _small(document: dict[str, Any], out: str) -> Any:
    """Make a job short: two shards of three samples, and nothing judged."""
    document["output"] = {"uri": out, "shard_size": 3}
    document["sampling"] |= {"num_samples": 6, "num_steps": 1}
    document["evaluation"] = None
    return rdm_batch.load_job(document)


@pytest.fixture(scope="module")
def bench(
    built_world: World, moto_server: ObjectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    out = tmp_path_factory.mktemp("lies") / "out"
    document = json.loads(json.dumps(built_world.document))
    rdm_batch.run(_small(document, str(out)), address="none")
    samples = {
        key: data
        for key, data in files_below(out).items()
        if key.split("/")[0] in ("sample_set.json", "data", "_shards", "_SUCCESS.json")
    }
    with LyingProxy(moto_server.endpoint).running() as proxy:
        bench = Bench(moto_server, proxy, f"world-{uuid.uuid4().hex}", samples)
        bench.put(bench.world, files_below(built_world.root))
        yield bench


@pytest.fixture(autouse=True)
def _through_the_proxy(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter(bench.server, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bench.proxy.endpoint)
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rdm_batch.storage.s3_requests.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("rdm_batch.storage.s3_client.READ_TIMEOUT_S", 0.4)
    monkeypatch.setattr("rdm_batch.storage.s3_objects.PART_BYTES", 4096)
    monkeypatch.setattr(tags, "_are_md5", {})


Flow = Callable[[Bench, World, str], Any]


def run_a_job(bench: Bench, world: World, prefix: str) -> Any:
    job = job_of(world, bench, bench.uri(f"{prefix}/out"))
    return rdm_batch.run(job, address="none").sample_set.rows


def evaluate(bench: Bench, world: World, prefix: str) -> Any:
    extractor = ExtractorSpec(
        name="tiny-clip", weights=f"{bench.uri(bench.world)}/clip.safetensors"
    )
    scores = rdm_batch.evaluate(
        bench.uri(f"{prefix}/set"),
        f"{bench.uri(bench.world)}/reference.npz",
        ["fid", "kid"],
        extractor,
        address="none",
    )
    return [(score.id, score.value) for score in scores]


def export(bench: Bench, world: World, prefix: str) -> Any:
    return [
        export_samples(bench.uri(f"{prefix}/set"), form, bench.uri(f"{prefix}/{name}"))
        for form, name in (("webdataset", "tars"), ("adm-npz", "a.npz"))
    ]


def build_a_database(bench: Bench, world: World, prefix: str) -> Any:
    request = DatabaseBuild(images="shapes:database:30", shards=2, out=bench.uri(f"{prefix}/db"))
    with Progress() as progress:
        return build_database(request, FakeEncoder, progress)


FLOWS: dict[str, Flow] = {
    "job": run_a_job,
    "evaluate": evaluate,
    "export": export,
    "database build": build_a_database,
}
NOT_COMPARED = ("report", "latencies", "illustrations", "_shards", "_features")
"""What says when and how fast; the entries are compared by what the completion sums up."""


def outcome(flow: str, bench: Bench, world: World) -> tuple[Any, dict[str, bytes]]:
    """Run a flow on a fresh copy of what it needs; give its result and all that it stored."""
    prefix = uuid.uuid4().hex
    bench.put(f"{prefix}/set", bench.samples)
    result = FLOWS[flow](bench, world, prefix)
    stored = bench.get(prefix)
    kept = {k: v for k, v in stored.items() if not any(name in k for name in NOT_COMPARED)}
    return result, kept


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    return {}


PASSING = {
    *("internal error", "slow down", "reset before", "reset mid-body", "answer lost"),
    *("short body", "long body", "flipped byte read", "error with status 200", "garbage"),
    *("stale list", "empty list", "ghosts in list", "written twice"),
}
"""What a store may say twice and nobody notices."""


def schedule(name: str, flow: str) -> dict[str, int | None]:
    """Tell every lie twice from the start in two flows, and always from the middle on in others.

    A request is made five times: what is told twice passes, unless it is believed.
    """
    if (list(LIES).index(name) + list(FLOWS).index(flow)) % 2:
        return {"times": 2}
    many = LIES[name].about & {"get", "put", "head"}
    return {"after": 4 if many else 0, "times": None}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", LIES)
def test_a_lie_changes_nothing_or_is_one_clear_error(
    name: str,
    flow: str,
    bench: Bench,
    built_world: World,
    truth: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    if flow not in truth:
        truth[flow] = outcome(flow, bench, built_world)
    started = time.monotonic()
    refused = []
    told = schedule(name, flow)
    with bench.proxy.lying(LIES[name], **told):
        try:
            found = outcome(flow, bench, built_world)
        except RdmBatchError as error:
            refused.append(str(error))
    if name in PASSING and told["times"] is not None:
        assert refused == []
    assert refused or found == truth[flow]
    assert all(len(message) < 2000 for message in refused)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert time.monotonic() - started < MOST_S

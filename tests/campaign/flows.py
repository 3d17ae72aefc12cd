"""What is disturbed: the commands of the program over small worlds, and what must come of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml

from rdm_batch.evaluation.extraction import workers_worth_starting
from rdm_batch.files import PARTIAL_SUFFIX, file_sha256
from rdm_batch.models.clip import build_clip, save_clip
from rdm_batch.specs.job import ExtractorSpec
from tests.job_kit import job_document, write_job, write_reference
from tests.tiny_heads import TINY_CLIP
from tests.training.test_train import AUTOENCODER

JOB, COMMAND = "rdm_batch.run", "rdm_batch.cli"
SAMPLES, SHARD_SIZE = 64, 4
HEAVY_CLIP = TINY_CLIP.model_copy(update={"vision_width": 48})
"""An encoder of 23 MB, so that features are worth workers of their own."""

_MEASURED = {"report.json", "report.html", "latencies.parquet", "training.json", "checkpoint.pt"}
"""Files that hold times of day, or names of a run: they must be there, whatever they hold."""


@dataclass(frozen=True)
class Flow:
    """One command, as it is disturbed.

    Attributes:
        name: What is printed.
        module: What is run.
        arguments: Of the command, from the folder of its output, the address of Ray, and whether
            it was begun before.
        workers: Names of the classes of its actors; none where it never uses Ray.
        before: Puts what is there before the first run into a new folder.
    """

    name: str
    module: str
    arguments: Callable[[Path, str, bool], list[str]]
    workers: tuple[str, ...] = ()
    before: Callable[[Path], None] = field(default=lambda out: None)


def write_worlds(root: Path) -> None:
    """Write what the flows read below a folder."""
    document: dict[str, Any] = json.loads(json.dumps(job_document(root)))
    document["sampling"].update(num_samples=SAMPLES, batch_size=4, num_steps=4)
    document["output"]["shard_size"] = SHARD_SIZE
    del document["evaluation"]
    write_job(root / "job.yaml", document)
    torch.manual_seed(0)
    save_clip(build_clip(HEAVY_CLIP), HEAVY_CLIP, root / "heavy.safetensors")
    heavy = ExtractorSpec(name=HEAVY_CLIP.name, weights=str(root / "heavy.safetensors"))
    assert workers_worth_starting(SAMPLES, heavy) > 1, "extractors would not be actors"
    write_reference(root / "heavy.npz", root / "heavy.safetensors")
    optimization = {
        **AUTOENCODER["optimization"],
        "num_steps": 20,
        "checkpoint_every": 5,
        "log_every": 5,
    }
    settings = {**AUTOENCODER, "optimization": optimization}
    (root / "autoencoder.yaml").write_text(yaml.safe_dump(settings))


def make_flows(root: Path) -> dict[str, Flow]:
    """Describe the flows over the worlds below a folder."""
    job, config, samples = root / "job.yaml", root / "autoencoder.yaml", root / "samples"
    heavy, reference = root / "heavy.safetensors", root / "heavy.npz"

    def generation(out: Path, address: str, begun: bool) -> list[str]:
        # On Ray a job lasts long enough to lose workers in it.
        steps = [] if address == "none" else ["--set", "sampling.num_steps=80"]
        return [str(job), "--address", address, "--set", f"output.uri={out}", *steps]

    def evaluation(out: Path, address: str, begun: bool) -> list[str]:
        extractor = ["--extractor", HEAVY_CLIP.name, "--extractor-weights", str(heavy)]
        scores = ["--scores", "fid", "precision", "recall", "--json", str(out / "scores.json")]
        judged = [str(out), "--reference", str(reference), "--address", address]
        return ["evaluate", *judged, *extractor, *scores]

    def build(out: Path, address: str, begun: bool) -> list[str]:
        few = ["--workers", "1"] if address == "none" else ["--workers", "2", "--address", address]
        images = ["--images", "shapes:database:600", "--proposal-from", "shapes:train:200"]
        return ["database", "build", *images, "--out", str(out), "--shards", "3", *few]

    def export(form: str) -> Callable[[Path, str, bool], list[str]]:
        def arguments(out: Path, address: str, begun: bool) -> list[str]:
            target = out / "samples.npz" if form == "adm-npz" else out
            return ["export", str(samples), "--format", form, "--out", str(target)]

        return arguments

    def train(out: Path, address: str, begun: bool) -> list[str]:
        resume = ["--resume"] if begun and (out / "checkpoint.pt").exists() else []
        return ["train", "autoencoder", "--config", str(config), "--out", str(out), *resume]

    def judged(out: Path) -> None:
        shutil.copytree(samples, out, dirs_exist_ok=True)

    flows = (
        Flow("generation", JOB, generation, ("HeadWorker", "RetrieverWorker")),
        Flow("evaluation", COMMAND, evaluation, ("ExtractorWorker",), judged),
        Flow("build", COMMAND, build, ("EncoderWorker",)),
        Flow("export png-folder", COMMAND, export("png-folder")),
        Flow("export webdataset", COMMAND, export("webdataset")),
        Flow("export adm-npz", COMMAND, export("adm-npz")),
        Flow("train", COMMAND, train),
    )
    return {flow.name: flow for flow in flows}


def content(out: Path) -> dict[str, str]:
    """Digest every file that is visible below a folder, leaving out what no two runs share."""
    return {
        path.relative_to(out).as_posix(): _digest(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.endswith((PARTIAL_SUFFIX, ".unfinished"))
    }


def left_aside(out: Path) -> int:
    """Count what killed processes left, hidden under names that no reader looks at."""
    names = [path.name for path in out.rglob("*") if path.is_file()]
    return sum(name.startswith(".") and name.endswith(PARTIAL_SUFFIX) for name in names) + sum(
        name.endswith(".unfinished") for name in names
    )


def rows_of(out: Path) -> Counter[int]:
    """Count how often each sample is stored below a folder."""
    found: Counter[int] = Counter()
    for path in sorted((out / "data").glob("*.parquet")):
        found.update(pq.read_table(path, columns=["sample_index"])["sample_index"].to_pylist())
    return found


def _digest(path: Path) -> str:
    if path.name in _MEASURED:
        return "there"
    if path.parent.name == "_shards":
        entry = json.loads(path.read_bytes())
        entry.pop("measured")
        return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    return file_sha256(path)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.specs.load import load_job, parse_job


def valid_job() -> dict[str, Any]:
    return {
        "name": "test",
        "model": {"head": "rdm", "checkpoint": "weights.safetensors"},
        "database": {"uri": "db"},
        "conditioning": {"mode": "unconditional"},
        "sampling": {"sampler": "ddim", "num_samples": 8},
        "output": {"uri": "out"},
    }


def test_defaults_fill_in_what_a_minimal_job_leaves_out() -> None:
    job = parse_job(valid_job(), "job")
    assert job.sampling.guidance_scale == 1.0
    assert job.conditioning.k_nn == 4
    assert job.evaluation is None


def test_an_integer_is_welcome_where_a_number_is_wanted() -> None:
    document = valid_job()
    document["sampling"]["guidance_scale"] = 2
    assert parse_job(document, "job").sampling.guidance_scale == 2.0


TEXT = {"mode": "text", "prompts": ["a"]}
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("sampling.guidence_scale", 2, "sampling.guidence_scale: is not a field; did you mean guid"),
    ("modle", {}, "modle: is not a field; did you mean model?"),
    ("output.color", 1, "output.color: is not a field; known here: uri, shard_size"),
    ("database.reorder", 0, "database.reorder: is 0; needed greater than or equal to 1"),
    ("database.reorder", "200", "database.reorder: is '200'"),
    ("conditioning.top_m", 0, "conditioning.top_m: is 0; needed greater than 0"),
    ("conditioning.top_m", 1.5, "conditioning.top_m: is 1.5; needed less than or equal to 1"),
    ("conditioning.top_m", float("nan"), "conditioning.top_m: is nan"),
    ("conditioning.k_nn", 0, "conditioning.k_nn: is 0; needed greater than or equal to 1"),
    ("conditioning.k_nn", True, "conditioning.k_nn: is True; needed integer"),
    ("conditioning.weighting", "propsal", "needed 'proposal' or 'uniform'"),
    (
        "conditioning.mode",
        "uncond",
        "conditioning.mode: is 'uncond'; needed one of 'unconditional'",
    ),
    ("conditioning", {"k_nn": 4}, "conditioning.mode: is missing; needed one of unconditional"),
    ("conditioning", TEXT, "embeds text, but database.encoder is not set"),
    ("conditioning", {"mode": "text"}, "conditioning: give exactly one of prompts and prompts_fil"),
    ("conditioning", {"mode": "text", "prompts": []}, "prompts is empty"),
    ("conditioning", {**TEXT, "prompts_file": "p.txt"}, "give exactly one of prompts"),
    ("conditioning", {"mode": "class", "labels": []}, "conditioning.labels: is []"),
    ("conditioning", {"mode": "class", "labels": ["a"], "template": "a dog"}, "no {label}"),
    (
        "conditioning",
        {"mode": "class", "labels": ["a"], "k_nn": 8, "pool_size": 4},
        "pool_size is 4 but k_nn is 8",
    ),
    ("sampling.guidance_scale", 0.5, "guidance_scale: is 0.5; needed greater than or equal to 1"),
    ("sampling.guidance_scale", float("inf"), "sampling.guidance_scale: is inf"),
    ("sampling.num_steps", 0, "sampling.num_steps: is 0; needed greater than or equal to 1"),
    ("sampling.num_steps", 1001, "sampling.num_steps: is 1001; needed less than or equal to 1000"),
    ("sampling.num_steps", "50", "sampling.num_steps: is '50'; needed integer"),
    ("sampling.num_samples", -1, "sampling.num_samples: is -1"),
    ("sampling.num_samples", None, "sampling.num_samples: is None; needed integer"),
    ("sampling.eta", 1.5, "sampling.eta: is 1.5; needed less than or equal to 1"),
    ("sampling.seed", -3, "sampling.seed: is -3"),
    ("sampling.sampler", "autoregressive", "'autoregressive' does not drive model.head 'rdm'"),
    ("sampling.sampler", "dimm", "did you mean ddim?"),
    ("sampling.batch_size", 0, "sampling.batch_size: is 0"),
    (
        "model.precision",
        "float8",
        "model.precision: is 'float8'; needed 'float32', 'tf32', 'float16' or 'bfloat16'",
    ),
    ("model.checkpoint", 7, "model.checkpoint: is 7; needed string"),
    ("model.checkpoint", "", "model.checkpoint: is ''"),
    ("model.head", "rmd", "model.head: is 'rmd'; needed one of"),
    ("model.preset", ["x"], "model.preset: is ['x']; needed string"),
    ("output.shard_size", 0, "output.shard_size: is 0"),
    ("output", {}, "output.uri: is missing; needed a value"),
    ("cluster.heads", 0, "cluster.heads: is 0"),
    ("cluster.gpus_per_head", -1, "cluster.gpus_per_head: is -1"),
    ("database.retriever_shards", 0, "database.retriever_shards: is 0"),
    ("evaluation", {"reference": "r", "scores": []}, "evaluation.scores: is []"),
    ("name", "../up", "name: is '../up'"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD_FIELDS)
def test_one_bad_field_gets_one_clear_message(path: str, value: Any, message: str) -> None:
    document = valid_job()
    *parents, last = path.split(".")
    node = document
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    if path == "model.preset":
        node.pop("architecture", None)
    with pytest.raises(InvalidJobError) as caught:
        parse_job(document, "jobs/a.yaml")
    assert message in str(caught.value)


def test_all_problems_are_reported_together() -> None:
    document = valid_job()
    document["sampling"]["num_steps"] = 0
    document["conditioning"]["top_m"] = 2
    document["outptu"] = {}
    with pytest.raises(InvalidJobError) as caught:
        parse_job(document, "jobs/a.yaml")
    assert len(caught.value.problems) == 3


def test_preset_and_architecture_exclude_each_other() -> None:
    document = valid_job()
    document["model"] |= {"preset": "rdm-imagenet-256", "architecture": "a.yaml"}
    with pytest.raises(InvalidJobError, match="exclude each other"):
        parse_job(document, "job")


def test_plausibility_without_guidance_is_refused() -> None:
    document = valid_job()
    document["model"] = {
        "head": "knn_diffusion",
        "backbone": "discrete",
        "checkpoint": "package://shapes/knn_discrete.safetensors",
    }
    document["sampling"] = {"sampler": "mask_replace", "num_samples": 1, "plausibility": 0.1}
    with pytest.raises(InvalidJobError, match="sampling: plausibility limits guidance"):
        parse_job(document, "job")
    document["sampling"]["guidance_scale"] = 3.0
    parse_job(document, "job")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_nested_fields_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(valid_job()))
    job = load_job(path, ["sampling.seed=3", "sampling.seed=7", "cluster.heads=2"])
    assert (job.sampling.seed, job.cluster.heads) == (7, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.seed", "needed key.path=value"),
        ("=3", "needed key.path=value"),
        ("name.first=3", "name is a text; needed a mapping"),
        ("sampling.seed=[", "is not YAML"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SpecError, match="--set") as caught:
        load_job(write(tmp_path, yaml.safe_dump(valid_job())), [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds a list at the top"),
        ("", "holds nothing at the top"),
        ("name: a\nname: b\n", "key 'name' stands twice"),
        ("? [a]\n: b\n", "a key is not a plain value"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_job(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_file_suggests_a_neighbor(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(SpecError, match=r"did you mean .*job\.yaml"):
        load_job(tmp_path / "jobb.yaml")

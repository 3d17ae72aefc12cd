"""The checks of documents find what is wrong, and nothing where all is right."""

from __future__ import annotations

import pytest

from tests.docs.documents import ROOT, command_lines, read_markdown
from tests.docs.promises import find_problems


def problems_of(text: str) -> list[str]:
    return find_problems(ROOT / "README.md", read_markdown(text))


@pytest.mark.parametrize(
    "text",
    [
        "```\nrdm-batch report A B --fail-on-worse   # compares\n```",
        "```\nrdm-batch database build --images A \\\n    --out B --patches 4\n```",
        "See:\n\n    rdm-batch train rdm|rarm --config FILE --out FOLDER [--resume]\n\nand so on.",
        "```\npython -m rdm_batch.run JOB.yaml [--set key.path=value ...] [--dry-run]\n```",
        "```\nfor kind in ldm ar; do\n  rdm-batch train $kind --config F --out G\ndone\n```",
        "```\nray job submit --working-dir . -- python -m rdm_batch.run jobs/quickstart.yaml\n```",
        "`rdm-batch database` and `rdm-batch export SAMPLES --format ... --out URI`",
        "```yaml\nmodel: {head: rdm, checkpoint: a, weights: raw}\n```",
        "`sampling.guidance_scale`, `optimization.device`, `torch.save` and `mode: text`",
        "[a heading](docs/job-spec.md#evaluation-optional), `docs/scores.md`, `storage/s3.py`",
    ],
)
def test_what_is_right_passes(text: str) -> None:
    assert problems_of(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```\nrdm-batch report A --fail-on-wrse\n```", "--fail-on-wrse"),
        ("```\nrdm-batch database bild --images A --out B\n```", "bild"),
        ("```\nrdm-batch database build --images A\n```", "--out"),
        ("```\nrdm-batch database build --images A --out B --shards two\n```", "invalid int"),
        ("text:\n\n    rdm-batch train vae --config FILE --out FOLDER\n", "vae"),
        ("```\nrdm-batch train rdm|vae --config FILE --out FOLDER\n```", "vae"),
        (
            "```\nfor kind in ldm a; do\n  rdm-batch train $kind --config F --out G\ndone\n```",
            "'a'",
        ),
        ("| `rdm-batch checkpoint inspect\\|look` | does |", "look"),
        ("`rdm-batch export SAMPLES --from ... --out URI`", "--from"),
        ("```\nrdm-batch checkpoint inspect a/model.ckpt\n```", "--preset"),
        ("```\nrdm-batch database import-npz --out B\n```", "PART"),
        ("`rdm-batch databases`", "databases"),
        ("`database chek`", "chek"),
        ("`--page` and `--pages FILE`", "--pages"),
        ("```\npython -m rdm_batch.run jobs/quickstart.yaml --dry\n```", "no option --dry"),
        ("```\npython -m rdm_batch.run jobs/quickstrt.yaml\n```", "quickstrt"),
        ("```\npython -m rdm_batch.run JOB.yaml --set sampling.steps=7\n```", "sampling.steps"),
        ("```\npython -m rdm_batch.run jobs/quickstart.yaml --set sampling.eta=7\n```", "eta"),
        ("```\nray job submit -- python -m rdm_batch.run J --nothing\n```", "--nothing"),
        (
            "`rdm-batch train ar --config rdm_batch/assets/shapes/configs/rdm.yaml --out o`",
            "asks to train rdm",
        ),
        ("```\npython -m benchmarks.nothing\n```", "benchmarks.nothing"),
        ("```\nmake quickstrat\n```", "quickstrat"),
        ("`database.reordr`", "database.reordr"),
        ("`extractor.wights`", "extractor.wights"),
        ("`torch.safe`", "torch.safe"),
        ("`--set database.url=x`", "database.url"),
        ("`timesteps: publishd`", "publishd"),
        ("`wights: ema`", "wights"),
        ("```yaml\nmodel: {head: rdm, checkpoint: a, weight: raw}\n```", "weight"),
        ("```yaml\nmodels: {head: rdm}\n```", "models"),
        ("```yaml\nname: a\nmodel: {head: noise}\noutput: {uri: b}\n```", "is missing"),
        ("[gone](docs/gone.md)", "docs/gone.md"),
        ("[gone](docs/job-spec.md#gone)", "names no heading"),
        ("`docs/gone.md`", "docs/gone.md"),
        ("`storage/s4.py`", "storage/s4.py"),
        ("`gone/gone.py`", "gone/gone.py"),
        ("`walk.py`", "walk.py"),
        ("`package://shapes/gone.npz`", "shapes/gone.npz"),
    ],
)
def test_what_is_wrong_is_found(text: str, problem: str) -> None:
    found = problems_of(text)
    assert found
    assert problem in " ".join(found)


def test_a_loop_stands_for_its_commands() -> None:
    loop = "for x in a b; do\n  run $x\n  copy $x\ndone\nrun $x"
    assert list(command_lines(loop)) == ["run a", "run b", "copy a", "copy b", "run $x"]

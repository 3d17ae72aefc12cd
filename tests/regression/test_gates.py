from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rdm_batch.errors import RegressionError
from rdm_batch.files import canonical_digest
from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression.baseline import Baseline
from rdm_batch.regression.canary import Canary, canary_bytes, parse_canary
from rdm_batch.regression.gates import judge_jobs
from rdm_batch.regression.history import History
from rdm_batch.regression.judging import JobNight
from rdm_batch.regression.records import Verdict
from rdm_batch.storage.png import encode_png
from tests.regression.kit import (
    accept_night,
    make_canary,
    make_fid,
    make_images,
    make_night,
)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(str(tmp_path))


def said(night: JobNight, baseline: Baseline | None, history: History, gate: str) -> Verdict:
    (found,) = [v for v in judge_jobs([night], baseline, history)[0] if v.gate == gate]
    return found


def with_identity(night: JobNight, **parts: Any) -> JobNight:
    """Change fields of the job that the canary was made by."""
    identity = night.canary.identity | parts
    canary = replace(night.canary, identity=identity)
    return replace(night, canary=canary, identity=canonical_digest(identity))


def test_a_canary_is_read_back_as_it_was_stored() -> None:
    canary = make_canary()
    found = parse_canary(canary_bytes(canary), "canary")
    assert found.digests() == canary.digests()
    assert found.identity == canary.identity
    bare = make_canary(neighbors=None, similarities=None, features={})
    assert parse_canary(canary_bytes(bare), "canary").stages().keys() == {"queries", "images"}
    with pytest.raises(RegressionError, match="is no canary"):
        parse_canary(canary_bytes(canary)[:-9], "canary")


def test_a_night_without_a_change_passes_every_gate(history: History) -> None:
    night = make_night()
    baseline = accept_night(history, night)
    outcomes = {v.gate: v.outcome for v in judge_jobs([night], baseline, history)[0]}
    assert outcomes == {"identity": "pass", "paired": "pass", "bounds": "pass"}


def test_a_first_night_is_no_baseline_and_no_pass(history: History) -> None:
    for baseline in (None, Baseline(suite="nightly")):
        (verdicts,) = judge_jobs([make_night()], baseline, history)
        assert [v.outcome for v in verdicts] == ["no_baseline"] * 3
        assert "nothing of shapes was accepted yet" in verdicts[0].reason


def test_another_png_encoder_changes_no_sample(history: History) -> None:
    baseline = accept_night(history, make_night())
    files, note = [], PngInfo()
    note.add_text("Software", "another encoder")
    for image in make_images(8):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", pnginfo=note)
        files.append(buffer.getvalue())
    canary = make_canary(images=tuple(files))
    assert canary.images != make_canary().images
    assert said(make_night(canary), baseline, history, "identity").outcome == "pass"


def _moved_images(index: int, by: int) -> Canary:
    images = make_images(8)
    images[index][1, 2, 0] += by
    return make_canary(images=tuple(map(encode_png, images)))


def test_identity_says_how_many_by_how_much_and_where_first(history: History) -> None:
    baseline = accept_night(history, make_night())
    found = said(make_night(_moved_images(3, 2)), baseline, history, "identity")
    assert found.outcome == "fail"
    assert found.decides
    assert found.reason.startswith("images of 1 of 8 samples, largest byte difference 2 (mean ")
    assert found.reason.endswith("first at index 3")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[2, 1, 0]], "neighbors of 1 of 8 samples, the same rows in another order"),
        ([[0, 1, 99]], "neighbors of 1 of 8 samples, up to 1 rows of a sample are others"),
    ],
)
def test_identity_tells_a_merge_out_of_order_from_other_rows(
    history: History, rows: list[list[int]], says: str
) -> None:
    baseline = accept_night(history, make_night())
    neighbors = make_canary().neighbors
    assert neighbors is not None
    neighbors = np.concatenate([np.array(rows), neighbors[1:]])
    found = said(make_night(make_canary(neighbors=neighbors)), baseline, history, "identity")
    assert found.outcome == "fail"
    assert found.reason.startswith(says)


def test_one_neighbor_dropped_is_told(history: History) -> None:
    baseline = accept_night(history, make_night())
    canary = make_canary()
    assert canary.neighbors is not None
    assert canary.similarities is not None
    fewer = replace(
        canary, neighbors=canary.neighbors[:, :2], similarities=canary.similarities[:, :2]
    )
    found = said(make_night(fewer), baseline, history, "identity")
    assert "neighbors of 8 of 8 samples, up to 1 rows of a sample are others" in found.reason


def test_another_class_of_machine_is_refused_for_bytes_and_not_for_scores(
    history: History,
) -> None:
    baseline = accept_night(history, make_night())
    other = make_night(machine_class="8 x Other CPU")
    verdicts = {v.gate: v for v in judge_jobs([other], baseline, history)[0]}
    assert verdicts["identity"].outcome == "not_comparable"
    assert "accepted on 2 x Example CPU, and this is 8 x Other CPU" in verdicts["identity"].reason
    assert verdicts["paired"].outcome == "pass"


def test_another_job_is_not_compared_and_its_fields_are_named(history: History) -> None:
    night = make_night()
    baseline = accept_night(history, night)
    other = with_identity(night, sampling={"guidance_scale": 2.04})
    for verdict in judge_jobs([other], baseline, history)[0]:
        assert verdict.outcome == "not_comparable"
        assert "sampling.guidance_scale 2.0 -> 2.04" in verdict.reason


@pytest.mark.parametrize(
    ("by", "outcome", "says"),
    [
        (3, "pass", "within what bfloat16 was seen to do: largest byte 3"),
        (9, "fail", "more than bfloat16 was seen to do: largest byte 9"),
    ],
)
def test_a_named_change_explains_what_it_was_seen_to_do(
    history: History, by: int, outcome: str, says: str
) -> None:
    baseline = accept_night(history, make_night())
    night = with_identity(make_night(_moved_images(3, by)), model={"precision": "bfloat16"})
    found = said(night, baseline, history, "closeness")
    assert found.outcome == outcome
    assert found.reason.startswith(says)
    # The change of bytes is told as well, and decides where nothing explains it.
    identity = said(night, baseline, history, "identity")
    assert identity.outcome == "fail"
    assert identity.decides == (outcome == "fail")


def test_a_named_change_explains_no_other_change(history: History) -> None:
    baseline = accept_night(history, make_night())
    night = make_night(_moved_images(3, 1), versions={"torch": "2.8.0"})
    (identity, *others) = judge_jobs([night], baseline, history)[0]
    assert identity.outcome == "fail"
    assert not [v for v in others if v.gate == "closeness"]


def test_a_named_change_moves_no_neighbors(history: History) -> None:
    baseline = accept_night(history, make_night())
    canary = make_canary(neighbors=np.zeros((8, 3), dtype=np.int64))
    night = with_identity(make_night(canary), model={"precision": "bfloat16"})
    found = said(night, baseline, history, "closeness")
    assert found.outcome == "fail"
    assert "bfloat16 moves images, and here neighbors differ" in found.reason


def _moved_influences(scale: float) -> dict[str, Influences]:
    values = make_night().influences
    assert values is not None
    fid = values["fid"]
    noise = np.random.default_rng(3).standard_normal(len(fid.values)) * scale
    return {"fid": Influences("samples", fid.ids, fid.values + noise - noise.mean())}


@pytest.mark.parametrize(
    ("fid", "scale", "outcome", "says"),
    [
        (10.1, 0.1, "pass", "inside ±0.500"),
        (11.5, 0.1, "fail", "outside ±0.500"),
        (10.45, 5.0, "undecided", "needs n = "),
    ],
)
def test_scores_of_the_same_samples_are_compared_in_pairs(
    history: History, fid: float, scale: float, outcome: str, says: str
) -> None:
    baseline = accept_night(history, make_night())
    night = make_night(fid=fid, influences=_moved_influences(scale))
    found = said(night, baseline, history, "paired")
    assert (found.outcome, found.figure) == (outcome, "fid")
    assert says in found.reason
    assert found.details["error"] == pytest.approx(scale / np.sqrt(200), rel=0.2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": ()}, "fid was not computed"),
        ({"scores": (make_fid(10.0, k=3),)}, "measured otherwise than it was accepted"),
        ({"influences": {}}, "not known of this run, so there are no pairs"),
        ({"seed": 1}, "the seed was 0 and is 1"),
    ],
)
def test_what_has_no_pair_is_not_comparable_and_no_pass(
    history: History, changes: dict[str, Any], says: str
) -> None:
    baseline = accept_night(history, make_night())
    found = said(make_night(**changes), baseline, history, "paired")
    assert found.outcome == "not_comparable"
    assert says in found.reason


@pytest.mark.parametrize(
    ("fid", "outcome", "says"),
    [
        (10.9, "pass", "inside [9.00, 11.0], accepted from 5 seeds"),
        (11.1, "fail", "above"),
        (8.9, "fail", "better than a right run can be is a fault as well"),
    ],
)
def test_bounds_are_two_sided(history: History, fid: float, outcome: str, says: str) -> None:
    baseline = accept_night(history, make_night())
    found = said(make_night(fid=fid), baseline, history, "bounds")
    assert found.outcome == outcome
    assert says in found.reason


def test_a_score_without_bounds_has_no_baseline(history: History) -> None:
    baseline = accept_night(history, make_night(), bounds={})
    found = said(make_night(), baseline, history, "bounds")
    assert found.outcome == "no_baseline"
    assert "--seeds" in found.reason


def test_a_damaged_canary_of_the_baseline_is_one_clear_error(
    history: History, tmp_path: Path
) -> None:
    baseline = accept_night(history, make_night())
    key = baseline.accepted[0].objects["canary"].key
    (tmp_path / key).write_bytes(b"something else")
    with pytest.raises(RegressionError, match="has other content than was accepted"):
        judge_jobs([make_night(_moved_images(0, 1))], baseline, history)


def test_a_canary_that_is_gone_still_fails_what_differs(history: History, tmp_path: Path) -> None:
    baseline = accept_night(history, make_night())
    (tmp_path / baseline.accepted[0].objects["canary"].key).unlink()
    assert said(make_night(), baseline, history, "identity").outcome == "pass"
    found = said(make_night(_moved_images(0, 1)), baseline, history, "identity")
    assert found.outcome == "fail"
    assert "images differ; the accepted canary" in found.reason


def test_one_of_many_jobs_fails_by_more_than_chance(history: History) -> None:
    # p = 0.005 fails alone, and is what one of twenty jobs at the margin shows every tenth night.
    night = make_night(fid=10.687, influences=_moved_influences(1.0))
    baseline = accept_night(history, make_night())
    alone = said(night, baseline, history, "paired")
    assert alone.outcome == "fail"
    others = [replace(make_night(), name=f"job {n}") for n in range(19)]
    everywhere = Baseline(
        suite="nightly",
        accepted=(
            *baseline.accepted,
            *(baseline.accepted[0].model_copy(update={"job": o.name}) for o in others),
        ),
    )
    first = judge_jobs([night, *others], everywhere, history)[0]
    (paired,) = [v for v in first if v.gate == "paired"]
    assert paired.outcome == "undecided"
    assert "corrected for 20 jobs" in paired.reason

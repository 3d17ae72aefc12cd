"""What a step computes as one graph, and in which arithmetic."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdm_batch.errors import ClusterError, InvalidJobError
from rdm_batch.heads import arithmetic
from rdm_batch.heads.compilers import check_compiler
from rdm_batch.specs.training import Optimization
from rdm_batch.training import train as trainers
from rdm_batch.training.loop import Objective, TrainingLoop
from rdm_batch.training.train import train
from tests.training.test_loop import SETTINGS, Regression, states
from tests.training.test_train import AUTOENCODER, OPTIMIZATION, write


def test_every_objective_is_one_graph_a_phase_and_loses_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.compile_all"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"rdm", "rarm", "knn_discrete", "vq", "kl", "clip", "text_tower"}
    for name, one in found.items():
        # The codebook comes in, and the encoder stays as it is, from a step on.
        assert one["graphs"] == (3 if name == "vq" else 1), name
        assert one["compiled"] == pytest.approx(one["plain"], rel=1e-4), name


def _can_compile() -> bool:
    try:
        check_compiler("cpu")
    except ClusterError:
        return False
    return True


class Line(Regression):
    """Has as little to compile as there can be."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 1))


@pytest.mark.skipif(not _can_compile(), reason="no C++ compiler, or no headers of Python")
def test_a_compiled_run_is_resumed_bit_for_bit_and_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    # A few lines: neither processes that compile beside this one nor prepared headers pay.
    monkeypatch.setattr(config, "compile_threads", 1)
    monkeypatch.setattr(config, "cpp_cache_precompile_headers", False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    sealed: list[Path] = []
    monkeypatch.setattr("rdm_batch.training.loop.seal_kept_code", sealed.append)
    settings = SETTINGS.model_copy(update={"compile": True})

    def make(folder: str, settings: Optimization) -> TrainingLoop:
        return TrainingLoop(
            Line(), 10, settings, tmp_path / folder / "checkpoint.pt", report=[].append
        )

    whole = make("whole", settings)
    torch._dynamo.utils.counters.clear()
    whole.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    make("parts", settings).run(stop_after=7)
    # As in another process: nothing is known but what is kept on disk.
    torch._dynamo.reset()
    resumed = make("parts", settings)
    resumed.resume()
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(resumed), strict=True))
    # Kept for the next start, by those who look after the user's cache.
    assert set(sealed) == {tmp_path / "code"}
    plain = make("plain", SETTINGS)
    plain.run()
    assert plain.losses == pytest.approx(whole.losses, rel=1e-4)


def test_kernels_for_a_gpu_are_chosen_by_rule_and_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def compile(function: Any, **how: Any) -> Any:
        asked.append(how)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(arithmetic, "use_kept_code", lambda: tmp_path)
    given = functools.partial(arithmetic.compiled, recorded=False)
    assert given(abs, torch.device("cuda"))(-1) == 1
    # Losses are read later: what a recorded graph returned would be overwritten by then.
    options = {"triton.cudagraphs": False, "deterministic": True}
    assert asked == [{"dynamic": False, "fullgraph": True, "options": options}]


@pytest.mark.usefixtures("tmp_path")
def test_a_machine_that_cannot_compile_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    read: list[str] = []
    monkeypatch.setitem(trainers.TRAINERS, "autoencoder", lambda *_: read.append("read"))
    settings = AUTOENCODER | {"optimization": OPTIMIZATION | {"compile": True}}
    with pytest.raises(ClusterError, match=r"optimization\.compile: is true, but a compiler"):
        train("autoencoder", write(tmp_path, settings), tmp_path / "out")
    assert not read


class Watched(Regression):
    """Remembers how PyTorch multiplied in every step, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplied: list[tuple[str, str]] = []

    def loss(self, step: int, rows: Tensor, generator: torch.Generator) -> Tensor:
        self._look()
        loss = super().loss(step, rows, generator)
        loss.register_hook(lambda gradient: self._look())
        return loss

    def _look(self) -> None:
        flags: Any = torch.backends
        self.multiplied.append((flags.cudnn.conv.fp32_precision, flags.cuda.matmul.fp32_precision))


def _multiplied(tmp_path: Path, products: str | None) -> set[tuple[str, str]]:
    objective: Any = Watched()
    assert isinstance(objective, Objective)
    # A CPU has no TF32; the flags are those of a GPU, wherever the step is.
    settings = SETTINGS.model_copy(update={"float32_products": products})
    TrainingLoop(objective, 10, settings, tmp_path / "c.pt", report=[].append).run(stop_after=2)
    assert len(objective.multiplied) == 4
    return set(objective.multiplied)


def test_the_named_arithmetic_holds_in_every_step_and_nowhere_else(tmp_path: Path) -> None:
    flags: Any = torch.backends

    def outside() -> tuple[str, str]:
        return flags.cudnn.conv.fp32_precision, flags.cuda.matmul.fp32_precision

    before = outside()
    assert _multiplied(tmp_path, "ieee") == {("ieee", "ieee")}
    assert _multiplied(tmp_path, "tf32") == {("tf32", "tf32")}
    assert _multiplied(tmp_path, None) == {before}
    assert outside() == before


def test_tf32_is_refused_on_a_cpu_with_the_other_mistakes(tmp_path: Path) -> None:
    optimization = OPTIMIZATION | {"float32_products": "tf32"}
    with pytest.raises(InvalidJobError, match="tf32 is an arithmetic of NVIDIA GPUs"):
        train(
            "autoencoder", write(tmp_path, AUTOENCODER | {"optimization": optimization}), tmp_path
        )
    Optimization(num_steps=1, batch_size=1, learning_rate=1, float32_products="tf32", device="cuda")

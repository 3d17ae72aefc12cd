"""What only a GPU can show of training: ``make test-gpu`` on a machine that has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

pytest.importorskip("PIL", reason="training draws pictures")
pytest.importorskip("yaml", reason="training reads its settings")

from rdm_batch.specs.training import Optimization
from rdm_batch.training.loop import TrainingLoop

DEVICE = "cuda"
SETTINGS = Optimization(
    num_steps=6, batch_size=8, learning_rate=1e-3, warmup_steps=0, checkpoint_every=3, device=DEVICE
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is usable here"),
]


class Convolutions:
    """Reproduce noise through convolutions and products wide enough for TF32 to matter."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(64, 128, 3, padding=1), nn.SiLU(), nn.Conv2d(128, 64, 3, padding=1),
            nn.Flatten(2), nn.Linear(64, 64),
        )  # fmt: skip
        self._compute = self._error

    def loss(self, step: int, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = torch.randn(len(rows), 64, 8, 8, generator=generator)
        return self._compute(x.to(DEVICE))

    def compile(self, compiled: Callable[..., Any]) -> None:
        self._compute = compiled(self._error)

    def _error(self, x: Tensor) -> Tensor:
        error: Tensor = (self.network(x).float() - x.flatten(2)).square().mean()
        return error


def _losses(folder: Path, **settings: Any) -> list[float]:
    settings = {name: value for name, value in settings.items() if value is not None}
    loop = TrainingLoop(
        Convolutions(), 32, SETTINGS.model_copy(update=settings), folder / "c.pt", report=[].append
    )
    loop.run()
    return loop.losses


def test_products_are_rounded_as_named(tmp_path: Path) -> None:
    exact = _losses(tmp_path, float32_products="ieee")
    rounded = _losses(tmp_path, float32_products="tf32")
    again = _losses(tmp_path, float32_products="ieee")
    # The first loss knows no gradients, which are summed in any order.
    assert again[0] == exact[0] != rounded[0]
    assert again == pytest.approx(exact, rel=1e-4)
    assert rounded == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_training_is_one_graph_and_loses_the_same(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    plain = _losses(tmp_path, precision=precision, float32_products="ieee")
    graphs = counters["stats"]["unique_graphs"]
    compiled = _losses(tmp_path, precision=precision, float32_products="ieee", compile=True)
    assert counters["stats"]["unique_graphs"] == graphs + 1
    assert compiled == pytest.approx(plain, rel=1e-2 if precision == "bfloat16" else 1e-4)


def test_a_run_on_a_gpu_is_resumed_up_to_last_digits(tmp_path: Path) -> None:
    whole = _losses(tmp_path, float32_products="ieee")
    settings = SETTINGS.model_copy(update={"float32_products": "ieee"})
    path = tmp_path / "parts.pt"
    TrainingLoop(Convolutions(), 32, settings, path, report=[].append).run(stop_after=3)
    resumed = TrainingLoop(Convolutions(), 32, settings, path, report=[].append)
    resumed.resume()
    resumed.run()
    assert resumed.losses == pytest.approx(whole, rel=1e-4)

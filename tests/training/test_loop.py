import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.specs.training import Optimization
from rdm_batch.training import loop
from rdm_batch.training.loop import Compile, TrainingLoop, learning_rate

SETTINGS = Optimization(
    num_steps=12, batch_size=4, learning_rate=0.05, warmup_steps=3, checkpoint_every=5, seed=3
)


class Regression:
    """Fit y = 2 x with noisy inputs; batch normalization adds buffers to the state."""

    def __init__(self) -> None:
        torch.manual_seed(SETTINGS.seed)
        self.network = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.seen: list[list[int]] = []
        self._inputs = torch.linspace(-1, 1, 10)[:, None]
        self._compute = self._error

    def loss(self, step: int, rows: Tensor, generator: torch.Generator) -> Tensor:
        self.seen.append(rows.tolist())
        inputs = self._inputs[rows]
        noisy = inputs + 0.1 * torch.randn(inputs.shape, generator=generator)
        return self._compute(inputs, noisy)

    def compile(self, compiled: Compile) -> None:
        self._compute = compiled(self._error)

    def _error(self, inputs: Tensor, noisy: Tensor) -> Tensor:
        loss: Tensor = (self.network(noisy) - 2 * inputs).square().mean()
        return loss


def make_loop(folder: Path, settings: Optimization = SETTINGS) -> TrainingLoop:
    return TrainingLoop(Regression(), 10, settings, folder / "checkpoint.pt", report=[].append)


def states(loop: TrainingLoop) -> list[Tensor]:
    return [
        *loop.objective.network.state_dict().values(),
        *loop.averaged.state_dict().values(),
        torch.tensor(loop.losses),
    ]


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole")
    whole.run()
    make_loop(tmp_path / "parts").run(stop_after=7)
    resumed = make_loop(tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 7
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(resumed), strict=True))


def test_no_picture_is_missing_wherever_a_run_was_killed(tmp_path: Path) -> None:
    drawn: list[int] = []
    dies = {5, 10}

    def preview(_: nn.Module, step: int) -> None:
        if step in dies:
            dies.remove(step)
            raise KeyboardInterrupt
        drawn.append(step)

    for _ in range(3):
        loop = make_loop(tmp_path)
        loop.preview = preview
        if loop.checkpoint.exists():
            loop.resume()
        with contextlib.suppress(KeyboardInterrupt):
            loop.run()
    assert drawn == [5, 10, 12]


def test_every_image_is_seen_once_an_epoch_in_changing_order(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run()
    rows = [row for batch in loop.objective.seen for row in batch]  # type: ignore[attr-defined]
    epochs = [rows[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, SETTINGS.model_copy(update={"num_steps": 100}))
    loop.run()
    assert sum(loop.losses[-10:]) < 0.5 * sum(loop.losses[:10])


def test_average_moves_less_than_the_weights(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"ema_decay": 0.99})
    loop = make_loop(tmp_path, settings)
    initial = [p.clone() for p in loop.averaged.parameters()]
    loop.run()
    for start, average, last in zip(
        initial, loop.averaged.parameters(), loop.objective.network.parameters(), strict=True
    ):
        assert (average - start).norm() < (last - start).norm() + 1e-6


def test_other_settings_are_refused_on_resume(tmp_path: Path) -> None:
    make_loop(tmp_path).run(stop_after=5)
    other = make_loop(tmp_path, SETTINGS.model_copy(update={"learning_rate": 0.1}))
    with pytest.raises(CheckpointError, match=r"other settings \(learning_rate 0\.05, now 0\.1\)"):
        other.resume()


@pytest.mark.parametrize("changed", [{"compile": True}, {"float32_products": "ieee"}])
def test_neither_compiling_nor_the_arithmetic_changes_in_silence(
    tmp_path: Path, changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "compiled", lambda function, device, **_: function)
    make_loop(tmp_path).run(stop_after=5)
    other = make_loop(tmp_path, SETTINGS.model_copy(update=changed))
    (name,) = changed
    with pytest.raises(CheckpointError, match=f"{name} .*, now {changed[name]}"):
        other.resume()


def test_a_checkpoint_from_before_a_setting_was_there_is_gone_on_with(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole")
    whole.run()
    make_loop(tmp_path / "parts").run(stop_after=7)
    path = tmp_path / "parts" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    settings = json.loads(state["settings"])
    del settings["compile"], settings["float32_products"]
    torch.save(state | {"settings": json.dumps(settings)}, path)
    resumed = make_loop(tmp_path / "parts")
    resumed.resume()
    resumed.run()
    assert all(torch.equal(a, b) for a, b in zip(states(whole), states(resumed), strict=True))


def test_resume_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        make_loop(tmp_path).resume()


def test_progress_line_has_loss_rate_and_time_left(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"log_every": 6})
    lines: list[str] = []
    path = tmp_path / "checkpoint.pt"
    TrainingLoop(Regression(), 10, settings, path, report=lines.append).run()
    assert [line.split("  ")[0] for line in lines] == ["step 6/12", "step 12/12"]
    assert all("images/s" in line and "s left" in line and "loss" in line for line in lines)


def test_learning_rate_warms_up_then_decays() -> None:
    rates = [learning_rate(SETTINGS, step) for step in range(SETTINGS.num_steps)]
    assert rates[0] == pytest.approx(SETTINGS.learning_rate / 3)
    assert rates[2] == pytest.approx(SETTINGS.learning_rate)
    assert max(rates) == pytest.approx(rates[3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.1 * SETTINGS.learning_rate

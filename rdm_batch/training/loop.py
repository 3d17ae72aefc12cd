"""One plain training loop for every network.

Which images a step sees and which noise it draws follow from the seed and the step number,
so a run that was stopped and resumed computes the same weights as one that was not: on a CPU
bit for bit, compiled or not. On a GPU some gradients are summed in whatever order threads come, so
last digits differ between any two runs, resumed or not; images, times and noise are the same.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from rdm_batch.backends import multiplying
from rdm_batch.errors import CheckpointError
from rdm_batch.files import locked, written_aside
from rdm_batch.formats.weights_file import read_saved
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.heads.kept_code import seal_kept_code, use_kept_code
from rdm_batch.specs.training import Optimization
from rdm_batch.training.pictures import save_losses

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Compiles a function of tensors of fixed shapes, as one graph, when it is first called."""


@runtime_checkable
class Objective(Protocol):
    """What is trained: a network and the loss of one step."""

    @property
    def network(self) -> nn.Module:
        """The network whose parameters are updated."""
        ...

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the loss of one batch.

        Args:
            step: Parameter updates made before this one.
            rows: Numbers of the training images.
            generator: The only source of chance in this step.
        """
        ...

    def compile(self, compiled: Compile) -> None:
        """Compile what a step computes once its batch is where the network is.

        Args:
            compiled: Compiles a function.
        """
        ...


class TrainingLoop:
    """Train a network with AdamW, warmup, cosine decay, clipping and averaged weights.

    Args:
        objective: What to train.
        num_images: Size of the training set.
        optimization: Steps, rates and batch size.
        checkpoint: File that holds the state of the run; written atomically.
        preview: Called with the averaged network and the step before each checkpoint, for
            pictures. None makes none.
        report: Takes progress lines. None prints them to standard error.
    """

    def __init__(
        self,
        objective: Objective,
        num_images: int,
        optimization: Optimization,
        checkpoint: Path,
        preview: Callable[[nn.Module, int], None] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.objective = objective
        self.num_images = num_images
        self.optimization = optimization
        self.checkpoint = checkpoint
        self.preview = preview
        objective.network.to(optimization.device)
        if optimization.device == "cuda":
            objective.network.to(memory_format=torch.channels_last)
        self.report = report or partial(print, file=sys.stderr, flush=True)
        if optimization.compile:
            objective.compile(self._compiled)
        self.step = 0
        self.losses: list[float] = []
        # Losses that are still where they were computed: reading one waits for the device.
        self._unread: list[Tensor] = []
        self.averaged = copy.deepcopy(objective.network).requires_grad_(False)
        self._parameters = [p for p in objective.network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=optimization.learning_rate,
            betas=optimization.betas,
            weight_decay=optimization.weight_decay,
            fused=True,
        )

    def run(self, stop_after: int | None = None) -> nn.Module:
        """Train to the last step.

        Args:
            stop_after: Step to stop at early, with a checkpoint. None means the last step.

        Returns:
            The network with averaged weights, on the CPU.
        """
        settings = self.optimization
        last = settings.num_steps if stop_after is None else min(stop_after, settings.num_steps)
        started, first_step = time.monotonic(), self.step
        network = self.objective.network.train()
        while self.step < last:
            generator = torch.Generator().manual_seed(_mix(settings.seed, self.step))
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(settings, self.step)
            # Not around the whole run: heads draw the pictures in arithmetics of their own.
            with self._arithmetic():
                with torch.autocast(
                    settings.device, torch.bfloat16, enabled=settings.precision == "bfloat16"
                ):
                    loss = self.objective.loss(self.step, self._rows(self.step), generator)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
                self._optimizer.step()
            self.step += 1
            self._average(network)
            self._unread.append(loss.detach())
            logged = self.step % settings.log_every == 0 or self.step == last
            if logged or self.step % settings.checkpoint_every == 0:
                self._read_losses()
            if logged:
                self._print_progress(time.monotonic() - started, self.step - first_step, last)
            if self.step % settings.checkpoint_every == 0 or self.step == last:
                # First the pictures: what lies before a checkpoint is never drawn again.
                if self.preview is not None:
                    self.preview(self._result(), self.step)
                self.save()
                if settings.compile:
                    seal_kept_code(use_kept_code())
        return self._result()

    def _arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Multiply float32 as the settings say; as PyTorch does by itself where they do not."""
        products = self.optimization.float32_products
        return contextlib.nullcontext() if products is None else multiplying(products == "tf32")

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        device = torch.device(self.optimization.device)
        return compiled(function, device, recorded=False, setting="optimization.compile")

    def _read_losses(self) -> None:
        """Bring the losses since the last time from the device, all at once."""
        self.losses += torch.stack(self._unread).double().tolist()
        self._unread.clear()

    def _result(self) -> nn.Module:
        if self.optimization.device == "cpu":
            return self.averaged.eval()
        return copy.deepcopy(self.averaged).eval().cpu()

    def save(self) -> None:
        """Write the state of the run.

        Raises:
            CheckpointError: It cannot be written.
        """
        state = {
            "settings": self.optimization.model_dump_json(),
            "step": self.step,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "network": self.objective.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.checkpoint.with_suffix(".unfinished")
        try:
            torch.save(state, unfinished)
        except RuntimeError:
            # PyTorch says of a full disk only where in its own source it was noticed.
            free = shutil.disk_usage(self.checkpoint.parent).free
            raise CheckpointError(
                str(self.checkpoint),
                f"cannot be written ({free:,} bytes free)",
                "",
                "make room and continue with --resume",
            ) from None
        unfinished.replace(self.checkpoint)

    def resume(self) -> None:
        """Continue from the checkpoint file.

        Raises:
            CheckpointError: If there is none, or it belongs to other settings.
        """
        where = str(self.checkpoint)
        if not self.checkpoint.exists():
            raise CheckpointError(where, "no such file", action="start without --resume")
        state: Any = read_saved(self.checkpoint)
        try:
            # Settings that a checkpoint does not name have been added since: as they were then.
            before = Optimization.model_validate_json(state["settings"])
            if before != self.optimization:
                raise CheckpointError(
                    where,
                    f"written with other settings ({_differences(before, self.optimization)})",
                    action="start again without --resume, or set them back",
                )
            self.step = state["step"]
            self.losses = state["losses"].tolist()
            self.objective.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                where,
                f"is no checkpoint of this training ({type(error).__name__}: {error})",
                action="start again without --resume",
            ) from None

    def _rows(self, step: int) -> Int64[Tensor, " batch"]:
        """Return the image numbers of one step: permutations of the set, one after another."""
        batch = self.optimization.batch_size
        positions = np.arange(step * batch, (step + 1) * batch)
        epochs = positions // self.num_images
        rows = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            seed = [self.optimization.seed, int(epoch)]
            order = np.random.Generator(np.random.Philox(key=seed)).permutation(self.num_images)
            mine = epochs == epoch
            rows[mine] = order[positions[mine] % self.num_images]
        return torch.from_numpy(rows)

    @torch.no_grad()
    def _average(self, network: nn.Module) -> None:
        # Early on the average forgets faster, so that it does not carry the first weights along.
        decay = min(self.optimization.ema_decay, (1 + self.step) / (10 + self.step))
        averages, current = self.averaged.state_dict(), network.state_dict()
        floating = [name for name, average in averages.items() if average.is_floating_point()]
        # All in a few launches; the numbers are those of one after the other.
        torch._foreach_lerp_(
            [averages[name] for name in floating], [current[name] for name in floating], 1 - decay
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(current[name])

    def _print_progress(self, elapsed_s: float, steps_done: int, last: int) -> None:
        recent = self.losses[-self.optimization.log_every :]
        rate = steps_done / elapsed_s
        self.report(
            f"step {self.step:,}/{last:,}  loss {sum(recent) / len(recent):.4f}  "
            f"{rate * self.optimization.batch_size:,.0f} images/s  "
            f"{(last - self.step) / rate:,.0f} s left"
        )


def run_training(
    objective: Objective,
    num_images: int,
    optimization: Optimization,
    out: Path,
    resume: bool,
    preview: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Run the loop with pictures at every checkpoint, and record the run.

    Args:
        objective: What to train.
        num_images: Size of the training set.
        optimization: Settings of the loop.
        out: Folder for checkpoint, pictures and the record of the run.
        resume: Continue from the checkpoint in ``out``.
        preview: Draws a picture of what a network has learned up to a step.

    Returns:
        The network with averaged weights.

    Raises:
        CheckpointError: If the checkpoint to resume is missing or of other settings.
    """
    started = time.monotonic()

    def show(network: nn.Module, step: int) -> None:
        save_losses(loop.losses, out / "losses.png")
        if preview is not None:
            preview(network, step)

    loop = TrainingLoop(objective, num_images, optimization, out / "checkpoint.pt", show)
    out.mkdir(parents=True, exist_ok=True)
    busy = CheckpointError(str(out), "another process is training here", "", "wait for it")
    with locked(out, busy):
        if resume:
            loop.resume()
        first_step = loop.step
        network = loop.run()
    seconds = time.monotonic() - started
    record = {
        "steps": loop.step,
        "resumed_from_step": first_step,
        "images": num_images,
        "parameters": sum(p.numel() for p in network.parameters()),
        "last_loss": float(np.mean(loop.losses[-optimization.log_every :])),
        "seconds": round(seconds, 1),
        "images_per_s": round((loop.step - first_step) * optimization.batch_size / seconds, 1),
        "threads": torch.get_num_threads(),
    }
    with written_aside(out / "training.json") as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n")
    return network


def learning_rate(settings: Optimization, step: int) -> float:
    """Compute the rate of one step: linear warmup, then a half cosine to the final rate."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.num_steps - settings.warmup_steps, 1)
    low = settings.final_rate
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def _mix(seed: int, step: int) -> int:
    """Combine seed and step into one seed whose neighbors are unrelated."""
    word = np.random.Philox(key=[seed, step]).random_raw(1)[0]
    return int(word) >> 1


def _differences(before: Optimization, now: Optimization) -> str:
    """Name the settings that differ, with what they were and are."""
    old, new = before.model_dump(), now.model_dump()
    return ", ".join(
        f"{name} {old[name]}, now {new[name]}" for name in new if old[name] != new[name]
    )

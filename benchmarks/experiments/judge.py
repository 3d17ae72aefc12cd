"""A judge of shapes-world pictures that knows neither the encoder nor any head.

A small convolutional classifier, trained on rendered pixels alone (with noise and blur, as
generated pictures have them), says which shape, color and style a picture shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdm_batch.datasets.shapes import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    STYLES,
    ShapesSource,
)
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.formats.weights_file import open_weights

NAMES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "style": STYLES,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
}
# The encoder learns from the first pictures of the same subset.
_FIRST_PICTURE = 1_000_000
_AT_ONCE = 256


class Judge(nn.Module):
    """Classify every attribute from shared convolutional features."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 24, 1), (24, 32, 2), (32, 48, 1), (48, 64, 2), (64, 96, 2)]
        layers: list[nn.Module] = []
        for before, after, stride in widths:
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.answers = nn.ModuleDict(
            {name: nn.Linear(96 * 16, len(values)) for name, values in NAMES.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.features(pixels)
        return {name: answer(features) for name, answer in self.answers.items()}

    @torch.inference_mode()
    def attributes(self, images: np.ndarray) -> list[dict[str, str]]:
        """Say what uint8 pictures show."""
        self.eval()
        found: list[dict[str, str]] = []
        for start in range(0, len(images), _AT_ONCE):
            answers = self(_scaled(images[start : start + _AT_ONCE]))
            best = {name: logits.argmax(1).tolist() for name, logits in answers.items()}
            found += [
                {name: NAMES[name][best[name][row]] for name in NAMES}
                for row in range(len(best["shape"]))
            ]
        return found


def kept_judge(path: Path) -> Judge:
    """Read a judge from a file, or train one and write it there."""
    judge = Judge()
    if path.exists():
        judge.load_state_dict(open_weights(path).read_all())
        return judge.eval()
    judge = train_judge()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {}, judge.state_dict())
    return judge


def train_judge(num_images: int = 24_000, epochs: int = 4, batch_size: int = 64) -> Judge:
    """Train a judge in about a minute on one core."""
    torch.manual_seed(0)
    source = ShapesSource("captions", _FIRST_PICTURE + num_images)
    items = [source[_FIRST_PICTURE + index] for index in range(num_images)]
    pixels = _scaled(np.stack([item.image for item in items]))
    labels = {
        name: torch.tensor([values.index(item.attributes[name]) for item in items])
        for name, values in NAMES.items()
    }
    judge = Judge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    steps = epochs * -(-num_images // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(num_images), batch_size):
            answers = judge(_degraded(pixels[rows]))
            losses = [F.cross_entropy(answers[name], labels[name][rows]) for name in NAMES]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def accuracy(judge: Judge, images: np.ndarray, wanted: list[dict[str, str]]) -> dict[str, float]:
    """Give the share of pictures that show what was wanted, attribute by attribute.

    ``shape and color`` counts pictures that have both right.
    """
    pairs = list(zip(judge.attributes(images), wanted, strict=True))
    shares = {
        name: float(np.mean([one[name] == other[name] for one, other in pairs]))
        for name in wanted[0]
    }
    if {"shape", "color"} <= set(wanted[0]):
        both = [
            (one["shape"], one["color"]) == (other["shape"], other["color"]) for one, other in pairs
        ]
        shares["shape and color"] = float(np.mean(both))
    return shares


def judge_accuracy(judge: Judge, count: int = 2_000) -> dict[str, float]:
    """Measure the judge on renderings it has not seen."""
    source = ShapesSource("held_out", count)
    items = [source[index] for index in range(count)]
    images = np.stack([item.image for item in items])
    return accuracy(judge, images, [item.attributes for item in items])


def _scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _degraded(pixels: Tensor) -> Tensor:
    if torch.rand(()) < 0.5:
        pixels = pixels + torch.randn_like(pixels) * 0.15 * torch.rand(())
    if torch.rand(()) < 0.3:
        blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        pixels = 0.5 * pixels + 0.5 * blurred
    return pixels

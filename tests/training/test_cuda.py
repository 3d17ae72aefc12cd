"""Training with ``device: cuda`` on pretended tensors: where things are, what is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rdm_batch.models.autoencoder import build_autoencoder
from rdm_batch.models.unet import UNet
from rdm_batch.specs.training import Optimization
from rdm_batch.training.context import NoContext
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.loop import TrainingLoop
from rdm_batch.training.rdm import RdmObjective, encode_latents
from tests.heads.pretend_cuda import is_cuda, pretended_cuda
from tests.tiny_heads import TINY_RDM
from tests.training.test_loop import SETTINGS, Regression, make_loop


def test_losses_are_read_once_a_line_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(tmp_path, SETTINGS.model_copy(update={"log_every": 4}))
    read, read_at = TrainingLoop._read_losses, []

    def counted(self: TrainingLoop) -> None:
        read_at.append(self.step)
        read(self)

    monkeypatch.setattr(TrainingLoop, "_read_losses", counted)
    loop.run()
    assert read_at == [4, 5, 8, 10, 12]
    assert len(loop.losses) == SETTINGS.num_steps
    assert not loop._unread


def test_the_average_is_that_of_one_tensor_after_the_other(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    network = Regression().network
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    decay = 1 / 10
    expected = {
        name: average.lerp(network.state_dict()[name], 1 - decay)
        if average.is_floating_point()
        else network.state_dict()[name]
        for name, average in loop.averaged.state_dict().items()
    }
    loop._average(network)
    found = loop.averaged.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_on_a_gpu_never_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_at: list[int] = []

    def unread(self: TrainingLoop) -> None:
        assert all(is_cuda(loss) for loss in self._unread)
        self._unread.clear()
        self.losses.append(1.0)
        read_at.append(self.step)

    monkeypatch.setattr(TrainingLoop, "_read_losses", unread)
    monkeypatch.setattr(TrainingLoop, "save", lambda self: None)
    monkeypatch.setattr(TrainingLoop, "_result", lambda self: self.averaged)
    # Gradients need a device that is there: all around them is looked at.
    monkeypatch.setattr(Tensor, "backward", lambda self: None)
    settings = Optimization(
        num_steps=4, batch_size=2, learning_rate=1e-3, log_every=2, device="cuda"
    )
    latents = torch.randn(5, *TINY_RDM.latent_shape)
    # What asks a pretended tensor for a number fails: nothing but reading losses does.
    with pretended_cuda():
        unet = UNet(TINY_RDM.unet).to("cuda").requires_grad_(True)
        # It is there; pretended parameters that are moved again would lose their gradients.
        monkeypatch.setattr(unet, "to", lambda *_, **__: unet)
        context = NoContext(TINY_RDM.context_dim)
        objective = RdmObjective(latents, context, unet, TINY_RDM.noise_schedule)
        loop = TrainingLoop(objective, 5, settings, tmp_path / "c.pt", report=[].append)
        loop.run()
    assert read_at == [2, 4]


def test_a_training_set_is_encoded_where_the_encoder_is() -> None:
    pixels = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    images = TrainingImages(pixels, (None,) * 3)
    seen: list[bool] = []
    with pretended_cuda():
        autoencoder = build_autoencoder(TINY_RDM.autoencoder).to("cuda")
        encode = autoencoder.encode

        def watched(x: Tensor) -> Tensor:
            seen.append(is_cuda(x))
            return encode(x)

        autoencoder.encode = watched  # type: ignore[method-assign]
        latents = encode_latents(autoencoder, images)
        assert not is_cuda(latents)
    assert seen == [True]
    assert latents.shape == (3, *TINY_RDM.latent_shape)

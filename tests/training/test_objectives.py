from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.datasets.source import ImageItem
from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.models.autoencoder import build_autoencoder
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.clip import collect_vocabulary
from rdm_batch.models.unet import UNet
from rdm_batch.specs.networks import (
    ClipArchitecture,
    KlAutoencoderConfig,
    NoiseScheduleConfig,
    VqAutoencoderConfig,
)
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.autoencoder import KlObjective, VqObjective
from rdm_batch.training.clip import ClipObjective
from rdm_batch.training.context import NeighborContext, NoContext, TrainingContext
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.rarm import RarmObjective, encode_codes
from rdm_batch.training.rdm import RdmObjective, encode_latents
from rdm_batch.training.weights import load_autoencoder, save_autoencoder, unit_scale
from tests.tiny_heads import TINY_RARM, TINY_RDM

# For the pictures of the shapes world, which are larger than those of the tiny heads.
AUTOENCODER = VqAutoencoderConfig(
    channels=4, channel_mult=(1, 1, 2), num_res_blocks=1, resolution=32, latent_channels=3,
    embed_dim=3, norm_groups=2, codebook_size=32,
)  # fmt: skip
KL_AUTOENCODER = KlAutoencoderConfig(**AUTOENCODER.model_dump(exclude={"kind", "codebook_size"}))


MakeObjective = Callable[[TrainingContext], RdmObjective | RarmObjective]


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    return TrainingImages.load(ShapesSource("train", 24), 32)


def clip_objective(images: TrainingImages) -> ClipObjective:
    torch.manual_seed(0)
    architecture = ClipArchitecture(
        name="tiny", embed_dim=8, vision_width=4, text_width=16, head_width=8, text_layers=1,
        vocabulary=collect_vocabulary(c for c in images.captions if c),
    )  # fmt: skip
    return ClipObjective(images, architecture, max_logit_scale=5.0)


class Photographs:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> ImageItem:
        image = np.zeros((40, 60, 3), np.uint8)
        image[:, 6:54] = 200
        return ImageItem(image, str(index))


def test_other_sizes_are_cut_to_their_center() -> None:
    images = TrainingImages.load(Photographs(), 32)
    assert images.pixels.shape == (2, 32, 32, 3)
    assert (images.pixels == 200).all()


def test_images_are_scaled_to_minus_one_to_one(images: TrainingImages) -> None:
    batch = images.batch(torch.tensor([3, 1]))
    assert batch.shape == (2, 3, 32, 32)
    back = ((batch + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(back, images.pixels[[3, 1]])


def test_contrastive_loss_of_an_untrained_encoder_is_near_chance(images: TrainingImages) -> None:
    objective = clip_objective(images)
    loss = objective.loss(0, torch.arange(8), torch.Generator())
    assert 0.5 * np.log(8) < float(loss.detach()) < 3 * np.log(8)


def test_logit_scale_stays_within_its_bound(images: TrainingImages) -> None:
    objective = clip_objective(images)
    objective.loss(0, torch.arange(8), torch.Generator())
    assert objective.network.get_parameter("logit_scale").exp().item() <= 5.0 + 1e-5


def test_calibrated_embeddings_have_unit_components_and_the_same_cosines(
    images: TrainingImages,
) -> None:
    objective = clip_objective(images)
    network = objective.network.eval()
    pixels = images.batch(torch.arange(24))
    before = network.encode_image(pixels)
    objective.calibrate(network)
    after = network.encode_image(pixels)
    assert after.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(before, after)
    assert torch.allclose(cosine, torch.ones(24), atol=1e-5)


def test_image_without_caption_is_refused() -> None:
    bare = TrainingImages.load(Photographs(), 32)
    architecture = ClipArchitecture(name="tiny", vocabulary=("a",))
    with pytest.raises(SpecError, match="2 of 2 have no caption"):
        ClipObjective(bare, architecture, 30.0)


def vq_objective(images: TrainingImages) -> VqObjective:
    torch.manual_seed(0)
    return VqObjective(images, AUTOENCODER, quantize_from=1, revive_every=2, revive_until=3)


def test_first_quantized_step_places_code_words_among_the_latents(images: TrainingImages) -> None:
    objective = vq_objective(images)
    before = objective.network.quantize.embedding.weight.clone()
    objective.loss(0, torch.arange(4), torch.Generator().manual_seed(0))
    assert torch.equal(objective.network.quantize.embedding.weight, before)
    objective.loss(1, torch.arange(4), torch.Generator().manual_seed(0))
    latents = encode_latents(objective.network, images)
    assert objective.network.quantize.nearest(latents).unique().numel() > 16


def test_no_code_word_moves_after_the_last_revival(images: TrainingImages) -> None:
    objective = vq_objective(images)
    before = objective.network.quantize.embedding.weight.clone()
    objective.loss(5, torch.arange(4), torch.Generator().manual_seed(0))
    assert torch.equal(objective.network.quantize.embedding.weight, before)


def test_frozen_encoder_gets_no_gradient_but_the_decoder_does(images: TrainingImages) -> None:
    torch.manual_seed(0)
    objective = VqObjective(images, AUTOENCODER, 1, 2, 3, freeze_encoder_from=4)
    objective.loss(4, torch.arange(4), torch.Generator().manual_seed(0)).backward()
    network = objective.network
    assert all(p.grad is None for p in network.encoder.parameters())
    assert network.quant_conv.weight.grad is None
    assert network.decoder.conv_out.weight.grad is not None
    assert network.quantize.embedding.weight.grad is not None


@pytest.mark.parametrize("config", [AUTOENCODER, KL_AUTOENCODER], ids=["vq", "kl"])
def test_saved_autoencoder_reads_back(
    config: VqAutoencoderConfig | KlAutoencoderConfig, tmp_path: Path
) -> None:
    autoencoder = build_autoencoder(config)
    path = tmp_path / "weights.safetensors"
    save_autoencoder(autoencoder, path)
    loaded = load_autoencoder(path)
    assert loaded.config == config
    for name, tensor in autoencoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())


def test_autoencoder_of_a_head_reads_back() -> None:
    path = local_path("package://shapes/rdm.safetensors")
    loaded = load_autoencoder(path).state_dict()
    tensors = load_checkpoint(path).state_dict
    assert len(loaded) > 50
    for name, tensor in loaded.items():
        assert torch.equal(tensor, tensors[f"first_stage_model.{name}"].float())


def test_other_files_are_no_autoencoder(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(CheckpointError, match="No such file"):
        load_autoencoder(path)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is neither a safetensors file nor"):
        load_autoencoder(path)


def test_divergence_pulls_gaussian_latents_to_the_standard_one(images: TrainingImages) -> None:
    torch.manual_seed(0)
    objective = KlObjective(images, KL_AUTOENCODER, kl_weight=1.0)
    network = objective.network
    with torch.no_grad():
        network.quant_conv.weight.zero_()
        network.quant_conv.bias.copy_(torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5, 0.5]))
    rows, seeded = torch.arange(4), torch.Generator().manual_seed(0)
    far = objective.loss(0, rows, seeded)
    state = torch.Generator().manual_seed(0)
    objective._kl_weight = 0.0
    without = objective.loss(0, rows, state)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(2.0, float(np.exp(0.25))), torch.distributions.Normal(0.0, 1.0)
    )
    assert (far - without).item() == pytest.approx(expected.item(), rel=1e-5)


def rdm_objective(context: TrainingContext) -> RdmObjective:
    torch.manual_seed(0)
    objective = RdmObjective(
        torch.randn(10, 3, 4, 4), context, UNet(TINY_RDM.unet), NoiseScheduleConfig()
    )
    for parameter in objective.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return objective


def rarm_objective(context: TrainingContext) -> RarmObjective:
    torch.manual_seed(0)
    return RarmObjective(
        torch.randint(16, (10, 16)), context, TINY_RARM.transformer, TINY_RARM.start_token
    )


def neighbors(zero_share: float, k_train: int = 2) -> NeighborContext:
    embeddings = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    return NeighborContext(torch.arange(30).reshape(10, 3), embeddings, k_train, zero_share)


def loss_of_all(objective: RdmObjective | RarmObjective) -> torch.Tensor:
    return objective.loss(0, torch.arange(10), torch.Generator().manual_seed(0)).detach()


def test_new_diffusion_head_starts_at_the_variance_of_noise() -> None:
    torch.manual_seed(0)
    objective = RdmObjective(
        torch.randn(64, 3, 4, 4), NoContext(6), UNet(TINY_RDM.unet), NoiseScheduleConfig()
    )
    loss = objective.loss(0, torch.arange(64), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(1.0, abs=0.1)


def test_new_autoregressive_head_starts_near_chance() -> None:
    assert loss_of_all(rarm_objective(NoContext(6))).item() == pytest.approx(np.log(32), rel=0.3)


@pytest.mark.parametrize("make", [rdm_objective, rarm_objective])
def test_head_sees_the_first_neighbors_only(make: MakeObjective) -> None:
    context = neighbors(zero_share=0.0)
    objective = make(context)
    first = loss_of_all(objective)
    context._embeddings[2::3] += 1.0
    third_changed = loss_of_all(objective)
    context._embeddings[1::3] += 1.0
    second_changed = loss_of_all(objective)
    assert torch.equal(first, third_changed)
    assert not torch.equal(first, second_changed)


@pytest.mark.parametrize("make", [rdm_objective, rarm_objective])
def test_zero_share_hides_the_neighbors(make: MakeObjective) -> None:
    context = neighbors(zero_share=1.0)
    objective = make(context)
    first = loss_of_all(objective)
    context._embeddings += 1.0
    assert torch.equal(first, loss_of_all(objective))


def test_zero_share_hides_that_share() -> None:
    context = neighbors(zero_share=0.25)(
        torch.arange(10).repeat(200), torch.Generator().manual_seed(0)
    )
    hidden = (context == 0).all(dim=(1, 2)).float().mean().item()
    assert hidden == pytest.approx(0.25, abs=0.04)  # four standard deviations of 2,000 draws


def test_likelihood_is_that_of_each_code_after_those_before_it() -> None:
    objective = rarm_objective(NoContext(6))
    network, codes = objective.network.eval(), objective._codes
    expected = []
    for image in range(10):
        for position in range(codes.shape[1]):
            tokens = torch.tensor([[TINY_RARM.start_token, *codes[image, :position].tolist()]])
            logits = network(tokens, torch.zeros(1, 1, 6))[0, -1]
            expected.append(-torch.log_softmax(logits, 0)[codes[image, position]].item())
    assert loss_of_all(objective).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_codes_are_those_the_decoder_reads(images: TrainingImages) -> None:
    autoencoder = vq_objective(images).network.eval()
    codes = encode_codes(autoencoder, images)
    assert codes.shape == (24, 64)
    pixels = images.batch(torch.arange(24))
    decoded = autoencoder.decode_ids(codes.reshape(24, 8, 8))
    assert torch.equal(decoded, autoencoder.decode(autoencoder.encode(pixels)))


def test_scale_gives_unit_variance() -> None:
    latents = 3.0 * torch.randn(100, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (latents * unit_scale(latents)).std().item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_of_rarm_is_plain_on_a_cpu_where_the_fused_one_is_slow(precision: str) -> None:
    codes = torch.randint(16, (4, 16))
    objective = RarmObjective(codes, NoContext(6), TINY_RARM.transformer, 17)
    fused: list[bool] = []
    objective.network.register_forward_hook(
        lambda *_: fused.append(torch.backends.cuda.flash_sdp_enabled())
    )
    before = torch.backends.cuda.flash_sdp_enabled()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        objective.loss(0, torch.arange(4), torch.Generator().manual_seed(0)).backward()
    assert fused == [precision == "float32"]
    assert torch.backends.cuda.flash_sdp_enabled() == before

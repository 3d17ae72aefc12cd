"""VQ-Diffusion's transformer as its authors and as diffusers store it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Transformer2DModel

from rdm_batch.errors import CheckpointError
from rdm_batch.models.published_codes import load_code_transformer

# Heads of 64 channels, as in all published models.
SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 64, "num_layers": 2, "num_vector_embeds": 17,
    "sample_size": 3, "cross_attention_dim": 10, "num_embeds_ada_norm": 20, "attention_bias": True,
    "activation_fn": "geglu-approximate", "norm_type": "ada_norm",
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


@pytest.fixture(scope="module")
def theirs() -> Transformer2DModel:
    network = Transformer2DModel(**SIZES).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.15, generator=generator)
    return network


@torch.inference_mode()
def _assert_the_same(path: Path, theirs: Transformer2DModel) -> None:
    ours = load_code_transformer(path)
    generator = torch.Generator().manual_seed(1)
    states = torch.randint(0, 17, (4, 9), generator=generator)
    context = torch.randn(4, 7, 10, generator=generator)
    for time in (1, 20):
        found = ours(states, torch.tensor([time]), ours.keys_values(context)).log_softmax(-1)
        expected = theirs(states, context, timestep=torch.tensor(time - 1)).sample
        torch.testing.assert_close(found.transpose(1, 2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("within", ["", "transformer"])
def test_a_folder_of_diffusers_loads(
    theirs: Transformer2DModel, tmp_path: Path, safe: bool, within: str
) -> None:
    theirs.save_pretrained(tmp_path / within, safe_serialization=safe)
    _assert_the_same(tmp_path, theirs)


def _authors_name(name: str) -> str:
    """Name a tensor of diffusers as the authors do (their conversion script, read backwards)."""
    for ours, authors in (
        ("latent_image_embedding", "content_emb"), ("transformer_blocks", "blocks"),
        ("norm1", "ln1"), ("norm2", "ln1_1"), ("norm3", "ln2"), ("norm_out", "to_logits.0"),
        ("to_out.0", "proj"), ("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
        ("ff.net.0.proj", "mlp.0"), ("ff.net", "mlp"),
    ):  # fmt: skip
        name = name.replace(ours, authors)
    return re.sub(r"^out\.", "to_logits.1.", name)


class _Runs:
    """Says so when a file that holds it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this ran",))


def _published(theirs: Transformer2DModel, ema: bool = True) -> dict[str, Any]:
    tensors = {_authors_name(name): value for name, value in theirs.state_dict().items()}
    averaged = {f"transformer.{name}": value for name, value in tensors.items()}
    raw = {f"transformer.{name}": value + 1 if ema else value for name, value in averaged.items()}
    raw |= {"transformer.empty_text_embed": torch.zeros(7, 10), "content_codec.a": torch.ones(3)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(4)}}, "lr": _Runs()}
    found = {"last_epoch": 9, "model": raw, "optimizer_and_scheduler": optimizer}
    return found | ({"ema": averaged} if ema else {})


@pytest.mark.parametrize("ema", [True, False])
def test_the_authors_file_loads_and_nothing_in_it_runs(
    theirs: Transformer2DModel, tmp_path: Path, ema: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ithq_learnable.pth"
    torch.save(_published(theirs, ema), path)
    _assert_the_same(path, theirs)
    assert "this ran" not in capsys.readouterr().out


def _broken(content: dict[str, Any], how: str) -> dict[str, Any]:
    tensors = content["ema"]
    name = "transformer.blocks.1.attn2.key.weight"
    if how == "missing":
        del tensors[name]
    elif how == "misshapen":
        tensors[name] = tensors[name][:, :5].clone()
    elif how == "unexpected":
        tensors["transformer.blocks.1.attn3.key.weight"] = torch.zeros(2)
    elif how == "not finite":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif how == "is missing":
        tensors.pop("transformer.content_emb.emb.weight")
    else:
        content = {"model": {"encoder.weight": torch.zeros(2)}}
    return content


@pytest.mark.parametrize(
    "how",
    ["missing", "misshapen", "unexpected", "not finite", "is missing", "no transformer"],
)
def test_what_does_not_fit_is_named(theirs: Transformer2DModel, tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(_broken(_published(theirs), how), path)
    with pytest.raises(CheckpointError, match=how) as caught:
        load_code_transformer(path)
    assert caught.value.where == str(path)


def test_a_folder_without_what_it_takes_is_refused(
    theirs: Transformer2DModel, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_code_transformer(tmp_path)
    config = dict(theirs.config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_code_transformer(tmp_path)
    theirs.save_pretrained(tmp_path)
    for field, value in (("activation_fn", "geglu"), ("num_attention_heads", "2")):
        (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(CheckpointError, match="activation_fn gelu or geglu-approximate"):
            load_code_transformer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 3}))
    with pytest.raises(CheckpointError, match="misshapen"):
        load_code_transformer(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(CheckpointError, match="JSON is damaged"):
        load_code_transformer(tmp_path)

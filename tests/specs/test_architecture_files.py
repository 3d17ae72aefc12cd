from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rdm_batch.errors import SpecError
from rdm_batch.specs.architecture_files import from_published_config, load_architecture
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.presets import PRESETS, preset_architecture


def _autoencoder(**sizes: Any) -> dict[str, Any]:
    codebook = {"n_embed": sizes.pop("codebook")} if "codebook" in sizes else {}
    width = sizes["z_channels"]
    ddconfig = {
        "double_z": not codebook,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
        **sizes,
    }
    return {"params": {"embed_dim": width, **codebook, "ddconfig": ddconfig}}


def _diffusion() -> dict[str, Any]:
    return {
        "model": {
            "target": "rdm.models.diffusion.ddpm.MinimalRETRODiffusion",
            "params": {
                "linear_start": 0.0015,
                "linear_end": 0.0195,
                "timesteps": 1000,
                "image_size": 64,
                "unet_config": {
                    "params": {
                        "in_channels": 3,
                        "out_channels": 3,
                        "model_channels": 192,
                        "attention_resolutions": [8, 4, 2],
                        "num_res_blocks": 2,
                        "channel_mult": [1, 2, 3, 5],
                        "use_scale_shift_norm": False,
                        "num_head_channels": 32,
                        "use_spatial_transformer": True,
                        "context_dim": 512,
                    }
                },
                "first_stage_config": _autoencoder(z_channels=3, ch_mult=[1, 2, 4], codebook=8192),
            },
        }
    }


def _autoregression() -> dict[str, Any]:
    return {
        "model": {
            "target": "rdm.models.autoregression.transformer.LatentImageRETRO",
            "params": {
                "mask_token": 16384,
                "sos_token": 16385,
                "transformer_config": {
                    "params": {
                        "in_channels": 16386,
                        "out_channels": 16384,
                        "n_heads": 12,
                        "d_head": 64,
                        "depth": 18,
                        "context_dim": 512,
                        "sequence_length": 256,
                        "positional_encodings": True,
                        "causal": True,
                        "continuous": False,
                    }
                },
                "first_stage_config": _autoencoder(
                    z_channels=256, ch_mult=[1, 1, 2, 2, 4], attn_resolutions=[16], codebook=16384
                ),
            },
        }
    }


def _large() -> dict[str, Any]:
    config = _diffusion()
    params = config["model"]["params"]
    config["model"]["target"] = "ldm.models.diffusion.ddpm.LatentDiffusion"
    params |= {"linear_end": 0.015, "image_size": 48, "scale_factor": 0.22765929}
    params["unet_config"]["params"] |= {
        "in_channels": 16,
        "out_channels": 16,
        "model_channels": 448,
        "attention_resolutions": [4, 2, 1],
        "channel_mult": [1, 2, 3, 4],
        "context_dim": 768,
    }
    params["first_stage_config"] = _autoencoder(
        z_channels=16, ch_mult=[1, 1, 2, 2, 4], attn_resolutions=[16]
    )
    return config


@pytest.mark.parametrize(
    ("config", "preset"),
    [
        (_diffusion(), "rdm-imagenet-256"),
        (_large(), "rdm-768"),
        (_autoregression(), "rarm-imagenet-256"),
    ],
)
def test_published_configs_are_the_presets(config: dict[str, Any], preset: str) -> None:
    assert from_published_config(config, "config.yaml") == PRESETS[preset]


def test_file_of_either_format_is_read(tmp_path: Path) -> None:
    expected: Architecture = PRESETS["rdm-imagenet-256"]
    for content in (_diffusion(), expected.model_dump(mode="json")):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
        assert load_architecture(tmp_path / "a.yaml") == expected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("target",), "ldm.models.Other", "model.target is 'ldm.models.Other'"),
        (("params", "linear_end"), None, "model.params.linear_end is missing"),
        (("params", "unet_config"), None, "model.params.unet_config is missing"),
        (("params", "unet_config"), 3, "model.params.unet_config is not a mapping"),
        (
            ("params", "unet_config", "params", "use_scale_shift_norm"),
            True,
            "use_scale_shift_norm is True; needed False, the only variant that is implemented",
        ),
        (("params", "unet_config", "params", "out_channels"), 6, "out_channels 6"),
        (("params", "unet_config", "params", "num_res_blocks"), 0, "unet.num_res_blocks"),
        (("params", "image_size"), 63, "latent_size 63 is not a multiple of 8"),
    ],
)
def test_configs_that_cannot_be_used_say_why(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    config = _diffusion()
    part = config["model"]
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    with pytest.raises(SpecError) as caught:
        from_published_config(config, "config.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("config.yaml: ")


@pytest.mark.parametrize(
    ("path", "value", "needed"),
    [
        ("parameterization", "x0", "'eps'"),
        ("parameterization", "v", "'eps'"),
        ("beta_schedule", "cosine", "'linear'"),
        ("beta_schedule", ["linear"], "'linear'"),
        ("given_betas", [0.1, 0.2], "None"),
        ("v_posterior", 1.0, "0.0"),
        ("num_timesteps_cond", 2, "None or 1"),
        ("conditioning_key", "concat", "'retro_only'"),
        ("scale_by_std", True, "False"),
        ("retro_concat", True, "False"),
        ("n_patches_per_side", 2, "1"),
        ("retrieval_encoder_cfg", {"target": "rdm.Encoder"}, "Identity"),
        ("retrieval_encoder_cfg", "rdm.Encoder", "Identity"),
        ("unet_config.target", "ldm.modules.Other", "UNetModel"),
        ("unet_config.params.attn_type", "linear", "'vanilla'"),
        ("unet_config.params.use_spatial_transformer", 1.5, "True"),
        ("first_stage_config.target", "taming.models.vqgan.GumbelVQ", "VQModelInterface"),
        ("first_stage_config.params.remap", "used.npy", "None"),
        ("first_stage_config.params.ddconfig.attn_type", "linear", "'vanilla'"),
        ("first_stage_config.params.ddconfig.out_ch", 6, "3"),
    ],
)
def test_settings_of_diffusion_that_are_not_implemented_are_refused_by_name(
    path: str, value: Any, needed: str
) -> None:
    _refused(_diffusion(), path, value, needed)


@pytest.mark.parametrize(
    ("path", "value", "needed"),
    [
        ("permuter_config", {"target": "taming.modules.transformer.permuter.ZCurve"}, "Identity"),
        ("nn_encoder_cfg", {"target": "rdm.modules.Clip"}, "Identity"),
        ("downsample_cond_size", 2, "-1"),
        ("transformer_config.target", "rdm.modules.attention.Other", "RetrievalPatchTransformer"),
        ("transformer_config.params.residual", True, "False"),
        ("transformer_config.params.causal", None, "True"),
        ("transformer_config.params.continuous", True, "False"),
    ],
)
def test_settings_of_autoregression_that_are_not_implemented_are_refused_by_name(
    path: str, value: Any, needed: str
) -> None:
    _refused(_autoregression(), path, value, needed)


@pytest.mark.parametrize("key", ["causal", "continuous", "positional_encodings"])
def test_settings_that_are_left_out_are_what_the_published_code_takes(key: str) -> None:
    config = _autoregression()
    del config["model"]["params"]["transformer_config"]["params"][key]
    with pytest.raises(SpecError, match=rf"transformer_config.params.{key} is missing, so"):
        from_published_config(config, "config.yaml")


def _refused(config: dict[str, Any], path: str, value: Any, needed: str) -> None:
    part = config["model"]["params"]
    *folders, last = path.split(".")
    for key in folders:
        part = part[key]
    part[last] = value
    with pytest.raises(SpecError) as caught:
        from_published_config(config, "config.yaml")
    assert path in str(caught.value)
    assert needed in caught.value.needed


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", b"\xff\xfe\x00"])
def test_file_that_is_no_architecture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(SpecError):
        load_architecture(tmp_path / "a.yaml")


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "a.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{victim}']")
    with pytest.raises(SpecError, match="is not YAML"):
        load_architecture(tmp_path / "a.yaml")
    assert not victim.exists()


def test_presets_have_their_sizes() -> None:
    sizes = {name: (preset.image_size, preset.context_dim) for name, preset in PRESETS.items()}
    assert sizes == {
        "rdm-imagenet-256": (256, 512),
        "rdm-ffhq-256": (256, 512),
        "rdm-768": (768, 768),
        "rarm-imagenet-256": (256, 512),
        "knn-continuous-256": (256, 512),
        "knn-discrete-256": (256, 512),
    }


def test_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError, match="'rdm'; needed one of rdm-imagenet-256, rdm-ffhq-256"):
        preset_architecture("rdm")

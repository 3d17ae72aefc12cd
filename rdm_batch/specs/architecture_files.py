"""Read architectures from files: this package's own format, and the published ``config.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rdm_batch.errors import SpecError
from rdm_batch.specs.families import Architecture, parse_architecture
from rdm_batch.specs.yaml_text import read_yaml


class _Fixed(NamedTuple):
    """State what is implemented of a published setting.

    Attributes:
        allowed: Its values that mean what is implemented.
        absent: What the published code takes where the setting is left out.
    """

    allowed: tuple[Any, ...]
    absent: Any


def _only(value: Any) -> _Fixed:
    """Fix a setting to the value that the published code takes by itself."""
    return _Fixed((value,), value)


# What there is no switch for here, and what is implemented: other values would load, and draw
# other images than they were trained for. Settings of training, logging and files have no part.
_UNET_FIXED: Final = {
    "use_scale_shift_norm": _only(False),
    "resblock_updown": _only(False),
    "use_spatial_transformer": _Fixed((True,), False),
    "dims": _only(2),
    "conv_resample": _only(True),
    "num_classes": _only(None),
    "n_embed": _only(None),
    "use_fp16": _only(False),
    "attn_type": _only("vanilla"),
    "run_without_timestep_conditioning": _only(False),
    "use_linear_in_transformer": _only(False),
    "disable_self_attentions": _only(None),
}
_DIFFUSION_FIXED: Final = {
    "parameterization": _only("eps"),
    "beta_schedule": _only("linear"),
    "given_betas": _only(None),
    "v_posterior": _only(0.0),
    "num_timesteps_cond": _Fixed((None, 1), None),
    "use_positional_encodings": _only(False),
    "scale_by_std": _only(False),
    "split_input_params": _only(None),
    # The context reaches the network through cross-attention, and through nothing else.
    "conditioning_key": _Fixed((None, "retro_only", "crossattn"), None),
    "retro_conditioning_key": _only(None),
    "retro_concat": _only(False),
    "retro_noise": _only(False),
    "query_encoder_cfg": _only(None),
    "n_patches_per_side": _only(1),
}
_TRANSFORMER_FIXED: Final = {
    "positional_encodings": _Fixed((True,), False),
    "cross_attend": _only(True),
    "causal": _Fixed((True,), False),
    "continuous": _Fixed((False,), True),
    "residual": _only(False),
}
_AUTOREGRESSION_FIXED: Final = {
    "downsample_cond_size": _only(-1),
}
_SIZES_FIXED: Final = {
    "resamp_with_conv": _only(True),
    "attn_type": _only("vanilla"),
    "use_linear_attn": _only(False),
    "tanh_out": _only(False),
    "give_pre_end": _only(False),
}
# Parts that published files name by a class: those that are implemented, or that do nothing.
_IDENTITY: Final = ("Identity", "IdentityEncoder")
_UNETS: Final = ("UNetModel",)
_TRANSFORMERS: Final = ("RetrievalPatchTransformer",)
_AUTOENCODERS: Final = {"kl": ("AutoencoderKL",), "vq": ("VQModelInterface", "VQModel")}


class _Config:
    """Look up values in nested mappings and name the path of what is missing."""

    def __init__(self, values: Any, where: str, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise SpecError(where, f"{path or 'the file'} is not a mapping", "a published config")
        self.values = values
        self.where = where
        self.path = path

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def part(self, *keys: str) -> _Config:
        config = self
        for key in keys:
            config = _Config(config[key], self.where, config._name(key))
        return config

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise SpecError(self.where, f"{self._name(key)} is missing", "a published config")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)

    def require(self, fixed: Mapping[str, _Fixed]) -> None:
        """Refuse values this package has no implementation for."""
        for key, (allowed, absent) in fixed.items():
            found = self.values.get(key, absent)
            if not any(_means(found, value) for value in allowed):
                stated = f"is {found!r}" if key in self.values else f"is missing, so {found!r}"
                raise SpecError(
                    self.where,
                    f"{self._name(key)} {stated}",
                    f"{' or '.join(map(repr, allowed))}, the only variant that is implemented",
                )

    def require_class(self, key: str, names: Sequence[str]) -> None:
        """Refuse a part of another class than those; a part that is not there is fine."""
        part = self.values.get(key)
        if part is None:
            return
        target = part.get("target") if isinstance(part, Mapping) else part
        if target is not None and str(target).rsplit(".", 1)[-1] not in names:
            raise SpecError(
                self.where,
                f"{self._name(key)}.target is {target!r}",
                f"a class named {' or '.join(names)}, which alone is implemented",
            )


def _means(found: object, value: object) -> bool:
    """Say whether a value is another one: 1 is 1.0, but no True, and nothing else is a number."""
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return isinstance(found, int | float | str | type(None)) and found == value


def from_published_config(config: Mapping[str, Any], where: str) -> Architecture:
    """Translate a published ``config.yaml``, already parsed, into an architecture.

    Args:
        config: The whole file, with ``model`` at its top.
        where: What to name in errors.

    Raises:
        SpecError: A value is missing, or asks for a variant that is not implemented.
    """
    model = _Config(config, where).part("model")
    target = str(model["target"]).rsplit(".", 1)[-1]
    if target not in _PUBLISHED_CLASSES:
        raise SpecError(
            where,
            f"model.target is {model['target']!r}",
            f"a class named {' or '.join(_PUBLISHED_CLASSES)}",
        )
    family = _PUBLISHED_CLASSES[target]
    fields = _FIELDS[family](model.part("params"))
    return parse_architecture({"kind": family, **fields}, where)


def load_architecture(path: Path) -> Architecture:
    """Read an architecture from a YAML file, this package's or a published ``config.yaml``.

    Raises:
        SpecError: The file cannot be read or does not describe an architecture.
    """
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise SpecError(str(path), "is not a mapping of fields", "an architecture")
    return read_architecture(values, str(path))


def read_architecture(values: Mapping[str, Any], where: str) -> Architecture:
    """Read an architecture from fields of this package's or of the published format.

    Raises:
        SpecError: The fields do not describe an architecture.
    """
    if "model" in values:
        return from_published_config(values, where)
    return parse_architecture(values, where)


def _rdm_fields(params: _Config) -> dict[str, Any]:
    params.require(_DIFFUSION_FIXED)
    unet = params.part("unet_config", "params")
    params.require_class("unet_config", _UNETS)
    for key in ("retrieval_encoder_cfg", "nn_encoder_cfg"):
        params.require_class(key, _IDENTITY)
    unet.require(_UNET_FIXED)
    if unet["in_channels"] != unet["out_channels"]:
        raise SpecError(
            params.where,
            f"{unet.path} has in_channels {unet['in_channels']} and out_channels "
            f"{unet['out_channels']}",
            "equal numbers",
        )
    return {
        "unet": {
            "latent_channels": unet["in_channels"],
            "model_channels": unet["model_channels"],
            "channel_mult": unet["channel_mult"],
            "num_res_blocks": unet["num_res_blocks"],
            "attention_downsampling": unet["attention_resolutions"],
            "head_channels": unet["num_head_channels"],
            "transformer_depth": unet.get("transformer_depth", 1),
            "context_dim": unet["context_dim"],
        },
        "autoencoder": _autoencoder_fields(params),
        "noise_schedule": {
            "num_train_steps": params.get("timesteps", 1000),
            "linear_start": params["linear_start"],
            "linear_end": params["linear_end"],
        },
        "latent_size": params["image_size"],
        "scale_factor": params.get("scale_factor", 1.0),
    }


def _rarm_fields(params: _Config) -> dict[str, Any]:
    params.require(_AUTOREGRESSION_FIXED)
    transformer = params.part("transformer_config", "params")
    params.require_class("transformer_config", _TRANSFORMERS)
    for key in ("permuter_config", "nn_encoder_cfg"):
        params.require_class(key, _IDENTITY)
    transformer.require(_TRANSFORMER_FIXED)
    return {
        "transformer": {
            "vocabulary_in": transformer["in_channels"],
            "vocabulary_out": transformer["out_channels"],
            "depth": transformer["depth"],
            "num_heads": transformer["n_heads"],
            "head_channels": transformer["d_head"],
            "context_dim": transformer["context_dim"],
            "num_positions": transformer["sequence_length"],
        },
        "autoencoder": _autoencoder_fields(params),
        "start_token": params["sos_token"],
    }


def _autoencoder_fields(params: _Config) -> dict[str, Any]:
    first_stage = params.part("first_stage_config", "params")
    sizes = first_stage.part("ddconfig")
    sizes.require(_SIZES_FIXED)
    if sizes["out_ch"] != sizes["in_channels"]:
        raise SpecError(
            params.where,
            f"{sizes.path}.out_ch is {sizes['out_ch']!r}",
            f"{sizes['in_channels']!r}, as in_channels",
        )
    first_stage.require({"remap": _only(None)})
    kind = "kl" if sizes.get("double_z", True) else "vq"
    params.require_class("first_stage_config", _AUTOENCODERS[kind])
    fields = {
        "kind": kind,
        "channels": sizes["ch"],
        "channel_mult": sizes["ch_mult"],
        "num_res_blocks": sizes["num_res_blocks"],
        "resolution": sizes["resolution"],
        "attention_resolutions": sizes["attn_resolutions"],
        "image_channels": sizes["in_channels"],
        "latent_channels": sizes["z_channels"],
        "embed_dim": first_stage["embed_dim"],
    }
    if fields["kind"] == "vq":
        fields["codebook_size"] = first_stage["n_embed"]
    return fields


_PUBLISHED_CLASSES: Final = {
    "MinimalRETRODiffusion": "rdm",
    "LatentDiffusion": "rdm",
    "LatentImageRETRO": "rarm",
}
"""Families of the classes that published files name."""
_FIELDS: Final[dict[str, Callable[[_Config], dict[str, Any]]]] = {
    "rdm": _rdm_fields,
    "rarm": _rarm_fields,
}
"""How the published files of a family state its architecture."""
